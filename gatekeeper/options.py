"""Words to `Options`: what gatekeeper is asked to do, and for which program.

Pure.  Options end at `--` or at the first word that is none, as with env(1) and
timeout(1), so that CMD's own options need no quoting.  `--opt VALUE` and
`--opt=VALUE` are the same; there are no abbreviations, which a later option could
make ambiguous.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from holdingpen.errors import LocalMistake

#: As in the protocol (holdingpen/wire/messages.py, which costs too much to import).
TEXT_MAX = 256
AMOUNTS_MAX = 64
#: Priorities travel as 64-bit integers; nobody needs more digits than these.
PRIORITY_MAX = 1_000_000_000
#: Ids travel as 64-bit integers; so many digits fit in any case.
ID_DIGITS_MAX = 18

#: `--in none`: the protocol's word for no reservation at all.
OUTSIDE = -1

#: Options without a value, and the attribute each sets.
FLAGS = {
    "--exclusive": "exclusive",
    "--reclaimable": "reclaimable",
    "--nonblock": "nonblock",
    "--require": "require",
    "--start": "start",
    "--stay": "stay",
    "--quiet": "quiet",
    "--verbose": "verbose",
    "--exact": "exact",
    "--prefault": "prefault",
    "--hugepages": "hugepages",
    "--help": "help",
    "--version": "version",
}

#: Short names.
SHORT = {"-v": "--verbose"}

#: Options with a value, and the accepted form.
VALUES = {
    "--ram": "a size such as 8G",
    "--cpu": "a whole number",
    "--disk": "SIZE or SIZE:NAME, such as 50G:scratch",
    "--res": "NAME=AMOUNT, such as licence=3",
    "--priority": "a whole number, higher goes first",
    "--label": f"a text of at most {TEXT_MAX} characters",
    "--reason": f"a text of at most {TEXT_MAX} characters",
    "--in": "the number of a reservation, such as 17, or none",
    "--reclaim-signal": "a signal such as TERM, SIGUSR1 or 10",
    "--wait": "a duration such as 30m",
    "--time": "a duration such as 1h30m",
    "--timeout": "a duration such as 1h30m",
    "--socket": "the path of the daemon's socket",
}

_REPEATABLE = ("--res", "--disk")


class Options:
    """What was asked for.  The values below stand for options not given."""

    exclusive = False
    reclaimable = False
    nonblock = False
    require = False
    start = False
    stay = False
    quiet = False
    verbose = False
    exact = False
    prefault = False
    hugepages = False
    help = False
    version = False
    priority = 0
    label = ""
    reason = ""
    #: The reservation to draw on; 0: the daemon chooses; OUTSIDE: none.
    inside = 0
    #: What CMD is sent when the lease is asked back; 0: nothing.
    reclaim_signal = 0
    #: Longest stay in the line, seconds.
    wait_s: float | None = None
    #: Expected length, seconds.
    length_s: float | None = None
    #: When CMD is ended, in seconds after its start.
    timeout_s: float | None = None
    socket: str | None = None

    def __init__(self) -> None:
        #: Resource to bytes or units, each > 0; empty: the configured share.
        self.amounts: dict[str, int] = {}
        #: CMD and its arguments.
        self.command: list[str] = []

    @property
    def parent(self) -> bool:
        """Whether gatekeeper must stay as CMD's parent."""
        return self.stay or self.reclaimable or self.timeout_s is not None

    @property
    def wishes(self) -> dict[str, str]:
        """Resource to how what is held back of it is to be handed over."""
        # the share has memory in it as a rule, and a wish for more is ignored
        if self.amounts and "ram" not in self.amounts:
            return {}
        return {"ram": "steps" if self.prefault else "program"}


def parse(words: list[str]) -> Options:
    """Read the words of the command line, without the name of the program.

    `--help` and `--version` end the reading where they stand.

    Raises:
        LocalMistake: for wrong usage; it names the option and the accepted form.
    """
    options = Options()
    seen = set()
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word == "--":
            break
        name, equals, value = word.partition("=")
        name = SHORT.get(name, name)
        if name in FLAGS:
            if equals:
                raise _mistake(f"{name} takes no value: write {name} alone.")
            setattr(options, FLAGS[name], True)
            if options.help or options.version:
                return options
            continue
        if name not in VALUES:
            raise _mistake(f"there is no option {name}.")
        if not equals:
            if at == len(words):
                raise _mistake(f"{name} lacks its value: {VALUES[name]}.")
            value = words[at]
            at += 1
        if name in seen and name not in _REPEATABLE:
            raise _mistake(f"{name} is given twice: give it once.")
        seen.add(name)
        _take(options, name, value)
    options.command = words[at:]
    _check(options)
    return options


def _take(options: Options, name: str, value: str) -> None:
    try:
        if name in ("--ram", "--cpu"):
            _add(options, name, name[2:], value)
        elif name == "--res":
            _add_named(options, value)
        elif name == "--disk":
            _add_disk(options, value)
        elif name == "--priority":
            options.priority = _priority(value)
        elif name == "--label":
            options.label = _text(name, value)
        elif name == "--reason":
            options.reason = _text(name, value)
        elif name == "--socket":
            options.socket = _path(value)
        elif name == "--in":
            options.inside = _reservation(value)
        elif name == "--reclaim-signal":
            options.reclaim_signal = _signal_number(value)
        else:
            _set_duration(options, name, value)
    except ValueError as why:
        # a BadWord says what is accepted, but not for which option
        raise _mistake(f"{name}: {why}") from None


def _add(options: Options, name: str, resource: str, value: str) -> None:
    from holdingpen.amounts import parse_amount

    if resource in options.amounts:
        raise _mistake(f"{name}: {resource} is given twice: give it once.")
    amount = parse_amount(resource, value)
    if amount == 0:
        raise _mistake(
            f"{name}: {value!r} is nothing: ask for more than 0, or leave it out."
        )
    options.amounts[resource] = amount
    if len(options.amounts) > AMOUNTS_MAX:
        raise _mistake(f"{name}: more than {AMOUNTS_MAX} resources in one request.")


def _add_named(options: Options, value: str) -> None:
    resource, equals, amount = value.partition("=")
    # the name travels in the protocol, which is UTF-8, and is printed in tables
    fit = resource.isprintable() and not any(map(str.isspace, resource))
    if not equals or not resource or not fit or len(resource) > TEXT_MAX:
        raise _mistake(f"--res {value!r} is not understood: {VALUES['--res']}.")
    if resource == "machine":
        raise _mistake("--res machine: write --exclusive for the whole machine.")
    _add(options, "--res", resource, amount)


def _add_disk(options: Options, value: str) -> None:
    size, colon, name = value.partition(":")
    # the name becomes a part of a variable's name
    plain = name.replace("-", "").replace("_", "")
    fit = plain.isascii() and plain.isalnum() and len(name) <= TEXT_MAX
    if colon and not fit:
        raise _mistake(f"--disk {value!r} is not understood: {VALUES['--disk']}.")
    _add(options, "--disk", f"disk.{name}" if colon else "disk", size)


def _priority(value: str) -> int:
    digits = value[1:] if value[:1] in ("-", "+") else value
    # isdigit alone would let in other scripts' digits, and int() a page of nines
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10:
        raise _mistake(
            f"--priority {value!r} is not understood: {VALUES['--priority']}."
        )
    priority = int(value)
    if abs(priority) > PRIORITY_MAX:
        raise _mistake(
            f"--priority {priority} is out of range: at most {PRIORITY_MAX}."
        )
    return priority


def _text(name: str, value: str) -> str:
    if len(value) > TEXT_MAX:
        raise _mistake(
            f"{name} has {len(value)} characters; at most {TEXT_MAX} are accepted."
        )
    return value


def _path(value: str) -> str:
    if not value:
        raise _mistake(f"--socket is empty: give {VALUES['--socket']}.")
    return value


def _reservation(value: str) -> int:
    if value == "none":
        return OUTSIDE
    number = _whole(value)
    if number == 0:
        raise _mistake(f"--in {value!r} is not understood: {VALUES['--in']}.")
    return number


def _signal_number(value: str) -> int:
    # it costs 5 ms, which gatekeeper as a parent spends anyway
    from signal import Signals, valid_signals

    name = value.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    number = int(Signals.__members__.get(name, _whole(value)))
    if number not in valid_signals():
        raise _mistake(
            f"--reclaim-signal {value!r} is not understood: "
            f"{VALUES['--reclaim-signal']}."
        )
    return number


def _whole(value: str) -> int:
    """A whole number > 0; 0 when it is none."""
    # isdigit alone would let in other scripts' digits
    plain = value.isascii() and value.isdigit() and len(value) <= ID_DIGITS_MAX
    return int(value) if plain else 0


def _set_duration(options: Options, name: str, value: str) -> None:
    from holdingpen.durations import parse_duration

    seconds = parse_duration(value)
    if name == "--wait":
        options.wait_s = seconds
    elif name == "--time":
        options.length_s = seconds
    else:
        options.timeout_s = seconds


def _check(options: Options) -> None:
    if options.nonblock:
        if options.wait_s is not None:
            raise _mistake(
                "--nonblock (do not wait) and --wait (wait so long) contradict each "
                "other: give one."
            )
        options.wait_s = 0.0
    if options.quiet and options.verbose:
        raise _mistake("--quiet and --verbose contradict each other: give one.")
    if options.exclusive:
        options.amounts["machine"] = 1
    if options.reclaim_signal:
        options.reclaimable = True
    _check_handover(options)
    if not options.command:
        raise _mistake("there is no CMD to run: gatekeeper [OPTIONS] [--] CMD.")


def _check_handover(options: Options) -> None:
    if options.exact:
        # without a daemon nothing is sure
        options.require = True
    if options.hugepages:
        if options.prefault:
            raise _mistake(
                "--hugepages and --prefault are two ways to the same memory: give one."
            )
        if "ram" not in options.amounts:
            raise _mistake("--hugepages needs to know how much: give --ram SIZE, too.")
        if "hugepages" in options.amounts:
            raise _mistake("--hugepages: hugepages is given twice: give it once.")
        # the same place in the order, for messages name them in it
        options.amounts = {
            "hugepages" if name == "ram" else name: amount
            for name, amount in options.amounts.items()
        }
    if options.prefault and options.reclaim_signal:
        raise _mistake(
            "--prefault has CMD read from the daemon, and --reclaim-signal gatekeeper: "
            "give one."
        )
    if options.prefault and options.amounts and "ram" not in options.amounts:
        raise _mistake("--prefault needs to know how much: give --ram SIZE, too.")


def _mistake(message: str) -> "LocalMistake":
    # errors are imported when there is one
    from holdingpen.errors import LocalMistake

    return LocalMistake(message)
