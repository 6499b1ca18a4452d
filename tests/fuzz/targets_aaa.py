"""Fuzz targets: the application's AAA, on the broker's side and on libstub's; and what the broker has written down."""

from __future__ import annotations

from types import SimpleNamespace

from libstub import aaa
from libstub.errors import PoolError
from tests.fuzz.target import Target
from tlspool_broker import items
from tlspool_common import aaawire
from tlspool_common.aaawire import AccountCount, AccountKept, AccountStart, Authenticate, Authorize, Said, Tags, Verdict
from tlspool_common.appwire import PAYLOAD_B, BadPayload, Cmd
from tlspool_common.codec import BadFrame

KEY = bytes(range(0xC0, 0xD0))

PAYLOADS = (
    aaawire.Subject(KEY, "john@example.com", "imap.example.net", "imap"),
    Authenticate(KEY, b"s\0cret", 2_500),
    Authorize(KEY, "mailbox", "INBOX", 2_500),
    Verdict(KEY, Said.ACCEPTED, "welcome", ("gold", "x"), 3, 3600, 60),
    Tags(KEY, 1, 3, ("gold", "x")),
    AccountStart(KEY, "print", "job-17", 1_700_000_000_123),
    AccountCount("print", "job-17", 2**64 - 1, 1_700_000_000_123),
    AccountCount("print", "", None),
    AccountKept(1_700_000_000_123, "A" * 64),
)
_KINDS = tuple(dict.fromkeys(map(type, PAYLOADS)))


def _check_payload(data):
    """The first octet chooses the payload's kind; a payload is always whole, as frame_untrusted sees to that."""
    if not data:
        return False
    payload = data[1 : 1 + PAYLOAD_B].ljust(PAYLOAD_B, b"\0")
    kind = _KINDS[data[0] % len(_KINDS)]
    try:
        found = kind.from_payload_untrusted(payload)
    except BadPayload as error:
        assert 0 < len(str(error)) < 200
        return False
    again = kind.from_payload_untrusted(found.to_payload().ljust(PAYLOAD_B, b"\0"))
    assert again == found
    for text in (getattr(found, "kind", ""), getattr(found, "instance", "")):
        assert text.isprintable() and "\0" not in text
    return True


_SESSION = SimpleNamespace(ctlkey=KEY)
_TALKS = (
    lambda: aaa.authenticate(_SESSION, "secret", "", "", None),
    lambda: aaa.authorize(_SESSION, "mailbox", "", "", "", 2.5),
    lambda: aaa.start(_SESSION, "print", "job", "", "", None, resume=True),
    lambda: aaa.count(Cmd.LOCAL_ACCOUNT_END, "print", "job", 7, 1.5),
    lambda: aaa.more_tags(KEY, (), 16),
)


def _check_talk(data):
    """The first octet chooses what is asked; the rest is what a pool answers, frame by frame."""
    if not data:
        return False
    talk = _TALKS[data[0] % len(_TALKS)]()
    asked = 0
    try:
        next(talk)
        for at in range(1, 20 * PAYLOAD_B, PAYLOAD_B):
            asked += 1
            talk.send(data[at : at + PAYLOAD_B].ljust(PAYLOAD_B, b"\0"))
    except StopIteration as end:
        if isinstance(end.value, aaa.Access):
            assert len(end.value.tags) <= 65535 and all("\0" not in tag for tag in end.value.tags)
        return True
    except PoolError as error:
        assert error.text
        return False
    raise AssertionError(f"it still asks after {asked} answers")


def _talk_seeds():
    tags = ("a" * 200, "b" * 200)
    verdict = Verdict.of(KEY, Said.ACCEPTED, "hello", tags, 1, 2).to_payload().ljust(PAYLOAD_B, b"\0")
    rest = Tags.of(KEY, 1, tags).to_payload().ljust(PAYLOAD_B, b"\0")
    kept = AccountKept(5, "A-1").to_payload()
    yield b"\0" + verdict + rest
    yield b"\1" + Verdict(KEY, Said.REJECTED, "no").to_payload()
    yield b"\2" + kept
    yield b"\3" + kept
    yield b"\4" + Tags.of(KEY, 0, ("x", "y")).to_payload()


ITEM = items.Item(
    acct_id="12345678-A",
    uid=1000,
    kind="print",
    instance="job-17",
    attributes=("User-Name=john@example.com", "TLSPool-Kind=print"),
    classes=(b"class",),
    started_ms=1_700_000_000_000,
    at_ms=1_700_000_000_000,
    heard_ms=1_700_000_000_000,
    items=7,
    cause=0,
)


def _check_item(data):
    try:
        found = items.from_bytes_untrusted(data)
    except BadFrame:
        return False
    assert items.from_bytes_untrusted(items.to_bytes(found)) == found
    return True


TARGETS = (
    Target(
        "aaa-payload",
        "A payload of the application's AAA is read or BadPayload; what was read is written to what reads the same; "
        "kind and instance can be printed.",
        _check_payload,
        lambda: [bytes((_KINDS.index(type(each)),)) + each.to_payload() for each in PAYLOADS],
        (b"\xff\xff", b"\x7f", "é".encode(), b"\xe2\x80\x8b"),
        1 + PAYLOAD_B,
    ),
    Target(
        "aaa-answers",
        "Whatever a pool answers to the AAA of libstub, it is an outcome or a PoolError, after a bounded number of "
        "questions.",
        _check_talk,
        _talk_seeds,
        (KEY, b"\1", b"\2"),
        1 + 4 * PAYLOAD_B,
    ),
    Target(
        "item",
        "A file about an item is an item, which is written to what reads the same, or BadFrame.",
        _check_item,
        lambda: [items.to_bytes(ITEM)],
        (b"\0\x0a", b"User-Name=", b"\xff\xff"),
        2000,
    ),
)
