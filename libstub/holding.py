"""What is held for a STARTTLS under way: descriptors, and what the application says about who it is."""

from __future__ import annotations

import socket
from collections.abc import Callable

from libstub.errors import Misuse, PoolUnavailable
from libstub.events import AskLocalid, LocalidChosen
from tlspool_common.appwire import BadPayload, Starttls
from tlspool_common.fd import OwnedFd

OnLocalid = Callable[[str], "str | socket.socket | None"]
"""Says who we are.  It gets the identity that the pool proposes, '' if it has none to propose, and returns

* the same to accept it, or another one that the pool has;
* None for: not this one.  The pool may propose another, else the session fails;
* a connected socket for the plaintext, which accepts what was proposed.
"""


def checked_localid(text: str) -> str:
    """Accept a text that fits the field.

    Raises:
        Misuse: it does not.
    """
    try:
        Starttls(localid=text).to_payload()
    except BadPayload as error:
        raise Misuse(f"{error}") from None
    return text


class Holding:
    """The descriptors of one STARTTLS.

    Attributes:
        given: the application's socket for the plaintext, until the pool has it.
        ours: our end of a socket pair, if we made one.
        early: the pool has a socket for the plaintext from ``on_localid``.
        trouble: why the pool does not get what it asks for; it says more than the pool's own error.
    """

    __slots__ = ("crypt", "early", "given", "on_localid", "ours", "trouble")

    def __init__(
        self, crypt: OwnedFd | None = None, given: OwnedFd | None = None, on_localid: OnLocalid | None = None
    ) -> None:
        self.crypt = crypt
        self.given = given
        self.on_localid = on_localid
        self.early = False
        self.ours: socket.socket | None = None
        self.trouble: Exception | None = None

    def take_crypt(self) -> OwnedFd:
        """Hand over the encrypted socket; who has it closes it."""
        crypt, self.crypt = self.crypt, None
        if crypt is None:
            raise TypeError("there is no encrypted socket to hand over")
        return crypt

    def take_plain(self) -> OwnedFd | None:
        """Return the descriptor that the pool is to have, None if there is none."""
        given, self.given = self.given, None
        if given is not None:
            return given
        if self.ours is not None:
            self.trouble = self.trouble or PoolUnavailable("the pool asked for the plaintext descriptor twice")
            return None
        try:
            self.ours, theirs = socket.socketpair()
        except OSError as error:
            self.trouble = PoolUnavailable(f"no descriptors for the plaintext: {error.strerror}")
            return None
        return OwnedFd(theirs.detach())

    def decide(self, question: AskLocalid) -> LocalidChosen:
        """Let the application say who we are.

        Raises:
            Misuse: it said what cannot be; and whatever the application raises.
        """
        answer = self.on_localid(question.localid) if self.on_localid is not None else None
        if answer is None or isinstance(answer, str):
            return LocalidChosen(question.ticket, checked_localid(answer or ""))
        if not isinstance(answer, socket.socket):
            raise Misuse(f"on_localid returns an identity, a connected socket or None, not {type(answer).__name__}")
        plain = OwnedFd(answer.detach())
        if self.given is not None:
            plain.close()
            raise Misuse("on_localid returned a socket for the plaintext, and plain was given too")
        self.early = True
        return LocalidChosen(question.ticket, question.localid, plain)

    def drop(self) -> None:
        """Close what is held for a session that is not to be."""
        for held in (self.crypt, self.given, self.ours):
            if held is not None:
                held.close()

    def is_served(self, plain: OwnedFd | None) -> bool:
        """Tell whether the pool has asked for the plaintext socket, as it must before there is a session."""
        return self.given is None and (plain is not None or self.early or self.ours is not None)
