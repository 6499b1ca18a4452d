"""The judge itself: its table of offsets makes the golden frames of the specification, byte for byte."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from tests.conformance.layout import COMMANDS, ERRORS, FRAME_B, FREE, V2, build, describe, field
from tlspool_common import aaawire, appwire
from tlspool_common.errors import ComErr

VECTORS = Path(__file__).parents[1] / "vectors" / "v2"
GOLDEN = json.loads((VECTORS / "vectors.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", GOLDEN, ids=[vector["name"] for vector in GOLDEN])
def test_golden(vector):
    data = (VECTORS / vector["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == vector["sha256"]
    cmd = vector["cmd_name"].removeprefix("PIOC_").removesuffix("_V2")
    fields = {name.removeprefix("YYYYMMDD_"): value for name, value in vector["fields"].items()}
    for name in ("ctlkey", "buffer"):
        if name in fields:
            fields[name] = bytes.fromhex(fields[name])
    like = b""
    if "stale" in str(fields.get("message")):
        del fields["message"]
        like = (VECTORS / "08-localid-callback.bin").read_bytes()
    if vector["payload_struct"] is None:
        like = data  # "don't-care": what is left of the request; ours are zero
    frame, mask = build(cmd, vector["reqid"], vector["cbid"], fields, like)
    assert (frame, set(mask)) == (data, {0xFF}), describe(data)


def test_the_codec_of_the_pool_agrees():
    assert {name: code for name, (code, _) in V2.items()} == {
        cmd.name: cmd.value for cmd in appwire.Cmd if not cmd.name.startswith("LOCAL_")
    }
    assert {name: code for name, (code, _) in COMMANDS.items()}.items() <= appwire.Cmd.__members__.items()
    assert {name: ComErr[name].number for name in ERRORS} == ERRORS


def test_the_largest_payload_fills_a_frame():
    ends = {
        offset + (int(kind[1:]) if kind[0] in "sx" else struct.calcsize(kind))
        for _, layout in COMMANDS.values()
        for offset, kind in layout.values()
    }
    assert max(ends) == FRAME_B


KEY = b"k" * 16


@pytest.mark.parametrize(
    ("name", "payload", "fields"),
    [
        (
            "LOCAL_DETAILS",
            appwire.Details(KEY, 1, 0x304, 1, True, "C", "G", b"h2", "CN=x", 3),
            {"ctlkey": KEY, "session_id": 1, "tls_version": 0x304, "verified": 1, "resumed": 1, "cipher": "C"}
            | {"group": "G", "alpn_len": 2, "alpn": b"h2", "subject": "CN=x", "tags": 3},
        ),
        (
            "LOCAL_TAGS",
            aaawire.Tags(KEY, 1, 3, ("gold", "x")),
            {"key": KEY, "first": 1, "total": 3, "here": 2, "tags": b"gold\0x\0"},
        ),
        (
            "LOCAL_SUBJECT",
            aaawire.Subject(KEY, "john@example.com", "imap.example.net", "imap"),
            {"key": KEY, "remoteid": "john@example.com", "localid": "imap.example.net", "service": "imap"},
        ),
        (
            "LOCAL_AUTHENTICATE",
            aaawire.Authenticate(KEY, b"secret", 5),
            {"key": KEY, "timeout": 5, "password_len": 6, "password": b"secret"},
        ),
        (
            "LOCAL_AUTHORIZE",
            aaawire.Authorize(KEY, "mailbox", "INBOX", 5),
            {"key": KEY, "timeout": 5, "kind": "mailbox", "instance": "INBOX"},
        ),
        (
            "LOCAL_AUTHORIZE",
            aaawire.Verdict(KEY, 2, "hello", ("gold", "x"), 3, 60, 5),
            {"key": KEY, "said": 2, "tags_total": 3, "tags_here": 2, "session_timeout": 60, "idle_timeout": 5}
            | {"message": "hello", "tags": b"gold\0x\0"},
        ),
        (
            "LOCAL_ACCOUNT_START",
            aaawire.AccountStart(KEY, "print", "job-1", 7),
            {"key": KEY, "at": 7, "kind": "print", "instance": "job-1"},
        ),
        ("LOCAL_ACCOUNT_START", aaawire.AccountKept(7, "A-1"), {"kept_at": 7, "acct_id": "A-1"}),
        (
            "LOCAL_ACCOUNT_END",
            aaawire.AccountCount("print", "job-1", 3, 7),
            {"at": 7, "items": 3, "has_items": 1, "kind": "print", "instance": "job-1"},
        ),
    ],
)
def test_the_codec_of_the_local_range_agrees(name, payload, fields):
    """The judge writes the same bytes."""
    frame, _ = build(name, 1, 0, fields)
    assert frame == appwire.Frame(1, 0, COMMANDS[name][0], payload.to_payload()).to_bytes(), describe(frame)


def test_a_free_field_is_not_compared_and_nothing_else_is_free():
    _, mask = build("PING", 1, 0, {"producer": FREE, "facilities": 1})
    assert mask == b"\xff" * 8 + bytes(136) + b"\xff" * (FRAME_B - 144)
    frame, _ = build("PING", 1, 0, {"facilities": 0x01020304})
    assert field("PING", frame, "facilities") == 0x01020304
