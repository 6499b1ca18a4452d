"""What the broker has a worker keep of a session, so that another broker can go on with it: a sealed record.

    +--------+---------------------------------+------------------+
    | key id | Kept, in the codec of the       | HMAC-SHA256 over |
    |        | border messages                 | all before it    |
    +--------+---------------------------------+------------------+
      8 bytes                                    32 bytes

The key id says which key it is, and how Kept was laid out: a later version of this module may have other fields, and
then knows nothing of what an earlier one has sealed.

The key is the broker's (lasting.py), so a worker that was taken over can make no session up and change nothing in one;
session and worker are in the record.  It can read it: that tells it nothing new but who the caller is.  A control key
is in it as the keyed hash by which it is looked for.

XXX A worker can tell of a session that is over, or show the record from before its remote was asked again: both were
true once, of a session of its own.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from functools import cache
from typing import Annotated, get_type_hints

from tlspool_broker import kept_access
from tlspool_broker.events import Caller, SendWorker, SessionId
from tlspool_broker.out import Out
from tlspool_broker.policy import Plan
from tlspool_broker.session import Session, State
from tlspool_broker.wanted import Records
from tlspool_broker.workers import Worker
from tlspool_common import limits
from tlspool_common.appwire import CTLKEY_B, BadPayload, Starttls
from tlspool_common.codec import HEADER, U16, U32, U64, BadFrame, decode_untrusted, encode
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import DonaiText, HandshakeDone, KeepRecord, Names, RemoteAuthField, SideField
from tlspool_common.record import named_record

_MARK = 0x4B50
"""Takes the place of a message code, so that a record can be mistaken for nothing else."""

_KEY_ID_B, _SEAL_B = 8, 32

_NAMES_B = 2048
"""Of the names of a certificate; what does not fit is forgotten.  They count for nothing once a session relays."""

_UNIT_B, _COMMAND_B = 256, 64
_NO_CTLKEY = bytes(CTLKEY_B)


@named_record
class Kept:
    """A session that relays."""

    session_id: U64
    worker_id: U32
    uid: U32
    gid: U32
    pid: U32
    certain: bool
    unit: Annotated[str, _UNIT_B]
    command: Annotated[str, _COMMAND_B]
    request: Annotated[bytes, 380]  # without its control key
    control: Annotated[bytes, 16]
    side: SideField
    remote_auth: RemoteAuthField
    planned: DonaiText
    localid: DonaiText
    expected: DonaiText
    domain_represents_user: bool
    generation: U64
    tls_version: U16
    cipher: Annotated[str, 64]
    group: Annotated[str, 64]
    alpn: Annotated[bytes, 255]
    sni: Annotated[str, limits.SNI_B]
    remote_verified: bool
    remote_names: Names
    remote_subject: Annotated[str, limits.SUBJECT_B]
    remote_sha256: Annotated[bytes, 32]
    remoteid: DonaiText
    started_ms: U64  # of CLOCK_BOOTTIME, as all times here: a broker that is started anew has the same
    established_ms: U64
    access: Annotated[bytes, kept_access.ACCESS_B]


def _cut(text: str, size_b: int) -> str:
    return text.encode("utf-8", "replace")[:size_b].decode("utf-8", "ignore")


def _few(names: tuple[str, ...]) -> tuple[str, ...]:
    kept, left_b = [], _NAMES_B
    for name in names:
        left_b -= len(name.encode()) + 2
        if left_b < 0:
            break
        kept.append(name)
    return tuple(kept)


def of(session: Session, worker: Worker, control: bytes) -> Kept:
    """Return what is to be kept of a session.

    Raises:
        PoolError: INTERNAL, its handshake is not over.
    """
    caller, plan, facts = session.caller, session.plan, session.facts
    if facts is None:
        raise PoolError(Code.INTERNAL, f"session {session.session_id} has no facts to be kept")
    return Kept(
        session_id=session.session_id,
        worker_id=worker.worker_id,
        uid=caller.uid,
        gid=caller.gid,
        pid=caller.pid,
        certain=caller.certain,
        unit=_cut(caller.unit, _UNIT_B),
        command=_cut(caller.command, _COMMAND_B),
        request=replace(session.request, ctlkey=_NO_CTLKEY).to_payload(),
        control=control,
        side=plan.side,
        remote_auth=plan.remote_auth,
        planned=str(plan.localid or ""),
        localid=session.localid,
        expected=str(plan.expected or ""),
        domain_represents_user=plan.domain_represents_user,
        generation=session.generation,
        tls_version=facts.tls_version,
        cipher=facts.cipher,
        group=facts.group,
        alpn=facts.alpn,
        sni=facts.sni,
        remote_verified=facts.remote_verified,
        remote_names=_few(facts.remote_names),
        remote_subject=facts.remote_subject,
        remote_sha256=facts.remote_sha256,
        remoteid=session.remoteid,
        started_ms=session.started_ms,
        established_ms=session.established_ms,
        access=kept_access.to_bytes(session),
    )


_LAYOUT = repr([get_type_hints(one, include_extras=True) for one in (Kept, kept_access.KeptAccess)]).encode()


def keep(out: Out, key: bytes, session: Session) -> None:
    """Have its worker keep what another broker must know of a session as it is now."""
    worker = session.worker
    if worker is None:
        return
    try:
        record = seal(key, of(session, worker, session.control))
    except BadFrame as bad:  # something in it does not fit: the session goes on, and no other broker will know of it
        out.note("error", "session.not_kept", session=session.session_id, detail=str(bad))
        return
    accounted = session.meter is not None and session.access is not None and session.access.accounts
    out(SendWorker(worker.number, KeepRecord(session_id=session.session_id, record=record, accounted=accounted)))


@cache
def key_id(key: bytes) -> bytes:
    """Return what records under this key begin with."""
    return hmac.digest(key, _LAYOUT, hashlib.sha256)[:_KEY_ID_B]


def seal(key: bytes, kept: Kept) -> bytes:
    """Write a record and seal it.

    Raises:
        BadFrame: a field is out of its bounds.
    """
    body = key_id(key) + encode(_MARK, 0, kept)
    return body + hmac.digest(key, body, hashlib.sha256)


def unseal_untrusted(key: bytes, sealed: bytes, session_id: int, worker_id: int) -> Kept | None:
    """Read the record of a session of a worker; None: it was sealed with another key, and nothing can be said of it.

    Raises:
        PoolError: INTERNAL, it is forged, or of another session or worker.
    """
    if sealed[:_KEY_ID_B] != key_id(key):
        return None
    body, mac = sealed[:-_SEAL_B], sealed[-_SEAL_B:]
    frame = body[_KEY_ID_B:]
    if len(frame) < HEADER.size or not hmac.compare_digest(mac, hmac.digest(key, body, hashlib.sha256)):
        raise PoolError(Code.INTERNAL, f"the record of session {session_id} is forged")
    try:
        kept = decode_untrusted(Kept, frame)
    except BadFrame as bad:
        raise PoolError(Code.INTERNAL, f"the record of session {session_id}: {bad}") from None
    if HEADER.unpack_from(frame)[0] != _MARK or (kept.session_id, kept.worker_id) != (session_id, worker_id):
        raise PoolError(Code.INTERNAL, f"the record of session {session_id} is another one's")
    return kept


def session_of(kept: Kept, worker: Worker, records: Records) -> Session:
    """Return the session that a record is of, as it relays, and controlled by nobody.

    Raises:
        PoolError: INTERNAL, its identities cannot be read by this version.
    """
    if len(kept.request) < Starttls.FORM.size:
        raise PoolError(Code.INTERNAL, f"the record of session {kept.session_id} has half a request")
    try:
        request = Starttls.from_payload_untrusted(kept.request)
        granted = kept_access.from_bytes_untrusted(kept.access)
        localid = parse_untrusted(kept.planned) if kept.planned else None
        expected = parse_untrusted(kept.expected) if kept.expected else None
    except (BadPayload, PoolError) as error:
        raise PoolError(Code.INTERNAL, f"the record of session {kept.session_id}: {error}") from None
    plan = Plan(
        side=kept.side,
        remote_auth=kept.remote_auth,
        localid=localid,
        expected=expected,
        sni=kept.sni,
        credentials=(),
        domain_represents_user=kept.domain_represents_user,
    )
    facts = HandshakeDone(
        session_id=kept.session_id,
        tls_version=kept.tls_version,
        cipher=kept.cipher,
        group=kept.group,
        alpn=kept.alpn,
        sni=kept.sni,
        remote_verified=kept.remote_verified,
        remote_names=kept.remote_names,
        remote_subject=kept.remote_subject,
        remote_sha256=kept.remote_sha256,
    )
    access, meter = granted or (None, None)
    return Session(
        session_id=SessionId(kept.session_id),
        caller=Caller(kept.uid, kept.gid, kept.pid, kept.unit, kept.command, kept.certain),
        request=request,
        plan=plan,
        records=records,
        exchange=None,
        crypt=None,
        alpn=b"",
        as_server=None,
        started_ms=kept.started_ms,
        deadline_ms=None,
        state=State.RELAYING,
        worker=worker,
        facts=facts,
        remoteid=kept.remoteid,
        established_ms=kept.established_ms,
        control=kept.control,
        localid_was=kept.localid,
        access=access,
        accounted=meter is not None,
        meter=meter,
    )
