"""Would this remote be accepted?  The answer a session would get by the databases as they are now, without a session.

Nothing is asked of the network: what it would say may be given (``findings``), and so may what a handshake would agree
on (``tls_version``, ``cipher``, ``group``).  What is left open is not known, and the answer says so letter by letter.
"""

from __future__ import annotations

from collections.abc import Mapping

from tlspool_broker import policy
from tlspool_broker.events import Caller, SessionId
from tlspool_broker.explain import Account, account, shown_untrusted
from tlspool_broker.judging import Judging
from tlspool_broker.policy import Asks, Plan
from tlspool_broker.session import Session, State
from tlspool_broker.snapshot import Snapshots
from tlspool_common.appwire import Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import Finding, HandshakeDone, RemoteAuth, RevocationTold, Side, prose

_FLAGS = {"ignore_remoteid", "request_remoteid", "domain_represents_user"}
_SIDES = {
    "client": (Side.CLIENT, Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER),
    "server": (Side.SERVER, Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT),
}
_TEXT_B = 127
_NOBODY = Caller(uid=-1, gid=-1, pid=0, command="dry run")


def run(judging: Judging, snapshots: Snapshots, fields: Mapping[str, object], at_s: float) -> Account:
    """Answer for these fields: side, service, localid, remoteid, flags, remote (RemoteShown), findings, and of the
    handshake tls_version, cipher, group.  Without ``remote`` it is a remote that shows nothing.

    Raises:
        PoolError: FIELD_MALFORMED, IDENTITY_MALFORMED; or what the databases raise.
    """
    request, side = _request_untrusted(fields)
    records = snapshots.take()
    refused: PoolError | None = None
    try:
        plan = policy.make_plan(request, records, policy.anybody, side, named_by_client=True)
    except PoolError as found:
        if found.code in (Code.DATABASE, Code.IDENTITY_MALFORMED):
            raise
        # What there is to say beyond that is said all the same.
        refused, plan = found, _bare_plan(request, side)
    session = Session(
        session_id=SessionId(0),
        caller=_NOBODY,
        request=request,
        plan=plan,
        records=records,
        exchange=None,
        crypt=None,
        alpn=b"",
        as_server=None,
        started_ms=0,
        deadline_ms=None,
        state=State.EXPECT_HANDSHAKE,
    )
    remote = fields.get("remote")
    if remote is not None and not isinstance(remote, dict):
        raise PoolError(Code.FIELD_MALFORMED, "remote: it is no object")
    session.shown = None if remote is None else shown_untrusted(remote)
    session.advice = _findings_untrusted(fields.get("findings"))
    session.asks = Asks(asks=True, wants_staple=side is Side.CLIENT)
    done = _done_untrusted(session, fields)
    judged = session.judgement = judging.consider(session, done)
    if refused is None and not judged.outcome:
        refused = PoolError(judged.code, judged.detail)
    if refused is None:
        try:
            session.remoteid = policy.judge_remote(plan, done, accepted=session.shown is not None)
        except PoolError as found:
            refused = found
    return account(session, at_s, refused, dry=True)


def _bare_plan(request: Starttls, side: Side) -> Plan:
    """Return the plan of a session that would not begin, for what there is to say beyond that."""
    auth = policy.remote_auth_of(request.flags)
    return Plan(
        side=side,
        remote_auth=auth,
        localid=parse_untrusted(request.localid) if request.localid else None,
        expected=parse_untrusted(request.remoteid) if request.remoteid and auth is not RemoteAuth.IGNORE else None,
        sni="",
        credentials=(),
        domain_represents_user=bool(request.flags & Flag.DOMAIN_REPRESENTS_USER),
    )


def _request_untrusted(fields: Mapping[str, object]) -> tuple[Starttls, Side]:
    words = fields.get("flags", [])
    side_word = fields.get("side", "client")
    if not isinstance(side_word, str) or side_word not in _SIDES:
        raise PoolError(Code.FIELD_MALFORMED, f"side: {_shown(side_word)} is neither client nor server")
    if not isinstance(words, list) or not all(isinstance(word, str) and word in _FLAGS for word in words):
        raise PoolError(Code.FIELD_MALFORMED, f"flags: {_shown(words)}; a list of {', '.join(sorted(_FLAGS))}")
    side, flags = _SIDES[side_word]
    for word in words:
        flags |= Flag[word.upper()]
    return Starttls(
        flags=int(flags),
        localid=_text_untrusted(fields, "localid"),
        remoteid=_text_untrusted(fields, "remoteid"),
        service=_text_untrusted(fields, "service"),
    ), side


def _text_untrusted(fields: Mapping[str, object], name: str, default: str = "") -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or not value.isprintable() or len(value.encode(errors="replace")) > _TEXT_B:
        raise PoolError(Code.FIELD_MALFORMED, f"{name}: {_shown(value)} is no text of at most {_TEXT_B} bytes")
    return value


def _number_untrusted(fields: Mapping[str, object], name: str, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 0 <= value <= 0xFFFF:
        raise PoolError(Code.FIELD_MALFORMED, f"{name}: {_shown(value)} is no number below 65536")
    return value


def _done_untrusted(session: Session, fields: Mapping[str, object]) -> HandshakeDone:
    """Return the end of the handshake that a session would have had."""
    shown = session.shown
    version = _number_untrusted(fields, "tls_version", shown.tls_version if shown is not None else 0)
    cipher = _text_untrusted(fields, "cipher", shown.cipher if shown is not None else "")
    group = _text_untrusted(fields, "group", shown.group if shown is not None else "")
    return HandshakeDone(
        session_id=0,
        tls_version=version,
        cipher=cipher,
        group=group,
        alpn=b"",
        sni="",
        remote_verified=shown is not None,
        remote_names=shown.names if shown is not None else (),
        remote_subject=shown.subject if shown is not None else "",
        remote_sha256=shown.leaf_sha256 if shown is not None else b"",
    )


def _findings_untrusted(value: object) -> RevocationTold | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise PoolError(Code.FIELD_MALFORMED, "findings: it is no object")
    found = {}
    for name in ("crl", "ocsp"):
        word = value.get(name, "none")
        if not isinstance(word, str) or word.upper() not in Finding.__members__:
            words = ", ".join(one.name.lower() for one in Finding)
            raise PoolError(Code.FIELD_MALFORMED, f"findings.{name}: {_shown(word)} is none of {words}")
        found[name] = Finding[word.upper()]
    return RevocationTold(**found, detail=prose(_text_untrusted(value, "detail")))


def _shown(value: object) -> str:
    return repr(str(value)[:60])
