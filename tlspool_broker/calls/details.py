"""LOCAL_DETAILS: what protocol V2 has no field for, of a session that relays."""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk, reply
from tlspool_common.appwire import CTLKEY_B, Cmd, Details, Verified

_CIPHER_B, _GROUP_B, _ALPN_B = 63, 31, 63
"""What fits the fields; longer names do not exist in TLS so far."""


def handle(desk: Desk, call: Call) -> None:
    """Answer about a session that this connection controls."""
    ctlkey = call.frame.payload[:CTLKEY_B]  # it comes first, and the rest counts for nothing
    session = desk.sessions.controlled(call.connection, ctlkey)
    details = Details(ctlkey, int(session.session_id))
    if facts := session.facts:
        details = Details(
            ctlkey,
            int(session.session_id),
            facts.tls_version,
            Verified.X509 if session.verified else Verified.NOT,
            resumed=False,
            cipher=_fitting(facts.cipher, _CIPHER_B),
            group=_fitting(facts.group, _GROUP_B),
            alpn=facts.alpn if len(facts.alpn) <= _ALPN_B else b"",
            subject=_fitting(facts.remote_subject, len(facts.remote_subject.encode())),
        )
    reply(desk, call, Cmd.LOCAL_DETAILS, details.to_payload())


def _fitting(text: str, size_b: int) -> str:
    """Make a worker's text fit a field of the application."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable.encode()[:size_b].decode(errors="ignore")
