"""Frames of applications: is it an answer to a callback, a late one, or a request; and to whom it goes.

A frame is an answer if and only if its callback id is open on its connection; anything else is a request,
whatever its callback id.  A command that is no request is COMMAND_UNKNOWN.
"""

from __future__ import annotations

from tlspool_broker import policy
from tlspool_broker.calls import HANDLERS, NEEDS_STARTTLS, Call, Desk
from tlspool_broker.connections import Connection
from tlspool_broker.events import AppFrame, AppGone, DropFd, PassedFd
from tlspool_broker.out import Out
from tlspool_common.appwire import BadPayload, Cmd, Facility, Frame
from tlspool_common.errors import Code, PoolError

_ANSWERS = frozenset({Cmd.PLAINTEXT_CONNECT, Cmd.STARTTLS_LOCALID, Cmd.ERROR})


class Apps:
    """What applications say."""

    def __init__(self, out: Out, desk: Desk) -> None:
        self._out = out
        self._desk = desk

    def gone(self, event: AppGone) -> None:
        """A connection is over; nothing is sent over it from here on."""
        connection = self._desk.connections.remove(event.connection)
        if connection is not None:
            self._desk.questions.connection_gone(connection)
            self._desk.aaa.gone(connection)
            self._desk.sessions.app_gone(connection, event.reason)
            self._desk.chooser.gone(connection)

    def frame_untrusted(self, event: AppFrame) -> None:
        """A frame came.  Nothing in it can make this raise."""
        connection = self._desk.connections.get(event.connection)
        if connection is None:
            self._drop(event.passed)
            return
        frame = event.frame
        exchange = connection.by_cbid.get(frame.cbid)
        if frame.cbid in connection.asked:
            self._drop(event.passed)
            self._desk.chooser.answered(connection, frame)
        elif exchange is not None:
            self._claim(connection, frame.reqid)
            self._desk.sessions.answered(exchange.session_id, frame, event.passed)
        elif frame.cbid in connection.late and frame.cmd in _ANSWERS:
            self._drop(event.passed)
            self._too_late(connection, frame)
        else:
            self._request(Call(connection, frame, event.passed))

    def _too_late(self, connection: Connection, frame: Frame) -> None:
        """An answer that crossed our final ERROR: whoever waits under the same request id has that already.

        Under the id of another exchange somebody waits as well, if that one's callback had it last.
        """
        late = connection.late.pop(frame.cbid)
        if frame.reqid != late.reqid and self._desk.connections.vacate(connection, frame.reqid):
            self._desk.connections.error(connection, frame.reqid, late.code)

    def _claim(self, connection: Connection, reqid: int) -> None:
        self._desk.questions.claim(connection, reqid)
        self._desk.aaa.claim(connection, reqid)

    def _request(self, call: Call) -> None:
        connection, frame = call.connection, call.frame
        handler = HANDLERS.get(frame.cmd)
        if handler is not None or not frame.cbid:
            # A request, also an unknown one, takes its id; a stray answer only gets an error.
            self._claim(connection, frame.reqid)
            previous = self._desk.connections.claim(connection, frame.reqid)
            if previous is not None:
                self._desk.sessions.abandon(previous)
            if frame.cmd != Cmd.LIDENTRY_REGISTER:
                self._desk.chooser.displaced(connection, frame.reqid)
        try:
            self._desk.sessions.room.request(connection)
            if handler is None:
                raise PoolError(Code.COMMAND_UNKNOWN, f"{frame.cmd:#x}")
            if frame.cmd in NEEDS_STARTTLS:
                policy.check_facility(Facility.STARTTLS, self._desk.settings)
            handler(self._desk, call)
        except BadPayload as error:
            self._refuse(call, Code.FIELD_MALFORMED, str(error), str(error))
        except PoolError as error:
            self._refuse(call, error.code, error.detail, policy.told(error.code, error.detail))
        self._drop(call.passed)

    def _refuse(self, call: Call, code: Code, detail: str, told: str) -> None:
        self._desk.connections.note_refusal(call.connection, call.frame.cmd, code, detail)
        self._desk.connections.error(call.connection, call.frame.reqid, code, told)

    def _drop(self, passed: PassedFd | None) -> None:
        if passed is not None:
            self._out(DropFd(passed.fd))
