"""What a protocol with STARTTLS must be able to do."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar

from tlspool_admin.preambles.script import Script

OWN_NAME = "localhost"
"""How we introduce ourselves in plaintext.  The name proves nothing and is forgotten once there is TLS; the true
one would tell everybody on the way who we are."""


@dataclass(slots=True)
class Names:
    """What a script may say about the two ends.

    Attributes:
        domain: of the TLS server: as client the one that is wanted, as server our own.
        nonce: text that nobody can guess, for protocols that number their streams.
    """

    domain: str
    nonce: str = "0"


class Protocol(abc.ABC):
    """A protocol that begins in plaintext.

    Both scripts end when CRYPT waits for TLS.  What they return is the opening: what PLAIN is told once the remote
    has proved who it is.  Servers greet only once, in plaintext, while the application still needs a greeting: the
    client's script makes one up, as nothing that was learned before TLS may be used afterwards (RFC 3207 section
    4.2).  So it holds no extensions; the application asks for them, and gets the true ones.

    Attributes:
        name: as in ``--protocol``.
        asks_backend: the server's script speaks with PLAIN, too.
    """

    name: ClassVar[str]
    asks_backend: ClassVar[bool] = False

    @abc.abstractmethod
    def client(self, names: Names) -> Script:
        """Bring a server to the point where it expects TLS."""

    @abc.abstractmethod
    def server(self, names: Names) -> Script:
        """Serve a client until it asks for TLS."""
