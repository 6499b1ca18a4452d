"""Invariants of what operators ask about RADIUS, and of what the helper tells them."""

from __future__ import annotations

import json
from functools import cache

from tests.fuzz.target import Target, octets, text
from tests.playbook.broker import World
from tlspool_broker import radius_control, radius_policy, radius_rehearsal
from tlspool_common import limits, log, logwords
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import AskAccess, Purpose
from tlspool_common.radius_rules import check_value


def _check_line(data):
    line = text(data)
    row = radius_control._row_untrusted(line)
    try:
        words = logwords.words_untrusted(line)
    except ValueError:
        assert row == {"line": line}
        return False
    assert line.isprintable() and {name: str(value) for name, value in row.items()} == words
    if all(len(value) <= log._VALUE_CHARACTERS for value in words.values()):
        names = {name: name.replace("_secret", "_") for name in words}
        if len(set(names.values())) == len(names):
            again = logwords.words_untrusted(log.line("x", {names[name]: value for name, value in words.items()}))
            again.pop("event")
            assert [again.get(names[name]) for name in words if name != "event"] == [
                words[name] for name in words if name != "event"
            ]
    return True


_CONF = (
    "radius_authn 127.0.0.1\nradius_authz 127.0.0.1\nradius_acct 127.0.0.1\nradius_secret_file /nowhere\n"
    "radius mail service=imap role=server Connect-Info={remote.user}/{local.user}/{session}/{host}\n"
    "radius odd localid=.odd.example anonymous=nobody@odd.example User-Name={remote.domain}{remoteid}{remoteid}\n"
)


@cache
def _core():
    return World(_CONF).core


def _check_rehearsal(data):
    try:
        fields = json.loads(text(data))
    except (ValueError, RecursionError):
        return False
    if not isinstance(fields, dict):
        return False
    try:
        admission = radius_rehearsal.rehearse_untrusted(_core(), fields)
    except PoolError as error:
        codes = {Code.FIELD_MALFORMED, Code.IDENTITY_MALFORMED, Code.RADIUS_ANONYMOUS, Code.RADIUS_UNASKED}
        assert error.code in codes, error
        assert len(str(error)) < 1500
        return False
    assert admission is not None and admission.acct_id.endswith("-0")
    for purpose in Purpose:
        question = AskAccess(
            purpose=purpose,
            attributes=radius_policy.question(admission, purpose),
            state=b"",
            deadline_ms=1,
            password=b"",
        )
        assert len(question.attributes) <= limits.RADIUS_ATTRIBUTES
        for pair in question.attributes:
            name, _, value = pair.partition("=")
            assert value and value.isprintable() and len(pair.encode()) <= limits.RADIUS_ATTRIBUTE_B
            check_value(name, value)
        assert any(pair.startswith("User-Name=") for pair in question.attributes)
    return True


TARGETS = (
    Target(
        "helper-line",
        "What is no line of words is shown as it is; a line of words is printable, and reads the same when it is "
        "written again.",
        _check_line,
        lambda: (
            b'purpose=authz server=127.0.0.1:1812 state=up rtt_ms=0.41 asked=7 trouble="it said \\"no\\""',
            b"number=17 status=start acct_id=0017 at_s=1795990000 user=-",
            b'a="" b=- c=0',
        ),
        (b'="', b'\\"', b"\\\\", b"=", b" ", b"-", b'"', b"\\x1b", *map(octets, "\u2028é")),
        700,
    ),
    Target(
        "radius-rehearsal",
        "The codes of such requests, or attributes that fit a question, each printable and of its kind, with a "
        "User-Name among them.",
        _check_rehearsal,
        lambda: (
            b'{"remoteid": "alice@b.example", "localid": "post@home.example", "service": "imap", "unit": "x.service"}',
            b'{"remoteid": "b.example", "side": "client", "uid": 0}',
            b'{"localid": "a.odd.example"}',
            b'{"localid": "a.odd.example", "remoteid": "%s@b.example"}' % (b"a" * 60),
        ),
        (b'"side": "server"', b"@", b".odd.example", b'"uid": ', b"null", b"[]", b'"\\u0000"', b'"\\ud800"', b"9e9"),
        800,
    ),
)
