"""Connections of applications, and the correlation of what is said over them.

An *exchange* is a request that is not answered at once: it holds one request id of its connection, and for as
long as a callback is open also a callback id.  The rules (docs/broker.md says why):

* What the application sent last in an exchange names the request id of what we say next.
* A message is the answer to a callback if its callback id is open on the same connection.  Callback ids go
  round through all 65535, so that none is used again soon.
* The newest message owns a request id.  A fresh request under the id of an open exchange ends that exchange
  without a reply: the application has stopped waiting for it (a synchronous libtlspool whose callback function
  refuses says nothing), or has lost count, and two replies under one id would be taken for one another.
* The answer to a callback may come under a new request id.  If that belongs to an exchange that waits for the
  application, then the application forgot that id when it got the callback; that exchange only loses the id.
* An answer that comes too late, after our final ERROR, is not answered again under the same request id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tlspool_broker.events import Caller, ConnectionId, SendApp, SessionId
from tlspool_broker.out import Out
from tlspool_common.appwire import Cmd, ErrorReply, Frame
from tlspool_common.errors import Code, app_text, com_err

if TYPE_CHECKING:
    from tlspool_broker.aaa import Accepted, Who

_CBIDS = 0xFFFF

_LATE = 1000
"""Callbacks remembered after their exchange has ended, a connection; as many as may be open by default."""

_NOTES = 20
_NOTES_MS = 10_000
"""Refused commands of one connection that are logged in a period; the others are counted."""


@dataclass(slots=True, eq=False)
class Exchange:
    """A request that waits for its final reply.  ``reqid`` None: there is no id to reply to any more."""

    connection: Connection
    session_id: SessionId
    reqid: int | None
    cbid: int | None = None


@dataclass(frozen=True, slots=True)
class Late:
    """A callback that was open when its exchange ended: the id that had the final reply, and the code in it."""

    reqid: int | None
    code: Code


@dataclass(slots=True, eq=False)
class Connection:
    """A connection to the application socket."""

    connection_id: ConnectionId
    caller: Caller
    last_cbid: int
    by_reqid: dict[int, Exchange] = field(default_factory=dict)
    by_cbid: dict[int, Exchange] = field(default_factory=dict)
    exchanges: dict[SessionId, Exchange] = field(default_factory=dict)
    controlled: dict[SessionId, None] = field(default_factory=dict)
    alpn: dict[bytes, bytes] = field(default_factory=dict)
    late: OrderedDict[int, Late] = field(default_factory=OrderedDict)
    asked: set[int] = field(default_factory=set)  # callback ids of a program that chooses identities
    subjects: dict[bytes, Who] = field(default_factory=dict)  # whom keys stand for, until a question has them (aaa.py)
    verdicts: OrderedDict[bytes, Accepted] = field(default_factory=OrderedDict)  # the last ones, by their keys
    noted_since_ms: int = 0
    noted: int = 0


class Connections:
    """All connections, and everything that is ever sent over them."""

    def __init__(self, out: Out) -> None:
        self._out = out
        self._by_id: dict[ConnectionId, Connection] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, connection_id: ConnectionId, caller: Caller, first_cbid: int) -> None:
        """Take note of a new connection."""
        self._by_id[connection_id] = Connection(connection_id, caller, first_cbid % _CBIDS)

    def get(self, connection_id: ConnectionId) -> Connection | None:
        """Return a connection that is there."""
        return self._by_id.get(connection_id)

    def remove(self, connection_id: ConnectionId) -> Connection | None:
        """Forget a connection; nothing is sent over it from now on."""
        return self._by_id.pop(connection_id, None)

    # --- exchanges ------------------------------------------------------------------------------------

    def claim(self, connection: Connection, reqid: int) -> SessionId | None:
        """Make a request id that of a fresh request; return the session whose exchange this ends, silently."""
        other = connection.by_reqid.get(reqid)
        return None if other is None else other.session_id

    def open(self, connection: Connection, reqid: int, session_id: SessionId) -> Exchange:
        """Begin an exchange."""
        exchange = Exchange(connection, session_id, reqid)
        connection.by_reqid[reqid] = exchange
        connection.exchanges[session_id] = exchange
        return exchange

    def answered(self, exchange: Exchange, reqid: int) -> SessionId | None:
        """Close the callback of an exchange: it was answered under this id.

        Returns the session of another exchange that has the id and is to end for it, silently.
        """
        connection = exchange.connection
        if exchange.cbid is not None:
            connection.by_cbid.pop(exchange.cbid, None)
            exchange.cbid = None
        if exchange.reqid == reqid:
            return None
        if exchange.reqid is not None:
            del connection.by_reqid[exchange.reqid]
        other = connection.by_reqid.get(reqid)
        connection.by_reqid[reqid] = exchange
        exchange.reqid = reqid
        if other is None:
            return None
        other.reqid = None
        return None if other.cbid is not None else other.session_id

    def vacate(self, connection: Connection, reqid: int) -> bool:
        """Let an answer have a request id that is nobody's, or that an exchange has which waits for its own answer."""
        other = connection.by_reqid.get(reqid)
        if other is None:
            return True
        if other.cbid is None:
            return False
        del connection.by_reqid[reqid]
        other.reqid = None
        return True

    def end(self, exchange: Exchange, code: Code = Code.REQID_IN_USE) -> None:
        """End an exchange without a word."""
        connection = exchange.connection
        connection.exchanges.pop(exchange.session_id, None)
        if exchange.cbid is not None:
            del connection.by_cbid[exchange.cbid]
            connection.late[exchange.cbid] = Late(exchange.reqid, code)
            if len(connection.late) > _LATE:
                connection.late.popitem(last=False)
            exchange.cbid = None
        if exchange.reqid is not None:
            del connection.by_reqid[exchange.reqid]
            exchange.reqid = None

    # --- what is said ---------------------------------------------------------------------------------

    def send(self, connection: Connection, reqid: int, cbid: int, cmd: int, payload: bytes) -> None:
        """Send a frame, if the connection is still there."""
        if connection.connection_id in self._by_id:
            self._out(SendApp(connection.connection_id, Frame(reqid, cbid, cmd, payload)))

    def call_back(self, exchange: Exchange, cmd: Cmd, payload: bytes) -> None:
        """Ask the application something; its answer will bear the callback id."""
        if exchange.reqid is None:
            return
        connection = exchange.connection
        cbid = next(self._free_cbids(connection))
        connection.last_cbid = cbid
        connection.late.pop(cbid, None)
        connection.by_cbid[cbid] = exchange
        exchange.cbid = cbid
        self.send(connection, exchange.reqid, cbid, cmd, payload)

    def ask(self, connection: Connection, reqid: int, cmd: Cmd, payload: bytes) -> int:
        """Ask a service something; return the callback id, which its answer will bear."""
        cbid = next(self._free_cbids(connection))
        connection.last_cbid = cbid
        connection.late.pop(cbid, None)
        connection.asked.add(cbid)
        self.send(connection, reqid, cbid, cmd, payload)
        return cbid

    @staticmethod
    def _free_cbids(connection: Connection) -> Iterator[int]:
        # Requests on a connection are bounded below 65535, so there is always a free one.
        for step in range(_CBIDS):
            cbid = (connection.last_cbid + step) % _CBIDS + 1
            if cbid not in connection.by_cbid and cbid not in connection.asked:
                yield cbid

    def finish(self, exchange: Exchange, cmd: Cmd, payload: bytes) -> None:
        """Send the final reply of an exchange."""
        connection, reqid = exchange.connection, exchange.reqid
        self.end(exchange)
        if reqid is not None:
            self.send(connection, reqid, 0, cmd, payload)

    def fail(self, exchange: Exchange, code: Code, detail: str) -> None:
        """Send ERROR as the final reply of an exchange."""
        connection, reqid = exchange.connection, exchange.reqid
        self.end(exchange, code)
        if reqid is not None:
            self.error(connection, reqid, code, detail)

    def error(self, connection: Connection, reqid: int, code: Code, detail: str = "") -> None:
        """Send ERROR."""
        payload = ErrorReply(com_err(code), app_text(code, detail)).to_payload()
        self.send(connection, reqid, 0, Cmd.ERROR, payload)

    def note_refusal(self, connection: Connection, cmd: int, code: Code, detail: str) -> None:
        """Log a command that was refused, unless this connection has had many of late."""
        if self._out.now_ms - connection.noted_since_ms >= _NOTES_MS:
            if connection.noted > _NOTES:
                self._out.note(
                    "warning",
                    "command.refusals",
                    caller=connection.caller.label,
                    unit=connection.caller.unit,
                    more=connection.noted - _NOTES,
                )
            connection.noted_since_ms, connection.noted = self._out.now_ms, 0
        connection.noted += 1
        if connection.noted <= _NOTES:
            name = Cmd(cmd).name.lower() if cmd in Cmd.__members__.values() else f"{cmd:#x}"
            self._out.note(
                "warning",
                "command.refused",
                code=int(code),
                rule=code.name.lower(),
                cmd=name,
                caller=connection.caller.label,
                unit=connection.caller.unit,
                uid=connection.caller.uid,
                detail=detail,
            )
