"""What ``tlspool explain`` says of RADIUS."""

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
