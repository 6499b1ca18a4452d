"""Invariants of what comes from RADIUS servers, and of the file with their secrets.

What does not know the secret counts for nothing; what does is read as another codec reads it, and fits a message to the
broker; one exception type each.
"""

from __future__ import annotations

from functools import cache

from tests.fixtures import radius_codec as codec
from tests.fixtures.radius_process import account, question
from tests.fuzz.target import Target
from tlspool_common import limits
from tlspool_common.codec import decode_untrusted, encode
from tlspool_common.messages import BY_CODE, AccessTold, DynamicAsked
from tlspool_common.messages_radius import Access, Status
from tlspool_radius import packets, said, secrets_file
from tlspool_radius.dynamic import Requests
from tlspool_radius.events import Now, Reply, Send
from tlspool_radius.packets import BadPacket

_SECRET = b"the secret of the targets"
_RANDOM = bytes(range(16))
_WALL_S = 1_800_000_000
_NOW = Now(1000.0, _WALL_S * 1000)
_CODES = {row.message: row.code for row in BY_CODE.values()}

_PAIRS = (
    (codec.CLASS, b"\0\xff"),
    (codec.REPLY_MESSAGE, "no"),
    (codec.FILTER_ID, "staff"),
    (codec.TAG, "imap"),
    (codec.STATE, b"s"),
    (codec.USER_NAME, "carol@example.net"),
    (codec.SESSION_TIMEOUT, 60),
    (codec.IDLE_TIMEOUT, 5),
    (codec.INTERIM_INTERVAL, 600),
    (codec.TERMINATION_ACTION, 1),
)
_TOKENS = tuple(codec.attribute(key, value) for key, value in _PAIRS) + (
    codec.attribute(codec.PROXY_STATE, b"p"),
    codec.attribute(codec.SIGNATURE, bytes(16)),
    codec.attribute(26, b"\0\0\0\x09\1\3x"),
    b"\x1a\x02",
    b"\x50",
)


@cache
def _asked():
    """A question and a record, as they were sent."""
    access = packets.question(question("User-Name=carol@example.net"), _SECRET, 7, _RANDOM)
    return access, packets.record(account(Status.START, "s1", 1000), _SECRET, 7, "abc-1", 0)


@cache
def _genuine():
    """Answers of somebody who knows the secret."""
    access, accounting = (codec.parse(request.datagram) for request in _asked())
    found = [codec.answer(code, access, _SECRET, _PAIRS) for code in (codec.ACCESS_ACCEPT, codec.ACCESS_REJECT)]
    found.append(codec.answer(codec.CHALLENGE, access, _SECRET))
    found += [codec.answer(codec.ACCOUNTING_RESPONSE, accounting, _SECRET, signed=signed) for signed in (True, False)]
    return tuple(found)


def _check_answer(data):
    taken = False
    for request in _asked():
        try:
            found = packets.answer_untrusted(request, data, needs_signature=request.packet.code == 1)
        except BadPacket as error:
            assert 0 < len(str(error)) < 200
            continue
        assert found.raw in _genuine()
        taken = True
    return taken


def _check_signed_answer(data):
    """The first octet chooses the code; the rest is attributes, in a packet that somebody made who knows the secret."""
    if not data:
        return False
    request = _asked()[0]
    asked = codec.parse(request.datagram)
    code = (codec.ACCESS_ACCEPT, codec.ACCESS_REJECT, codec.CHALLENGE)[data[0] % 3]
    raw = _made(code, asked.id, data[1:], asked.authenticator)
    try:
        found = packets.answer_untrusted(request, raw, needs_signature=True)
        told = said.read_untrusted(found)
    except BadPacket as error:
        assert 0 < len(str(error)) < 200
        return False
    assert found.pairs == list(_pairs(raw[20:]))
    assert (told.access is Access.ACCEPTED) == (code == codec.ACCESS_ACCEPT)
    message = AccessTold(
        access=told.access,
        detail=told.detail,
        message=told.message,
        user_name=told.user_name,
        classes=told.classes,
        tags=told.tags,
        state=told.state,
        session_timeout_s=told.session_timeout_s,
        idle_timeout_s=told.idle_timeout_s,
        interim_s=told.interim_s,
        terminate=told.terminate,
        server="",
        elapsed_ms=0,
    )
    assert decode_untrusted(AccessTold, encode(_CODES[AccessTold], 1, message)) == message
    assert all(text.isprintable() for text in (told.message, told.user_name, *told.tags))
    return True


def _pairs(rest):
    """Yield attributes, each of our own in a Vendor-Specific one for itself."""
    while rest:
        value, kind, rest = rest[2 : rest[1]], rest[0], rest[rest[1] :]
        if kind != 26 or value[:4] != codec.VENDOR.to_bytes(4, "big"):
            yield kind, value
            continue
        value = value[4:]
        while value:
            yield (codec.VENDOR, value[0]), value[2 : value[1]]
            value = value[value[1] :]


def _made(code, number, body, authenticator):
    body = codec.attribute(codec.SIGNATURE, bytes(16)) + body
    start = codec.head(code, number, body, authenticator)
    body = codec.attribute(codec.SIGNATURE, codec.hmac.digest(_SECRET, start + body, "md5")) + body[18:]
    start = codec.head(code, number, body, authenticator)
    return start[:4] + codec.md5(start + body + _SECRET).digest() + body


# --- RFC 5176 -------------------------------------------------------------------------------------------

_STAMP = (codec.EVENT_TIMESTAMP, _WALL_S)
_ONE = (codec.ACCT_SESSION_ID, "s1")
_CHANGES = ((codec.SESSION_TIMEOUT, 60), (codec.FILTER_ID, "staff"), (codec.PROXY_STATE, b"p"))


@cache
def _requests():
    return (
        codec.keyed(codec.DISCONNECT, 1, _SECRET, (_ONE, _STAMP)),
        codec.keyed(codec.COA, 2, _SECRET, (_ONE, *_CHANGES, _STAMP), signed=True),
        codec.keyed(codec.COA, 3, _SECRET, ((codec.SERVICE_TYPE, 17), _STAMP)),
    )


_SECRETS = {"192.0.2.1": _SECRET}


def _outcome(data):
    """Return the question, the reply and the packet that came of a datagram."""
    out = []
    requests = Requests(_SECRETS, out)
    requests.came_untrusted(("192.0.2.1", 1), data, _NOW)
    questions = [effect.message for effect in out if isinstance(effect, Send)]
    replies = [effect.data for effect in out if isinstance(effect, Reply)]
    assert len(questions) + len(replies) <= 1
    for message in questions:
        assert isinstance(message, DynamicAsked)
        assert decode_untrusted(DynamicAsked, encode(_CODES[DynamicAsked], 1, message)) == message
        assert message.acct_id or message.attributes
        assert all(text.isprintable() for text in (message.acct_id, *message.attributes, *message.tags))
        assert len(message.attributes) <= limits.RADIUS_ATTRIBUTES
    for reply in replies:
        answer = codec.parse(reply)
        assert answer.code in (codec.DISCONNECT_NAK, codec.COA_NAK)
        assert codec.is_answer(answer, data, _SECRET)
        assert answer.all(codec.PROXY_STATE) == packets.split_untrusted(data).values("Proxy-State")
    return questions, replies


def _check_request(data):
    questions, replies = _outcome(data)
    if questions or replies:
        assert packets.split_untrusted(data).raw in _requests()
        return True
    return False


def _check_signed_request(data):
    """The first octet chooses what is wanted; the rest is attributes."""
    if not data or len(data) > 4000:
        return False
    code = (codec.DISCONNECT, codec.COA)[data[0] % 2]
    body = data[1:] + codec.attribute(*_STAMP)
    start = codec.head(code, 9, body, bytes(16))
    questions, _ = _outcome(start[:4] + codec.md5(start + body + _SECRET).digest() + body)
    return bool(questions)


# --- secrets ------------------------------------------------------------------------------------------------


def _check_secrets(data):
    try:
        found = secrets_file.parse_untrusted(data)
    except secrets_file.BadSecrets as error:
        assert 0 < len(str(error)) < 200
        assert str(error).isascii()
        return False
    for (host, port), secret in found.by_server.items():
        assert 0 < len(secret) <= secrets_file.SECRET_B
        shown = f"[{host}]" if ":" in host else host
        line = f"{shown}:{port} " if port else f"{shown} "
        again = secrets_file.parse_untrusted(line.encode() + secret)
        assert again.of(host, port) == secret == found.of(host, port)
    return bool(found.by_server)


TARGETS = (
    Target(
        "radius-answer",
        "BadPacket, or one of the answers, byte for byte, of somebody who knows the secret.",
        _check_answer,
        _genuine,
        _TOKENS,
    ),
    Target(
        "radius-answer-signed",
        "BadPacket, or what another codec reads, in printable texts that fit a message to the broker.",
        _check_signed_answer,
        lambda: tuple(bytes([code]) + codec.attributes(_PAIRS[start:]) for code in range(3) for start in (0, 4, 8)),
        _TOKENS,
    ),
    Target(
        "radius-request",
        "Nothing at all, or what one of the requests gets, byte for byte, of somebody who knows the secret.",
        _check_request,
        _requests,
        _TOKENS,
    ),
    Target(
        "radius-request-signed",
        "One question to the broker that names sessions, or one refusal that is an answer to the request, or nothing.",
        _check_signed_request,
        lambda: (
            b"\0" + codec.attributes([_ONE]),
            b"\1" + codec.attributes([(codec.USER_NAME, "carol"), *_CHANGES]),
            b"\1"
            + codec.attributes([(codec.NAS_IDENTIFIER, "example.com"), (4, b"\1\2\3\4"), (codec.IDLE_TIMEOUT, 9)]),
        ),
        _TOKENS,
    ),
    Target(
        "radius-secrets",
        "BadSecrets, or secrets, each of which a line of its server and itself has again.",
        _check_secrets,
        lambda: (
            b"# comment\n10.0.0.1 secret one\n10.0.0.1:1813\tsecret two\n",
            b"[2001:db8::1]:1812 six\r\n2001:db8::2 six\n[::3] x\n",
            b"radius.example:18 by name\n",
        ),
        (b" ", b"\t", b"\n", b"#", b":", b"[", b"]", b"::1", b":1812", b"10.0.0.1 "),
        limit_b=secrets_file.FILE_B,
    ),
)
