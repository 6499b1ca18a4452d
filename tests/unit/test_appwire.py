"""Protocol V2 byte for byte: 25 golden frames both ways, the local range, and fields that are wrong."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from tlspool_common import appwire, servicewire
from tlspool_common.appwire import BadPayload, Cmd, Frame, frame_untrusted

FOLDER = Path(__file__).parents[1] / "vectors" / "v2"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())["vectors"]
PAYLOADS = {
    "pioc_ping": appwire.Ping,
    "pioc_error": appwire.ErrorReply,
    "pioc_starttls": appwire.Starttls,
    "pioc_control": appwire.Control,
    "pioc_prng": appwire.Prng,
    "pioc_info": appwire.Info,
    "pioc_pinentry": servicewire.Pinentry,
    "pioc_lidentry": servicewire.Lidentry,
}


def by_name(name):
    return (FOLDER / f"{name}.bin").read_bytes()


def from_fields(kind, fields):
    """Make the payload object that a description asks for."""
    one = dict(fields)
    for name in ("ctlkey", "buffer"):
        if name in one:
            one[name] = bytes.fromhex(one[name])
    match kind:
        case "pioc_ping":
            return appwire.Ping(one["YYYYMMDD_producer"], one["facilities"])
        case "pioc_starttls":
            return appwire.Starttls(timeout_ms=one.pop("timeout"), **one)
        case "pioc_prng":
            return appwire.Prng(one["in1_len"], one["in2_len"], one["prng_len"], one["buffer"])
        case "pioc_info":
            query = one["len"] == appwire.Info.QUERY
            return appwire.Info(one["ctlkey"], one["info_kind"], None if query else one["buffer"])
        case "pioc_pinentry":
            return servicewire.Pinentry(pin_secret=one.pop("pin"), **one)
        case "pioc_lidentry":
            return servicewire.Lidentry(timeout_s=one.pop("timeout"), **one)
    return PAYLOADS[kind](**one)


def test_all_golden_vectors_are_here():
    assert len(VECTORS) == len(list(FOLDER.glob("*.bin"))) == 25
    for vector in VECTORS:
        assert hashlib.sha256((FOLDER / vector["file"]).read_bytes()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vector_read_and_written(vector):
    data = by_name(vector["name"])
    frame = frame_untrusted(data)
    assert (frame.reqid, frame.cbid, frame.cmd) == (vector["reqid"], vector["cbid"], vector["cmd"])
    assert frame.to_bytes() == data
    if vector["payload_struct"] is None:
        assert Frame(frame.reqid, 0, Cmd.SUCCESS, frame.payload).to_bytes() == data
        assert Frame(frame.reqid, 0, Cmd.SUCCESS).to_bytes()[:8] == data[:8]  # SUCCESS says nothing behind its header
        return
    if vector["name"] == "10-callback-refused-by-app":
        return  # carries stale bytes; the next test
    kind = PAYLOADS[vector["payload_struct"]]
    read = kind.from_payload_untrusted(frame.payload)
    meant = from_fields(vector["payload_struct"], vector["fields"])
    for payload in (read, meant):
        assert Frame(frame.reqid, frame.cbid, frame.cmd, payload.to_payload()).to_bytes() == data
    if kind is not appwire.Prng:  # which keeps its buffer whole, zeros included
        assert read == meant


def test_refused_callback_carries_what_lay_there():
    """The C library turns the callback into its refusal in place: command and number are new, the rest is stale."""
    data = by_name("10-callback-refused-by-app")
    callback = frame_untrusted(by_name("08-localid-callback"))
    number = struct.pack("=i", 111)
    refusal = Frame(callback.reqid, callback.cbid, Cmd.ERROR, number + callback.payload[4:])
    assert refusal.to_bytes() == data
    read = appwire.ErrorReply.from_payload_untrusted(frame_untrusted(data).payload)
    assert read == appwire.ErrorReply(111, "")
    assert read.to_payload()[:4] == number


@pytest.mark.parametrize("kind", [kind for kind in PAYLOADS.values() if kind is not appwire.Prng])
def test_zero_bytes_are_an_empty_payload(kind):
    assert kind.from_payload_untrusted(bytes(380)).to_payload() == bytes(kind.FORM.size)


def test_local_range():
    key = bytes(range(16))
    options = appwire.Options(key, appwire.alpn_join((b"h2", b"http/1.1")))
    assert appwire.Options.from_payload_untrusted(options.to_payload().ljust(380, b"\0")) == options
    details = appwire.Details(
        key, 77, 0x304, appwire.Verified.X509, True, "TLS_AES_256_GCM_SHA384", "X25519MLKEM768", b"h2", "CN=x"
    )
    assert appwire.Details.from_payload_untrusted(details.to_payload().ljust(380, b"\0")) == details
    long = appwire.Details(key, subject="é" * 100).to_payload().ljust(380, b"\0")
    assert appwire.Details.from_payload_untrusted(long).subject == "é" * 79
    assert Cmd.LOCAL_OPTIONS & Cmd.LOCAL_DETAILS & 0x80000000


def test_prng_lengths():
    ask = appwire.Prng.ask(bytes(16), b"EXPERIMENTAL-x", None, 32)
    assert ask.context_b == -1
    assert appwire.Prng.from_payload_untrusted(ask.to_payload()).asked() == (bytes(16), b"EXPERIMENTAL-x", None)
    assert appwire.Prng.ask(bytes(16), b"l", b"", 0).asked() == (bytes(16), b"l", b"")
    for lengths in ((0, -1, 16), (-1, 0, 16), (335, -1, 16), (1, 334, 16), (1, -2, 16), (1, 0, -1), (1, 0, 351)):
        with pytest.raises(BadPayload):
            appwire.Prng(*lengths, bytes(350)).asked()
    with pytest.raises(BadPayload):
        appwire.Prng(1, -1, 16, bytes(351)).to_payload()


def test_info_lengths():
    form = appwire.Info.FORM
    assert appwire.Info.from_payload_untrusted(form.pack(bytes(16), 7, 0, b"stale")).data == b""
    assert appwire.Info.from_payload_untrusted(form.pack(bytes(16), 7, 0xFFFF, b"stale")).data is None
    with pytest.raises(BadPayload):
        appwire.Info.from_payload_untrusted(form.pack(bytes(16), 7, 335, b""))
    for bad in (appwire.Info(bytes(15), 7), appwire.Info(bytes(16), 7, bytes(335))):
        with pytest.raises(BadPayload):
            bad.to_payload()


@pytest.mark.parametrize("text", [b"x" * 128, b"\xff\xfe\0".ljust(128, b"\0"), b"a\nb\0".ljust(128, b"\0")])
def test_text_that_is_none(text):
    payload = bytes(12) + text + bytes(240)
    with pytest.raises(BadPayload, match="localid"):
        appwire.Starttls.from_payload_untrusted(payload)


def test_what_does_not_fit_is_refused():
    for payload in (
        appwire.Starttls(localid="x" * 128),
        appwire.Starttls(service="x" * 16),
        appwire.Starttls(localid="a\0b"),
        appwire.Starttls(ctlkey=b"short"),
        appwire.Control(b"short"),
        appwire.Options(bytes(16), bytes(321)),
        appwire.Details(bytes(16), alpn=bytes(64)),
        servicewire.Pinentry(pin_secret="1" * 128),
    ):
        with pytest.raises(BadPayload):
            payload.to_payload()
    with pytest.raises(BadPayload):
        Frame(1, 0, 1, bytes(381)).to_bytes()
    with pytest.raises(BadPayload):
        frame_untrusted(bytes(387))
    for body in (b"\0", b"\x05abc"):
        with pytest.raises(BadPayload):
            appwire.alpn_split_untrusted(body)
    with pytest.raises(BadPayload):
        appwire.alpn_join((b"",))
    with pytest.raises(BadPayload):
        appwire.Options.from_payload_untrusted(struct.pack("=16sH320s", bytes(16), 321, b""))
    with pytest.raises(BadPayload):
        bad = bytearray(appwire.Details(bytes(16)).to_payload())
        bad[16 + 8 + 2 + 1 + 1 + 64 + 32] = 64
        appwire.Details.from_payload_untrusted(bytes(bad))


def test_an_error_text_is_whatever_it_is():
    stale = struct.pack("=i128s", 5, b"\xff\x07text without NUL" + b"x" * 110)
    read = appwire.ErrorReply.from_payload_untrusted(stale)
    assert read.tlserrno == 5
    assert read.message.startswith("�?text")
    assert appwire.ErrorReply(1, "ü" * 100).to_payload()[4:].rstrip(b"\0").decode() == "ü" * 63


def test_a_pin_is_not_shown():
    assert "1234" not in repr(servicewire.Pinentry(pin_secret="1234"))
