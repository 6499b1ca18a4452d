"""A conversation before TLS and its two sockets: moves bytes, as far as they can be moved without waiting.

The sockets are other people's: whether they block is left as it is, as the flag belongs to all who share a socket.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping

from tlspool_admin.preambles.script import Dialogue, Effect, Ended, Fail, Received, Say, Secure, Side, TimedOut

TALK_S = 30.0
"""For all that is said before TLS.  Sendmail and Postfix hold their greetings back for 5 s, to expose those who do not
wait; a mail server that looks up names for it has 10 s.  What a user types by hand is not waited for."""

Outcome = Secure | Fail


class Talk:
    """A dialogue under way.

    Attributes:
        deadline_s: when it has taken too long, by the monotonic clock.
    """

    def __init__(self, dialogue: Dialogue, socks: Mapping[Side, socket.socket], time_s: float = TALK_S) -> None:
        self.deadline_s = time.monotonic() + time_s
        self._dialogue = dialogue
        self._socks = dict(socks)
        self._unsent = {side: bytearray() for side in socks}
        self._outcome: Outcome | None = None
        self._act(dialogue.start())

    @property
    def interests(self) -> dict[int, int]:
        """What to wait for, by descriptor: EPOLLIN or EPOLLOUT."""
        waits = {self._socks[side].fileno(): select.EPOLLOUT for side, data in self._unsent.items() if data}
        wants = self._dialogue.wants
        if not waits and wants is not None:
            waits[self._socks[wants[0]].fileno()] = select.EPOLLIN
        return waits

    def step(self) -> Outcome | None:
        """Move what can be moved; return how it ended, when it has."""
        while self._flush():
            wants = self._dialogue.wants
            if wants is None:
                return self._outcome
            side, size_b = wants
            try:
                data = self._socks[side].recv(size_b, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                self._act(self._dialogue.handle(Ended(side, f"is gone: {error.strerror}")))
                continue
            self._act(self._dialogue.handle(Received(side, data) if data else Ended(side)))
        return None if self._outcome is None or isinstance(self._outcome, Secure) else self._outcome

    def time_out(self) -> Outcome:
        """End it: it has taken too long.  What was agreed on, and could not be said, does not count."""
        self._act(self._dialogue.handle(TimedOut()))
        if isinstance(self._outcome, Fail):
            return self._outcome
        return Fail(Side.CRYPT, f"{self._dialogue.names[Side.CRYPT]} does not read what it is told")

    def _act(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Say):
                self._unsent[effect.side] += effect.data
            else:
                self._outcome = effect

    def _flush(self) -> bool:
        """Send; return whether nothing is left."""
        for side, data in self._unsent.items():
            while data:
                try:
                    sent = self._socks[side].send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    break
                except OSError as error:
                    data.clear()
                    if not isinstance(self._outcome, Fail):
                        self._outcome = None
                        self._act(self._dialogue.handle(Ended(side, f"is gone: {error.strerror}")))
                        self._outcome = self._outcome or Fail(side, f"{self._dialogue.names[side]} is gone")
                    break
                del data[:sent]
        return not any(self._unsent.values())


def converse(talk: Talk) -> Outcome:
    """Wait for the end of a conversation, at most until its deadline."""
    with select.epoll() as epoll:
        while (outcome := talk.step()) is None:
            left_s = talk.deadline_s - time.monotonic()
            if left_s <= 0:
                return talk.time_out()
            interests = talk.interests
            for fd, events in interests.items():
                epoll.register(fd, events)
            epoll.poll(left_s)
            for fd in interests:
                epoll.unregister(fd)
    return outcome
