"""The options that say what precedes TLS."""

from __future__ import annotations

import argparse
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from tlspool_admin import endpoints
from tlspool_admin.endpoints import Endpoint
from tlspool_admin.preambles import PROTOCOLS
from tlspool_admin.preambles.via import WAYS, Target
from tlspool_admin.preambles.whole import Preamble
from tlspool_admin.talk import TALK_S
from tlspool_common.identity import parse_untrusted

_PASSWORD_B = 255
"""What SOCKS has a length for (RFC 1929)."""


def add_options(parser: argparse.ArgumentParser, *, server: bool, client: bool) -> None:
    """Add them, as far as they make sense for a side."""
    parser.add_argument(
        "--protocol",
        choices=sorted(PROTOCOLS),
        help="agree on TLS in plaintext first, as this protocol does (default: TLS begins at once)",
    )
    parser.add_argument(
        "--protocol-timeout",
        metavar="S",
        type=float,
        default=TALK_S,
        help="for all that is said before TLS (default: %(default)s)",
    )
    if server:
        parser.add_argument(
            "--accept-proxy", action="store_true", help="what is accepted begins with a PROXY header, of version 1 or 2"
        )
    if client:
        parser.add_argument("--via", metavar="URL", default="", help="connect through http://H:P or socks5://H:P")
        parser.add_argument(
            "--via-password-file", metavar="FILE", type=Path, help="password for the user in --via http://USER@H:P"
        )


def add_send_proxy(parser: argparse.ArgumentParser) -> None:
    """Add ``--send-proxy``, for what has somewhere to send it."""
    parser.add_argument(
        "--send-proxy",
        choices=("v1", "v2"),
        default="",
        help="tell where connections come from in a PROXY header; to a backend v2 tells who the remote is, too",
    )


def preamble_of(args: argparse.Namespace, identity: str, *, is_server: bool) -> Preamble:
    """Return what precedes TLS; ``identity`` is that of the TLS server.

    Raises:
        ValueError: an option cannot be.
    """
    if args.protocol_timeout <= 0:
        raise ValueError("--protocol-timeout must be above 0")
    via = getattr(args, "via", "")
    return Preamble(
        is_server=is_server,
        domain=parse_untrusted(identity).domain if identity else "",
        protocol=PROTOCOLS[args.protocol] if args.protocol else None,
        via=_way(args)[1] if via else None,
        accept_proxy=getattr(args, "accept_proxy", False),
        send_proxy=getattr(args, "send_proxy", ""),
    )


def targets_of(args: argparse.Namespace) -> Sequence[Endpoint]:
    """Return where to connect to: ``--connect``, or the proxy of ``--via``, which connects further.

    Raises:
        ValueError: it is no address, or the name is not known.
    """
    return endpoints.resolve(_way(args)[0] if getattr(args, "via", "") else args.connect)


def _way(args: argparse.Namespace) -> tuple[str, tuple[str, Target]]:
    """Return the address of the proxy, and what it is to be asked.

    Raises:
        ValueError: it cannot be.
    """
    url = urllib.parse.urlsplit(args.via)
    if url.scheme not in WAYS or url.path not in ("", "/") or url.query or url.fragment or url.password is not None:
        raise ValueError("--via is http://[USER@]H:P or socks5://[USER@]H:P; a password is taken from a file")
    host, colon, port = args.connect.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or "/" in args.connect or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{args.connect!r} is not HOST:PORT, which a proxy needs")
    if not all(letter.isalnum() or letter in "-._:" for letter in host) or len(host) > 253:
        raise ValueError(f"{host!r} is no name of a host")
    user = urllib.parse.unquote(url.username or "")
    password_secret = ""
    if args.via_password_file is not None:
        password_secret = args.via_password_file.read_text().rstrip("\r\n")
    if (
        len(user.encode()) > _PASSWORD_B
        or len(password_secret.encode()) > _PASSWORD_B
        or not (user + "x").isprintable()
    ):
        raise ValueError("user and password for --via have at most 255 bytes")
    proxy = url.netloc.rpartition("@")[2]
    return proxy, (url.scheme, Target(host, int(port), user, password_secret))
