"""The judge itself: its table of offsets makes the golden frames of the specification, byte for byte."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from tests.conformance.layout import COMMANDS, ERRORS, FRAME_B, FREE, build, describe, field
from tlspool_common import appwire
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
    assert {name: code for name, (code, _) in COMMANDS.items()} == {
        cmd.name: cmd.value for cmd in appwire.Cmd if not cmd.name.startswith("LOCAL_")
    }
    assert {name: ComErr[name].number for name in ERRORS} == ERRORS


def test_the_largest_payload_fills_a_frame():
    ends = {
        offset + (int(kind[1:]) if kind[0] in "sx" else struct.calcsize(kind))
        for _, layout in COMMANDS.values()
        for offset, kind in layout.values()
    }
    assert max(ends) == FRAME_B


def test_a_free_field_is_not_compared_and_nothing_else_is_free():
    _, mask = build("PING", 1, 0, {"producer": FREE, "facilities": 1})
    assert mask == b"\xff" * 8 + bytes(136) + b"\xff" * (FRAME_B - 144)
    frame, _ = build("PING", 1, 0, {"facilities": 0x01020304})
    assert field("PING", frame, "facilities") == 0x01020304
