"""Start the broker.  The recipe, in its order:

1  read the whole configuration; with --check that is all
2  log, process title, umask, as many descriptors as we may have
3  start the process that does what cannot be done inside the sandbox (looker.py), while there is nothing it could keep;
   lock the directories: one broker for a run_dir, one for a database environment
4  open the databases, which recover if our predecessor crashed, the audit trail, and the port for who scrapes metrics
5  enter the sandbox
6  listen: for applications, for the other two daemons, for operators; at what systemd has passed, if it has
7  say READY
8  the loop, until SIGTERM or SIGINT
9  say STOPPING; sessions that are being set up end with an error, those that relay go on in the workers
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from pathlib import Path

import setproctitle

from tlspool_broker import looker, passed, scrape, start
from tlspool_broker.control import Control
from tlspool_broker.core import BrokerCore
from tlspool_broker.databases import Databases
from tlspool_broker.events import Began, Reconfigured, StopAsked
from tlspool_broker.lasting import in_directory
from tlspool_broker.listener import Listener
from tlspool_broker.radius_control import RadiusControl
from tlspool_broker.readings import readings
from tlspool_broker.shelf import InDirectory
from tlspool_broker.shell import Shell
from tlspool_broker.usernames import UserNames
from tlspool_broker.views import in_flight, states
from tlspool_common import command_line, control, limits, openmetrics, sandbox, sandbox_profiles, settings, systemd
from tlspool_common.auditor import Auditor
from tlspool_common.errors import PoolError
from tlspool_common.log import Log
from tlspool_common.metrics import Metrics
from tlspool_common.openmetrics import Samples
from tlspool_common.reloading import Reloading
from tlspool_common.settings import Part, SettingError, Settings
from tlspool_common.title import Title, count

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: systemd does not try again.  What another process is in the way of may pass: 1."""

_LAST_LOOKS, _LAST_LOOK_S = 50, 0.02
"""A second for others to read what we said last, when we end."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    return command_line.parser(Part.BROKER, "The broker of a TLS pool.", "only say whether the configuration is right")


def main(argv: list[str] | None = None) -> int:
    """Run the broker until it is told to end; return the exit status."""
    args = parser().parse_args(argv)
    try:
        config = settings.load(args.config, Part.BROKER)
        if args.check:
            return 0
        return _run(config, args.config)
    except PoolError as error:
        print(f"tlspool-broker: {error}", file=sys.stderr)  # noqa: T201 - there may be no log yet
        return EXIT_CONFIGURATION if isinstance(error, SettingError) else 1


def _run(config: Settings, path: Path) -> int:
    log, metrics = Log("broker", config.log_level), Metrics("B")
    log.readers.append(metrics.read)
    setproctitle.setproctitle("tlspool-broker: starting")
    os.umask(0o077)
    most_fds = start.raise_descriptor_limit()
    for warning in config.warnings:
        log.warning("setting.ignored", detail=warning)
    sandbox.check(config.sandbox)
    passed_fds = systemd.listen_fds()
    app_sockets = start.inherited_sockets(passed_fds)
    control_socket = systemd.listener(passed_fds, "broker")
    for fd in passed_fds.values():
        fd.close()
    start.make_run_dir(config.run_dir)
    directory_mode, _ = start.private_modes(config)
    with contextlib.ExitStack() as stack:
        if config.sandbox != sandbox.OFF:
            stack.enter_context(looker.started())
        stack.enter_context(start.lock(config.private_socket.parent, directory_mode))
        stack.enter_context(start.lock(config.dbenv_dir, 0o700))
        databases = Databases.from_settings(config, start.once(log))
        stack.callback(databases.close)
        auditor = Auditor(config, "broker", log, time.time)  # noqa: TID251 - a record says when
        stack.callback(auditor.close)
        scraped = scrape.listen(config)
        start.make_spool_dir(config)
        sandbox.enter(sandbox_profiles.broker(config, path), config.sandbox, log)
        asyncio.run(
            _serve(config, path, databases, app_sockets, control_socket, scraped, most_fds, log, metrics, auditor)
        )
    return 0


async def _serve(
    config: Settings,
    path: Path,
    databases: Databases,
    app_sockets: list[socket.socket],
    control_socket: socket.socket | None,
    scraped: socket.socket | None,
    most_fds: int,
    log: Log,
    metrics: Metrics,
    auditor: Auditor,
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    # Protocol V2 tells programs the UNIX time of a deadline; nothing is measured by it.
    lasting = in_directory(config.private_socket.parent)
    shelf = InDirectory(config.radius_spool_dir)
    core = BrokerCore(
        config,
        databases,
        secrets.token_bytes,
        time.time,  # noqa: TID251 - programs are told UNIX times
        lasting,
        auditor,
        UserNames(),
        shelf=shelf,
    )
    title = Title("tlspool-broker", lambda: _title(core, databases.generation))
    # Three of four descriptors for connections: sessions pass through, and the rest is files and channels.
    shell = Shell(core, config, passed.addresses_of(config), most_fds * 3 // 4, log, title.changed)
    loop.set_exception_handler(lambda _loop, context: shell.note_fault(context.get("exception"), "loop"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    radius_secrets = start.Secrets(config)
    start.warn_of_secrets(config, log)

    def adopt(newer: Settings) -> None:
        start.warn_of_secrets(newer, log)
        shell.happened(Reconfigured(newer, radius_secrets.changed(newer)))

    reloading = Reloading(path, config, log, adopt, lambda path: start.reload(path, config))
    loop.add_signal_handler(signal.SIGHUP, reloading.on_signal)

    control_path = config.run_dir / "broker.sock"
    # What systemd listens at stays when we end: who connects meanwhile is served by our successor.
    made = [config.private_socket, *([] if control_socket else [control_path])]
    for one in config.sockets if not app_sockets else ():
        app_sockets.append(control.bind(one.path, one.mode, owner=(one.uid, one.gid)))
        made.append(one.path)
    _, private_mode = start.private_modes(config)
    private_socket = control.bind(config.private_socket, private_mode, socket.SOCK_SEQPACKET)
    addresses = [str(sock.getsockname()) for sock in app_sockets]

    def samples() -> Samples:
        return metrics.samples([*readings(core, databases), *auditor.readings()])

    operators = Control(
        core,
        databases,
        config,
        shell.happened,
        log,
        addresses,
        reloading,
        shell.questions,
        lambda: openmetrics.write(samples()),
        auditor,
        shell.loads,
        RadiusControl(core, config, shell.radius_questions, log),
    )
    # They share our group for the sake of the private socket; that makes no operators of them.
    strangers = {config.worker_uid, config.keyd_uid} - {os.getuid()}
    server = await control.serve(
        control_path,
        operators.handle,
        strangers=strangers,
        stranger_pids=shell.borders.helper_pids,  # and ours: a hostile answer from the network must not rule the pool
        line_b=limits.REQUEST_B,
        passed=control_socket,
    )
    listeners = [
        *(Listener(sock, shell.applications.accepted, log) for sock in app_sockets),
        Listener(private_socket, shell.borders.accepted, log),
    ]
    scrapes = await scrape.serve(config, scraped, samples)
    keeping = asyncio.create_task(auditor.keep())
    log.info("broker.ready", socket=" ".join(addresses), generation=databases.generation, sandbox=sandbox.in_force())
    title.changed()
    shell.happened(Began())
    systemd.notify("READY=1")
    systemd.Heart().beat_on(loop)

    await stop.wait()

    systemd.notify("STOPPING=1")
    log.info("broker.stopping", sessions=len(core.sessions))
    for listener in listeners:
        listener.close()
    server.close()
    if scrapes is not None:
        scrapes.close()
    for path in made:
        path.unlink(missing_ok=True)
    shell.happened(StopAsked())
    for _ in range(_LAST_LOOKS):
        if shell.applications.has_queued or shell.borders.has_queued:
            await asyncio.sleep(_LAST_LOOK_S)
    title.close()
    shell.close()
    keeping.cancel()
    log.info("broker.stopped")


def _title(core: BrokerCore, generation: int) -> str:
    counts = states(core)
    return f"{count(counts.total(), 'session')}, {in_flight(counts)} being set up, generation {generation}"


if __name__ == "__main__":
    raise SystemExit(main())
