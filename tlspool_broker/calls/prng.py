"""PRNG: keying material from a session that relays (RFC 5705, RFC 8446 section 7.5).

Both ends get the same bytes for the same label and context.  A label says what the bytes are for, so that those of
one protocol are of no use in another; only registered ones are exported, and those for experiments.
"""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_broker.questions import value_of
from tlspool_common.appwire import BadPayload, Cmd, Prng
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import AskExport, RemoteTold, Told

LABELS = frozenset(
    {
        b"client EAP encryption",
        b"ttls keying material",
        b"ttls challenge",
        b"EXTRACTOR-dtls_srtp",
        b"EXPORTER_DTLS_OVER_SCTP",
        b"EXPORTER-ETSI-TC-M2M-Bootstrap",
        b"EXPORTER-ETSI-TC-M2M-Connection",
        b"TLS_MK_Extr",
        b"EXPORTER_GBA_Digest",
        b"EXPORTER: teap session key seed",
        b"EXPORTER-oneM2M-Bootstrap",
        b"EXPORTER-oneM2M-Connection",
    }
)
"""The IANA registry "TLS Exporter Labels", as far as earlier pools meant to allow it."""

EXPERIMENTAL = b"EXPERIMENTAL"
"""Labels that begin with this, and go on, are registered by nobody (RFC 5705 section 4)."""


def handle(desk: Desk, call: Call) -> None:
    """Check lengths and label, then the control key, and let the worker export."""
    prng = Prng.from_payload_untrusted(call.frame.payload)
    try:
        ctlkey, label, context = prng.asked()
    except BadPayload as error:
        raise PoolError(Code.EXPORT_UNAVAILABLE, str(error)) from None
    if not _allowed(label):
        raise PoolError(Code.EXPORT_UNAVAILABLE, "the label is not registered")
    session = desk.sessions.keys.controlled(call.connection, ctlkey)
    if not prng.output_b:
        reply(desk, call, Cmd.PRNG, Prng(prng.label_b, prng.context_b, 0, b"").to_payload())
        return

    def make(number: int) -> AskExport:
        return AskExport(
            session_id=session.session_id,
            question=number,
            label=label,
            has_context=context is not None,
            context=context or b"",
            size_b=prng.output_b,
        )

    def answered(answer: Told | RemoteTold) -> tuple[int, bytes]:
        value = value_of(answer)
        if len(value) != prng.output_b:
            raise PoolError(Code.INTERNAL, f"{len(value)} bytes were exported, not {prng.output_b}")
        return Cmd.PRNG, Prng(prng.label_b, prng.context_b, prng.output_b, value).to_payload()

    desk.questions.ask(call.connection, call.frame.reqid, Cmd.PRNG, session, make, answered)


def _allowed(label: bytes) -> bool:
    if label in LABELS:
        return True
    experimental = label.startswith(EXPERIMENTAL) and len(label) > len(EXPERIMENTAL)
    return experimental and all(0x20 <= octet <= 0x7E for octet in label)
