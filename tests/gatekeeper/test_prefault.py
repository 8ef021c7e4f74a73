"""--prefault: a Python program has its memory before its first line runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from gatekeeper.prefault import STEP_BYTES
from holdingpen.wire import messages as wire

_ROOT = Path(__file__).parents[2]
_MIB = 2**20
#: Enough to stand out beside the interpreter's own 10 MiB.
_AMOUNT = 40 * _MIB
_STEPS = _AMOUNT // STEP_BYTES

#: What the program finds when its first line runs.
_LOOK = """
import json, os, sys
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps({
    "resident": pages * os.sysconf("SC_PAGESIZE"), "path": sys.path,
    "environ": dict(os.environ), "modules": sorted(sys.modules),
    "custom": getattr(sys.modules.get("sitecustomize"), "__file__", None),
    "said": getattr(sys, "said", []),
}))
"""


#: Takes 1 MiB, and asks again sooner than the 5 s of real life.
_IMPATIENT = f"""
import os, sys
sys.path[:0] = [{str(_ROOT)!r}]
from gatekeeper import prefault
prefault.ASK_AGAIN_S = 0.05
prefault.fill(int(os.environ["HOLDINGPEN_FD"]), 17, {_MIB})
print("main")
"""


def _granted(amount: int = _AMOUNT) -> wire.Granted:
    return wire.Granted(1, 17, {"ram": amount}, "bounded", STEP_BYTES, "in steps")


@pytest.fixture
def prefault(daemon, start):
    """Start CMD with --prefault and grant it; returns it and the daemon's end."""

    def prefault(*command: str, amount: int = _AMOUNT, words: tuple[str, ...] = ()):
        program = start("--prefault", f"--ram={amount}", *words, "--", *command)
        client = daemon.greets()
        assert client.acquire.wishes == {"ram": "steps"}
        client.say(_granted(amount))
        return program, client

    return prefault


def _python(code: str = _LOOK, *flags: str) -> list[str]:
    return [sys.executable, *flags, "-c", code]


def _bare(surroundings: dict[str, str], code: str = _LOOK) -> dict:
    """What the same program finds without gatekeeper."""
    run = subprocess.run(
        _python(code), env=surroundings, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.parametrize("mode", [(), ("--stay",)])
def test_all_of_it_is_resident_before_the_first_line(prefault, surroundings, mode):
    program, client = prefault(*_python(), words=mode)
    orders = client.hands_over()
    found = json.loads(program.end().out)
    grown = found["resident"] - _bare(surroundings)["resident"]
    # what either has beside it differs by some pages
    assert _AMOUNT - _MIB <= grown <= _AMOUNT + 8 * _MIB
    assert orders == [
        wire.HandOver(2 + n, 17, "ram", STEP_BYTES) for n in range(_STEPS)
    ]


def test_each_step_is_the_program_s_before_the_next_is_freed(prefault):
    """At no moment is more than one step nobody's."""
    program, client = prefault(*_python())
    resident = []
    for _ in range(_STEPS):
        client.hands_over(1)
        # asking for the next, it has come so far
        client.peek()
        resident.append(_resident(program.process.pid))
    # after the last it asks for no more, so that one cannot be looked at
    steps = [after - before for before, after in pairwise(resident[:-1])]
    assert all(abs(step - STEP_BYTES) < _MIB for step in steps), steps
    assert program.end().status == 0


def test_an_amount_that_is_no_multiple_of_a_step_is_taken_whole(prefault):
    program, client = prefault(*_python("pass"), amount=9 * _MIB + 5)
    amounts = [order.amount for order in client.hands_over()]
    assert amounts == [STEP_BYTES, STEP_BYTES, _MIB + 5]
    assert program.end().err == ""


@pytest.mark.slow
def test_an_array_of_that_size_needs_no_new_pages(prefault):
    code = """
import resource, numpy
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for make in (numpy.ones, numpy.zeros):
    before = faults()
    array = make(30 * 2**17)
    print(faults() - before)
    del array
"""
    program, client = prefault(*_python(code))
    client.hands_over()
    # without, 30 MiB are 7680 pages
    assert all(int(line) < 100 for line in program.end().out.split())


def test_nothing_of_ours_is_left_in_the_program(prefault, surroundings):
    surroundings["PYTHONPATH"] = "/a:/b"
    bare = _bare(surroundings)
    program, client = prefault(*_python())
    client.hands_over()
    found = json.loads(program.end().out)
    given = {"HOLDINGPEN_LEASE", "HOLDINGPEN_FD", "HOLDINGPEN_HANDOVER"}
    assert found["environ"].keys() - bare["environ"].keys() == given
    assert {**bare["environ"], **found["environ"]} == found["environ"]
    assert found["path"] == bare["path"]
    assert found["custom"] == bare["custom"]
    # Debian's Python has a sitecustomize of its own
    assert "prefault" not in str(found["modules"])
    ours = ("gatekeeper", "holdingpen")
    assert not [name for name in found["modules"] if name.partition(".")[0] in ours]


@pytest.mark.parametrize("path", [None, "", "/a:/b"])
def test_the_path_is_as_it_was(prefault, surroundings, path):
    if path is not None:
        surroundings["PYTHONPATH"] = path
    program, client = prefault(*_python("import os; print(os.getenv('PYTHONPATH'))"))
    client.hands_over()
    assert program.end().out == f"{path or None}\n"


def test_the_program_s_own_modules_of_our_names_are_its_own(
    prefault, surroundings, tmp_path: Path
):
    (tmp_path / "gatekeeper.py").write_text("whose = 'theirs'\n")
    surroundings["PYTHONPATH"] = str(tmp_path)
    program, client = prefault(*_python("import gatekeeper; print(gatekeeper.whose)"))
    assert len(client.hands_over()) == _STEPS
    assert program.end().out == "theirs\n"


def test_modules_of_our_names_that_are_there_already_stay(
    prefault, surroundings, tmp_path: Path
):
    """A .pth file may have imported them; here the user's Python is told to."""
    hook = _ROOT / "gatekeeper/prefault/hook"
    (tmp_path / "gatekeeper.py").write_text("whose = 'theirs'\n")
    code = f"""
import os, runpy, sys
sys.path.insert(0, {str(tmp_path)!r})
import gatekeeper
os.environ["HOLDINGPEN_PREFAULT"] = {str(_AMOUNT)!r}
os.environ["HOLDINGPEN_PREFAULT_PID"] = str(os.getpid())
sys.path.insert(0, {str(hook)!r})
sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize
except ImportError:
    pass
print(gatekeeper.whose, sys.modules["gatekeeper"] is gatekeeper)
"""
    program, client = prefault(*_python(code, "-I"))
    assert len(client.hands_over()) == _STEPS
    assert program.end().out == "theirs True\n"


@pytest.mark.parametrize("name", ["sitecustomize", "usercustomize"])
def test_the_program_s_own_customizing_still_runs(
    prefault, surroundings, tmp_path: Path, name
):
    own = tmp_path / f"{name}.py"
    own.write_text("import sys; sys.said = [__name__, __file__]\n")
    surroundings["PYTHONPATH"] = str(tmp_path)
    # in a virtual environment there is no usercustomize
    python = [os.path.realpath(sys.executable), "-c", _LOOK]
    program, client = prefault(*python)
    assert len(client.hands_over()) == _STEPS
    found = json.loads(program.end().out)
    assert found["said"] == [name, str(own)]
    assert name in found["modules"]


def test_customizing_that_fails_is_told_as_by_python_itself(
    prefault, surroundings, tmp_path: Path
):
    (tmp_path / "sitecustomize.py").write_text("1 / 0\n")
    surroundings["PYTHONPATH"] = str(tmp_path)
    program, client = prefault(*_python("print('main')"))
    client.hands_over()
    ended = program.end()
    assert (ended.status, ended.out) == (0, "main\n")
    assert ended.err == (
        "Error in sitecustomize; set PYTHONVERBOSE for traceback:\n"
        "ZeroDivisionError: division by zero\n"
    )


def test_children_take_nothing(prefault):
    code = f"""
import os, subprocess, sys
print(*(name for name in os.environ if "PREFAULT" in name or "PYTHON" in name))
print(subprocess.check_output([sys.executable, "-c", {_LOOK!r}], text=True))
if os.fork() == 0:
    os._exit(0)
"""
    program, client = prefault(*_python(code))
    orders = client.hands_over()
    names, child = program.end().out.split("\n", 1)
    assert names == ""
    assert json.loads(child)["resident"] < _AMOUNT
    assert len(orders) == _STEPS


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_without_a_path_or_a_site_nothing_happens(prefault, flag):
    program, client = prefault(*_python("print('main')", flag))
    assert client.hands_over() == []
    ended = program.end()
    assert (ended.out, ended.err) == ("main\n", "")


def test_a_program_that_is_not_python_is_warned_of_and_run(prefault):
    code = f"{sys.executable} -c 'import os; print(os.getenv(\"PYTHONPATH\"))'; true"
    program, client = prefault("sh", "-c", code)
    assert client.hands_over() == []
    ended = program.end()
    assert ended.out == "None\n"
    assert ended.err.startswith("gatekeeper: --prefault is for Python programs, and sh")


def test_a_shell_that_becomes_python_takes_it(prefault):
    program, client = prefault("sh", "-c", f"exec {sys.executable} -c pass")
    assert len(client.hands_over()) == _STEPS
    assert program.end().status == 0


def test_quiet_does_not_warn(prefault):
    program, _ = prefault("true", words=("--quiet",))
    assert program.end().err == ""


def test_a_share_without_memory_prefaults_nothing(daemon, start):
    program = start("--prefault", *_python("import os; print(os.getenv('PYTHONPATH'))"))
    client = daemon.greets()
    assert client.acquire.wishes == {"ram": "steps"}
    client.say(wire.Granted(1, 17, {"cpu": 1}))
    assert program.end().out == "None\n"


def test_the_share_is_prefaulted_by_what_was_granted(daemon, start):
    program = start("--prefault", *_python("pass"))
    client = daemon.grants(_granted())
    assert len(client.hands_over()) == _STEPS
    assert program.end().status == 0


# Whatever happens, the program runs.


def _goes_on(program, said: str) -> None:
    ended = program.end()
    assert (ended.status, ended.out) == (0, "main\n")
    assert said in ended.err
    assert ended.err.endswith("; the program goes on.\n")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize("steps", [0, 3])
def test_when_the_daemon_hangs_up(prefault, steps):
    program, client = prefault(*_python("print('main')"))
    client.hands_over(steps)
    client.peek()
    client.hang_up()
    done = f"{steps * STEP_BYTES / _MIB:.1f} MiB" if steps else "0 B"
    _goes_on(program, f"gatekeeper: --prefault ended at {done} of 40.0 MiB: the daemon")


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (
            wire.Refused(5, "no-such-lease", "there is no lease 17."),
            "there is no lease 17;",
        ),
        (wire.Failed("out-of-turn", "you are mad"), "you are mad;"),
        (wire.Ended(17, "ordered"), "the lease was ended: its owner"),
    ],
)
def test_when_the_daemon_says_no(prefault, reply, said):
    program, client = prefault(*_python("print('main')"))
    client.hands_over(3)
    client.peek()
    client.say(reply)
    _goes_on(program, f"--prefault ended at 12.0 MiB of 40.0 MiB: {said}")


def test_what_comes_right_after_the_grant_is_not_lost(prefault):
    program, client = prefault(*_python("print('main')"))
    client.say(wire.Ended(17, "ordered"))
    _goes_on(program, "0 B of 40.0 MiB: the lease was ended: its owner")


def test_when_the_daemon_speaks_nonsense(prefault):
    program, client = prefault(*_python("print('main')"))
    client.say_bytes(b"\0\0\0\1\xc1")
    _goes_on(program, "--prefault ended at 0 B of 40.0 MiB: a message of 1 bytes")


def test_other_news_in_between_do_not_matter(prefault):
    program, client = prefault(*_python("print('main')"))
    client.say(wire.Done(99), wire.Reclaim(17, True))
    assert len(client.hands_over()) == _STEPS
    assert program.end().err == ""


def test_an_order_without_an_answer_is_given_again_under_its_number(daemon, start):
    """A daemon killed between reading and answering was restarted."""
    program = start("sh", "-c", f'exec {sys.executable} -c "$0"', _IMPATIENT)
    client = daemon.grants()
    orders = client.orders(2)
    assert orders == [wire.HandOver(2, 17, "ram", _MIB)] * 2
    client.say(wire.Done(2), wire.Done(2))
    assert program.end().err == ""


def test_it_asks_again_only_a_few_times(daemon, start):
    program = start("sh", "-c", f'exec {sys.executable} -c "$0"', _IMPATIENT)
    client = daemon.grants()
    _goes_on(program, "0 B of 1.0 MiB: the daemon does not answer;")
    assert len(client.orders(4)) == 4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOLDINGPEN_FD", "1000", "--prefault failed (OSError"),
        ("HOLDINGPEN_FD", "x", "--prefault failed (ValueError"),
        ("HOLDINGPEN_FD", "", "--prefault failed (ValueError"),
        ("HOLDINGPEN_PREFAULT", "x", "--prefault failed (ValueError"),
        ("HOLDINGPEN_FD", "0", "--prefault failed (OSError"),
    ],
)
def test_when_somebody_has_changed_the_environment(prefault, name, value, said):
    again = f"export {name}={value}; exec {sys.executable} -c 'print(\"main\")'"
    program, _ = prefault("sh", "-c", again, words=("--quiet",))
    _goes_on(program, said)


def test_when_stderr_is_closed(prefault):
    again = f"exec {sys.executable} -c 'print(\"main\")' 2>&-"
    program, client = prefault("sh", "-c", again, words=("--quiet",))
    client.hang_up()
    ended = program.end()
    assert (ended.status, ended.out, ended.err) == (0, "main\n", "")


@pytest.mark.parametrize("tunable", ["glibc.malloc.top_pad=67108864"])
def test_a_heap_that_does_not_grow_step_by_step_is_told(
    prefault, surroundings, tunable
):
    """What was kept is freed all the same: held, it would be of no use to anybody."""
    surroundings["GLIBC_TUNABLES"] = tunable
    program, client = prefault(*_python("print('main')"))
    assert [order.amount for order in client.hands_over()] == [_AMOUNT]
    _goes_on(program, "malloc does not grow step by step: by 0 bytes")


def test_no_more_memory_is_told(prefault, surroundings):
    """`ulimit -v` in a login script."""
    again = f"ulimit -v 60000; exec {sys.executable} -c 'print(\"main\")'"
    amount = 200 * _MIB
    program, client = prefault("sh", "-c", again, amount=amount, words=("--quiet",))
    orders = client.hands_over()
    assert sum(order.amount for order in orders) == amount
    assert orders[-1].amount > STEP_BYTES
    _goes_on(program, "the rest was freed at once, and others may take it")


@pytest.mark.parametrize("how", ["malloc", "debug", "malloc_debug"])
def test_python_s_own_choice_of_allocator_breaks_nothing(prefault, surroundings, how):
    """With `malloc` the heap is Python's own as well, and may not grow step by step."""
    surroundings["PYTHONMALLOC"] = how
    program, client = prefault(*_python())
    orders = client.hands_over()
    assert sum(order.amount for order in orders) == _AMOUNT
    ended = program.end()
    by_steps = json.loads(ended.out)["resident"] > _AMOUNT
    assert by_steps == (len(orders) == _STEPS)
    assert by_steps or "the rest was freed at once" in ended.err
    assert by_steps == (ended.err == "")


def test_an_interrupt_ends_it_as_it_ends_any_program(prefault):
    program, client = prefault(*_python("print('main')"))
    client.hands_over(3)
    client.peek()
    program.signal(signal.SIGINT)
    ended = program.end()
    assert (ended.status, ended.out, ended.err) == (-signal.SIGINT, "", "")
    assert len(client.orders(1)) == 1
    assert client.left()


def test_the_program_s_ctrl_c_is_a_keyboard_interrupt_again(prefault):
    code = "import signal; print(signal.getsignal(2) is signal.default_int_handler)"
    program, client = prefault(*_python(code))
    client.hands_over()
    assert program.end().out == "True\n"


def test_the_connection_blocks_as_before(prefault):
    """What is blocking belongs to the connection, which the program may use."""
    code = "import os; print(os.get_blocking(int(os.environ['HOLDINGPEN_FD'])))"
    program, client = prefault(*_python(code))
    client.hands_over()
    assert program.end().out == "True\n"


# The heap alone, each time in a process of its own.


def _in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    begin = (
        f"import sys; sys.path[:0] = [{str(_ROOT)!r}]; "
        "from gatekeeper.prefault import heap; from gatekeeper.prefault.heap import *\n"
    )
    words = [sys.executable, "-I", "-S", "-c", begin + code]
    return subprocess.run(words, capture_output=True, text=True, check=True)


_RESIDENT = """
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
"""


def test_addresses_cost_no_pages_and_filling_does():
    out = _in_a_process(
        _RESIDENT
        + """
made = Heap()
before = resident()
start, size = made.extend(2**24)
print(resident() - before < 2**20, abs(size - 2**24) < 2**18)
made.fill(start, size)
print(resident() - before >= size)
"""
    ).stdout
    assert out.split() == ["True"] * 3


def test_a_kernel_before_5_14_has_its_pages_touched():
    """And nothing that is in them is changed."""
    out = _in_a_process(
        _RESIDENT
        + """
heap.MADV_POPULATE_WRITE = 9999
made = Heap()
start, size = made.extend(2**24)
ctypes.memset(start + 8192, 7, 8192)
before = resident()
made.fill(start, size)
print(resident() - before >= 2**24 - 2**15)
print(ctypes.string_at(start + 8192, 8192) == b"\\7" * 8192)
"""
    ).stdout
    assert out.split() == ["True", "True"]


def test_pages_that_the_system_does_not_give_are_an_error():
    out = _in_a_process(
        """
try:
    Heap().fill(4096, 4096)
except Exception as why:
    print(type(why).__name__, why.code, why)
"""
    ).stdout
    assert out.startswith("Unavailable no-heap the system gives no pages (")


@pytest.mark.parametrize(
    ("answer", "said"),
    [("missing", "is not glibc"), ("no", "mallopt does not take")],
)
def test_another_c_library_is_told(answer, said):
    out = _in_a_process(
        f"""
class Libc:
    if {answer!r} == "no":
        mallopt = lambda *_: 0
    def __getattr__(self, name):
        if name == "mallopt":
            raise AttributeError(name)
        return getattr(real, name)
real = ctypes.CDLL(None)
real.mallopt = lambda *_: 0
ctypes.CDLL = lambda *_, **__: Libc()
try:
    Heap()
except Exception as why:
    print(why.code, why)
"""
    ).stdout
    assert out.startswith("no-heap ")
    assert said in out


def test_a_heap_of_which_nothing_came_is_as_it_was():
    """Else the program could give nothing back to the system, and for nothing."""
    out = _in_a_process(
        _RESIDENT
        + """
made = Heap()
made.extend(2**20)
made.close()
block = b"x" * 2**25
full = resident()
del block
print(full - resident() >= 2**24)
"""
    ).stdout
    assert out == "True\n"


def test_what_it_has_it_keeps():
    out = _in_a_process(
        _RESIDENT
        + """
made = Heap()
made.fill(*made.extend(2**25))
made.close()
full = resident()
block = b"x" * 2**24
print(abs(resident() - full) < 2**20)
del block
print(abs(resident() - full) < 2**20)
"""
    ).stdout
    assert out.split() == ["True", "True"]
