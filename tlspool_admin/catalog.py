"""The commands by name, and where each is; nothing of a command is imported before somebody asks for it.

``tlspool status`` is one request to three sockets and should take no longer: importing every command costs
four times as much as that.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Container
from typing import NamedTuple


class Entry(NamedTuple):
    """A command: the module in ``tlspool_admin.commands`` whose ``add_parser`` adds it, and its line of help."""

    name: str
    module: str
    help: str


CATALOG = (
    Entry("localid", "localid", "local identities, their certificates and keys"),
    Entry("disclose", "disclose", "which local identities a remote may see"),
    Entry("trust", "trust", "whom we believe: anchors, pins, revocations"),
    Entry("policy", "policy", "named crypto policies, and who has which"),
    Entry("history", "history", "what was changed, when, by whom and why"),
    Entry("diff", "history", "what is different between two generations"),
    Entry("rollback", "history", "make the databases what they were"),
    Entry("config", "config", "settings in effect, and where each comes from"),
    Entry("check", "config", "read a configuration without applying it"),
    Entry("reload", "config", "have the daemons read their configuration again"),
    Entry("status", "status", "say whether the pool is fine, degraded or down"),
    Entry("top", "top", "watch sessions, callers, workers and tokens live"),
    Entry("sessions", "sessions", "list the sessions of the pool, show or end one"),
    Entry("kill", "sessions", "end sessions: some, those of a caller or remote, or all"),
    Entry("callers", "daemons", "list who uses the pool, and how much"),
    Entry("workers", "daemons", "list the worker processes"),
    Entry("loads", "daemons", "rates and delays of the last minute"),
    Entry("keys", "keys", "list the private keys; lock and unlock tokens"),
    Entry("drain", "drain", "refuse new sessions, and let the others end"),
    Entry("resume", "drain", "take new sessions again"),
    Entry("explain", "explain", "why was a remote accepted or refused, or would it be"),
    Entry("radius", "radius", "the RADIUS servers: how they are, what they say, what waits for them"),
    Entry("audit", "audit", "whether the audit trails are whole, and what is in them"),
    Entry("metrics", "metrics", "the numbers of the daemons, for monitoring"),
    Entry("doctor", "doctor", "find what is wrong with an installation, and the remedy"),
    Entry("install-units", "install_units", "write systemd units for a pool in a virtual environment"),
    Entry("uninstall-units", "install_units", "remove what install-units has written"),
    Entry("dev", "dev", "run a complete pool in a directory, for development"),
    Entry("tunnel", "tunnel", "put TLS around the connections of other programs"),
    Entry("run", "run", "run a program with TLS as its input and output"),
    Entry("pin", "pin", "type the PINs that the pool needs"),
    Entry("choose", "choose", "choose the identities of clients"),
    Entry("completion", "completion", "print what a shell needs to complete this command"),
)


def help_of(name: str) -> str:
    """Return the line of help of a command."""
    return next(entry.help for entry in CATALOG if entry.name == name)


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], wanted: Container[str] | None) -> None:
    """Add the parsers of the commands wanted (None: all), and for the others only their lines of help."""
    modules = {entry.module for entry in CATALOG if wanted is None or entry.name in wanted}
    done = set()
    for entry in CATALOG:
        if entry.module not in modules:
            subparsers.add_parser(entry.name, help=entry.help)
        elif entry.module not in done:
            done.add(entry.module)
            module = importlib.import_module(f"tlspool_admin.commands.{entry.module}")
            module.add_parser(subparsers)
