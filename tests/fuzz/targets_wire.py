"""Invariants of all that crosses a border between processes of this host.

One exception type each; what was read is written again to the very bytes it came from, where there is one form, and
else to what reads the same; a second reader, where there is one, reads the same or refuses as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from dataclasses import replace
from functools import cache
from pathlib import Path

from libstub import errors as libstub_errors
from libstub import questions, services
from libstub.where import socket_name_untrusted
from tests.fuzz import oracle_codec
from tests.fuzz.target import Target, octets, text
from tlspool_broker.proposals import _identities_untrusted
from tlspool_broker.validation import expression
from tlspool_common import appwire, channel, control, grants, identity, limits, servicewire, valexp
from tlspool_common.appwire import FRAME_B, PAYLOAD_B, BadPayload, Cmd, Frame
from tlspool_common.channel import ChannelBroken, ChannelClosed
from tlspool_common.codec import HEADER, BadFrame, decode_untrusted, encode, header_untrusted
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import TABLE, KeyKind, Party, Side
from tlspool_keyd import pkcs11uri
from tlspool_keyd import services as pin_services
from tlspool_worker import keyref

VECTORS = Path(__file__).parents[1] / "vectors"
SECRET = bytes(range(32))
KEY = bytes(range(16))

# --- border messages ------------------------------------------------------------------------------------


def borders() -> dict[str, list]:
    """Return the rows of the table by who talks to whom."""
    found: dict[str, list] = {}
    for row in TABLE:
        found.setdefault(f"{row.sender}-{row.receiver}", []).append(row)
    return found


def _border(rows):
    by_code = {row.code: row for row in rows}

    def check(data):
        try:
            code, exchange = header_untrusted(data)
        except BadFrame:
            assert len(data) < HEADER.size
            return False
        row = by_code.get(code)
        if row is None:
            return False
        try:
            expected = oracle_codec.values(row.message, data)
        except oracle_codec.NotOne:
            expected = None
        try:
            message = decode_untrusted(row.message, data)
        except BadFrame as error:
            assert expected is None, error
            return False
        assert expected == {name: getattr(message, name) for name in expected or ()}
        assert encode(code, exchange, message) == data
        if row.message.REPEATS:  # others remember nothing
            assert decode_untrusted(row.message, data) == message  # what is remembered is the same
        return True

    def seeds():
        for row in rows:
            for size in (0, 3, 60):
                yield encode(row.code, size, oracle_codec.sample(row.message, size))

    return check, seeds


def _border_targets():
    for name, rows in borders().items():
        check, seeds = _border(rows)
        invariant = (
            "A frame is a message of the table or BadFrame; both readers agree; and it is written to the same bytes."
        )
        yield Target(f"border-{name}", invariant, check, seeds, tuple(row.code.to_bytes(2, "big") for row in rows))


@cache
def _null_fd() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


def _check_channel(data):
    """Frames with their lengths (U16) and a number of descriptors (U8) before each."""
    ours, theirs = channel.pair(Party.BROKER, Party.WORKER)
    remote = socket.socket(fileno=theirs.detach())
    taken, owned = 0, []
    try:
        at = 0
        while at + 3 <= len(data) and at < 4096:
            size, count = int.from_bytes(data[at : at + 2]), data[at + 2] % 4
            frame = data[at + 3 : at + 3 + size]
            at += 3 + size
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", _null_fd()) * count)] if count else []
            try:
                remote.sendmsg([frame], rights)
                received = ours.receive()
            except (ChannelBroken, ChannelClosed):
                break
            with received:
                assert len(received.fds) == count
                owned += received.fds
                taken += 1
        assert all(fd.closed for fd in owned)
    finally:
        remote.close()
        ours.close()
    return taken > 0


def _channel_seeds():
    rows = [row for row in TABLE if (row.sender, row.receiver) == (Party.WORKER, Party.BROKER)]
    frames = [encode(row.code, 1, oracle_codec.sample(row.message, 3)) for row in rows]
    yield b"".join(len(frame).to_bytes(2, "big") + b"\0" + frame for frame in frames)
    yield from (len(frame).to_bytes(2, "big") + bytes((count,)) + frame for frame in frames for count in (0, 1))


# --- the application's protocol -------------------------------------------------------------------------

PAYLOADS = (
    appwire.Ping(),
    appwire.ErrorReply(5, "[406] what happened"),
    appwire.Starttls(7, 8, localid="a@b.example", remoteid="c.example", ctlkey=KEY, service="imap", timeout_ms=1),
    appwire.Options(KEY, b"\2h2\x08http/1.1"),
    appwire.Details(KEY, 1, 0x304, 1, False, "TLS_AES_128_GCM_SHA256", "X25519", b"h2", "CN=x"),
    appwire.Control(KEY, 0, "name"),
    appwire.Prng(4, -1, 16, KEY + b"abcd"),
    appwire.Info(KEY, 3, b"data"),
    appwire.Info(KEY, 3, None),
    servicewire.Pinentry(1, 2, 3, "1234", "PIN?", "manufacturer", "model", "serial", "label"),
    servicewire.Lidentry(1, 2, 3, "a@b.example", "c.example"),
    servicewire.Asker(1, 2, "unit (7)", "imap"),
)
_KINDS = tuple(dict.fromkeys(map(type, PAYLOADS)))
_QUESTIONS = (
    questions.export(KEY, "EXPORTER-x", b"c", 16),
    questions.distinguished(KEY, "subject", local=False),
    questions.again(appwire.Starttls(ctlkey=KEY), KEY),
)


def _check_payload(data):
    """The first octet chooses the payload's kind; a payload is always whole, as frame_untrusted sees to that."""
    if not data:
        return False
    payload = data[1 : 1 + PAYLOAD_B].ljust(PAYLOAD_B, b"\0")
    kind = _KINDS[data[0] % len(_KINDS)]
    try:
        found = kind.from_payload_untrusted(payload)
    except BadPayload as error:
        assert kind not in (appwire.ErrorReply, appwire.Prng)
        assert 0 < len(str(error)) < 200
        return False
    if kind is appwire.ErrorReply:
        assert found.message.isprintable()
        error = libstub_errors.from_reply_untrusted(found)
        assert isinstance(error, libstub_errors.PoolError)
        return True
    if kind is appwire.Prng:
        try:
            key, label, context = found.asked()
        except BadPayload:
            return False
        assert len(key) == 16 and len(label) == found.label_b and len(context or b"") == max(0, found.context_b)
    if kind is appwire.Options:
        assert appwire.alpn_join(appwire.alpn_split_untrusted(found.alpn)) == found.alpn
    again = kind.from_payload_untrusted(found.to_payload().ljust(PAYLOAD_B, b"\0"))
    if kind is servicewire.Asker:  # its label is made printable when it is written
        found = replace(found, label=servicewire.fitting(found.label, 256))
    assert again == found
    return True


def _check_frame(data):
    """A frame for everybody who reads one: libstub's services and questions, keyd's connections, the broker."""
    try:
        frame = appwire.frame_untrusted(data)
    except BadPayload:
        assert len(data) != FRAME_B
        return False
    assert frame.to_bytes() == data
    taken = False
    seen, pin_secret = pin_services.frame_untrusted(bytearray(data))
    assert (seen.reqid, seen.cbid, seen.cmd) == (frame.reqid, frame.cbid, frame.cmd)
    assert seen.has_pin == bool(pin_secret) and 0 not in pin_secret and len(pin_secret) < 128
    assert frame.cmd == Cmd.PINENTRY or not pin_secret
    for read in (services._pin_question_untrusted, services._choice_question_untrusted):
        try:
            read(frame)
            taken = True
        except libstub_errors.ProtocolError:
            pass
    for question in _QUESTIONS:
        try:
            question.answer(frame.payload)
            taken = True
        except libstub_errors.ProtocolError:
            pass
    with contextlib.suppress(BadPayload):
        assert all("\0" not in each for each in _identities_untrusted(frame.payload))
    return taken


def _frame_seeds():
    yield from (path.read_bytes() for path in sorted((VECTORS / "v2").glob("*.bin")))
    for payload in PAYLOADS:
        for cmd in (Cmd.PINENTRY, Cmd.LIDENTRY_CALLBACK, Cmd.PRNG, Cmd.INFO, Cmd.STARTTLS):
            yield Frame(1, 2, cmd, payload.to_payload()).to_bytes()
    yield Frame(1, 2, Cmd.PINENTRY, servicewire.Pinentry(prompt="PIN?").to_payload()).to_bytes()


def _check_alpn(data):
    try:
        names = appwire.alpn_split_untrusted(data)
    except BadPayload:
        return False
    assert appwire.alpn_join(names) == data
    return True


# --- texts ----------------------------------------------------------------------------------------------


def _grant(**changes):
    fields = {"grant_id": bytes(16), "worker_id": 1, "session_id": 2, "side": Side.SERVER, "expires_ms": 3}
    return grants.Grant(**{**fields, "spki_sha256": bytes(32), "key_uri": "pkcs11:object=a", **changes})


def _check_grant(data):
    """Unseal as it is, which must fail; then sealed as only keyd and the broker can."""
    for sealed in (data, data + grants.hmac.digest(SECRET, data, "sha256")):
        try:
            grant = grants.unseal_untrusted(SECRET, sealed)
        except PoolError as error:
            assert error.code is Code.GRANT_REFUSED
            continue
        assert sealed is not data
        body = grants.seal(SECRET, grant)[:-32]
        assert body[:2] + body[6:] == data[:2] + data[6:]  # the exchange of a grant counts for nothing
        return True
    return False


_DOMAIN, _MAILBOX = identity.Donai(None, "a.example.com"), identity.Donai("john", "example.com")


def _check_identity(data):
    given = text(data)
    taken = False
    for parse in (identity.parse_untrusted.__wrapped__, identity.parse_selector_untrusted):
        try:
            donai = parse(given)
        except PoolError as error:
            assert error.code is Code.IDENTITY_MALFORMED
            continue
        taken = True
        written = str(donai)
        assert parse(written) == donai  # a fixed point
        assert len(written.encode()) <= 127 and written.isprintable() and " " not in written
        assert donai.domain == donai.domain.lower() and donai.domain.isascii()
        assert next(iter(identity.generalise(donai))) == written
        if donai.user:
            assert donai.user == donai.user.lower() or donai.user.lower() != donai.user.casefold()
    proved = identity.remote_matches(_DOMAIN, [given], False)
    if proved:
        assert given.partition(":")[2].lower() in ("a.example.com", "*.example.com")
    if identity.remote_matches(_MAILBOX, [given], True):
        assert given.lower().rstrip(".") in ("email:john@example.com", "dns:example.com") or not given.isascii()
    best = identity.best_name([given])
    if best:
        assert str(identity.parse_untrusted(best)) == best and "*" not in best
    return taken


_ARITY = {**dict.fromkeys(valexp.LETTERS + "01", 0), "~": 1, "&": 2, "|": 2, "?": 3}


def _is_expression(given):
    """A second judge."""
    depth = 0
    for sign in given:
        arity = _ARITY.get(sign)
        if arity is None or depth < arity:
            return False
        depth += 1 - arity
    return depth == 1 and len(given) <= limits.VALEXP_B


def _check_valexp(data):
    given = text(data)
    fault = valexp.fault_untrusted(given)
    assert _is_expression(given) is (not fault)
    if fault:
        try:
            expression.parse(given)
        except PoolError:
            return False
        raise AssertionError("parsed all the same")
    found = expression.parse(given)
    assert set(found.letters) <= found.mentions
    assert found.value({}) in (True, False, None)
    return True


def _check_pkcs11(data):
    given = text(data)
    try:
        uri = pkcs11uri.parse_untrusted.__wrapped__(given)
    except PoolError as error:
        assert error.code is Code.KEY_URI_MALFORMED
        _, question, query = given.partition("?")
        assert not question or len(query) < 12 or query not in str(error)  # a PIN may be in it
        return False
    written = str(uri)
    assert pkcs11uri.parse_untrusted.__wrapped__(written) == uri
    assert written.isascii() and written.isprintable() and "?" not in written
    assert uri.may_match(uri)
    return True


def _handle(request):
    assert isinstance(request["cmd"], str)
    return {"heard": request, "shown": str(request)}


def _handle_deep(request, calls=100):
    return _handle_deep(request, calls - 1) if calls else _handle(request)  # a handler is called from somewhere


def _check_request(data):
    """An operator's line; every answer to one can be written.

    How deep the calls are when it is written makes a difference to lists and objects in each other only.
    """
    is_deep = data.count(b"[") + data.count(b"{") > control.NESTING // 2
    answer = json.loads(control.answer_untrusted(data, _handle_deep if is_deep else _handle))
    assert isinstance(answer["ok"], bool)
    return answer["ok"]


def _check_socket_name(data):
    found = socket_name_untrusted(text(data))
    assert found is None or found.startswith("/")
    return found is not None


def _check_keyref(data):
    """DER, in PEM as it should be; or PEM."""
    for pem in (data, keyref.armour(data)):
        try:
            found = keyref.decode_untrusted(pem)
        except ValueError:
            continue
        body = keyref._HEAD.pack(keyref.VERSION, found.kind, found.channel_fd, found.timeout_ms)
        body += b"".join(len(part).to_bytes(2, "big") + part for part in (found.first, found.second, found.grant))
        der = keyref._element(0x30, keyref._element(0x04, body))
        assert keyref.decode_untrusted(keyref.armour(der)) == found
        assert pem is data or der == data
        return True
    return False


def _keyref_seeds():
    for path in sorted((Path(__file__).with_name("corpus") / "provider").iterdir()):
        kind, data = path.read_bytes()[:1], path.read_bytes()[1:]
        if kind in b"DP":
            yield data
    body = keyref._HEAD.pack(1, KeyKind.ED25519, 5, 9) + b"\0\x20" + bytes(32) + b"\0\0\0\1g"
    yield keyref._element(0x30, keyref._element(0x04, body))


def _texts(*given):
    return lambda: tuple(octets(each) for each in given)


IDENTITIES = ("john@example.com", "bücher.example", "x@[2001:db8::1]", "10.0.0.1", "a.b.c.d.example.", "*.example.com")
SELECTORS = ("@.example.com", ".", "@.", "john@.", "@example.com", ".com")
PROOFS = (
    "dns:a.example.com",
    "email:john@example.com",
    "dns:*.example.com",
    "email:a@example.com",
    "ip:10.0.0.1",
    "ip:2001:db8::1",
)

TARGETS = (
    *_border_targets(),
    Target(
        "appwire-payload",
        "A payload is read or BadPayload; what was read is written to what reads the same; no text has a NUL in it.",
        _check_payload,
        lambda: [bytes((_KINDS.index(type(each)),)) + each.to_payload() for each in PAYLOADS],
        (b"\xff\xff", b"\x7f", b"\2h2", b"[406] ", "é".encode()),
        1 + PAYLOAD_B,
    ),
    Target(
        "appwire-frame",
        "Any 388 bytes are a frame and go back to the same; readers of frames raise ProtocolError only; a PIN is "
        "where PINENTRY has it, and nowhere else.",
        _check_frame,
        _frame_seeds,
        tuple(int(cmd).to_bytes(4, "little") for cmd in Cmd),
        FRAME_B,
    ),
    Target(
        "alpn",
        "A list is read or BadPayload; joined again it is the same bytes.",
        _check_alpn,
        lambda: (b"\2h2\x08http/1.1", b"\1x"),
        (),
        400,
    ),
    Target(
        "channel",
        "Any frames with any descriptors are a message or close the channel; no descriptor is left open.",
        _check_channel,
        _channel_seeds,
        (),
    ),
    Target(
        "grant",
        "Without the secret nothing is a grant; with it GRANT_REFUSED or a grant that is written to the same bytes.",
        _check_grant,
        lambda: [
            grants.seal(SECRET, each)[:-32] for each in (_grant(), _grant(side=Side.CLIENT, key_uri="pkcs11:id=%01"))
        ],
        (),
        1400,
    ),
    Target(
        "pkcs11uri",
        "KEY_URI_MALFORMED, which shows nothing of a query; or a URI whose text reads the same, without a query.",
        _check_pkcs11,
        _texts(
            "pkcs11:model=SoftHSM%20v2;serial=0a;token=t;id=%A1%00;object=a%40b;type=private",
            "pkcs11:library-version=2.6;slot-id=7;slot-description=x;v-1=%20?v-q=/a&v-r=b",
            "pkcs11:object=a?pin-value=12345678901234",
        ),
        (b"%", b"%00", b";", b"=", b"&", b"?", b"type=", b"id=", b"slot-id=", b"pin-value=", b"token="),
        1200,
    ),
    Target(
        "identity",
        "IDENTITY_MALFORMED, or a normal form: read again it is itself, fits the wire, and has an ASCII domain; a "
        "name proves a domain only if it is that domain, or its wildcard.",
        _check_identity,
        _texts(*IDENTITIES, *SELECTORS, *PROOFS),
        (b"@", b".", b"*.", b"xn--", b":", b"[", b"]", b"%", *map(octets, "éßςıİK\u0301\u200d\u2488\u3002①")),
        600,
    ),
    Target(
        "valexp",
        "Judge, parser and a second judge agree; what is well formed has a value.",
        _check_valexp,
        _texts("TR&", "LlIiFf&&&&&", "a1?0~|", "TFA?"),
        (b"~", b"&", b"|", b"?", b"0", b"1", b"T"),
        300,
    ),
    Target(
        "control-request",
        "A line is a request, which can be written and shown, or a refusal; and the answer is one JSON object.",
        _check_request,
        lambda: (
            b"status now\n",
            b'{"cmd": "localid.set", "id": "a", "flags": ["x", {"y": 1e9}], "n": null}\n',
            b'{"cmd":"x","n":' + b"[" * 14 + b"]" * 14 + b"}",
            b'{"cmd":"x","n":' + b"9" * 5000 + b"}",
        ),
        (b'{"cmd":', b"[[[[", b"]]]]", b'{"a":', b"}", b"NaN", b"1e999", b"-Infinity", b'"\\ud800"', b"null"),
        8192,
        control.LINE_B,
    ),
    Target(
        "socket-name",
        "A configuration names a socket by an absolute path, or none.",
        _check_socket_name,
        lambda: (b"socket_name /run/a.sock\nrun_dir /run/x\n", b"# x\nrun_dir /run/y"),
        (b"socket_name ", b"run_dir ", b"\n", b" /"),
    ),
    Target(
        "key-reference",
        "ValueError, or a reference that is written to the same DER; the C twin has fuzz_provider.c.",
        _check_keyref,
        _keyref_seeds,
        (b"\x30\x82", b"\x04\x82", b"-----BEGIN TLSPOOL KEY REFERENCE-----\n", b"-----END TLSPOOL KEY REFERENCE-----"),
        6000,
    ),
)
