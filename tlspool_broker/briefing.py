"""What a worker is told before and during a handshake: whom to trust, what is wanted, and who we are."""

from __future__ import annotations

from tlspool_broker import crypto, policy
from tlspool_broker.events import Out, SendWorker
from tlspool_broker.keyd import Keyd
from tlspool_broker.online import Online
from tlspool_broker.policy import Records
from tlspool_broker.session import Session
from tlspool_broker.workers import Worker
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import Proceed, Side, TrustAnchor, TrustBegin, UseCredential
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
    parameters: CryptoPolicy,
    crypt: OwnedFd,
    settings: Settings,
) -> None:
    """Hand the socket of a session to a worker, with the policy it is under."""
    listen_ms = policy.listen_ms(session.request.ctlkey, settings) if session.as_server is not None else None
    message = policy.start_message(
        session.session_id, session.plan, session.alpn, trust_generation, parameters, session.asks, listen_ms
    )
    out(SendWorker(worker.number, message, crypt))


def parameters_of(session: Session, settings: Settings) -> CryptoPolicy:
    """Return what the handshake may agree on.  A server that its client names is under the policy of its service.

    Raises:
        PoolError: SETTING_INVALID, or the databases cannot be read.
    """
    return crypto.choose(settings, session.records, session.request.service, str(session.plan.localid or ""))


def give_credentials(out: Out, session: Session, worker: Worker, keyd: Keyd, online: Online) -> None:
    """Say who we are, with a grant for each chain, and let the handshake go on."""
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
    out(SendWorker(worker.number, Proceed(session_id=session.session_id)))
