"""The part of msgpack that gatekeeper needs, small because start-up time is promised.

The daemon uses msgspec; `encode` writes the same bytes as msgspec does, `decode`
reads what msgspec writes.  {"t": "hello", "version": 1} is

    82 a1 74 a5 68 65 6c 6c 6f a7 76 65 72 73 69 6f 6e 01

Source: the msgpack specification.  Left out, because no message has them: bytes,
extensions, 32-bit floats.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdingpen.errors import RemoteMistake

#: Deepest nesting accepted.  The deepest message, a page of status, has 5.
DEPTH_MAX = 32

_CONSTANTS: dict[int, bool | None] = {0xC0: None, 0xC2: False, 0xC3: True}
# head byte: bytes that follow, signed
_INTS = {
    0xCC: (1, False),
    0xCD: (2, False),
    0xCE: (4, False),
    0xCF: (8, False),
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
_FLOAT = 0xCB
# head byte: bytes of the length that follows
_STRS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_LISTS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}


def encode(value: object) -> bytes:
    """Write `value` in the shortest form.

    Raises:
        TypeError: when `value` is not None, bool, int, float, str, list, tuple, dict.
        OverflowError: when an int needs more than 64 bits.
        UnicodeEncodeError: when a str holds a lone surrogate.
    """
    out = bytearray()
    _put(out, value)
    return bytes(out)


def _put(out: bytearray, value: object) -> None:
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _put_int(out, value)
    elif isinstance(value, float):
        out.append(_FLOAT)
        out += _float_bytes(value)
    elif isinstance(value, str):
        text = value.encode()
        _put_head(out, len(text), 0xA0, 32, _STRS)
        out += text
    elif isinstance(value, (list, tuple)):
        _put_head(out, len(value), 0x90, 16, _LISTS)
        for item in value:
            _put(out, item)
    elif isinstance(value, dict):
        _put_head(out, len(value), 0x80, 16, _MAPS)
        for key, item in value.items():
            _put(out, key)
            _put(out, item)
    else:
        raise TypeError(f"msgpack has no form for {type(value).__name__}")


def _put_int(out: bytearray, value: int) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    for head, (size, signed) in _INTS.items():
        bits = 8 * size - signed
        if signed == (value < 0) and -(1 << bits) <= value < 1 << bits:
            out.append(head)
            out += value.to_bytes(size, "big", signed=signed)
            return
    raise OverflowError(f"{value} needs more than 64 bits")


def _put_head(
    out: bytearray, length: int, short: int, short_max: int, heads: dict[int, int]
) -> None:
    if length < short_max:
        out.append(short | length)
        return
    for head, size in heads.items():
        if length < 1 << 8 * size:
            out.append(head)
            out += length.to_bytes(size, "big")
            return
    raise OverflowError(f"a length of {length} needs more than 32 bits")


def _float_bytes(value: float) -> bytes:
    # a cast of a memoryview does what struct does, and struct costs an import
    native = bytearray(8)
    memoryview(native).cast("d")[0] = value
    return bytes(_big_endian(native))


def _big_endian(eight: bytes | bytearray) -> bytes | bytearray:
    return eight[::-1] if sys.byteorder == "little" else eight


def decode(data: bytes) -> object:
    """Read the one value of which `data` consists.

    Never allocates more than a small multiple of `len(data)`.

    Raises:
        RemoteMistake: `not-msgpack`, when `data` is cut, goes on after the value,
            nests deeper than `DEPTH_MAX`, or is not what msgspec would write.
    """
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise _mistake(data, f"{len(data) - end} bytes follow after the value")
    return value


def _value(data: bytes, at: int, depth: int) -> tuple[object, int]:
    """The value at `at`, and where the next begins."""
    if depth > DEPTH_MAX:
        raise _mistake(data, f"it nests deeper than {DEPTH_MAX}")
    head, at = _uint(data, at, 1)
    if head < 0x80:
        return head, at
    if head < 0x90:
        return _map(data, at, head & 0x0F, depth)
    if head < 0xA0:
        return _list(data, at, head & 0x0F, depth)
    if head < 0xC0:
        return _str(data, at, head & 0x1F)
    if head >= 0xE0:
        return head - 256, at
    if head in _CONSTANTS:
        return _CONSTANTS[head], at
    if head in _INTS:
        size, signed = _INTS[head]
        end = _end(data, at, size)
        return int.from_bytes(data[at:end], "big", signed=signed), end
    if head == _FLOAT:
        end = _end(data, at, 8)
        return memoryview(_big_endian(data[at:end])).cast("d")[0], end
    if head in _STRS:
        length, at = _uint(data, at, _STRS[head])
        return _str(data, at, length)
    if head in _LISTS:
        length, at = _uint(data, at, _LISTS[head])
        return _list(data, at, length, depth)
    if head in _MAPS:
        length, at = _uint(data, at, _MAPS[head])
        return _map(data, at, length, depth)
    raise _mistake(data, f"byte 0x{head:02x} at {at - 1} begins nothing we know")


def _uint(data: bytes, at: int, size: int) -> tuple[int, int]:
    end = _end(data, at, size)
    return int.from_bytes(data[at:end], "big"), end


def _str(data: bytes, at: int, length: int) -> tuple[str, int]:
    end = _end(data, at, length)
    try:
        return data[at:end].decode(), end
    except UnicodeDecodeError:
        raise _mistake(data, f"the text at {at} is not UTF-8") from None


def _list(data: bytes, at: int, length: int, depth: int) -> tuple[list[object], int]:
    _end(data, at, length)
    items = []
    for _ in range(length):
        item, at = _value(data, at, depth + 1)
        items.append(item)
    return items, at


def _map(
    data: bytes, at: int, length: int, depth: int
) -> tuple[dict[object, object], int]:
    _end(data, at, 2 * length)
    found: dict[object, object] = {}
    for _ in range(length):
        key, at = _value(data, at, depth + 1)
        if isinstance(key, (list, dict)):
            raise _mistake(data, f"the key before {at} is a list or a map")
        found[key], at = _value(data, at, depth + 1)
    return found, at


def _end(data: bytes, at: int, size: int) -> int:
    """Where `size` more bytes end, once it is certain that they are there.

    An item is at least a byte, so this holds for counts of items, too: an announced
    count costs no memory before its bytes have come.
    """
    if size > len(data) - at:
        raise _mistake(data, f"it is cut at {at}: {size} more were announced")
    return at + size


def _mistake(data: bytes, why: str) -> "RemoteMistake":
    # errors are imported when there is one
    from holdingpen.errors import RemoteMistake

    return RemoteMistake(
        f"a message of {len(data)} bytes from the daemon is broken: {why}.",
        "not-msgpack",
    )
