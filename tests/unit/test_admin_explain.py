"""What ``tlspool explain`` says of RADIUS, and of a certificate that names nobody."""

import pytest

from tlspool_admin import rehearsing
from tlspool_admin.__main__ import main
from tlspool_admin.commands import explain
from tlspool_admin.commands.explain import account

ASKED = {"purpose": "authorize", "access": "accepted", "server": "192.0.2.1:1812", "detail": "", "message": "", "ms": 3}
RADIUS = {"rule": "mail", "acct_id": "AB12CD34-1A", "tags": ["gold"], "servers": ["192.0.2.1:1812"], "asked": [ASKED]}


def told(**radius):
    return account({"outcome": "accepted", "sentence": "it was", "radius": {**RADIUS, **radius}}).splitlines()


def test_who_has_accepted():
    assert told() == [
        "it was",
        "  what RADIUS had to do with it",
        "    rule: mail",
        "    Acct-Session-Id: AB12CD34-1A",
        "    tags: gold",
        "    authorize: accepted by 192.0.2.1:1812 in 3 ms",
    ]


def test_what_a_server_says():
    rejected = {**ASKED, "access": "rejected", "message": "not on a \x1b[1mSunday"}
    silent = {**ASKED, "access": "unanswered", "server": "", "detail": "the helper does not answer", "ms": 0}
    assert told(asked=[rejected, silent], tags=[])[4:] == [
        "    authorize: rejected by 192.0.2.1:1812 in 3 ms: not on a \\x1b[1mSunday",
        "    authorize: unanswered: the helper does not answer",
    ]


def test_where_nobody_was_asked():
    assert account({"sentence": "it was", "radius": None}) == "it was"


@pytest.fixture
def asked(monkeypatch):
    """What the broker is asked about a certificate that has no name but an address."""
    found = []
    monkeypatch.setattr(rehearsing, "described", lambda *_: {"names": ["ip:192.0.2.1"]})
    monkeypatch.setattr(
        explain, "ask_broker", lambda _args, command, **fields: found.append(fields) or {"outcome": "accepted"}
    )
    return found


def test_a_certificate_that_names_nobody(asked, capsys):
    """Who is asked here has no remoteid to set, but an option."""
    with pytest.raises(SystemExit) as caught:
        main(["explain", "--certificate", "x"])
    assert caught.value.code == 2
    assert "say whom with --remote ID" in capsys.readouterr().err
    assert not asked


@pytest.mark.parametrize(("words", "remoteid"), [(["--remote", "a.example"], "a.example"), (["--server"], "")])
def test_and_where_that_is_no_question(asked, words, remoteid):
    assert main(["explain", "--certificate", "x", *words]) == 0
    assert asked[0]["remoteid"] == remoteid
