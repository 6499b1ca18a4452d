"""The application's side of protocol V2, with no socket, thread or clock in it.

Theory of operation.  One connection carries many *exchanges* at once.  An exchange is opened by a request and
lasts until the pool's final reply; it holds one request id all the time, and is known to the shell by a
*ticket*.  Events go in, each with the time; a list of effects comes out:

    PING       EXPECT_PONG
    STARTTLS   [EXPECT_OPTIONS ->] EXPECT_REPLY <-> EXPECT_ANSWER ... EXPECT_REPLY [-> EXPECT_DETAILS [-> EXPECT_TAGS]]
    DETAILS    EXPECT_DETAILS
    others     EXPECT_ONE
    given up   EXPECT_LAST

EXPECT_ANSWER is the only state in which the application is to act.  EXPECT_LAST is that of an exchange whose
ticket is finished (given up, too late, or malformed) while the pool may still say something: callbacks are
refused there, and the final reply frees the request id.  The pool says nothing that it was not asked for, so a
frame with a request id of no exchange breaks the connection; anything else that is wrong fails its exchange
only, for the sessions that were made over a connection end with it.

A pool that says nothing at all while something is open is asked with a PING; when that is not answered
either, what is open fails with PoolUnavailable.  The connection is kept for the sake of its sessions.

Descriptors: the encrypted socket of a STARTTLS is kept until the first message back, a plaintext socket until
the message after it; then they are closed.  ``Send`` lends a descriptor, ``Close`` gives it away, so a shell
must carry out effects in order.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import assert_never

from libstub.errors import Misuse, PoolError, PoolUnavailable, ProtocolError, Timeout, from_reply_untrusted
from libstub.events import (
    Abandoned,
    AskLocalid,
    AskPlain,
    Break,
    BytesReceived,
    CallbackRefused,
    Close,
    CommandAsked,
    ConnectionLost,
    DetailsAsked,
    Effect,
    Established,
    Event,
    Finish,
    Forked,
    LocalidChosen,
    Outcome,
    PingAsked,
    PlainGiven,
    Pong,
    Replied,
    Send,
    Shut,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from tlspool_common.aaawire import TAGS_AT_MOST, Tags
from tlspool_common.appwire import (
    FRAME_B,
    BadPayload,
    Cmd,
    Details,
    ErrorReply,
    Frame,
    Options,
    Ping,
    Starttls,
    frame_untrusted,
)
from tlspool_common.fd import OwnedFd

SILENCE_S = 15.0
"""Nothing heard for this long while something is open: ask with a PING.  A pool answers within milliseconds."""

DEAF_S = 30.0
"""Nothing heard for this long: what is open fails.  Twice the above, so that the PING had as long."""

TICK_S = 1.0
"""How often the shell should say that time passes while something is open.  These limits are no precise ones."""

_REQIDS = 0xFFFF


class State(Enum):
    """What an exchange expects."""

    EXPECT_PONG = auto()
    EXPECT_OPTIONS = auto()
    EXPECT_REPLY = auto()
    EXPECT_ANSWER = auto()
    EXPECT_DETAILS = auto()
    EXPECT_TAGS = auto()
    EXPECT_ONE = auto()
    EXPECT_LAST = auto()


_CALLBACKS = frozenset({Cmd.STARTTLS_LOCALID, Cmd.PLAINTEXT_CONNECT})

# What the pool may say in each state; in EXPECT_ONE it is the reply that was asked for.  ERROR is final in all of them.
_TABLE: dict[State, frozenset[Cmd]] = {
    State.EXPECT_PONG: frozenset({Cmd.PING}),
    State.EXPECT_OPTIONS: frozenset({Cmd.SUCCESS}),
    State.EXPECT_REPLY: frozenset({Cmd.STARTTLS, *_CALLBACKS}),
    State.EXPECT_ANSWER: frozenset(),
    State.EXPECT_DETAILS: frozenset({Cmd.LOCAL_DETAILS}),
    State.EXPECT_TAGS: frozenset({Cmd.LOCAL_TAGS}),
    State.EXPECT_ONE: frozenset(),
    State.EXPECT_LAST: frozenset(
        {
            Cmd.SUCCESS,
            Cmd.PING,
            Cmd.STARTTLS,
            Cmd.PRNG,
            Cmd.INFO,
            Cmd.LOCAL_DETAILS,
            Cmd.LOCAL_IDENTITIES,
            Cmd.LOCAL_TAGS,
            Cmd.LOCAL_AUTHENTICATE,
            Cmd.LOCAL_AUTHORIZE,
            Cmd.LOCAL_ACCOUNT_START,
            Cmd.LOCAL_ACCOUNT_UPDATE,
            Cmd.LOCAL_ACCOUNT_END,
            *_CALLBACKS,
        }
    ),
}


@dataclass(slots=True)
class _Exchange:
    reqid: int
    ticket: Ticket | None
    state: State
    said_s: float = 0.0
    patience_s: float | None = None
    asked: StarttlsAsked | None = None
    reply: Cmd | None = None
    ctlkey: bytes = b""
    crypt: OwnedFd | None = None
    plain: OwnedFd | None = None
    callback: Frame | None = None
    established: Established | None = None


def refusal(callback: Frame, number: int) -> bytes:
    """Return the ERROR that answers a callback."""
    return Frame(callback.reqid, callback.cbid, Cmd.ERROR, ErrorReply(number).to_payload()).to_bytes()


class ClientCore:
    """One connection to a pool.  ``handle`` never raises for what the pool says or does."""

    def __init__(self) -> None:
        self._by_reqid: dict[int, _Exchange] = {}
        self._by_ticket: dict[Ticket, _Exchange] = {}
        self._buffer = bytearray()
        self._last_reqid = 0
        self._heard_s = 0.0
        self._over = False
        self._effects: list[Effect] = []

    @property
    def open_count(self) -> int:
        """Exchanges for which the pool may still say something."""
        return len(self._by_reqid)

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """Take an event at a monotonic time, and return what is to be done."""
        self._effects = []
        match event:
            case BytesReceived(data):  # first, as most events are of this kind
                self._received_untrusted(data, now_s)
            case PingAsked() | StarttlsAsked() | DetailsAsked() | CommandAsked():
                self._open(event, now_s)
            case PlainGiven(ticket, plain):
                self._answer(ticket, now_s, plain)
            case LocalidChosen(ticket, plain=plain):
                self._answer(ticket, now_s, plain, event.localid)
            case CallbackRefused(ticket, number):
                self._refuse(ticket, now_s, number)
            case Abandoned(ticket):
                if exchange := self._by_ticket.pop(ticket, None):
                    exchange.ticket = None
                    self._give_up(exchange)
            case ConnectionLost(reason):
                self._end(PoolUnavailable, reason)
            case Forked():
                self._forked()
            case TimePassed():
                self._time_passed(now_s)
            case _:
                assert_never(event)
        effects, self._effects = self._effects, []  # an outcome is not kept alive from here
        return effects

    # --- what the application does --------------------------------------------------------------------

    def _open(self, event: PingAsked | StarttlsAsked | DetailsAsked | CommandAsked, now_s: float) -> None:
        crypt = event.crypt if isinstance(event, StarttlsAsked) else None
        reqid = self._free_reqid()
        if self._over or reqid is None:
            error = PoolUnavailable("the connection to the pool is over") if self._over else self._too_many()
            self._close(crypt)
            self._effects.append(Finish(event.ticket, error))
            return
        exchange = _Exchange(reqid, event.ticket, State.EXPECT_PONG, patience_s=event.patience_s, crypt=crypt)
        self._by_reqid[reqid] = self._by_ticket[event.ticket] = exchange
        match event:
            case PingAsked():
                self._say(exchange, now_s, Cmd.PING, Ping(facilities=event.facilities).to_payload())
            case DetailsAsked():
                self._ask_details(exchange, event.ctlkey, now_s)
            case CommandAsked():
                exchange.state, exchange.reply = State.EXPECT_ONE, event.reply
                self._say(exchange, now_s, event.cmd, event.payload)
            case StarttlsAsked():
                exchange.asked, exchange.ctlkey = event, event.request.ctlkey
                if event.alpn:
                    exchange.state = State.EXPECT_OPTIONS
                    options = Options(event.request.ctlkey, event.alpn)
                    self._say(exchange, now_s, Cmd.LOCAL_OPTIONS, options.to_payload())
                else:
                    self._ask_starttls(exchange, event, now_s)

    @staticmethod
    def _too_many() -> PoolError:
        return Misuse(f"more than {_REQIDS} requests are open on one connection to the pool")

    def _free_reqid(self) -> int | None:
        """Return the next id that is free, going round, so that none is used again soon."""
        for step in range(1, _REQIDS + 1):
            reqid = (self._last_reqid + step - 1) % _REQIDS + 1
            if reqid not in self._by_reqid:
                self._last_reqid = reqid
                return reqid
        return None

    def _ask_starttls(self, exchange: _Exchange, asked: StarttlsAsked, now_s: float) -> None:
        exchange.state = State.EXPECT_REPLY
        self._say(exchange, now_s, Cmd.STARTTLS, asked.request.to_payload(), fd=exchange.crypt)

    def _ask_details(self, exchange: _Exchange, ctlkey: bytes, now_s: float) -> None:
        exchange.state, exchange.ctlkey = State.EXPECT_DETAILS, ctlkey
        self._say(exchange, now_s, Cmd.LOCAL_DETAILS, Details(ctlkey).to_payload())

    def _ask_tags(self, exchange: _Exchange, first: int, now_s: float) -> None:
        exchange.state = State.EXPECT_TAGS
        self._say(exchange, now_s, Cmd.LOCAL_TAGS, Tags(exchange.ctlkey, first).to_payload())

    def _answer(self, ticket: Ticket, now_s: float, plain: OwnedFd | None, localid: str | None = None) -> None:
        exchange = self._by_ticket.get(ticket)
        if exchange is None or exchange.state is not State.EXPECT_ANSWER or exchange.callback is None:
            self._close(plain)  # the session failed while the application made up its mind
            return
        callback = exchange.callback
        payload = callback.payload
        if localid is not None:
            payload = replace(Starttls.from_payload_untrusted(payload), localid=localid).to_payload()
        exchange.plain, exchange.callback, exchange.state = plain, None, State.EXPECT_REPLY
        self._say(exchange, now_s, callback.cmd, payload, cbid=callback.cbid, fd=plain)

    def _refuse(self, ticket: Ticket, now_s: float, number: int) -> None:
        exchange = self._by_ticket.get(ticket)
        if exchange is None or exchange.state is not State.EXPECT_ANSWER or exchange.callback is None:
            return
        self._effects.append(Send(refusal(exchange.callback, number)))
        exchange.callback, exchange.state = None, State.EXPECT_REPLY
        exchange.said_s = now_s

    def _say(
        self,
        exchange: _Exchange,
        now_s: float,
        cmd: int,
        payload: bytes,
        *,
        cbid: int = 0,
        fd: OwnedFd | None = None,
    ) -> None:
        self._effects.append(Send(Frame(exchange.reqid, cbid, cmd, payload).to_bytes(), fd))
        exchange.said_s = now_s

    # --- what the pool says ---------------------------------------------------------------------------

    def _received_untrusted(self, data: bytes, now_s: float) -> None:
        if self._over:
            return
        self._heard_s = now_s
        self._buffer += data
        whole = len(self._buffer) - len(self._buffer) % FRAME_B
        if not whole:
            return
        frames = bytes(self._buffer[:whole])
        del self._buffer[:whole]
        for at in range(0, whole, FRAME_B):
            frame = frame_untrusted(frames[at : at + FRAME_B])
            exchange = self._by_reqid.get(frame.reqid)
            if exchange is None:
                self._end(ProtocolError, f"the pool answered request {frame.reqid}, which is not open", broken=True)
                return
            self._frame_untrusted(exchange, frame, now_s)

    def _frame_untrusted(self, exchange: _Exchange, frame: Frame, now_s: float) -> None:
        if exchange.crypt is not None and exchange.state is State.EXPECT_REPLY:
            self._close(exchange.crypt)
            exchange.crypt = None
        if exchange.plain is not None:
            self._close(exchange.plain)
            exchange.plain = None
        if frame.cmd == Cmd.ERROR:
            self._error_untrusted(exchange, frame)
        elif frame.cmd not in _TABLE[exchange.state] and (
            exchange.state is not State.EXPECT_ONE or frame.cmd != exchange.reply
        ):
            self._violated(exchange, frame, f"the pool sent command {frame.cmd:#x} where it makes no sense")
        elif frame.cmd in _CALLBACKS and not frame.cbid:
            self._violated(exchange, frame, "the pool sent a callback without an id")
        elif exchange.state is State.EXPECT_LAST:
            self._last(exchange, frame)
        else:
            try:
                self._reply_untrusted(exchange, frame, now_s)
            except BadPayload as error:
                self._violated(exchange, frame, f"the pool sent a malformed frame: {error}")

    def _reply_untrusted(self, exchange: _Exchange, frame: Frame, now_s: float) -> None:
        match frame.cmd:
            case Cmd.PING:
                ping = Ping.from_payload_untrusted(frame.payload)
                self._finish(exchange, Pong(ping.producer, ping.facilities))
            case _ if exchange.reply is not None:
                self._finish(exchange, Replied(frame.payload))
            case Cmd.SUCCESS if exchange.asked is not None:
                self._ask_starttls(exchange, exchange.asked, now_s)
            case Cmd.LOCAL_DETAILS:
                details = Details.from_payload_untrusted(frame.payload)
                if details.ctlkey != exchange.ctlkey:
                    raise BadPayload("it is about another session")
                established = exchange.established
                if established is None:
                    self._finish(exchange, details)
                    return
                exchange.established = replace(established, details=details)
                if details.tags:
                    self._ask_tags(exchange, 0, now_s)
                else:
                    self._finish(exchange, exchange.established)
            case Cmd.LOCAL_TAGS if exchange.established is not None:
                self._tags_untrusted(exchange, exchange.established, frame.payload, now_s)
            case _:
                self._starttls_untrusted(exchange, frame, now_s)

    def _starttls_untrusted(self, exchange: _Exchange, frame: Frame, now_s: float) -> None:
        starttls = Starttls.from_payload_untrusted(frame.payload)
        # A callback that was meant for somebody else must not get our plaintext.
        if starttls.ctlkey != exchange.ctlkey or exchange.asked is None:
            raise BadPayload("it is about another session")
        ticket = exchange.asked.ticket
        if frame.cmd == Cmd.STARTTLS:
            established = Established(exchange.ctlkey, starttls.localid, starttls.remoteid, flags=starttls.flags)
            if exchange.asked.details:
                exchange.established = established
                self._ask_details(exchange, exchange.ctlkey, now_s)
            else:
                self._finish(exchange, established)
            return
        exchange.state, exchange.callback = State.EXPECT_ANSWER, frame
        if frame.cmd == Cmd.PLAINTEXT_CONNECT:
            self._effects.append(AskPlain(ticket, starttls.localid, starttls.remoteid))
        else:
            self._effects.append(AskLocalid(ticket, starttls.localid, starttls.remoteid))

    def _tags_untrusted(self, exchange: _Exchange, established: Established, payload: bytes, now_s: float) -> None:
        told = Tags.from_payload_untrusted(payload)
        if told.key != exchange.ctlkey or told.first != len(established.tags) or told.total > TAGS_AT_MOST:
            raise BadPayload("it is about other tags")
        exchange.established = replace(established, tags=(*established.tags, *told.tags))
        if told.tags and told.first + len(told.tags) < told.total:
            self._ask_tags(exchange, told.first + len(told.tags), now_s)
        else:
            self._finish(exchange, exchange.established)

    def _error_untrusted(self, exchange: _Exchange, frame: Frame) -> None:
        if exchange.established is not None:
            # A pool that does not know the question, or a session that is over already: it did come about.
            self._finish(exchange, exchange.established)
        else:
            self._finish(exchange, from_reply_untrusted(ErrorReply.from_payload_untrusted(frame.payload)))

    def _violated(self, exchange: _Exchange, frame: Frame, text: str) -> None:
        """Fail an exchange; the pool may not see it as over, if what it sent is a callback."""
        ends = not frame.cbid or frame.cmd not in _CALLBACKS
        self._tell(exchange, ProtocolError(text))
        if ends:
            self._free(exchange)
        else:
            self._effects.append(Send(refusal(frame, errno.EPROTO)))
            self._give_up(exchange)

    def _last(self, exchange: _Exchange, frame: Frame) -> None:
        if frame.cmd in _CALLBACKS:
            self._effects.append(Send(refusal(frame, errno.ECANCELED)))
        else:
            self._free(exchange)

    # --- ends -----------------------------------------------------------------------------------------

    def _tell(self, exchange: _Exchange, outcome: Outcome) -> None:
        if exchange.ticket is not None:
            self._by_ticket.pop(exchange.ticket, None)
            self._effects.append(Finish(exchange.ticket, outcome))
            exchange.ticket = None

    def _finish(self, exchange: _Exchange, outcome: Outcome) -> None:
        self._tell(exchange, outcome)
        self._free(exchange)

    def _free(self, exchange: _Exchange) -> None:
        self._by_reqid.pop(exchange.reqid, None)
        if exchange.crypt is not None or exchange.plain is not None:
            self._close(exchange.crypt)
            self._close(exchange.plain)
            exchange.crypt = exchange.plain = None

    def _give_up(self, exchange: _Exchange) -> None:
        """Let go of an exchange whose ticket is finished, so that the pool ends it soon."""
        if exchange.callback is not None:
            self._effects.append(Send(refusal(exchange.callback, errno.ECANCELED)))
        if exchange.crypt is not None:
            self._effects.append(Shut(exchange.crypt))
        self._close(exchange.crypt)
        self._close(exchange.plain)
        exchange.crypt = exchange.plain = exchange.callback = exchange.established = None
        exchange.state = State.EXPECT_LAST

    def _close(self, fd: OwnedFd | None) -> None:
        if fd is not None:
            self._effects.append(Close(fd))

    def _end(self, kind: type[PoolError], reason: str, *, broken: bool = False) -> None:
        if self._over:
            return
        self._over = True
        for exchange in list(self._by_reqid.values()):
            if exchange.crypt is not None:
                self._effects.append(Shut(exchange.crypt))  # a pool that lives on must not go on with it
            self._finish(exchange, kind(reason))
        if broken:
            self._effects.append(Break(kind(reason)))

    def _forked(self) -> None:
        """Let go of the copies that fork(2) made.  The parent goes on, so nothing is shut down or said."""
        self._over = True
        for exchange in list(self._by_reqid.values()):
            self._finish(exchange, PoolUnavailable("the process was forked while the pool was being asked"))

    # --- time -----------------------------------------------------------------------------------------

    def _time_passed(self, now_s: float) -> None:
        pinged = any(exchange.state is State.EXPECT_PONG for exchange in self._by_reqid.values())
        for exchange in list(self._by_reqid.values()):
            if exchange.ticket is None or exchange.state is State.EXPECT_ANSWER:
                continue
            silent_s = now_s - max(self._heard_s, exchange.said_s)
            if exchange.patience_s is not None and now_s - exchange.said_s >= exchange.patience_s:
                self._tell(exchange, Timeout("the pool did not answer in time"))
                self._give_up(exchange)
            elif silent_s >= DEAF_S:
                self._tell(exchange, PoolUnavailable(f"the pool has said nothing for {silent_s:.0f} s"))
                self._give_up(exchange)
            elif silent_s >= SILENCE_S and not pinged and (reqid := self._free_reqid()) is not None:
                pinged = True
                self._by_reqid[reqid] = _Exchange(reqid, None, State.EXPECT_PONG)
                self._say(self._by_reqid[reqid], now_s, Cmd.PING, Ping(facilities=0).to_payload())
