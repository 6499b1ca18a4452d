"""What the broker answers on its control socket: how it is, its sessions and workers, and the databases.

    status                  how the broker is
    sessions [WORD=VALUE]   sessions that are not over; views.py has the words
    session ID              everything about one session
    workers                 every worker, as the broker sees it
    callers                 who uses the pool, and how much
    grants                  how many signatures were permitted
    loads                   what happened in the last minute, and how late the loop is
    kill ID                 end a session; or several, by WORD=VALUE; or all
    drain                   take no new sessions; drain off takes them again; drain worker ID lets one worker finish
    resume                  the same as drain off
    explain [SESSION|last]  why a session was accepted or refused; explain list [N] has the last ones
    explain.dry             whether a remote would be accepted; for programs (dryrun.py)
    radius ...              the RADIUS servers, and what waits for them (radius_control.py)
    metrics                 the broker's numbers, as OpenMetrics text (docs/metrics.md)
    config                  the settings in force, and where each comes from
    reload                  read the configuration again: all of it, or nothing
    help                    these words
    localid.set ...         the databases: admin/

A change of the databases is answered when it is durable, and when keyd has said, or does not say, whether the
private keys exist; nothing waits for that but who asked.

An operator who may connect may do all of this: the mode of the socket decides.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tlspool_broker import admin, dryrun, explain
from tlspool_broker.admin import keys
from tlspool_broker.admin.fields import asker, author
from tlspool_broker.core import BrokerCore
from tlspool_broker.databases import Databases
from tlspool_broker.events import DrainAsked, Event, FinishAsked, KillAsked, SessionId
from tlspool_broker.keyquestions import KeyQuestions
from tlspool_broker.loads import Loads
from tlspool_broker.radius_control import RadiusControl
from tlspool_broker.views import Views, in_flight, number_untrusted, states
from tlspool_common import grants, sandbox
from tlspool_common.auditor import Auditor
from tlspool_common.control import Answer, Request
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.messages import PROTOCOL
from tlspool_common.reloading import Reloading
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
        reloading: Reloading | None = None,
        questions: KeyQuestions | None = None,
        metrics: Callable[[], str] | None = None,
        auditor: Auditor | None = None,
        loads: Loads | None = None,
        radius: RadiusControl | None = None,
    ) -> None:
        """``sockets`` are the paths that applications connect to; ``metrics`` returns the numbers as text."""
        self._auditor = auditor
        self._core = core
        self._databases = databases
        self._settings = settings
        self._happened = happened
        self._log = log
        self._sockets = sockets
        self._questions = questions
        self._started_ms = grants.now_ms()
        self._loads = Loads() if loads is None else loads
        self._views = Views(core, happened, self._loads)
        self._commands: dict[str, Callable[[Request], Answer]] = {
            "status": self._status,
            "session": self._views.session,
            "workers": self._workers,
            "grants": self._views.grants,
            "loads": self._views.loads,
            "drain": self._drain,
            "resume": lambda request: self._drain({**request, "args": ["off"]}),
            "explain": self._explain,
            "explain.dry": self._explain_dry,
            "help": self._help,
        }
        self._slow: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "sessions": self._views.sessions,
            "callers": self._views.callers,
            "kill": self._kill,
            **({} if radius is None else radius.commands),
        }
        if metrics is not None:
            self._commands["metrics"] = lambda _request: {"text": metrics()}
        if reloading is not None:
            self._commands["config"] = lambda _request: reloading.describe()
            self._commands["reload"] = lambda _request: reloading.reload()

    def handle(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer a request, at once or later.

        Raises:
            PoolError: the command or a field is wrong, or the databases refuse.
        """
        name = str(request.get("cmd"))
        command = self._commands.get(name)
        if command is not None:
            return command(request)
        if name in self._slow:
            return self._slow[name](request)
        if name in admin.WRITES:
            return self._change(name, request)
        if name in admin.COMMANDS:
            return admin.handle(self._databases, request)
        raise PoolError(Code.COMMAND_UNKNOWN, f"{name!r}; try: help")

    def _status(self, _request: Request) -> Answer:
        counts = states(self._core)
        return {
            "pid": os.getpid(),
            "uptime_s": round((grants.now_ms() - self._started_ms) / 1000, 1),
            "protocol": PROTOCOL,
            "sandbox": sandbox.in_force(),
            "keyd": self._core.keyd.present,
            "master": self._core.workers.has_master,
            "workers": len(self._core.workers),
            "spares": self._core.workers.spares,
            "isolation": self._settings.isolation,
            "connections": len(self._core.connections),
            "sockets": [_socket_row(path) for path in self._sockets],
            "access": self._core.access.rows(),
            "choosers": self._core.chooser.describe(),
            "limits": self._core.quotas.rows(),
            "quotas": self._core.quotas.callers(),
            "helper": self._core.online.describe(),
            "radius": {**self._core.radius.describe(), "rules": self._core.radius_policy.rows()},
            "aaa": self._core.aaa.describe(),
            "sessions": len(self._core.sessions),
            "draining": self._core.sessions.room.draining,
            "states": {state.name.lower(): number for state, number in counts.items()},
            "in_flight": in_flight(counts),
            "lag_ms": self._loads.describe()["lag_ms"],
            "generation": self._databases.generation,
            "trust_generation": self._databases.trust_generation,
            **({"audit": self._auditor.describe()} if self._auditor is not None else {}),
        }

    def _workers(self, _request: Request) -> Answer:
        now_ms = grants.now_ms()
        return {"workers": [worker.row(now_ms) for worker in self._core.workers]}

    async def _kill(self, request: Request) -> Answer:
        value, args = request.get("session"), request.get("args")
        if value is None and isinstance(args, list) and args and "=" not in str(args[0]) and args != ["all"]:
            value = args[0]
        if value is None:
            picked, count = await self._views.kill_matching(request)
            self._log.info(
                "sessions.kill", which=str(picked), sessions=count, uid=asker(request), author=author(request)
            )
            return {"sessions": count}
        session_id = SessionId(number_untrusted(str(value), "name a session by its number: kill 17"))
        if self._core.sessions.get(session_id) is None:
            raise PoolError(Code.SESSION_UNKNOWN, str(session_id))
        self._log.info("session.kill", session=session_id, uid=asker(request), author=author(request))
        self._happened(KillAsked(session_id))
        return {"session": session_id}

    def _drain(self, request: Request) -> Answer:
        args = request.get("args")
        words = [str(word) for word in args] if isinstance(args, list) else []
        if not words:
            words = ["worker", str(request["worker"])] if "worker" in request else [str(request.get("state", "on"))]
        match words:
            case ["on" | "off" as state]:
                self._log.info("pool.drain", state=state, uid=asker(request), author=author(request))
                self._happened(DrainAsked(state == "on"))
            case ["worker", number]:
                worker_id = number_untrusted(number, "name a worker by its number: drain worker 4711")
                if self._core.workers.by_id(worker_id) is None:
                    raise PoolError(Code.FIELD_MALFORMED, f"there is no worker {worker_id}; tlspool workers lists them")
                self._log.info("worker.drain", worker=worker_id, uid=asker(request), author=author(request))
                self._happened(FinishAsked(worker_id))
            case _:
                raise PoolError(Code.FIELD_MALFORMED, "drain, drain off, or drain worker 4711")
        return {"draining": self._core.sessions.room.draining, "sessions": len(self._core.sessions)}

    def _explain(self, request: Request) -> Answer:
        args = request.get("args")
        words = [str(word) for word in args] if isinstance(args, list) else []
        if "session" in request:
            words = [str(request["session"])]
        which = words[0] if words else "last"
        if which == "list":
            count = words[1] if len(words) > 1 else str(request.get("count", explain.LISTED))
            return {"accounts": self._core.explain.listed(number_untrusted(count, "name how many: explain list 100"))}
        number = (
            None if which == "last" else number_untrusted(which, "name a session by its number, or last: explain 17")
        )
        return self._core.explain.get(number).as_json()

    def _explain_dry(self, request: Request) -> Answer:
        core = self._core
        return dryrun.run(core.judging, core.snapshots, request, core.unix_time_s()).as_json()

    def _help(self, _request: Request) -> Answer:
        return {"commands": [*self._commands, *self._slow, *admin.COMMANDS]}

    async def _change(self, name: str, request: Request) -> Answer:
        loop = asyncio.get_running_loop()
        if self._auditor is not None:
            self._auditor.check()
        # Reading thousands of certificates takes a while, and needs nothing of the loop's.
        work, wanted = await loop.run_in_executor(None, admin.prepare, request)
        told = {}
        if wanted and self._questions is not None and self._core.keyd.present:
            told = await self._questions.ask(one.uri for one in wanted)
        warnings = keys.judge(wanted, told)
        before, uid = self._databases.generation, asker(request)
        answer = admin.apply(self._databases, request, work, uid=uid, durable=False)
        generation = self._databases.generation
        await loop.run_in_executor(None, self._databases.sync)
        if generation != before:
            what = next((str(answer[key]) for key in ("id", "selector", "remote", "key", "keys") if key in answer), "")
            acting = author(request)
            self._log.info("database.changed", cmd=name, what=what, uid=uid, author=acting, generation=generation)
        if not warnings:
            return answer
        others = answer.get("warnings")
        return {**answer, "warnings": [*warnings, *(others if isinstance(others, list) else [])]}


def _socket_row(path: str) -> dict[str, object]:
    """Return an application socket as the file system has it."""
    try:
        found = Path(path).stat()
    except OSError as error:
        return {"path": path, "error": error.strerror}
    return {"path": path, "mode": f"{found.st_mode & 0o7777:04o}", "uid": found.st_uid, "gid": found.st_gid}
