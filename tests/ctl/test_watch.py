"""holdingpenctl watch."""

import json

import pytest

from holdingpen.wire import messages as wire


@pytest.fixture
def daemon(serve):
    """It tells of two events and ends."""

    def answer(request):
        if type(request) is not wire.Watch:
            return []
        return [
            wire.Done(request.id),
            wire.Happened(0.0, "joined", {"uid": 1000, "label": "\x1b[2J"}, 17),
            wire.Happened(1.0, "granted", {}, 17),
            None,
        ]

    return serve(answer)


def test_each_event_is_a_line_until_the_daemon_ends(ctl, daemon, monkeypatch):
    monkeypatch.setattr("holdingpen.ctl.terminal.date", lambda s: f"<{s:g}>")
    assert ctl("watch") == (
        69,
        "<0>  joined     lease 17    ada, label ?[2J\n<1>  granted    lease 17\n",
        f"holdingpenctl: the daemon at {daemon.path} hung up. "
        "'systemctl status holdingpen' says why.\n",
    )


def test_each_event_is_one_object_for_scripts(ctl, daemon):
    exit_status, out, _ = ctl("watch", "--json")
    assert exit_status == 69
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "version": 1,
            "at": 0.0,
            "what": "joined",
            "lease": 17,
            "facts": {"uid": 1000, "label": "\x1b[2J"},
        },
        {"version": 1, "at": 1.0, "what": "granted", "lease": 17, "facts": {}},
    ]


def test_ctrl_c_is_how_one_stops_watching(ctl, daemon, monkeypatch):
    def interrupt(lines):
        raise KeyboardInterrupt

    monkeypatch.setattr("holdingpen.ctl.terminal.say", interrupt)
    assert ctl("watch") == (130, "", "")
