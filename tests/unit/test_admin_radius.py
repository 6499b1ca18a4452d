"""``tlspool radius`` without a broker: what is printed, what is asked, and exit codes."""

import json

import pytest

from tlspool_admin.__main__ import main
from tlspool_admin.commands import radius as module
from tlspool_admin.commands.explain import account

SERVER = {
    "purpose": "authz",
    "server": "127.0.0.1:1812",
    "state": "up",
    "rtt_ms": "0.4",
    "asked": 7,
    "late": 0,
    "trouble": "",
}
STATUS = {
    "ok": True,
    "helper": {"state": "ready", "asked": 7},
    "waiting": 0,
    "oldest_s": 0,
    "open": 2,
    "sent": 9,
    "refused": 0,
    "servers": [SERVER],
    "records": [],
}
ACCEPTED = {
    "ok": True,
    "outcome": "accepted",
    "rule": "mail",
    "answers": [
        {
            "purpose": "authz",
            "asked_of_sessions": True,
            "sent": ["User-Name=alice@home.example", "NAS-Identifier=home.example"],
            "access": "accepted",
            "server": "127.0.0.1:1812",
            "ms": 2,
            "got": {"tags": ["staff", "\x1b[31mred"], "Session-Timeout": 3600},
        }
    ],
}


@pytest.fixture
def broker(monkeypatch):
    """A broker that answers in order, the last answer again and again, and keeps what it was asked."""

    class Broker:
        def __init__(self):
            self.answers, self.asked = [STATUS], []

        def ask(self, request):
            self.asked.append(request)
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    made = Broker()
    monkeypatch.setattr(module, "ask_broker", lambda _args, cmd, **fields: made.ask({"cmd": cmd, **fields}))
    monkeypatch.setattr("tlspool_admin.client.ask", lambda _path, request, _timeout_s: made.ask(request))
    monkeypatch.setattr(module, "control_socket", lambda _args, _daemon: None)
    monkeypatch.setattr(module.time, "sleep", lambda _s: None)
    return made


def test_status(broker, capsys):
    assert main(["radius", "status"]) == 0
    shown = capsys.readouterr().out
    assert "purpose  server          state  rtt_ms  asked" in shown
    assert "accounting: 0 records wait; 2 open, 9 sent, 0 refused" in shown
    assert "late" not in shown, "what is nothing for all of them is left out"
    broker.answers = [{**STATUS, "servers": [SERVER, {**SERVER, "late": 3}]}]
    assert main(["radius", "status"]) == 0
    assert "late" in capsys.readouterr().out
    broker.answers = [STATUS]
    assert main(["radius", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


@pytest.mark.parametrize(
    ("servers", "code"),
    [
        ([SERVER, {**SERVER, "state": "dead"}], 0),
        ([{**SERVER, "state": "dead"}], 1),
        ([{**SERVER, "state": "no-secret"}], 1),
        ([{**SERVER, "state": "due"}], 0),
        ([SERVER, {**SERVER, "purpose": "acct", "state": "dead"}], 1),
        ([], 0),
    ],
)
def test_a_purpose_without_a_server_is_an_exit_code(broker, servers, code):
    broker.answers = [{**STATUS, "servers": servers}]
    assert main(["radius", "status"]) == code


def test_a_spool_that_cannot_be_used_and_requests(broker, capsys):
    spool = {"purpose": "spool", "state": "unusable", "trouble": "no database"}
    broker.answers = [{**STATUS, "spool": spool, "dynamic": {"purpose": "dynamic", "asked": 4}}]
    assert main(["radius", "status"]) == 1
    told = capsys.readouterr()
    assert "accounting: the spool is unusable: no database" in told.err
    assert "requests of RFC 5176:\n  purpose: dynamic\n  asked: 4" in told.out


def test_a_helper_that_does_not_answer(broker, capsys):
    broker.answers = [{"ok": True, "helper": {"state": "starting"}, "warnings": ["the helper does not answer"]}]
    for words in (["status"], ["spool"]):
        assert main(["radius", *words]) == 1
        assert "warning: the helper does not answer" in capsys.readouterr().err


def test_what_was_asked_and_answered(broker, capsys):
    broker.answers = [ACCEPTED]
    assert main(["radius", "test", "alice@home.example", "--service", "imap", "--localid", "home.example"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "alice@home.example: accepted (rule mail)",
        "authz: accepted by 127.0.0.1:1812 in 2 ms",
        "  > User-Name=alice@home.example",
        "  > NAS-Identifier=home.example",
        "  < tags=staff",
        "  < tags=\\x1b[31mred",
        "  < Session-Timeout=3600",
    ]
    (asked,) = broker.asked
    assert {**asked, "author": ""} == {
        "cmd": "radius.test",
        "author": "",
        "remoteid": "alice@home.example",
        "purpose": "both",
        "service": "imap",
        "localid": "home.example",
        "side": "server",
    }


def test_whose_program_it_would_be(broker, capsys):
    broker.answers = [ACCEPTED]
    for user, uid in (("0", 0), ("root", 0), ("4711", 4711)):
        assert main(["radius", "test", "a.example", "--user", user, "--unit", "x.service"]) == 0
        assert (broker.asked[-1]["uid"], broker.asked[-1]["unit"]) == (uid, "x.service")
    assert main(["radius", "test", "a.example", "--user", "no such user"]) == 1
    assert "there is no user no such user" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", ["rejected", "unanswered", "unasked"])
def test_whoever_is_not_accepted_is_an_exit_code(broker, capsys, outcome):
    row = {"purpose": "authn", "access": outcome, "detail": "why", "asked_of_sessions": False, "got": {"State": "00"}}
    broker.answers = [{"ok": True, "outcome": outcome, "rule": "", "answers": [row]}]
    assert main(["radius", "test", "a.example", "--client", "--purpose", "authn"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"a.example: {outcome}",
        f"authn: {outcome}: why",
        "  sessions are not asked about so, by the rule",
        "  < State=00",
    ]
    assert (broker.asked[0]["side"], broker.asked[0]["purpose"]) == ("client", "authn")
    assert main(["radius", "test", "a.example", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == outcome


def test_a_password_is_asked_for_and_not_shown(broker, capsys, monkeypatch):
    broker.answers = [ACCEPTED]
    monkeypatch.setattr(module.getpass, "getpass", lambda _prompt: "canary")
    assert main(["radius", "test", "alice@home.example", "--password-prompt"]) == 0
    assert broker.asked[0]["password"] == "canary"
    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    for wrong in ("", "x" * 129):
        monkeypatch.setattr(module.getpass, "getpass", lambda _prompt, wrong=wrong: wrong)
        assert main(["radius", "test", "alice@home.example", "--password-prompt"]) == 1
        assert "a password has 1 to 128 characters" in capsys.readouterr().err


def records(first, count):
    return [{"number": n, "at_s": 1795990000 + n, "status": "start", "acct_id": f"x-{n}"} for n in range(first, count)]


def test_the_spool_page_by_page(broker, capsys):
    waiting = {**STATUS, "waiting": 70, "oldest_s": 12}
    broker.answers = [{**waiting, "records": records(1, 51)}, {**waiting, "records": records(51, 71)}]
    assert main(["radius", "spool", "-n", "60", "--json"]) == 0
    assert [row["number"] for row in json.loads(capsys.readouterr().out)["records"]] == list(range(1, 61))
    assert [(one["after"], one["retry"]) for one in broker.asked] == [(0, False), (50, False)]
    broker.answers = [{**waiting, "records": records(1, 3)}]
    assert main(["radius", "spool", "--retry"]) == 0
    assert broker.asked[-1]["retry"] is True
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "accounting: 70 records wait, the oldest for 12 s; 2 open, 9 sent, 0 refused"
    assert lines[2].split() == ["2026-11-29", "22:06:41", "1", "start", "x-1"]


def test_a_spool_that_is_drained_is_followed_to_its_end(broker, capsys):
    steps = [(30, 0), (20, 10), (5, 25), (0, 30)]
    broker.answers = [{**STATUS, "waiting": waiting, "sent": sent} for waiting, sent in steps]
    broker.answers.insert(2, {"ok": True, "warnings": ["the helper does not answer"]})
    assert main(["radius", "spool", "--follow", "--retry"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("no record waits; 30 sent in ")
    assert "30 records wait" in told.err
    assert [one["retry"] for one in broker.asked] == [True] + [False] * 4
    broker.answers = [{**STATUS, "waiting": waiting, "sent": sent} for waiting, sent in steps]
    assert main(["radius", "spool", "--follow", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["waiting"] == 0


def test_explain_says_what_servers_said():
    asked = [
        {
            "purpose": "authenticate",
            "access": "accepted",
            "server": "192.0.2.1:1812",
            "ms": 2,
            "message": "",
            "detail": "",
        },
        {"purpose": "authorize", "access": "rejected", "server": "192.0.2.1:1812", "ms": 3, "message": "not\nyou"},
        {"purpose": "authorize", "access": "unanswered", "server": "", "ms": 0, "message": "", "detail": "nobody"},
    ]
    radius = {"rule": "mail", "acct_id": "X-17", "tags": ["staff", "gold"], "servers": [], "asked": asked}
    lines = account({"sentence": "session 17", "outcome": "refused", "radius": radius}).splitlines()
    assert lines == [
        "session 17",
        "  what RADIUS had to do with it",
        "    rule: mail",
        "    Acct-Session-Id: X-17",
        "    tags: staff, gold",
        "    authenticate: accepted by 192.0.2.1:1812 in 2 ms",
        "    authorize: rejected by 192.0.2.1:1812 in 3 ms: not\\x0ayou",
        "    authorize: unanswered: nobody",
    ]
    assert "RADIUS" not in account({"sentence": "session 17", "outcome": "refused", "radius": None})
