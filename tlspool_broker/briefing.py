"""What a worker is told before and during a handshake: whom to trust, what is wanted, and who we are."""

from __future__ import annotations

from tlspool_broker import crypto, policy
from tlspool_broker.events import Caller, SendWorker
from tlspool_broker.keyd import Keyd
from tlspool_broker.online import Online
from tlspool_broker.out import Out
from tlspool_broker.policy import Asks, Plan, Terms
from tlspool_broker.session import Session
from tlspool_broker.wanted import Records
from tlspool_broker.workers import Worker
from tlspool_common import limits
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Proceed, Side, StartSession, TrustAnchor, TrustBegin, UseCredential, WorkerOwner
from tlspool_common.policies import CryptoPolicy
from tlspool_common.settings import Settings

NEVER = "0"


def share_trust(out: Out, worker: Worker, records: Records) -> int:
    """Let a worker know whom to trust, once for each generation of the trust database; return its number.

    Raises:
        PoolError: the databases cannot be read; nothing was sent.
    """
    generation = records.trust_generation
    if worker.trust_generation != generation:
        # Expression 0 is "never": the worker is not even to build a chain to such an anchor.
        anchors = [anchor for anchor in records.anchors() if anchor.valexp != NEVER]
        out(SendWorker(worker.number, TrustBegin(generation=generation)))
        for anchor in anchors:
            message = TrustAnchor(generation=generation, for_sides=anchor.for_sides, certificate=anchor.der)
            out(SendWorker(worker.number, message))
        worker.trust_generation = generation
    return generation


def start(
    out: Out,
    session: Session,
    worker: Worker,
    trust_generation: int,
    terms: Terms,
    crypt: OwnedFd,
    settings: Settings,
) -> None:
    """Hand the socket of a session to a worker, with the policy it is under, or will be unless its client says more."""
    listen_ms = policy.listen_ms(session.request.ctlkey, settings) if session.as_server is not None else None
    message = start_message(
        session.session_id, session.plan, session.alpn, trust_generation, terms, session.asks, listen_ms
    )
    if not worker.introduced:
        worker.introduced = True
        out(SendWorker(worker.number, WorkerOwner(owner=owner_of(session.caller, settings.isolation))))
    out(SendWorker(worker.number, message, crypt))


def owner_of(caller: Caller, isolation: str) -> str:
    """Say whose sessions a worker has: a user's, and the unit of the one that came first.

    Not the caller's program: a process chooses that name.
    """
    if isolation == "pool":
        return "everybody"
    unit = caller.unit.rpartition(".")[0] if caller.certain else ""
    fits = unit if len(unit) <= limits.OWNER_B - 20 else ""
    return f"uid {caller.uid}{f' ({fits})' if fits else ''}"


def start_message(
    session_id: int,
    plan: Plan,
    alpn: bytes,
    trust_generation: int,
    terms: Terms,
    asks: Asks,
    listen_ms: int | None = None,
) -> StartSession:
    """Return what the worker is told; ``listen_ms`` is for a peer."""
    agreed = terms.crypto
    return StartSession(
        session_id=session_id,
        side=plan.side,
        remote_auth=plan.remote_auth,
        trust_generation=trust_generation,
        tls_min=agreed.tls_min,
        tls_max=agreed.tls_max,
        groups=agreed.groups,
        ciphers_tls12=agreed.ciphers_tls12,
        ciphersuites_tls13=agreed.ciphersuites_tls13,
        sigalgs=agreed.sigalgs,
        alpn=alpn,
        sni=plan.sni,
        remote_name=str(plan.expected or ""),
        domain_represents_user=plan.domain_represents_user,
        peer=listen_ms is not None,
        listen_ms=listen_ms or 0,
        asks=asks.asks,
        tells_chain=asks.tells_chain,
        wants_staple=asks.wants_staple,
        names_anchors=terms.names_anchors,
    )


def proceed_message(session_id: int, terms: Terms | None) -> Proceed:
    """Return what lets a handshake go on; ``terms`` if they are not those it was started with."""
    if terms is None:
        return Proceed(session_id=session_id)
    agreed = terms.crypto
    return Proceed(
        session_id=session_id,
        tls_min=agreed.tls_min,
        tls_max=agreed.tls_max,
        groups=agreed.groups,
        ciphers_tls12=agreed.ciphers_tls12,
        ciphersuites_tls13=agreed.ciphersuites_tls13,
        sigalgs=agreed.sigalgs,
        names_anchors=terms.names_anchors,
    )


def parameters_of(session: Session, plan: Plan, settings: Settings) -> CryptoPolicy:
    """Return what the handshake may agree on under a plan of the session, by what is known of who we are.

    Raises:
        PoolError: POLICY_UNKNOWN, POLICY_EMPTY; or what the databases raise.
    """
    return crypto.choose(settings, session.records, session.request.service, str(plan.localid or ""))


def give_credentials(
    out: Out, session: Session, worker: Worker, keyd: Keyd, online: Online, terms: Terms | None
) -> None:
    """Say who we are, with a grant for each chain, and let the handshake go on, under these terms."""
    side = session.plan.side
    for credential in session.plan.credentials:
        grant = keyd.grant(session.session_id, side, worker, credential, session.deadline_ms)
        message = UseCredential(
            session_id=session.session_id,
            key_kind=credential.key_kind,
            chain=credential.chain,
            grant=grant,
            staple=online.staple(credential.chain) if side is Side.SERVER else b"",
        )
        out(SendWorker(worker.number, message))
    others = None if terms == session.terms else terms
    session.terms = terms
    out(SendWorker(worker.number, proceed_message(session.session_id, others)))
