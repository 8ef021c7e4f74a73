"""Words to Options."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatekeeper.options import AMOUNTS_MAX, FLAGS, TEXT_MAX, VALUES, Options, parse
from holdingpen.errors import LocalMistake
from holdingpen.wire import messages as wire


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("--ram 8G", "amounts", {"ram": 8 * 2**30}),
        ("--ram=8GB", "amounts", {"ram": 8 * 10**9}),
        ("--cpu 2 --ram 512M", "amounts", {"cpu": 2, "ram": 512 * 2**20}),
        (
            "--res licence=3 --res=disk=1G",
            "amounts",
            {"licence": 3, "disk": 2**30},
        ),
        ("--exclusive", "amounts", {"machine": 1}),
        ("", "amounts", {}),
        ("--priority -5", "priority", -5),
        ("--priority=+5", "priority", 5),
        ("--label=", "label", ""),
        ("--label a=b", "label", "a=b"),
        ("--reason --ram", "reason", "--ram"),
        ("--nonblock", "wait_s", 0.0),
        ("--wait 1h30m", "wait_s", 5400.0),
        ("", "wait_s", None),
        ("--time 0.5h", "length_s", 1800.0),
        ("--timeout 45s", "timeout_s", 45.0),
        ("--socket /a", "socket", "/a"),
        ("--reclaimable", "reclaimable", True),
        ("--quiet --quiet", "quiet", True),
        ("--start", "start", True),
        ("--require", "require", True),
        ("--disk 1G", "amounts", {"disk": 2**30}),
        (
            "--disk=1G:b_2-c --disk 2G:a --disk 3G",
            "amounts",
            {"disk.b_2-c": 2**30, "disk.a": 2 * 2**30, "disk": 3 * 2**30},
        ),
        ("--ram 1G --cpu 1 --hugepages", "amounts", {"hugepages": 2**30, "cpu": 1}),
        ("--hugepages --ram 1G", "wishes", {}),
        ("--prefault", "prefault", True),
        ("-v", "verbose", True),
        ("--verbose -v", "verbose", True),
        ("--exact", "exact", True),
        ("--exact", "require", True),
        ("", "wishes", {"ram": "program"}),
        ("--cpu 1", "wishes", {}),
        ("--exclusive", "wishes", {}),
        ("--cpu 1 --ram 1G", "wishes", {"ram": "program"}),
        ("--stay --ram 1G", "wishes", {"ram": "program"}),
        ("", "inside", 0),
        ("--in 17", "inside", 17),
        ("--in=017", "inside", 17),
        ("--in 999999999999999999", "inside", 10**18 - 1),
        ("--in none", "inside", -1),
        ("", "reclaim_signal", 0),
        ("--reclaim-signal TERM", "reclaim_signal", 15),
        ("--reclaim-signal SIGTERM", "reclaim_signal", 15),
        ("--reclaim-signal=usr1", "reclaim_signal", 10),
        ("--reclaim-signal 15", "reclaim_signal", 15),
        ("--reclaim-signal 64", "reclaim_signal", 64),
        ("--reclaim-signal RTMIN", "reclaim_signal", 34),
        ("--reclaim-signal TERM", "reclaimable", True),
        ("--ram 1G --prefault", "wishes", {"ram": "steps"}),
        ("--prefault", "wishes", {"ram": "steps"}),
    ],
)
def test_each_option_means(words, name, expected):
    assert expected == getattr(parse([*words.split(), "true"]), name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["true"], ["true"]),
        (["--", "true"], ["true"]),
        (["--cpu", "1", "ls", "--ram", "x"], ["ls", "--ram", "x"]),
        (["--", "--ram"], ["--ram"]),
        (["ls", "--", "x"], ["ls", "--", "x"]),
        (["--quiet", "--", "--", "x"], ["--", "x"]),
        (["-"], ["-"]),
        (["", "x"], ["", "x"]),
    ],
)
def test_options_end_at_two_dashes_or_the_first_word(words, expected):
    assert expected == parse(words).command


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--ram 0", "--ram: '0' is nothing"),
        ("--ram=-1G", "--ram: size '-1G' is not understood"),
        ("--ram 8X", "--ram: size '8X' is not understood"),
        ("--ram 1G --ram 2G", "--ram is given twice"),
        ("--ram 1G --res ram=2G", "--res: ram is given twice"),
        ("--res a=1 --res a=1", "--res: a is given twice"),
        ("--res a", "--res 'a' is not understood: NAME=AMOUNT"),
        ("--res =1", "--res '=1' is not understood"),
        ("--res a=0", "--res: '0' is nothing"),
        ("--res machine=1", "write --exclusive"),
        ("--cpu 1.5", "--cpu: count '1.5'"),
        ("--priority high", "--priority 'high' is not understood"),
        ("--priority 1000000001", "out of range"),
        ("--nonblock --wait 1h", "contradict"),
        ("--wait 30", "--wait: duration '30' lacks a unit"),
        ("--time 0s", "--time: duration '0s' must be more than 0"),
        ("--timeout", "--timeout lacks its value: a duration"),
        ("--quiet=yes", "--quiet takes no value"),
        ("--socket=", "--socket is empty"),
        ("--in 0", "--in '0' is not understood: the number of a reservation"),
        ("--in -1", "--in '-1' is not understood"),
        ("--in 1.5", "--in '1.5' is not understood"),
        ("--in None", "--in 'None' is not understood"),
        ("--in=", "--in '' is not understood"),
        ("--in \u0661", "is not understood"),
        ("--in " + 19 * "9", "is not understood"),
        ("--in", "--in lacks its value"),
        ("--in 1 --in 2", "--in is given twice"),
        ("--reclaim-signal 0", "'0' is not understood: a signal such as TERM"),
        ("--reclaim-signal 65", "'65' is not understood"),
        # kept by the C library for its threads
        ("--reclaim-signal 32", "'32' is not understood"),
        ("--reclaim-signal -15", "'-15' is not understood"),
        ("--reclaim-signal SIG15", "'SIG15' is not understood"),
        ("--reclaim-signal NONE", "'NONE' is not understood"),
        ("--reclaim-signal=", "'' is not understood"),
        ("--reclaim-signal TERM --prefault true", "give one"),
        ("--gpus 1", "there is no option --gpus"),
        ("-x", "there is no option -x"),
        ("-v=1", "--verbose takes no value"),
        ("--quiet -v", "contradict"),
        ("--disk 0:a", "--disk: '0' is nothing"),
        ("--disk 1X", "--disk: size '1X' is not understood"),
        ("--disk 1G:", "--disk '1G:' is not understood: SIZE or SIZE:NAME"),
        ("--disk 1G:/tmp", "--disk '1G:/tmp' is not understood"),
        ("--disk 1G:a:b", "--disk '1G:a:b' is not understood"),
        ("--disk 1G:\u00e9", "is not understood"),
        ("--disk 1G:" + 257 * "x", "is not understood"),
        ("--disk 1G --disk 2G", "--disk: disk is given twice"),
        ("--disk 1G:a --res disk.a=2G", "--res: disk.a is given twice"),
        ("--hugepages true", "--hugepages needs to know how much"),
        ("--hugepages --cpu 1 true", "--hugepages needs to know how much"),
        ("--hugepages --ram 1G --prefault true", "two ways"),
        ("--hugepages --ram 1G --res hugepages=1 true", "given twice"),
        ("--prefault --cpu 1 true", "--prefault needs to know how much"),
        ("--prefault --exclusive true", "--prefault needs to know how much"),
        ("--label " + 257 * "x", "--label has 257 characters; at most 256"),
        ("--reason " + 257 * "x", "--reason has 257 characters; at most 256"),
        ("", "there is no CMD"),
        ("--", "there is no CMD"),
    ],
)
def test_wrong_usage_names_the_option_and_what_is_accepted(words, said):
    with pytest.raises(LocalMistake) as caught:
        parse(words.split())
    assert said in str(caught.value)


def test_more_resources_than_the_protocol_takes_are_refused():
    words = [f"--res=r{n}=1" for n in range(AMOUNTS_MAX + 1)]
    with pytest.raises(LocalMistake, match="more than 64 resources"):
        parse([*words, "true"])


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_need_nothing_else(word):
    assert getattr(parse([word, "--nonsense"]), word[2:])


@pytest.mark.parametrize(
    "word", ["--stay", "--reclaimable", "--reclaim-signal=TERM", "--timeout=1s"]
)
def test_gatekeeper_stays_as_parent_when(word):
    assert parse([word, "true"]).parent


def test_gatekeeper_becomes_the_command_otherwise():
    assert not parse(["true"]).parent


def test_the_limits_are_those_of_the_protocol():
    assert (wire.TEXT_MAX, wire.AMOUNTS_MAX) == (TEXT_MAX, AMOUNTS_MAX)


_word = st.one_of(
    st.sampled_from([*FLAGS, *VALUES, "--", "=", "-", "8G", "1h", "a=1", "true"]),
    st.builds("{}={}".format, st.sampled_from([*FLAGS, *VALUES]), st.text()),
    st.text(),
)


@settings(deadline=None)
@given(st.lists(_word, max_size=8))
def test_whatever_is_written_is_understood_or_called_a_mistake(words):
    try:
        options = parse(words)
    except LocalMistake:
        return
    assert isinstance(options, Options)
    assert all(amount > 0 for amount in options.amounts.values())
