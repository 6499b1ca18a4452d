"""What is decided about a STARTTLS: before the handshake by flags and databases, after it by what was proved.

Functions of their arguments only.  Each refusal is a PoolError whose code names the rule.  The order of the
checks is that of earlier pools (docs/broker.md lists it), so that a program sees the same error as there.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from tlspool_broker.credentials import Credential
from tlspool_broker.events import FdKind, PassedFd
from tlspool_broker.wanted import Records
from tlspool_common import alerts
from tlspool_common.appwire import (
    FACILITIES_CURRENT,
    TIMEOUT_DEFAULT_MS,
    TIMEOUT_INFINITE_MS,
    Cmd,
    Facility,
    Flag,
    Starttls,
)
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import Donai, best_name, parse_untrusted, remote_matches
from tlspool_common.messages import EndReason as Reason
from tlspool_common.messages import HandshakeDone, RemoteAuth, SessionEnded, Side
from tlspool_common.policies import CryptoPolicy
from tlspool_common.record import record
from tlspool_common.settings import Settings

NO_ALERT = 255

PROPOSALS = 16
"""Identities that are proposed to one application, one after the other; earlier pools gave up after four."""

_OF_RADIUS = frozenset(
    {Code.RADIUS_REJECTED, Code.RADIUS_UNUSED, Code.ACCOUNT_FOREIGN, Code.ACCOUNT_UNKNOWN, Code.ACCOUNT_EXISTS}
)
"""Of RADIUS: what a server says to whom it rejects, and what is about an application's own request."""

Choice = tuple[Donai, list[Credential]]

# AlertDescription, RFC 8446 section 6, for a remote whose session we end.
# What is not in here ends without one: nobody is there any more who has anything against the remote.
_BAD_CERTIFICATE, _REVOKED, _EXPIRED, _CERTIFICATE_UNKNOWN, _UNKNOWN_CA, _ACCESS_DENIED = 42, 44, 45, 46, 48, 49
_INSUFFICIENT_SECURITY, _INTERNAL_ERROR, _UNRECOGNIZED_NAME, _CERTIFICATE_REQUIRED = 71, 80, 112, 116
_ALERTS = {
    Code.SNI_MISMATCH: _UNRECOGNIZED_NAME,
    Code.LOCALID_REFUSED: _UNRECOGNIZED_NAME,
    Code.LOCALID_UNKNOWN: _UNRECOGNIZED_NAME,
    Code.ACCESS_DENIED: _UNRECOGNIZED_NAME,
    Code.CERTIFICATE_MISSING: _CERTIFICATE_REQUIRED,
    Code.CHAIN_UNTRUSTED: _UNKNOWN_CA,
    Code.NAME_MISMATCH: _ACCESS_DENIED,
    # What is judged once more when the handshake is over.  Inside of it the worker has OpenSSL choose.
    Code.SELF_SIGNED: _UNKNOWN_CA,
    Code.EXPIRED: _EXPIRED,
    Code.NOT_YET_VALID: _BAD_CERTIFICATE,
    Code.WRONG_PURPOSE: _BAD_CERTIFICATE,
    Code.CHAIN_INVALID: _BAD_CERTIFICATE,
    Code.REVOKED: _REVOKED,
    Code.PIN_UNMATCHED: _BAD_CERTIFICATE,
    Code.VALIDATION_FAILED: _CERTIFICATE_UNKNOWN,
    Code.VALIDATION_UNDECIDED: _CERTIFICATE_UNKNOWN,
    Code.REVOCATION_UNKNOWN: _CERTIFICATE_UNKNOWN,
    Code.KEY_WEAK: _INSUFFICIENT_SECURITY,
    Code.NOT_POST_QUANTUM: _INSUFFICIENT_SECURITY,
    Code.BAD_CALLBACK_ANSWER: _ACCESS_DENIED,
    Code.SESSION_KILLED: _ACCESS_DENIED,
    Code.RADIUS_REJECTED: _ACCESS_DENIED,
    Code.RADIUS_ANONYMOUS: _ACCESS_DENIED,
    Code.RADIUS_UNANSWERED: _INTERNAL_ERROR,
    Code.RADIUS_UNASKED: _INTERNAL_ERROR,
    Code.ACCOUNT_UNKEPT: _INTERNAL_ERROR,
    Code.ACCOUNT_SPOOL_FULL: _INTERNAL_ERROR,
    Code.NO_KEYD: _INTERNAL_ERROR,
    Code.PLAIN_FD_MISSING: _INTERNAL_ERROR,
    Code.PLAIN_FD_UNFIT: _INTERNAL_ERROR,
    Code.FIELD_MALFORMED: _INTERNAL_ERROR,
    Code.IDENTITY_MALFORMED: _INTERNAL_ERROR,
    Code.RECORD_MALFORMED: _INTERNAL_ERROR,
    Code.DATABASE: _INTERNAL_ERROR,
    Code.CALLBACK_TIMEOUT: _INTERNAL_ERROR,
    Code.STOPPING: _INTERNAL_ERROR,
    Code.POLICY_UNKNOWN: _INTERNAL_ERROR,
    Code.POLICY_EMPTY: _INTERNAL_ERROR,
    Code.INTERNAL: _INTERNAL_ERROR,
}

_LOST = {
    Reason.REMOTE_RESET: Code.REMOTE_RESET,
    Reason.REMOTE_ALERT: Code.REMOTE_ALERT,
    Reason.ORDERED: Code.WORKER_DIED,  # not by us, who would not wait for it any more: it was told to end (SIGTERM)
}


@record
class Plan:
    """How a session is to be: decided before the worker hears of it, but for what the application is asked.

    Attributes:
        localid: who we are; None: a client without identity, or it is not known yet.
        expected: whom the remote must prove to be; None: anybody that verifies, or that is not asked at all.
        sni: the name a client sends; '' sends none.
        candidates: whom to propose to an application that wants to be asked; a server without localid has none,
            as the remote names it.
        answers_to: server: the name the remote asked for, when the application said who answers to it.
    """

    side: Side
    remote_auth: RemoteAuth
    localid: Donai | None
    expected: Donai | None
    sni: str
    credentials: tuple[Credential, ...]
    domain_represents_user: bool
    candidates: tuple[str, ...] = ()
    answers_to: str = ""


@record
class Asks:
    """What a worker is to ask the broker, and the remote, so that the session can be judged."""

    asks: bool = False
    tells_chain: bool = False
    wants_staple: bool = False


NOTHING_ASKED = Asks()


@record
class Terms:
    """What a handshake is under.  A server that its client names may be under others after the ClientHello.

    Attributes:
        names_anchors: a server says whom it trusts when it asks for a certificate.  A client that has only others
            shows none then.
    """

    crypto: CryptoPolicy
    names_anchors: bool = True


Allowed = Callable[[Side, Donai | None], None]
"""Raises ACCESS_DENIED when the caller may not be this identity in this role; None is a client without one."""


def anybody(_side: Side, _localid: Donai | None) -> None:
    """Allow everything, as a pool without access rules does."""


def facilities(settings: Settings) -> int:
    """Return the facilities that the configuration grants."""
    return _granted(settings.allow_facilities, settings.deny_facilities)


@lru_cache(maxsize=4)
def _granted(allowed: tuple[str, ...], denied: tuple[str, ...]) -> int:
    granted = 0
    for facility in FACILITIES_CURRENT:
        words = {"*", (facility.name or "").lower()}
        if words & set(allowed) and not words & set(denied):
            granted |= int(facility)
    return granted


def check_facility(facility: Facility, settings: Settings) -> None:
    """Accept a command of a facility.

    Raises:
        PoolError: FACILITY_DENIED.
    """
    if not facilities(settings) & facility:
        raise PoolError(Code.FACILITY_DENIED, (facility.name or "").lower())


def check_form(flags: int, passed: PassedFd | None, settings: Settings) -> None:
    """Check what needs no database: descriptor, facility, and flags of things we do not do.

    Raises:
        PoolError: CIPHER_FD_MISSING, CIPHER_FD_UNFIT, FACILITY_DENIED, ROLE_IMPOSSIBLE.
    """
    if passed is None:
        raise PoolError(Code.CIPHER_FD_MISSING)
    if passed.kind is not FdKind.STREAM:
        raise PoolError(Code.CIPHER_FD_UNFIT, f"it is {passed.kind.value}")
    check_facility(Facility.STARTTLS, settings)
    side_of(flags)


_ROLES = {
    Side.CLIENT: Flag.LOCALROLE_CLIENT | Flag.REMOTEROLE_SERVER,
    Side.SERVER: Flag.LOCALROLE_SERVER | Flag.REMOTEROLE_CLIENT,
}


def sides_of(flags: int) -> list[Side]:
    """Return the roles we may have.  A local role counts only if the remote may have the other one."""
    return [side for side, roles in _ROLES.items() if flags & roles == roles]


def is_peer(flags: int) -> bool:
    """Whether we may have either role."""
    return len(sides_of(flags)) == len(_ROLES)


def flags_of(side: Side, flags: int) -> int:
    """Return the flags of a peer that has found its role."""
    other = Side.SERVER if side is Side.CLIENT else Side.CLIENT
    return flags & ~int(_ROLES[other])


def side_of(flags: int) -> Side:
    """Return our role; a peer is a client until its remote says otherwise.

    Raises:
        PoolError: ROLE_IMPOSSIBLE.
    """
    sides = sides_of(flags)
    if not sides:
        raise PoolError(Code.ROLE_IMPOSSIBLE)
    return sides[0]


def remote_auth_of(flags: int) -> RemoteAuth:
    """Return what is asked of the remote."""
    if flags & Flag.IGNORE_REMOTEID:
        return RemoteAuth.IGNORE
    return RemoteAuth.REQUEST if flags & Flag.REQUEST_REMOTEID else RemoteAuth.REQUIRE


def make_plan(
    request: Starttls,
    records: Records,
    allowed: Allowed = anybody,
    as_side: Side | None = None,
    *,
    named_by_client: bool = False,
) -> Plan:
    """Decide identities and credentials; with LOCALID_CHECK only what can be proposed.

    A peer needs two plans: one for either role (``as_side``).  With ``named_by_client`` a server need not say who it
    is: its client does (``identity_for``).

    Raises:
        PoolError: IDENTITY_MALFORMED, LOCALID_MISSING, REMOTEID_MISSING, ACCESS_DENIED, LOCALID_UNKNOWN,
            LOCALID_NOT_DISCLOSED, or what the databases raise.
    """
    flags = request.flags
    side = as_side or side_of(flags)
    remote_auth = remote_auth_of(flags)
    localid = parse_untrusted(request.localid) if request.localid else None
    remote = parse_untrusted(request.remoteid) if request.remoteid else None
    asks = bool(flags & Flag.LOCALID_CHECK)
    choices: list[Choice] = []
    if side is Side.SERVER:
        if localid is not None:
            choices = [(localid, identify(side, localid, records, allowed))]
        elif not asks and not named_by_client:
            raise PoolError(Code.LOCALID_MISSING)
    else:
        if remote is None and remote_auth is not RemoteAuth.IGNORE:
            raise PoolError(Code.REMOTEID_MISSING)
        # Policy discloses to remotes that prove who they are; one that is not asked to is told nothing.
        to_whom = None if remote_auth is RemoteAuth.IGNORE else remote
        found = _client_choices(localid, to_whom, records, allowed)
        choices = list(islice(found, PROPOSALS if asks else 1))
        if not choices:
            allowed(side, None)
    localid, credentials = choices[0] if choices else (None, [])
    return Plan(
        side=side,
        remote_auth=remote_auth,
        localid=localid,
        expected=None if remote_auth is RemoteAuth.IGNORE else remote,
        sni=_sni(flags, remote) if side is Side.CLIENT else "",
        credentials=() if asks else tuple(credentials),
        domain_represents_user=bool(flags & Flag.DOMAIN_REPRESENTS_USER),
        candidates=tuple(str(donai) for donai, _ in choices) if asks else (),
    )


def identify(side: Side, localid: Donai, records: Records, allowed: Allowed) -> list[Credential]:
    """Return the credentials of an identity that we are to have in a role.

    Raises:
        PoolError: ACCESS_DENIED, LOCALID_UNKNOWN, or what the databases raise.
    """
    allowed(side, localid)
    credentials = records.credentials(localid, side)
    if not credentials:
        raise PoolError(Code.LOCALID_UNKNOWN, f"{localid} as {side.name.lower()}")
    return credentials


def check_disclosed(wanted: Donai, remote: Donai | None, records: Records) -> None:
    """Accept an identity that a client wants to show to a remote.

    Raises:
        PoolError: LOCALID_NOT_DISCLOSED.
    """
    disclosed = [] if remote is None else records.disclosed(remote)
    if str(wanted) not in disclosed:
        whom = "a remote that need not prove who it is" if remote is None else str(remote)
        raise PoolError(Code.LOCALID_NOT_DISCLOSED, f"{wanted} to {whom}")


def _client_choices(wanted: Donai | None, remote: Donai | None, records: Records, allowed: Allowed) -> Iterator[Choice]:
    """Yield who we can be to that remote, most preferred first; nothing when it may not see anybody."""
    if wanted is not None:
        check_disclosed(wanted, remote, records)
        yield wanted, identify(Side.CLIENT, wanted, records, allowed)
        return
    for text in [] if remote is None else records.disclosed(remote):
        try:
            donai = parse_untrusted(text)
            credentials = identify(Side.CLIENT, donai, records, allowed)
        except PoolError as error:
            if error.code is Code.DATABASE:
                raise
            continue  # this one cannot be used; the databases have reported it, or it is not for this caller
        yield donai, credentials


def _sni(flags: int, remote: Donai | None) -> str:
    # RFC 6066 section 3: a host name, so no address; and a wildcard is none either
    if remote is None or flags & Flag.WITHOUT_SNI or remote.is_address or "*" in remote.domain:
        return ""
    return remote.domain


def handshake_timeout_ms(request: Starttls, settings: Settings) -> float | None:
    """Return how long the handshake may take; None: as long as it likes."""
    if request.timeout_ms == TIMEOUT_INFINITE_MS:
        return None
    if request.timeout_ms == TIMEOUT_DEFAULT_MS:
        return settings.handshake_timeout_s * 1000
    return float(request.timeout_ms)


def listen_ms(ctlkey: bytes, settings: Settings) -> int:
    """Return how long a peer lets the remote begin: from half the setting to all of it.

    It follows from the control key, of which every session has another, so that two peers seldom speak at once.
    """
    return int(settings.peer_listen_s * 500 * (1 + zlib.crc32(ctlkey) / 0xFFFFFFFF))


def identity_for(plan: Plan, sni: str, settings: Settings, records: Records, allowed: Allowed) -> Plan:
    """Return a server's plan when its client has named it, or has not.

    A name that is not ours is for the setting ``unknown_sni``; ``default`` means whom the application named, else
    the setting ``default_localid``.

    Raises:
        PoolError: SNI_MISMATCH, LOCALID_UNKNOWN, ACCESS_DENIED, IDENTITY_MALFORMED, LOCALID_MISSING, or what the
            databases raise.
    """
    lenient = settings.unknown_sni == "default"
    if plan.localid is not None:
        try:
            judge_hello(plan, sni)
        except PoolError:
            if not lenient:
                raise
            return replace(plan, answers_to=sni)
        return plan
    if sni:
        try:
            return _as_server(plan, parse_untrusted(sni), sni, records, allowed)
        except PoolError as error:
            if error.code is Code.DATABASE or not (lenient and settings.default_localid):
                raise
    if not settings.default_localid:
        raise PoolError(Code.LOCALID_MISSING, "the client names none either")
    return _as_server(plan, parse_untrusted(settings.default_localid), sni, records, allowed)


def _as_server(plan: Plan, localid: Donai, sni: str, records: Records, allowed: Allowed) -> Plan:
    credentials = identify(Side.SERVER, localid, records, allowed)
    return replace(plan, localid=localid, credentials=tuple(credentials), answers_to=sni)


def judge_hello(plan: Plan, sni: str) -> None:
    """Accept the server name that a client asked for, or its silence.

    Raises:
        PoolError: SNI_MISMATCH.
    """
    if sni and sni != plan.answers_to and (plan.localid is None or sni.lower() != plan.localid.domain):
        raise PoolError(Code.SNI_MISMATCH, f"{sni} instead of {plan.localid}")


def judge_remote(plan: Plan, facts: HandshakeDone, *, accepted: bool = False) -> str:
    """Return the authenticated identity of the remote, '' when it has proved none.

    The worker has enforced this inside the handshake; here it is decided.  ``accepted``: an expression has said that
    another name than the expected one will do; then the remote is who it has proved to be.

    Raises:
        PoolError: CERTIFICATE_MISSING, CHAIN_UNTRUSTED, NAME_MISMATCH, SNI_MISMATCH.
    """
    if plan.side is Side.SERVER:
        judge_hello(plan, facts.sni)
    if plan.remote_auth is RemoteAuth.IGNORE:
        return ""  # it was not asked, so whatever it said is not told
    if not facts.remote_verified:
        shown = bool(facts.remote_sha256)
        if plan.remote_auth is RemoteAuth.REQUIRE or (plan.remote_auth is RemoteAuth.REQUEST and shown):
            raise PoolError(Code.CHAIN_UNTRUSTED if shown else Code.CERTIFICATE_MISSING)
        return ""
    if plan.expected is None:
        return best_name(facts.remote_names)
    if not remote_matches(plan.expected, facts.remote_names, plan.domain_represents_user):
        if accepted:
            return best_name(facts.remote_names)
        raise PoolError(Code.NAME_MISMATCH, f"{plan.expected} is none of {' '.join(facts.remote_names)}")
    return str(plan.expected)


def plaintext_of(cmd: int, passed: PassedFd | None) -> OwnedFd:
    """Return the plaintext descriptor of an application's answer.

    Raises:
        PoolError: BAD_CALLBACK_ANSWER, PLAIN_FD_MISSING, PLAIN_FD_UNFIT; the descriptor is still the caller's.
    """
    if cmd != Cmd.PLAINTEXT_CONNECT:
        raise PoolError(Code.BAD_CALLBACK_ANSWER, f"command {cmd:#x}")
    if passed is None:
        raise PoolError(Code.PLAIN_FD_MISSING)
    check_plaintext(passed)
    return passed.fd


def check_plaintext(passed: PassedFd) -> None:
    """Accept what is to be the plaintext descriptor.

    Raises:
        PoolError: PLAIN_FD_UNFIT.
    """
    if passed.kind not in (FdKind.STREAM, FdKind.SEQPACKET):
        raise PoolError(Code.PLAIN_FD_UNFIT, f"it is {passed.kind.value}")


def lost_before_plaintext(message: SessionEnded) -> PoolError:
    """Return why a session ended that had shaken hands and did not relay yet."""
    return PoolError(_LOST.get(message.reason, Code.REMOTE_CLOSED), message.detail)


def alert_for(code: Code) -> int:
    """Return the alert for a remote whose session we end, or NO_ALERT."""
    return _ALERTS.get(code, NO_ALERT)


def told(code: Code, detail: str, alert: int = NO_ALERT) -> str:
    """Return how much of the detail an application may read.

    Of a remote's fault it hears the alert; of our keys' and our own nothing: these are for the log, and so is
    what a database says, which names files.  What a RADIUS server says to whom it rejects is meant to be read.
    """
    if (code // 100 in (1, 2, 6) and code is not Code.DATABASE) or code in _OF_RADIUS:
        return detail
    return alerts.text(alert) if code // 100 == 3 and alert != NO_ALERT else ""
