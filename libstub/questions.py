"""Questions about a session that relays: the frame that asks, and what its reply means.  No I/O.

    export           PRNG           keying material that both ends have (RFC 5705, RFC 8446 section 7.5)
    distinguished    INFO           subject and issuer, of the remote's certificate and of ours
    general_name     INFO           is this name in the certificate?
    channel_binding  INFO           bytes that both ends have, and nobody between them (RFC 5929, RFC 9266)
    again            STARTTLS       let the remote prove once more who it is

A reply that makes no sense is a ProtocolError; what the pool refuses is raised by whoever sends the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from libstub.errors import Misuse, ProtocolError
from tlspool_common.appwire import CTLKEY_B, BadPayload, Cmd, Flag, Info, Prng, Starttls
from tlspool_common.infokind import InfoKind

Binding = Literal["tls-exporter", "tls-server-end-point", "tls-unique"]
"""Types of channel binding, as the IANA registry writes them."""

Part = Literal["subject", "issuer"]

EXPORT_B = Prng.BUFFER_B
"""Most bytes that can be exported at a time."""

_PARTS = {
    ("subject", False): InfoKind.PEERCERT_SUBJECT,
    ("issuer", False): InfoKind.PEERCERT_ISSUER,
    ("subject", True): InfoKind.MYCERT_SUBJECT,
    ("issuer", True): InfoKind.MYCERT_ISSUER,
}
_BINDINGS = {
    "tls-exporter": InfoKind.CHANBIND_TLS_EXPORTER,
    "tls-server-end-point": InfoKind.CHANBIND_TLS_SERVER_END_POINT,
    "tls-unique": InfoKind.CHANBIND_TLS_UNIQUE,
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What to send, and how to read the payload that comes back with the same command."""

    cmd: Cmd
    payload: bytes = field(repr=False)
    read_untrusted: Callable[[bytes], T]

    def answer(self, payload: bytes) -> T:
        """Read the reply.

        Raises:
            ProtocolError: it makes no sense.
        """
        try:
            return self.read_untrusted(payload)
        except BadPayload as error:
            raise ProtocolError(f"the pool sent a malformed frame: {error}") from None


def export(ctlkey: bytes, label: str, context: bytes | None, length: int) -> Question[bytes]:
    """Ask for keying material; raises Misuse."""
    try:
        name = label.encode("ascii")
    except UnicodeEncodeError:
        raise Misuse("a label is ASCII text (RFC 5705 section 4)") from None
    size_b = CTLKEY_B + len(name) + len(context or b"")
    if not name or size_b > EXPORT_B:
        raise Misuse(f"label and context have 1 to {EXPORT_B - CTLKEY_B} bytes together")
    if not 0 <= length <= EXPORT_B:
        raise Misuse(f"0 to {EXPORT_B} bytes can be exported, not {length}")
    asked = Prng.ask(ctlkey, name, context, length)

    def read_untrusted(payload: bytes) -> bytes:
        told = Prng.from_payload_untrusted(payload)
        if (told.label_b, told.context_b, told.output_b) != (asked.label_b, asked.context_b, asked.output_b):
            raise BadPayload("it answers another question")
        return told.buffer[:length]

    return Question(Cmd.PRNG, asked.to_payload(), read_untrusted)


def _info(ctlkey: bytes, kind: InfoKind, data: bytes | None) -> Question[bytes]:
    def read_untrusted(payload: bytes) -> bytes:
        told = Info.from_payload_untrusted(payload)
        if told.kind != kind or told.data is None:
            raise BadPayload("it answers another question")
        return told.data

    return Question(Cmd.INFO, Info(ctlkey, kind, data).to_payload(), read_untrusted)


def distinguished(ctlkey: bytes, part: Part, local: bool) -> Question[bytes]:
    """Ask for a name in a certificate; raises Misuse."""
    if (part, local) not in _PARTS:
        raise Misuse(f"part is 'subject' or 'issuer', not {part!r}")
    return _info(ctlkey, _PARTS[part, local], None)


def general_name(ctlkey: bytes, name: bytes, local: bool) -> Question[bytes]:
    """Ask whether a DER GeneralName is in a certificate's subjectAltName; raises Misuse."""
    if not name or len(name) >= Info.DATA_B:
        raise Misuse(f"a GeneralName has 1 to {Info.DATA_B - 1} bytes of DER")
    return _info(ctlkey, InfoKind.MYCERT_SUBJECTALTNAME if local else InfoKind.PEERCERT_SUBJECTALTNAME, name)


def channel_binding(ctlkey: bytes, kind: Binding) -> Question[bytes]:
    """Ask for channel binding data; raises Misuse."""
    if kind not in _BINDINGS:
        raise Misuse(f"a channel binding is one of {', '.join(_BINDINGS)}, not {kind!r}")
    return _info(ctlkey, _BINDINGS[kind], None)


def again(request: Starttls, ctlkey: bytes) -> Question[Starttls]:
    """Ask to ask the remote again; ``request`` says what it must prove."""

    def read_untrusted(payload: bytes) -> Starttls:
        told = Starttls.from_payload_untrusted(payload)
        if told.ctlkey != ctlkey:
            raise BadPayload("it is about another session")
        return told

    asked = Starttls(
        flags=request.flags | Flag.RENEGOTIATE,
        localid=request.localid,
        remoteid=request.remoteid,
        ctlkey=ctlkey,
        service=request.service,
        timeout_ms=request.timeout_ms,
    )
    return Question(Cmd.STARTTLS, asked.to_payload(), read_untrusted)
