"""Invariants of what is more than one reader: a core that is told things, a chain in OpenSSL, a handshake.

Whatever the other end says, in whatever order: nothing raises, everything that was begun ends once, and what OpenSSL
calls us back for is judged, not stumbled over.
"""

from __future__ import annotations

import os
import ssl
import struct
from dataclasses import replace
from functools import cache

from OpenSSL._util import lib

from libstub.core import ClientCore
from libstub.events import (
    Abandoned,
    AskLocalid,
    AskPlain,
    Break,
    BytesReceived,
    CallbackRefused,
    Close,
    ConnectionLost,
    DetailsAsked,
    Finish,
    LocalidChosen,
    PingAsked,
    PlainGiven,
    Send,
    Shut,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME, Remote, generation, handshake, remote_context
from tests.fuzz import seeds
from tests.fuzz.target import Target
from tests.playbook.test_libstub_core import DETAILS, ESTABLISHED, KEY, REQUEST
from tlspool_common.aaawire import Tags
from tlspool_common.appwire import FRAME_B, PAYLOAD_B, Cmd, ErrorReply, Ping
from tlspool_common.codec import encode
from tlspool_common.errors import Code
from tlspool_common.messages import BY_MESSAGE, RemoteAuth, RemoteShown, Side, Verdict
from tlspool_worker.contexts import Contexts
from tlspool_worker.rehearsal import rehearse_untrusted

# --- libstub's core -------------------------------------------------------------------------------------

_CMDS = (*Cmd, 0x99)
_PAYLOADS = (
    b"",
    b"\xff" * 380,
    ESTABLISHED.to_payload(),
    DETAILS.to_payload(),
    Ping().to_payload(),
    ErrorReply(5, "[406] x").to_payload(),
    replace(DETAILS, tags=2).to_payload(),
    Tags(KEY, 0, 1, ("gold",)).to_payload(),
)


_FRAME = struct.Struct(f"=HHI{PAYLOAD_B}s")


class _Fd:
    """Stands for a descriptor, which the core hands on and does not look at; stricter than OwnedFd: closed once."""

    __slots__ = ("closed",)

    def __init__(self):
        self.closed = False

    def fileno(self):
        """Raise if it is closed."""
        assert not self.closed, "closed, and in use"
        return 0

    def close(self):
        """Close, which may be done once."""
        assert not self.closed, "closed twice"
        self.closed = True


_DOES = {
    0: PingAsked,
    1: lambda ticket: StarttlsAsked(ticket, REQUEST, _Fd(), patience_s=3),
    2: lambda ticket: StarttlsAsked(ticket, REQUEST, _Fd(), b"\x01x"),
    3: lambda ticket: DetailsAsked(ticket, KEY),
    4: lambda ticket: PlainGiven(ticket, _Fd()),
    5: lambda ticket: LocalidChosen(ticket, "x@example.com"),
    6: CallbackRefused,
    7: Abandoned,
    8: lambda _: TimePassed(),
}
_ASKS, _GIVES, _ABANDONS, _WAITS = (0, 1, 2, 3), (1, 2, 4), 7, 8


_STEPS_WHEN_BROKEN = 6


def _carry_out(effects, open_tickets, ended):
    """Return whether the connection is broken."""
    broken = False
    for effect in effects:
        kind = type(effect)
        if kind is Close:
            effect.fd.close()
        elif kind is Send or kind is Shut:
            if effect.fd is not None:
                effect.fd.fileno()  # still open when it is sent
        elif kind is Finish:
            ended.append(effect.ticket)
            open_tickets.remove(effect.ticket)
        elif kind is AskPlain or kind is AskLocalid:
            assert effect.ticket in open_tickets
        else:
            assert kind is Break
            broken = True
    return broken


def _check_core(data):
    """Steps of four octets: what is done, to which ticket or request id, and two more for what a pool says.

    When the connection is broken nothing can change any more; some steps show that it does not.
    """
    core, now_s = ClientCore(), 1000.0
    open_tickets, ended, fds, last = set(), [], [], 0
    at, end = 0, min(len(data), 243)
    while at + 4 <= end:
        verb, number, one, other = data[at : at + 4]
        at += 4
        if verb in _DOES:
            if verb in _ASKS:
                last += 1
                open_tickets.add(last)
                number = last
            event = _DOES[verb](Ticket(number))
            if verb in _GIVES:
                fds.append(event.plain if verb == 4 else event.crypt)
            if verb == _ABANDONS:
                open_tickets.discard(number)
            now_s += 4 if verb == _WAITS else 0
        elif verb < 128:
            payload = _PAYLOADS[other % len(_PAYLOADS)]
            if other & 0x80 and payload:  # one octet of it is another
                payload = bytearray(payload)
                payload[(one * 7 + other) % len(payload)] = number
            frame = _FRAME.pack(number % 8, other >> 4 & 3, _CMDS[one % len(_CMDS)], payload)
            event = BytesReceived(frame if verb < 120 else frame[: number * FRAME_B // 256])
        else:
            event = BytesReceived(data[at : at + one])
            at += one
        if _carry_out(core.handle(event, now_s), open_tickets, ended):
            end = min(end, at + _STEPS_WHEN_BROKEN * 4)
    established = len(ended)
    _carry_out(core.handle(ConnectionLost("over"), now_s), open_tickets, ended)
    assert not open_tickets and len(ended) == len(set(ended))
    assert all(fd.closed for fd in fds)
    assert core.open_count == 0
    return established > 0


def _said(reqid, cmd, payload, cbid=0):
    return bytes((20, reqid, _CMDS.index(cmd), cbid << 4 | payload))


def _core_seeds():
    plain, reply = _said(1, Cmd.PLAINTEXT_CONNECT, 2, 1), _said(1, Cmd.STARTTLS, 2)
    details = _said(1, Cmd.LOCAL_DETAILS, 3)
    yield b"\0\0\0\0" + _said(1, Cmd.PING, 4)
    yield b"\1\0\0\0" + plain + b"\4\1\0\0" + reply + details
    tagged = _said(1, Cmd.LOCAL_DETAILS, 6) + _said(1, Cmd.LOCAL_TAGS, 7)
    yield b"\1\0\0\0" + plain + b"\4\1\0\0" + reply + tagged
    yield (
        b"\2\0\0\0"
        + _said(1, Cmd.SUCCESS, 0)
        + _said(1, Cmd.STARTTLS_LOCALID, 2, 1)
        + b"\5\1\0\0"
        + plain
        + b"\6\1\0\0"
    )
    yield b"\1\0\0\0" + _said(1, Cmd.ERROR, 5) + b"\3\0\0\0" + _said(2, Cmd.ERROR, 5) + b"\x08\0\0\0\x07\1\0\0"
    yield b"\1\0\0\0" + reply + _said(1, Cmd.ERROR, 5) + b"\xff\0\4\0abcd"


# --- a chain in OpenSSL -----------------------------------------------------------------------------------


def _check_rehearsed(data):
    """The first octet: which side we are, the certificate's place, and whether there is a staple."""
    if not data:
        return False
    ca, root = seeds.der("certificate-1-ca"), seeds.der("certificate-2-root")
    der = data[1:]
    chain = ((der, ca), (der,), (seeds.der("certificate-0-leaf"), der), (seeds.der("certificate-0-leaf"), ca, der))
    side = Side.CLIENT if data[0] & 1 else Side.SERVER
    staple = seeds.der("response-good") if data[0] & 2 else b""
    try:
        found = rehearse_untrusted(chain[data[0] >> 2 & 3], (root,), side, staple, tells_chain=True)
    except ValueError as error:
        text = str(error)
        assert 0 < len(text) < 1000
        judged = text.partition("the certificate cannot be judged: ")[2]
        assert not judged or " " in judged or judged in ("ValueError", "InvalidVersion", "BadDer"), text
        return False
    assert lib.ERR_peek_error() == 0
    assert encode(BY_MESSAGE[RemoteShown].code, 0, found)
    assert found.fault in Code._value2member_map_
    if not found.fault:
        assert found.anchor_sha256
    return True


def _rehearsed_seeds():
    yield from (bytes((first,)) + seeds.der("certificate-0-leaf") for first in (0, 1, 3, 5))
    yield from (bytes((first,)) + seeds.der("certificate-1-ca") for first in (9, 8))
    constrained = certs.make("constrained", number=7, extensions=(_constraints(),))
    yield b"\5" + constrained.der


def _constraints():
    from cryptography import x509

    return x509.NameConstraints([x509.DNSName("example.com")], None)


# --- a handshake ------------------------------------------------------------------------------------------

_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@cache
def _trusted():
    return generation(), Contexts()


def _judge(shown):
    return Verdict(session_id=shown.session_id, code=0, detail="")


@cache
def _chain_file():
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    secret = certs.leaf(NAME).private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fd = os.memfd_create("chain")
    os.write(fd, secret + certs.leaf(NAME).pem + certs.intermediate().pem)
    return f"/proc/self/fd/{fd}"


@cache
def _context(side, version, verify):
    return remote_context(side, version, _chain_file(), verify)


def _check_handshake(data):
    """The first octet: side, version, whether a certificate is asked for, and by whom it is judged.

    Then four octets for each change: which flight of the remote's, where in it (two), and by what it is changed.
    """
    if not data:
        return False
    side = Side.CLIENT if data[0] & 1 else Side.SERVER
    changes = [data[at : at + 4] for at in range(1, len(data) - 3, 4)]
    trust, contexts = _trusted()
    auth = RemoteAuth.REQUEST if data[0] & 4 else RemoteAuth.IGNORE if side is Side.SERVER else RemoteAuth.REQUIRE
    ours = handshake(
        side,
        kinds=() if side is Side.CLIENT and data[0] & 8 else ("p256", "rsa"),
        trust=trust,
        contexts=contexts,
        ask=_judge if data[0] & 16 else None,
        remote_auth=auth,
        wants_staple=bool(data[0] & 32),
        remote_name=NAME if data[0] & 16 == 0 and side is Side.CLIENT else "",
    )
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    how = ssl.CERT_OPTIONAL if data[0] & 4 and other is Side.SERVER else ssl.CERT_NONE
    remote = Remote(other, context=_context(other, _VERSIONS[data[0] >> 1 & 1], how))
    heard = b"" if remote.tls.server_side else remote.step(b"")
    for flight in range(10):
        heard = bytearray(heard)
        for which, high, low, value in changes:
            if which % 4 == flight and heard:
                heard[(high << 8 | low) % len(heard)] ^= value
        step = ours.step(bytes(heard))
        if step.fault:
            assert step.fault.code is not Code.INTERNAL, step.fault
            assert 0 <= step.fault.alert <= 255
            return False
        if step.facts:
            return True
        heard = remote.step(step.output) if step.output else b""
        if not heard:
            return False
    raise AssertionError("the handshake does not end")


TARGETS = (
    Target(
        "libstub-core",
        "A ticket ends once, a descriptor is closed once, nothing raises, whatever pool and application do.",
        _check_core,
        _core_seeds,
        tuple(_said(1, cmd, payload, 1) for cmd, payload in ((Cmd.PLAINTEXT_CONNECT, 2), (Cmd.ERROR, 5))),
        500,  # so many are looked at, with the bytes of the last step
    ),
    Target(
        "rehearsed-chain",
        "ValueError, or a description that fits its message and has an anchor when there is no fault; no callback of "
        "OpenSSL meets an exception that it does not know.",
        _check_rehearsed,
        _rehearsed_seeds,
        (b"\x30\x82", b"\x02\x01", b"\x06\x03\x55\x1d", b"\x01\x01\xff"),
        2048,
        mutants=30,
        der=1,
    ),
    Target(
        "handshake",
        "A remote that changes octets of what it says: a fault with an alert, never an internal one; or an end.",
        _check_handshake,
        lambda: [bytes((first,)) for first in (0, 1, 2, 3, 4, 5, 7, 17, 20, 23, 33, 49, 51, 9)] + [b"\1\1\0\5\1"],
        (),
        64,
        mutants=30,
    ),
)
