"""Where the pool's socket is: argument, ``TLSPOOL_SOCKET``, configuration file, default.

The configuration file is the pool's own: the one named by ``TLSPOOL_CONFIG_FILE``, else /etc/tlspool.conf.
Of its lines ``keyword value`` only ``socket_name`` counts here, and ``run_dir``, whose tlspool.sock is meant
where there is no ``socket_name``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from libstub.errors import Misuse

DEFAULT_SOCKET = "/run/tlspool/tlspool.sock"
DEFAULT_CONFIG = "/etc/tlspool.conf"

SUN_PATH_B = 107
"""Longest path of a UNIX socket: sun_path has 108 bytes with NUL (unix(7))."""

_CONFIG_B = 1024 * 1024
"""More than this is no configuration; the pool stops there too."""


def socket_name_untrusted(text: str) -> str | None:
    """Return the socket that a configuration names, None if it names none.  Other lines may be anything."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        keyword, _, value = line.partition(" ")
        if keyword == "socket_name" and keyword in found:
            continue  # of several sockets the first, as the C library does it
        if keyword in ("socket_name", "run_dir") and value.strip().startswith("/"):
            found[keyword] = value.strip()
    if "socket_name" in found:
        return found["socket_name"]
    return f"{found['run_dir']}/tlspool.sock" if "run_dir" in found else None


def _configured(environment: Mapping[str, str]) -> str | None:
    named = environment.get("TLSPOOL_CONFIG_FILE", "")
    try:
        with Path(named or DEFAULT_CONFIG).open("rb") as file:
            data = file.read(_CONFIG_B)
    except OSError as error:
        if named:
            raise Misuse(f"TLSPOOL_CONFIG_FILE={named!r} cannot be read: {error.strerror}") from None
        return None  # most hosts have none, or one that applications need not read
    return socket_name_untrusted(data.decode("utf-8", "replace"))


def socket_path(path: str | os.PathLike[str] | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Return the path of the pool's socket.

    Raises:
        Misuse: the file named by TLSPOOL_CONFIG_FILE cannot be read, or the path cannot be a socket's.
    """
    environment = os.environ if environment is None else environment
    found = os.fspath(path) if path else environment.get("TLSPOOL_SOCKET") or _configured(environment)
    found = found or DEFAULT_SOCKET
    if len(os.fsencode(found)) > SUN_PATH_B or "\0" in found:
        raise Misuse(f"{found!r} cannot be the path of a socket: at most {SUN_PATH_B} bytes")
    return found
