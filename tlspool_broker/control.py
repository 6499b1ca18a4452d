"""What the broker answers on its control socket: how it is, its sessions and workers, and the databases.

    status                  how the broker is
    sessions                every session that is not over
    workers                 every worker, as the broker sees it
    kill ID                 end a session; field: session
    help                    these words
    localid.set ...         the databases: admin.py

An operator who may connect may do all of this: the mode of the socket decides.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tlspool_broker import admin
from tlspool_broker.core import BrokerCore
from tlspool_broker.databases import Databases
from tlspool_broker.events import Event, KillAsked, SessionId
from tlspool_common import grants
from tlspool_common.control import Answer, Request
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.messages import PROTOCOL
from tlspool_common.settings import Settings


class Control:
    """The commands."""

    def __init__(
        self,
        core: BrokerCore,
        databases: Databases,
        settings: Settings,
        happened: Callable[[Event], None],
        log: Log,
        sockets: Sequence[str] = (),
    ) -> None:
        """``sockets`` are the paths that applications connect to."""
        self._core = core
        self._databases = databases
        self._settings = settings
        self._happened = happened
        self._log = log
        self._sockets = sockets
        self._started_ms = grants.now_ms()
        self._commands: dict[str, Callable[[Request], Answer]] = {
            "status": self._status,
            "sessions": self._sessions,
            "workers": self._workers,
            "kill": self._kill,
            "help": self._help,
        }

    def handle(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            PoolError: the command or a field is wrong, or the databases refuse.
        """
        name = str(request.get("cmd"))
        command = self._commands.get(name)
        if command is not None:
            return command(request)
        if name in admin.COMMANDS:
            return self._database(name, request)
        raise PoolError(Code.COMMAND_UNKNOWN, f"{name!r}; try: help")

    def _status(self, _request: Request) -> Answer:
        states = Counter(session.state.name.lower() for session in self._core.sessions)
        return {
            "pid": os.getpid(),
            "uptime_s": round((grants.now_ms() - self._started_ms) / 1000, 1),
            "protocol": PROTOCOL,
            "keyd": self._core.keyd.present,
            "master": self._core.workers.has_master,
            "workers": len(self._core.workers),
            "spares": self._core.workers.spares,
            "isolation": self._settings.isolation,
            "connections": len(self._core.connections),
            "sockets": [_socket_row(path) for path in self._sockets],
            "access": self._core.access.rows(),
            "choosers": self._core.chooser.describe(),
            "sessions": len(self._core.sessions),
            "states": dict(states),
            "generation": self._databases.generation,
            "trust_generation": self._databases.trust_generation,
        }

    def _sessions(self, _request: Request) -> Answer:
        now_ms = grants.now_ms()
        return {"sessions": [session.row(now_ms) for session in self._core.sessions]}

    def _workers(self, _request: Request) -> Answer:
        now_ms = grants.now_ms()
        return {"workers": [worker.row(now_ms) for worker in self._core.workers]}

    def _kill(self, request: Request) -> Answer:
        value = request.get("session")
        args = request.get("args")
        if value is None and isinstance(args, list) and args:
            value = args[0]
        text = str(value)
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise PoolError(Code.FIELD_MALFORMED, "name a session by its number: kill 17")
        session_id = SessionId(int(text))
        if self._core.sessions.get(session_id) is None:
            raise PoolError(Code.SESSION_UNKNOWN, text)
        self._log.info("session.kill", session=session_id, author=_author(request))
        self._happened(KillAsked(session_id))
        return {"session": session_id}

    def _help(self, _request: Request) -> Answer:
        return {"commands": [*self._commands, *admin.COMMANDS]}

    def _database(self, name: str, request: Request) -> Answer:
        before = self._databases.generation
        answer = admin.handle(self._databases, request)
        if self._databases.generation != before:
            what = next((str(answer[key]) for key in ("id", "selector", "key", "keys") if key in answer), "")
            generation = self._databases.generation
            self._log.info("database.changed", cmd=name, what=what, author=_author(request), generation=generation)
        return answer


def _socket_row(path: str) -> dict[str, object]:
    """Return an application socket as the file system has it."""
    try:
        found = Path(path).stat()
    except OSError as error:
        return {"path": path, "error": error.strerror}
    return {"path": path, "mode": f"{found.st_mode & 0o7777:04o}", "uid": found.st_uid, "gid": found.st_gid}


def _author(request: Request) -> str:
    """Return who an operator's program says it acts for; nothing but the log believes it."""
    return str(request.get("author", ""))[:100]
