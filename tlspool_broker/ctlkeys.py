"""Control keys: which connection controls which session, and the look-up by key.

A control key is 16 bytes that the application chose; whoever knows it may ask for the session.  So it is looked
up in a time that tells nothing about other keys, is never logged, and helps nobody but a connection of the user
that made the session (setting ``reattach``).

                     unknown    attached here    detached      attached elsewhere
    CONTROL_DETACH   [115]      detached         [120]         [122]
    CONTROL_REATTACH [115]      [121]            attached      [121]      another user's: [211]

A key is taken from the STARTTLS on, but it controls nothing before the final reply, and nothing when the session
is over.  What is known of a session that ended a moment ago is kept for a while, for an application that asks for
the details of a session that was shorter than its question.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

from tlspool_broker.connections import Connection
from tlspool_broker.events import ConnectionId, SessionId
from tlspool_broker.out import Out
from tlspool_broker.session import Session, State
from tlspool_common.appwire import Details
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import Settings

_ENDED = 1000
"""Sessions that have ended and are still known: a busy second of them, in half a MiB."""

_ENDED_MS = 5_000
"""For so long: the question comes right after the final reply, or never."""


@dataclass(frozen=True, slots=True)
class _Ended:
    connection: ConnectionId
    at_ms: int
    details: Details


class ControlKeys:
    """The control keys of all sessions."""

    def __init__(self, out: Out, settings: Settings, secret: bytes) -> None:
        self._out = out
        self._anybody = settings.reattach == "anybody"
        # The index is by a keyed hash, so that the time of a look-up tells nothing about control keys, and so that
        # a worker which keeps it for another broker does not know them.
        self._secret = secret
        self._sessions: dict[bytes, Session] = {}
        self._by_uid: dict[int, dict[SessionId, Session]] = {}
        self._ended: OrderedDict[bytes, _Ended] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def _index(self, ctlkey: bytes) -> bytes:
        return hashlib.blake2b(ctlkey, key=self._secret, digest_size=16).digest()

    def check_free(self, ctlkey: bytes) -> None:
        """Accept the control key of a session to be.

        Raises:
            PoolError: CTLKEY_IN_USE.
        """
        if self._index(ctlkey) in self._sessions:
            raise PoolError(Code.CTLKEY_IN_USE)

    def add(self, session: Session) -> None:
        """Take the control key of a session."""
        session.control = self._index(session.request.ctlkey)
        self._sessions[session.control] = session
        self._by_uid.setdefault(session.caller.uid, {})[session.session_id] = session

    def resume(self, session: Session) -> None:
        """Take the control key of a session of an earlier broker, unless it was free again then."""
        self._by_uid.setdefault(session.caller.uid, {})[session.session_id] = session
        if session.control and session.control not in self._sessions:
            self._sessions[session.control] = session

    def free(self, session: Session) -> None:
        """Let the application use this control key again: for it, the session is no more."""
        if self._sessions.get(session.control) is session:
            del self._sessions[session.control]
        session.control = b""

    # --- who controls what ----------------------------------------------------------------------------

    def attach(self, session: Session, connection: Connection) -> None:
        """Give a session to the connection that is to control it."""
        session.controller = connection
        connection.controlled[session.session_id] = None

    def release(self, session: Session) -> None:
        """Take a session from the connection that controls it, if one does."""
        if session.controller is not None:
            session.controller.controlled.pop(session.session_id, None)
            session.controller = None

    def ended(self, session: Session) -> None:
        """A session is over, or is being ended: nobody controls it any more, but one may still ask what it was."""
        if session.on_end is not None:
            session.on_end(session)
        uid = session.caller.uid
        mine = self._by_uid.get(uid, {})
        mine.pop(session.session_id, None)
        if not mine:
            self._by_uid.pop(uid, None)
        controller = session.controller
        if controller is not None and session.facts is not None:
            ctlkey = session.request.ctlkey
            index = self._index(ctlkey)
            self._ended.pop(index, None)
            self._ended[index] = _Ended(controller.connection_id, self._out.now_ms, session.details(ctlkey))
        self.release(session)
        self._forget()

    def _forget(self) -> None:
        oldest_ms = self._out.now_ms - _ENDED_MS
        while self._ended:
            ended = next(iter(self._ended.values()))
            if ended.at_ms >= oldest_ms and len(self._ended) <= _ENDED:
                return
            self._ended.popitem(last=False)

    # --- what applications ask ------------------------------------------------------------------------

    def _running(self, ctlkey: bytes) -> Session | None:
        session = self._sessions.get(self._index(ctlkey))
        return session if session is not None and session.state is State.RELAYING else None

    def own(self, uid: int, remoteid: str, localid: str) -> Session | None:
        """Return the last session of a user that relays and has this remote, and this local identity unless it is ''.

        That takes a time that grows with the sessions of this user, and of nobody else.
        """
        for session in reversed(self._by_uid.get(uid, {}).values()):
            if session.remoteid == remoteid and session.state is State.RELAYING and localid in ("", session.localid):
                return session
        return None

    def controlled(self, connection: Connection, ctlkey: bytes) -> Session:
        """Return the session with this control key, if it relays and this connection controls it.

        Raises:
            PoolError: CTLKEY_UNKNOWN; whether there is one elsewhere is not told.
        """
        session = self._running(ctlkey)
        if session is None or session.controller is not connection:
            raise PoolError(Code.CTLKEY_UNKNOWN)
        return session

    def details(self, connection: Connection, ctlkey: bytes) -> Details:
        """Return what is known of a session that this connection controls, or did until it ended just now.

        Raises:
            PoolError: CTLKEY_UNKNOWN.
        """
        try:
            return self.controlled(connection, ctlkey).details(ctlkey)
        except PoolError:
            self._forget()
            ended = self._ended.get(self._index(ctlkey))
            if ended is None or ended.connection != connection.connection_id:
                raise
            return ended.details

    def detach(self, connection: Connection, ctlkey: bytes) -> None:
        """Let a session be controlled by no connection.

        Raises:
            PoolError: CTLKEY_UNKNOWN, CTLKEY_DETACHED, CTLKEY_NOT_YOURS.
        """
        session = self._running(ctlkey)
        if session is None:
            raise PoolError(Code.CTLKEY_UNKNOWN)
        if session.controller is None:
            raise PoolError(Code.CTLKEY_DETACHED)
        if session.controller is not connection:
            raise PoolError(Code.CTLKEY_NOT_YOURS)
        self.release(session)
        self._out.note("debug", "session.detached", session=session.session_id, **_who(connection))

    def reattach(self, connection: Connection, ctlkey: bytes) -> None:
        """Let this connection control a session that none controls.

        Raises:
            PoolError: CTLKEY_UNKNOWN, CTLKEY_FOREIGN, CTLKEY_ATTACHED.
        """
        session = self._running(ctlkey)
        if session is None:
            raise PoolError(Code.CTLKEY_UNKNOWN)
        if not self._anybody and session.caller.uid != connection.caller.uid:
            raise PoolError(Code.CTLKEY_FOREIGN)
        if session.controller is not None:
            raise PoolError(Code.CTLKEY_ATTACHED)
        session.request = replace(session.request, ctlkey=ctlkey)  # which a session of an earlier broker is without
        self.attach(session, connection)
        self._out.note("debug", "session.attached", session=session.session_id, **_who(connection))


def _who(connection: Connection) -> dict[str, str]:
    return {"caller": connection.caller.label, "unit": connection.caller.unit}
