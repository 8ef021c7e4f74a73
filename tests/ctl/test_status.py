"""holdingpenctl status against a daemon that plays back answers."""

import json

import pytest

from holdingpen.wire import messages as wire


def test_status_shows_the_page(ctl, telling, busy):
    telling(busy)
    exit_status, out, err = ctl("status")
    assert (exit_status, err) == (0, "")
    assert out.startswith("Holding Pen 0.1.0, up 2h30m, /run/holdingpen.socket\n\nRES")
    assert "\x1b" not in out


def test_columns_and_colour_follow_what_was_said(ctl, telling, busy, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    telling(busy)
    out = ctl("status", "--color", "always")[1]
    assert out.startswith("Holding Pen 0.1.0, up 2h30m, /run/holdi…\n\n\x1b[1mRESOURCE")


def test_json_is_one_object_in_one_line(ctl, telling, busy):
    telling(busy)
    exit_status, out, _ = ctl("status", "--json")
    assert exit_status == 0
    assert out.count("\n") == 1
    assert [lease["user"] for lease in json.loads(out)["leases"]] == ["ada", "bob"]


def test_fields_stand_in_one_line_with_tabs(ctl, telling, busy):
    telling(busy)
    assert ctl("status", "-o", "cpu.free,leases,line") == (0, "6\t2\t2\n", "")


def test_an_unknown_field_is_wrong_usage(ctl, telling, busy):
    telling(busy)
    exit_status, out, err = ctl("status", "-o", "ram.gone")
    assert (exit_status, out) == (2, "")
    assert err.startswith(
        "holdingpenctl: status has no field 'ram.gone'; it has: machine.capacity, "
    )


def test_short_is_short(ctl, telling, busy):
    telling(busy)
    assert ctl("status", "--short")[1] == (
        "ram 14.0G free + 8.0G held of 62.0G\ncpu 6 free of 8\n2 leases, 2 waiting\n"
    )


@pytest.mark.parametrize(
    ("amounts", "words", "expected"),
    [
        ({"machine": 1}, ["--exit-code"], (1, "", "")),
        ({"ram": 1}, ["--exit-code"], (0, "", "")),
        ({"machine": 1}, [], (0, "1\n", "")),
        ({"machine": 1}, ["--exit-code", "-o", "leases"], (1, "1\n", "")),
    ],
)
def test_the_exit_code_says_whether_the_machine_is_reserved(
    ctl, telling, status, amounts, words, expected
):
    telling(status(leases=[wire.LeaseInfo(1, "live", 0, 1, amounts, 1.0)]))
    assert ctl("status", *(words or ["-o", "leases"])) == expected


def test_a_prompt_can_tell_no_daemon_from_reserved(ctl):
    assert ctl("status", "--exit-code")[0] == 69


def test_watching_and_an_exit_code_do_not_go_together(ctl):
    exit_status, _, err = ctl("status", "--watch", "--exit-code")
    assert exit_status == 2
    assert "never ends by itself" in err


def test_watching_prints_block_after_block_until_the_daemon_ends(ctl, telling, busy):
    telling(busy, busy)
    exit_status, out, err = ctl("status", "--short", "--watch", "0.1")
    block = "cpu 6 free of 8\n2 leases, 2 waiting\n\n"
    assert (exit_status, out.count(block)) == (69, 2)
    assert "hung up" in err


def test_ctrl_c_ends_a_watch_well(ctl, telling, busy, monkeypatch):
    def interrupt(seconds):
        assert seconds == 2.0
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    telling(busy)
    assert ctl("status", "-o", "line", "--watch") == (0, "2\n", "")
