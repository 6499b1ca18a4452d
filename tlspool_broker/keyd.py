"""The key daemon as the broker sees it: whether it is there, the secret that seals grants, channels to workers.

keyd draws a new secret each time it starts.  Grants sealed with an older one are worthless, and workers have
to be joined with the new keyd by new channels; both happen when it says hello.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from tlspool_broker.connections import Connection
from tlspool_broker.credentials import Credential
from tlspool_broker.events import AskKeyd, ClosePeer, HandOver, JoinKeyd, KeyTold, PeerId, SessionId
from tlspool_broker.out import Out
from tlspool_broker.workers import Worker, Workers
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.grants import Grant, seal
from tlspool_common.messages import PROTOCOL, KeyAnswer, KeydHello, KeyQuestion, PinService, Side

RandomBytes = Callable[[int], bytes]

_GRANT_ID_B = 16

_QUESTIONS = 256
"""Questions about keys that are open at a time; operators ask a few."""


class Keyd:
    """The connection to the key daemon, as far as there is one."""

    def __init__(self, out: Out, random_bytes: RandomBytes) -> None:
        self._out = out
        self._random_bytes = random_bytes
        self._peer: PeerId | None = None
        self._grant_secret = b""
        self._asked: set[int] = set()
        self.issued: Counter[str] = Counter()  # grants, by our role in the session

    @property
    def present(self) -> bool:
        """Whether grants can be made, and used."""
        return self._peer is not None

    def said(self, peer: PeerId, message: KeydHello | KeyAnswer, workers: Workers, exchange: int = 0) -> bool:
        """Take a message; return whether keyd has come."""
        if isinstance(message, KeyAnswer):
            if peer == self._peer and exchange in self._asked:
                self._asked.remove(exchange)
                self._out(KeyTold(exchange, message))
            else:
                self._refuse(peer, "it answers a question that nobody asked")
            return False
        if message.protocol != PROTOCOL:
            self._refuse(peer, f"it speaks protocol {message.protocol}, this broker {PROTOCOL}")
            return False
        if self._peer is not None:
            # One that was started anew, before the end of its predecessor was seen.
            self._out(ClosePeer(self._peer))
            self._tell_nothing()
        self._peer, self._grant_secret = peer, message.grant_secret
        self._out.note("info", "keyd.connected", pid=message.pid)
        for worker in workers:
            self.join(worker)
        return True

    def _refuse(self, peer: PeerId, why: str) -> None:
        self._out.note("error", "keyd.refused", detail=why)
        self._out(ClosePeer(peer))
        self.lost(peer, why)

    def lost(self, peer: PeerId, reason: str) -> None:
        """Forget keyd, if it is this one."""
        if peer == self._peer:
            self._peer, self._grant_secret = None, b""
            self._tell_nothing()
            self._out.note("error", "keyd.lost", detail=reason)

    def ask(self, number: int, uri: str) -> None:
        """Ask about a key.  The answer may take as long as a person needs to enter a PIN."""
        if self._peer is None or len(self._asked) >= _QUESTIONS or len(uri) > limits.KEY_URI_B:
            self._out(KeyTold(number, None))
            return
        self._asked.add(number)
        self._out(AskKeyd(self._peer, number, KeyQuestion(uri=uri)))

    def _tell_nothing(self) -> None:
        for number in sorted(self._asked):
            self._out(KeyTold(number, None))
        self._asked.clear()

    def join(self, worker: Worker) -> None:
        """Give a worker a channel to keyd, if keyd is there."""
        if self._peer is not None:
            self._out(JoinKeyd(worker.number, worker.worker_id, self._peer))

    def hand_over(self, connection: Connection, registration: PinService) -> None:
        """Give the connection of a PIN service to keyd; it is not the broker's any more.

        Raises:
            PoolError: NO_KEYD.
        """
        if self._peer is None:
            raise PoolError(Code.NO_KEYD)
        self._out(HandOver(connection.connection_id, self._peer, registration))
        who = connection.caller
        self._out.note("info", "pin.service_handed_over", caller=who.label, unit=who.unit, uid=who.uid)

    def grant(
        self, session_id: SessionId, side: Side, worker: Worker, credential: Credential, deadline_ms: float | None
    ) -> bytes:
        """Return a sealed grant for one signature, good until the handshake must be over."""
        expires_ms = self._out.now_ms + limits.GRANT_LIFE_S * 1000
        if deadline_ms is not None:
            expires_ms = min(expires_ms, int(deadline_ms) + 1)
        grant = Grant(
            grant_id=self._random_bytes(_GRANT_ID_B),
            worker_id=worker.worker_id,
            session_id=session_id,
            side=side,
            expires_ms=expires_ms,
            spki_sha256=credential.spki_sha256,
            key_uri=credential.uri,
        )
        self.issued[side.name.lower()] += 1
        return seal(self._grant_secret, grant)
