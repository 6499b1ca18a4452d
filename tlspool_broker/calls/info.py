"""INFO: parts of both certificates, and channel bindings, of a session that relays.

A question is either for the value (``len`` is 0xffff), or whether it is the one in ``buffer``; each kind answers one
of the two.  Everything is asked of the worker: nothing here takes a certificate apart.
"""

from __future__ import annotations

from tlspool_broker.calls.call import Call, Desk
from tlspool_broker.questions import value_of
from tlspool_common.appwire import CTLKEY_B, Cmd, Info
from tlspool_common.errors import Code, PoolError
from tlspool_common.infokind import InfoKind
from tlspool_common.messages import AskFact, Fact, RemoteTold, Told

KINDS: dict[int, tuple[Fact, bool]] = {
    InfoKind.PEERCERT_SUBJECT: (Fact.REMOTE_SUBJECT, False),
    InfoKind.PEERCERT_ISSUER: (Fact.REMOTE_ISSUER, False),
    InfoKind.PEERCERT_SUBJECTALTNAME: (Fact.REMOTE_NAME, True),
    InfoKind.MYCERT_SUBJECT: (Fact.LOCAL_SUBJECT, False),
    InfoKind.MYCERT_ISSUER: (Fact.LOCAL_ISSUER, False),
    InfoKind.MYCERT_SUBJECTALTNAME: (Fact.LOCAL_NAME, True),
    InfoKind.CHANBIND_TLS_UNIQUE: (Fact.TLS_UNIQUE, False),
    InfoKind.CHANBIND_TLS_SERVER_END_POINT: (Fact.TLS_SERVER_END_POINT, False),
    InfoKind.CHANBIND_TLS_EXPORTER: (Fact.TLS_EXPORTER, False),
}
"""What is asked for, and whether it is a value to be checked."""


def handle(desk: Desk, call: Call) -> None:
    """Check the control key, then the length, then the kind, and ask the worker."""
    ctlkey = call.frame.payload[:CTLKEY_B]
    session = desk.sessions.keys.controlled(call.connection, ctlkey)
    info = Info.from_payload_untrusted(call.frame.payload)
    known = KINDS.get(info.kind)
    if known is None:
        raise PoolError(Code.INFOKIND_UNKNOWN, f"{info.kind:#x}")
    fact, is_check = known
    if is_check != (info.data is not None):
        raise PoolError(Code.INFO_NOT_FOUND, "this kind can be checked only" if is_check else "this kind has no check")
    name = info.data or b""
    if len(name) >= Info.DATA_B:
        raise PoolError(Code.INFO_NOT_FOUND, f"a name of {len(name)} bytes")

    def make(number: int) -> AskFact:
        return AskFact(session_id=session.session_id, question=number, fact=fact, name=name)

    def answered(answer: Told | RemoteTold) -> tuple[int, bytes]:
        value = value_of(answer)
        if len(value) > Info.DATA_B:
            raise PoolError(Code.INFO_NOT_FOUND, f"it has {len(value)} bytes, and {Info.DATA_B} fit")
        return Cmd.INFO, Info(ctlkey, info.kind, value).to_payload()

    desk.questions.ask(call.connection, call.frame.reqid, Cmd.INFO, session, make, answered)
