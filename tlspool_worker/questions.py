"""Questions to sessions that relay, and what a remote asks them: the loop's side of facts.py and reauth.py.

    AskExport, AskFact   relay.hold: answered at once
    AskTraffic           relay.traffic: answered at once
    AskRemote            relay.hold: OpenSSL sends a request; the client answers later, or never
    Stream.waits         relay.asked -> core -> broker -> core -> a thread of handshakes.py -> relay.go_on

An answer of a client is noticed inside OpenSSL, maybe in the thread of a relay, so it is only noted there, and
read in the next turn of the loop.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.identity import parse_untrusted
from tlspool_common.messages import (
    AskExport,
    AskFact,
    AskRemote,
    AskTraffic,
    Message,
    RemoteAuth,
    Side,
    StartSession,
    Told,
    UseCredential,
)
from tlspool_worker import facts, reauth, verify
from tlspool_worker.contexts import Contexts, fitting
from tlspool_worker.reauth import Answering
from tlspool_worker.relay import Relay
from tlspool_worker.tls import Stream, clear_errors
from tlspool_worker.trust import Generation

_TLS13 = 0x0304


class _Asking:
    """A client that was asked and has not answered yet."""

    __slots__ = ("check", "era", "question", "ssl")

    def __init__(self, check: verify.Check, question: int, ssl: object, era: int) -> None:
        self.check = check
        self.question = question
        self.ssl = ssl
        self.era = era


class Questions:
    """What is asked of relays, and by them.  Belongs to the loop's thread, but for ``_note``."""

    def __init__(self, relays: Mapping[int, Relay], contexts: Contexts, say: Callable[[Message], None]) -> None:
        self._relays = relays
        self._contexts = contexts
        self._answers = Contexts()  # apart, as they belong to no generation of anchors
        self._say_now = say
        self._era = 0
        self._asking: dict[int, _Asking] = {}
        self._answered: deque[int] = deque()
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor that is readable when clients have answered."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        for asking in self._asking.values():
            reauth.forget(asking.ssl)
        os.close(self._fd)

    def forget(self) -> None:
        """Tell nobody what was asked before now."""
        self._era += 1

    def _say(self, message: Message, era: int) -> None:
        if era == self._era:
            self._say_now(message)

    # --- the broker asks ------------------------------------------------------------------------------

    def ask(self, message: AskExport | AskFact | AskRemote | AskTraffic, trust: Generation | None) -> None:
        """Answer a question, now or when it can be answered; not at all when the session ends before."""
        relay, era = self._relays[message.session_id], self._era
        if isinstance(message, AskTraffic):
            traffic = relay.traffic()
            if traffic is not None:
                self._say(traffic, era)
        elif isinstance(message, AskRemote):
            if trust is None:
                raise AssertionError("a client is asked without anchors to judge it by")
            anchors = trust
            relay.hold(lambda stream: self._ask_remote(stream, message, anchors, era))
        else:
            relay.hold(lambda stream: self._tell(stream, message, era))

    def _tell(self, stream: Stream, message: AskExport | AskFact, era: int) -> None:
        code, value = Code.OK, b""
        try:
            if isinstance(message, AskExport):
                context = message.context if message.has_context else None
                value = facts.export(stream, message.label, context, message.size_b)
            else:
                value = facts.tell(stream, message.fact, message.name)
            if len(value) > limits.TOLD_B:
                code, value = Code.INFO_NOT_FOUND, b""  # too long for the application, too
        except PoolError as error:
            code = error.code
        clear_errors()
        self._say(Told(session_id=message.session_id, question=message.question, code=int(code), value=value), era)

    def _ask_remote(self, stream: Stream, message: AskRemote, trust: Generation, era: int) -> None:
        session_id = message.session_id
        try:
            if session_id in self._asking:
                raise PoolError(Code.REAUTH_BUSY, "the client was asked already, and has not answered")
            context = self._contexts.get(_start(Side.SERVER, message.sigalgs, trust), (), trust)
            expected = parse_untrusted(message.remote_name) if message.remote_name else None
            check = verify.Check(expected, message.domain_represents_user)
            reauth.ask(stream, context, check, lambda: self._note(session_id))
        except PoolError as error:
            clear_errors()
            self._say(reauth.not_asked(session_id, message.question, error), era)
            return
        self._asking[session_id] = _Asking(check, message.question, stream.ssl, era)

    def _note(self, session_id: int) -> None:
        """A client has answered.  Called from within OpenSSL."""
        self._answered.append(session_id)
        os.eventfd_write(self._fd, 1)

    def ready(self, _events: int) -> None:
        """Look at the answers."""
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:
            return
        while self._answered:
            session_id = self._answered.popleft()
            asking = self._asking.pop(session_id, None)
            relay = self._relays.get(session_id)
            if asking is not None and relay is not None:
                self._judge(relay, asking)

    def _judge(self, relay: Relay, asking: _Asking) -> None:
        def judge(stream: Stream) -> None:
            self._say(reauth.judge(stream, asking.check, relay.session_id, asking.question), asking.era)
            clear_errors()

        relay.hold(judge)

    def ended(self, session_id: int) -> None:
        """A relay is over."""
        asking = self._asking.pop(session_id, None)
        if asking is not None:
            reauth.forget(asking.ssl)

    # --- the remote asks ------------------------------------------------------------------------------

    def answering(
        self, session_id: int, credentials: tuple[UseCredential, ...], channel: OwnedFd | None, timeout_ms: int
    ) -> Answering:
        """Return the answer of a session that waits; it belongs in a thread."""
        chains = fitting(tuple((each.key_kind, each.chain) for each in credentials))
        usable = tuple(each for each in credentials if (each.key_kind, each.chain) in chains)
        none = Generation(0)
        nobody = self._answers.get(_start(Side.CLIENT, "", none), (), none)
        return Answering(self._relays[session_id].stream, nobody, usable, channel, timeout_ms)


def _start(side: Side, sigalgs: str, trust: Generation) -> StartSession:
    """Return what a context for after the handshake depends on: neither versions nor ciphers count any more."""
    return StartSession(
        session_id=0,
        side=side,
        remote_auth=RemoteAuth.REQUEST if side is Side.SERVER else RemoteAuth.IGNORE,
        trust_generation=trust.number,
        tls_min=_TLS13,
        tls_max=_TLS13,
        groups="",
        ciphers_tls12="",
        ciphersuites_tls13="",
        sigalgs=sigalgs,
        alpn=b"",
        sni="",
        remote_name="",
        domain_represents_user=False,
    )
