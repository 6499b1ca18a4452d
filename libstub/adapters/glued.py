"""What every STARTTLS client must make sure of: nothing that came in plaintext passes for what came over TLS."""

from __future__ import annotations

import io
import socket

from libstub.errors import HandshakeFailed


def refuse_glued(file: io.BufferedReader | None, sock: socket.socket) -> None:
    """Refuse to go on if the server has said more than its consent to STARTTLS.

    Whoever sits in the middle can put answers of his own behind it (CVE-2011-0411 is the same in servers).  A TLS
    server says nothing before its client does, so anything that can be read now is wrong.

    Raises:
        HandshakeFailed: there is more.
    """
    if file is None:
        return
    timeout_s = sock.gettimeout()
    sock.settimeout(0)
    try:
        glued = file.peek(1)
    finally:
        sock.settimeout(timeout_s)
    if glued:
        raise HandshakeFailed(
            f"{len(glued)} bytes came in plaintext before TLS had started, to pass for what comes over it: refused"
        )
