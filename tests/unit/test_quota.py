"""Limit rules as the configuration has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import setting_kinds as kinds
from tlspool_common.quota import MOST, parse_limit
from tlspool_common.settings import Part, SettingError, parse_untrusted


def parse(text):
    return parse_limit(text, kinds.uid, kinds.gid)


def test_everything():
    rule = parse(
        "mail socket=/run/a.sock user=0,7 group=8 unit=postfix@.service exe=/usr/bin/x sessions=5 handshakes=0 "
        "connections=7 rate=90/m burst=9 requests=10/s"
    )
    assert rule.name == "mail"
    assert (rule.sockets, rule.uids, rule.gids) == ({"/run/a.sock"}, {0, 7}, {8})
    assert (rule.units, rule.exes) == ({"postfix@.service"}, {"/usr/bin/x"})
    assert (rule.sessions, rule.handshakes, rule.connections) == (5, 0, 7)
    assert (rule.rate, rule.burst, rule.requests) == (1.5, 9, 10)
    least = parse("all requests=0/s")
    assert (least.sessions, least.rate, least.requests) == (None, None, 0)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "begin with a name"),
        ("a b,c sessions=1", "neither who"),
        ("a user=0", "limits nothing"),
        ("a", "limits nothing"),
        ("a sessions", "sessions=NUMBER"),
        ("a sessions=", "whole number from 0"),
        ("a sessions=-1", "whole number from 0"),
        ("a sessions=1000001", "whole number from 0"),
        ("a sessions=1 sessions=2", "twice"),
        ("a rate=5", "50/s or 600/m"),
        ("a rate=5/h", "50/s or 600/m"),
        ("a rate=x/s", "whole number"),
        ("a burst=0", "at least 1"),
        ("a user=1 user=2 sessions=1", "twice"),
        ("a user= sessions=1", "empty value"),
        ("a user=no-such-user sessions=1", "names no user"),
        ("a unit=postfix sessions=1", "systemd unit"),
        ("a role=client sessions=1", "neither who"),
    ],
)
def test_what_is_wrong(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse(text)


@given(st.text(max_size=80))
def test_anything(text):
    """A rule, or ValueError with a hint."""
    try:
        rule = parse(f"a {text}")
    except ValueError as error:
        assert str(error)
    else:
        assert all(value is None or 0 <= value <= MOST for value in (rule.sessions, rule.rate, rule.burst))


def test_in_a_configuration():
    found = parse_untrusted("limit a user=0 sessions=1\nlimit b rate=1/s\n", Part.BROKER)
    assert [rule.name for rule in found.quotas] == ["a", "b"]
    rows = [row for row in found.rows() if row["name"] == "limit"]
    assert [row["value"] for row in rows] == ["a user=0 sessions=1", "b rate=1/s"]
    again = parse_untrusted("".join(f"limit {row['value']}\n" for row in rows), Part.BROKER)
    assert again.quotas == found.quotas
    assert found.changes(parse_untrusted("limit a user=0 sessions=2\n", Part.BROKER)) == (["limit"], [])
    with pytest.raises(SettingError, match="a rule a already"):
        parse_untrusted("limit a sessions=1\nlimit a sessions=2\n")
    assert not hasattr(parse_untrusted("limit a sessions=1\n", Part.KEYD), "quotas")
