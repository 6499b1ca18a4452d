"""``tlspool-worker``: the worker master.  Its start-up, in order, and the reason for the order:

1. read the configuration               a wrong one is found before anything is opened
2. bring our OpenSSL provider in effect  executes this program once more; see provider.py
3. close what was inherited              workers hold their descriptors against a list; what systemd has kept of an
                                         earlier master is taken (keeping.py)
4. test the provider                     fail closed: without it no key can be used, and it would be silent
5. listen on worker.sock
6. enter the sandbox                     sandbox_profiles.master; a worker that is forked enters its own, without files
7. fork workers                          everything is imported by now, so that workers share it
8. say READY, look for the broker, serve

It runs as a user of its own, without capabilities.  It opens no file and no socket after step 6 but the one to the
broker, what /proc says of its workers, and the configuration when it is told to read it again (SIGHUP, or `reload` on
worker.sock).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tlspool_common import command_line, sandbox, sandbox_profiles, systemd
from tlspool_common import settings as config
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.log import Log
from tlspool_common.settings import Part
from tlspool_worker import provider
from tlspool_worker.exits import Exit


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    return command_line.parser(
        Part.WORKER,
        "The workers of a TLS pool, and their master.",
        "read the configuration, test the provider, and end",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, and return its exit code."""
    args = parser().parse_args(argv)
    log = Log("worker")
    try:
        settings = config.load(args.config, Part.WORKER)
        provider.ensure()
        passed = systemd.listen_fds()
        kept = {0, 1, 2, provider.configuration_fd(), *(one.fileno() for one in passed.values())}
        for fd in open_fds() - kept:
            os.close(fd)
        provider.self_test()
    except PoolError as error:
        log.error("worker.refuses_to_start", code=int(error.code), detail=str(error))
        return int(Exit.PROVIDER if error.code is Code.PROVIDER_ABSENT else Exit.CONFIGURATION)
    if (status := check_lists(settings, log)) or args.check:
        return status
    log = Log("worker", settings.log_level)
    for warning in settings.warnings:
        log.warning("setting.ignored", detail=warning)
    return serve(settings, args.config, log, passed)


def check_lists(settings: config.Settings, log: Log) -> int:
    """Let OpenSSL read the lists of the configuration."""
    from tlspool_worker import lists  # imports OpenSSL, so not before the provider is in effect

    try:
        lists.check(settings)
    except PoolError as error:
        log.error("worker.refuses_to_start", code=int(error.code), detail=str(error))
        return int(Exit.CONFIGURATION)
    return 0


def serve(settings: config.Settings, path: Path, log: Log, passed: dict[str, OwnedFd]) -> int:
    """Be the master until told to stop."""
    from tlspool_worker import preload  # these import OpenSSL, so not before the provider is in effect
    from tlspool_worker.master_shell import Master

    try:
        sandbox.check(settings.sandbox)
        preload.everything()
        master = Master(settings, path, log, systemd.listener(passed, "worker"))
    except PoolError as error:
        log.error("worker.refuses_to_start", code=int(error.code), detail=str(error))
        return int(Exit.CONFIGURATION)
    try:
        sandbox.enter(sandbox_profiles.master(settings, path), settings.sandbox, log)
        log.info("master.started", pid=os.getpid(), sandbox=sandbox.in_force())
        master.start(passed)
        systemd.notify("READY=1")
        master.run()
        systemd.notify("STOPPING=1")
    finally:
        master.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
