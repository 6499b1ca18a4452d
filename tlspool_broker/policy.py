"""What is decided about a STARTTLS: before the handshake by flags and databases, after it by what was proved.

Functions of their arguments only.  Each refusal is a PoolError whose code names the rule.  The order of the
checks is that of earlier pools (docs/broker.md lists it), so that a program sees the same error as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tlspool_broker.credentials import Anchor, Credential
from tlspool_broker.events import FdKind, PassedFd
from tlspool_common.appwire import FACILITIES_CURRENT, TIMEOUT_DEFAULT_MS, TIMEOUT_INFINITE_MS, Facility, Flag, Starttls
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import Donai, best_name, parse_untrusted, remote_matches
from tlspool_common.messages import EndReason as Reason
from tlspool_common.messages import HandshakeDone, RemoteAuth, SessionEnded, Side, StartSession
from tlspool_common.settings import Settings

TLS_VERSIONS = {"1.2": 0x0303, "1.3": 0x0304}

NO_ALERT = 255

# AlertDescription, RFC 8446 section 6, for a remote whose session we end.
# What is not in here ends without one: nobody is there any more who has anything against the remote.
_UNKNOWN_CA, _ACCESS_DENIED, _INTERNAL_ERROR, _UNRECOGNIZED_NAME, _CERTIFICATE_REQUIRED = 48, 49, 80, 112, 116
_ALERTS = {
    Code.SNI_MISMATCH: _UNRECOGNIZED_NAME,
    Code.CERTIFICATE_MISSING: _CERTIFICATE_REQUIRED,
    Code.CHAIN_UNTRUSTED: _UNKNOWN_CA,
    Code.NAME_MISMATCH: _ACCESS_DENIED,
    Code.BAD_CALLBACK_ANSWER: _ACCESS_DENIED,
    Code.SESSION_KILLED: _ACCESS_DENIED,
    Code.NO_KEYD: _INTERNAL_ERROR,
    Code.PLAIN_FD_MISSING: _INTERNAL_ERROR,
    Code.PLAIN_FD_UNFIT: _INTERNAL_ERROR,
    Code.CALLBACK_TIMEOUT: _INTERNAL_ERROR,
    Code.STOPPING: _INTERNAL_ERROR,
    Code.INTERNAL: _INTERNAL_ERROR,
}

_LOST = {
    Reason.REMOTE_RESET: Code.REMOTE_RESET,
    Reason.REMOTE_ALERT: Code.REMOTE_ALERT,
}


class Records(Protocol):
    """What is asked of the databases.  Each may raise PoolError."""

    @property
    def generation(self) -> int:
        """Number of the state of all databases."""

    @property
    def trust_generation(self) -> int:
        """Number of the state of the trust database."""

    def credentials(self, donai: Donai, side: Side) -> list[Credential]:
        """Return what an identity can show in a role, one for each kind of key."""

    def disclosed(self, remote: Donai) -> list[str]:
        """Return the local identities that a remote may see, most preferred first."""

    def anchors(self) -> list[Anchor]:
        """Return the trust anchors in force."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a session is to be: all of it decided before the worker hears of the session.

    Attributes:
        localid: who we are; None: a client without identity.
        expected: whom the remote must prove to be; None: anybody that verifies, or that is not asked at all.
        sni: the name a client sends; '' sends none.
    """

    side: Side
    remote_auth: RemoteAuth
    localid: Donai | None
    expected: Donai | None
    sni: str
    credentials: tuple[Credential, ...]
    domain_represents_user: bool


def facilities(settings: Settings) -> int:
    """Return the facilities that the configuration grants."""
    granted = 0
    for facility in FACILITIES_CURRENT:
        words = {"*", (facility.name or "").lower()}
        if words & set(settings.allow_facilities) and not words & set(settings.deny_facilities):
            granted |= facility
    return granted


def check_form(flags: int, passed: PassedFd | None, settings: Settings) -> None:
    """Check what needs no database: descriptor, facility, and flags of things we do not do.

    Raises:
        PoolError: SUPERFLUOUS_FD, NOT_SUPPORTED_YET, CIPHER_FD_MISSING, CIPHER_FD_UNFIT, FACILITY_DENIED,
            ROLE_IMPOSSIBLE.
    """
    if flags & Flag.RENEGOTIATE:
        if passed is not None:
            raise PoolError(Code.SUPERFLUOUS_FD, "RENEGOTIATE")
        raise PoolError(Code.NOT_SUPPORTED_YET, "RENEGOTIATE")
    if passed is None:
        raise PoolError(Code.CIPHER_FD_MISSING)
    if passed.kind is not FdKind.STREAM:
        raise PoolError(Code.CIPHER_FD_UNFIT, f"it is {passed.kind.value}")
    if not facilities(settings) & Facility.STARTTLS:
        raise PoolError(Code.FACILITY_DENIED, "starttls")
    side_of(flags)
    for flag in (Flag.LOCALID_CHECK, Flag.LOCALID_ONTHEFLY):
        if flags & flag:
            raise PoolError(Code.NOT_SUPPORTED_YET, flag.name or "")


def side_of(flags: int) -> Side:
    """Return our role.  A local role counts only if the remote may have the other one.

    Raises:
        PoolError: ROLE_IMPOSSIBLE; NOT_SUPPORTED_YET, both are possible.
    """
    client = bool(flags & Flag.LOCALROLE_CLIENT and flags & Flag.REMOTEROLE_SERVER)
    server = bool(flags & Flag.LOCALROLE_SERVER and flags & Flag.REMOTEROLE_CLIENT)
    if client and server:
        raise PoolError(Code.NOT_SUPPORTED_YET, "both roles at once")
    if not client and not server:
        raise PoolError(Code.ROLE_IMPOSSIBLE)
    return Side.CLIENT if client else Side.SERVER


def make_plan(request: Starttls, records: Records) -> Plan:
    """Decide identities and credentials.

    Raises:
        PoolError: IDENTITY_MALFORMED, LOCALID_MISSING, REMOTEID_MISSING, LOCALID_UNKNOWN,
            LOCALID_NOT_DISCLOSED, or what the databases raise.
    """
    flags = request.flags
    side = side_of(flags)
    remote_auth = RemoteAuth.REQUIRE
    if flags & Flag.IGNORE_REMOTEID:
        remote_auth = RemoteAuth.IGNORE
    elif flags & Flag.REQUEST_REMOTEID:
        remote_auth = RemoteAuth.REQUEST
    localid = parse_untrusted(request.localid) if request.localid else None
    remote = parse_untrusted(request.remoteid) if request.remoteid else None
    if side is Side.SERVER:
        credentials = _server_credentials(localid, records)
    else:
        if remote is None and remote_auth is not RemoteAuth.IGNORE:
            raise PoolError(Code.REMOTEID_MISSING)
        # Policy discloses to remotes that prove who they are; one that is not asked to is told nothing.
        to_whom = None if remote_auth is RemoteAuth.IGNORE else remote
        localid, credentials = _client_credentials(localid, to_whom, records)
    return Plan(
        side=side,
        remote_auth=remote_auth,
        localid=localid,
        expected=None if remote_auth is RemoteAuth.IGNORE else remote,
        sni=_sni(flags, remote) if side is Side.CLIENT else "",
        credentials=tuple(credentials),
        domain_represents_user=bool(flags & Flag.DOMAIN_REPRESENTS_USER),
    )


def _server_credentials(localid: Donai | None, records: Records) -> list[Credential]:
    if localid is None:
        raise PoolError(Code.LOCALID_MISSING)
    credentials = records.credentials(localid, Side.SERVER)
    if not credentials:
        raise PoolError(Code.LOCALID_UNKNOWN, f"{localid} as server")
    return credentials


def _client_credentials(
    wanted: Donai | None, remote: Donai | None, records: Records
) -> tuple[Donai | None, list[Credential]]:
    """Return who we are to that remote; (None, []) when it may not see anybody."""
    disclosed = [] if remote is None else records.disclosed(remote)
    if wanted is not None:
        if str(wanted) not in disclosed:
            whom = "a remote that need not prove who it is" if remote is None else str(remote)
            raise PoolError(Code.LOCALID_NOT_DISCLOSED, f"{wanted} to {whom}")
        credentials = records.credentials(wanted, Side.CLIENT)
        if not credentials:
            raise PoolError(Code.LOCALID_UNKNOWN, f"{wanted} as client")
        return wanted, credentials
    for text in disclosed:
        try:
            donai = parse_untrusted(text)
            credentials = records.credentials(donai, Side.CLIENT)
        except PoolError as error:
            if error.code is Code.DATABASE:
                raise
            continue  # this one cannot be used; the databases have reported it
        if credentials:
            return donai, credentials
    return None, []


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


def start_message(session_id: int, plan: Plan, alpn: bytes, trust_generation: int, settings: Settings) -> StartSession:
    """Return what the worker is told."""
    return StartSession(
        session_id=session_id,
        side=plan.side,
        remote_auth=plan.remote_auth,
        trust_generation=trust_generation,
        tls_min=TLS_VERSIONS[settings.tls_min_version],
        tls_max=TLS_VERSIONS[settings.tls_max_version],
        groups=settings.tls_groups,
        ciphers_tls12=settings.tls_ciphers12,
        ciphersuites_tls13=settings.tls_ciphersuites13,
        sigalgs=settings.tls_sigalgs,
        alpn=alpn,
        sni=plan.sni,
        remote_name=str(plan.expected or ""),
        domain_represents_user=plan.domain_represents_user,
    )


def judge_hello(plan: Plan, sni: str) -> None:
    """Accept the server name that a client asked for, or its silence.

    Raises:
        PoolError: SNI_MISMATCH.
    """
    if sni and (plan.localid is None or sni.lower() != plan.localid.domain):
        raise PoolError(Code.SNI_MISMATCH, f"{sni} instead of {plan.localid}")


def judge_remote(plan: Plan, facts: HandshakeDone) -> str:
    """Return the authenticated identity of the remote, '' when it has proved none.

    The worker has enforced this inside the handshake; here it is decided.

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
        raise PoolError(Code.NAME_MISMATCH, f"{plan.expected} is none of {' '.join(facts.remote_names)}")
    return str(plan.expected)


def lost_before_plaintext(message: SessionEnded) -> PoolError:
    """Return why a session ended that had shaken hands and did not relay yet."""
    return PoolError(_LOST.get(message.reason, Code.REMOTE_CLOSED), message.detail)


def alert_for(code: Code) -> int:
    """Return the alert for a remote whose session we end, or NO_ALERT."""
    return _ALERTS.get(code, NO_ALERT)


def told(code: Code, detail: str, alert: int = NO_ALERT) -> str:
    """Return how much of the detail an application may read.

    Of a remote's fault it hears the alert; of our keys' and our own nothing: these are for the log, and so is
    what a database says, which names files.
    """
    if code // 100 in (1, 2, 6) and code is not Code.DATABASE:
        return detail
    return f"alert {alert}" if code // 100 == 3 and alert != NO_ALERT else ""
