"""Frames of the application's AAA: there and back, and what does not fit."""

import struct

import pytest

from tlspool_common import aaawire
from tlspool_common.aaawire import AccountCount, AccountKept, AccountStart, Authenticate, Authorize, Said, Tags, Verdict
from tlspool_common.appwire import PAYLOAD_B, BadPayload, Cmd

KEY = bytes(range(0xC0, 0xD0))

PAYLOADS = (
    aaawire.Subject(KEY, "john@example.com", "imap.example.net", "imap"),
    Authenticate(KEY, b"s\0cret", 2_500),
    Authorize(KEY, "mailbox", "INBOX", 2_500),
    Verdict(KEY, Said.ACCEPTED, "welcome", ("gold", "été"), 3, 3600, 60),
    Verdict(KEY, Said.REJECTED, "no more credit"),
    Tags(KEY, 1, 3, ("gold", "x" * 253)),
    AccountStart(KEY, "print", "job-17", 1_700_000_000_123),
    AccountCount("print", "job-17", 2**64 - 1, 1_700_000_000_123),
    AccountCount("print", "", None),
    AccountKept(1_700_000_000_123, "A" * 64),
)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda one: type(one).__name__)
def test_there_and_back(payload):
    data = payload.to_payload()
    assert len(data) <= PAYLOAD_B
    assert type(payload).from_payload_untrusted(data.ljust(PAYLOAD_B, b"\0")) == payload


def test_all_commands_are_of_the_local_range():
    mine = [
        cmd for cmd in Cmd if "ACCOUNT" in cmd.name or cmd.name.startswith(("LOCAL_AUTH", "LOCAL_SUB", "LOCAL_TAGS"))
    ]
    assert len(mine) == 7
    assert all(cmd & 0x80000000 for cmd in mine)


def test_secrets_are_not_shown():
    for payload in (aaawire.Subject(KEY, "a.example"), Authenticate(KEY, b"pass-canary")):
        assert "canary" not in repr(payload)
        assert repr(KEY) not in repr(payload)


@pytest.mark.parametrize(
    "payload",
    [
        aaawire.Subject(b"short", "a.example"),
        aaawire.Subject(KEY, "x" * 128),
        aaawire.Subject(KEY, "a.example", service="x" * 16),
        Authenticate(KEY, b""),
        Authenticate(KEY, b"x" * 129),
        Authorize(KEY, "x" * 64),
        Authorize(KEY, "a\u200bb"),
        AccountStart(KEY, ""),
        AccountStart(KEY, "kind", "x" * 128),
        AccountStart(KEY, "kind", "a\nb"),
        AccountCount("", "", 1),
        AccountKept(1, "A" * 65),
        Verdict(KEY, Said.ACCEPTED, "x" * 128),
        Verdict(KEY, Said.ACCEPTED, "", ("x" * 150, "y" * 150), 2),
        Tags(KEY, 0, 2, ("x" * 250, "y" * 250)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_does_not_fit_is_refused(payload):
    with pytest.raises(BadPayload):
        payload.to_payload()


def packed(kind, *values):
    return kind.FORM.pack(*values).ljust(PAYLOAD_B, b"\0")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Authenticate, (KEY, 0, 0, b"")),
        (Authenticate, (KEY, 0, 129, b"canary")),
        (Authorize, (KEY, 0, b"x" * 64, b"")),
        (Authorize, (KEY, 0, b"\xe2\x80\x8b\0", b"")),
        (Verdict, (KEY, 3, 0, 0, 0, 0, b"", b"")),
        (Verdict, (KEY, 1, 0, 1, 0, 0, b"", b"")),
        (Verdict, (KEY, 1, 500, 400, 0, 0, b"", b"")),
        (Verdict, (KEY, 1, 1, 1, 0, 0, b"", b"x" * 220)),
        (Tags, (KEY, 2, 2, 1, b"x\0")),
        (Tags, (KEY, 0, 1, 1, b"\xff\0")),
        (AccountStart, (KEY, 0, b"", b"")),
        (AccountStart, (KEY, 1 << 60, b"kind", b"")),
        (AccountCount, (0, 0, 1, b"", b"")),
        (AccountKept, (0, b"x" * 65)),
    ],
)
def test_what_is_none(kind, values):
    with pytest.raises(BadPayload) as caught:
        kind.from_payload_untrusted(packed(kind, *values))
    assert "canary" not in str(caught.value)


def test_a_verdict_is_cut_to_fit():
    tags = ["gold", "x" * 250, "y"]
    verdict = Verdict.of(KEY, Said.ACCEPTED, "é" * 100 + "\0", tags, 1, 2)
    assert verdict == Verdict(KEY, Said.ACCEPTED, "é" * 63, ("gold",), 3, 1, 2)
    assert Verdict.from_payload_untrusted(verdict.to_payload().ljust(PAYLOAD_B, b"\0")) == verdict
    rest = Tags.of(KEY, 1, tags)
    assert (rest.total, rest.tags) == (3, ("x" * 250, "y"))
    assert Tags.of(KEY, 3, tags).tags == Tags.of(KEY, 9, tags).tags == ()


def test_layouts_have_no_padding_of_their_own():
    """C programs have them packed to 2, as examples/c/tlspool_aaa.h."""
    assert [
        struct.calcsize(kind.FORM.format) for kind in (aaawire.Subject, Authenticate, Authorize, Verdict, Tags)
    ] == [
        288,
        150,
        212,
        378,
        374,
    ]
    assert [kind.FORM.size for kind in (AccountStart, AccountCount, AccountKept)] == [216, 210, 73]
