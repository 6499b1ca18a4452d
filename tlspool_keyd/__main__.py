"""``tlspool-keyd``: the key daemon.  Its start-up, in order, and the reason for the order:

1. close what was inherited          nobody's descriptor comes along into token processes; systemd's sockets stay
2. lock down                         no core file, no debugger, no swap: before anything secret is in memory
3. read the configuration            a wrong one is found before anything is opened
4. read the PIN                      from credential, file or terminal; one that others can read is refused
5. open the audit trail               the start is in it
6. enter the sandbox                 sandbox_profiles.keyd; token processes enter one of their own
7. listen on keyd.sock, start token processes, look for the broker
                                     everything is imported by now; modules are loaded behind an exec only
8. say READY when each token has opened or failed, serve

It runs as a user of its own, without capabilities, and speaks to UNIX sockets only.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tlspool_common import command_line, sandbox, sandbox_profiles, systemd
from tlspool_common import settings as config
from tlspool_common.auditor import Auditor
from tlspool_common.errors import PoolError
from tlspool_common.fd import OwnedFd, open_fds
from tlspool_common.log import Log
from tlspool_common.metrics import Metrics
from tlspool_common.reloading import Reloading
from tlspool_common.settings import Part, SettingError, Settings
from tlspool_keyd import pin
from tlspool_keyd.lockdown import lock_down
from tlspool_keyd.pkcs11uri import parse_untrusted
from tlspool_keyd.seats import overlap
from tlspool_keyd.shell import Shell, Sockets

EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h."""

_PROMPT = "PIN of the PKCS #11 tokens (empty: none): "


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    return command_line.parser(
        Part.KEYD, "The key daemon of a TLS pool.", "read configuration and PIN file, try no PIN, and end"
    )


def load(path: Path) -> Settings:
    """Read the configuration, and what of it only keyd understands.

    Raises:
        SettingError: names the setting, its value and the remedy.
    """
    settings = config.load(path, Part.KEYD)
    for module in settings.pkcs11:
        try:
            parse_untrusted(module.token_uri)
        except PoolError as error:
            # Its query may be a PIN, and is left out.
            raise SettingError("pkcs11_token", module.token_uri.partition("?")[0], error.detail) from None
    both = overlap([(os.path.realpath(module.path), module.token_uri) for module in settings.pkcs11])
    if both is not None:
        hint = f"could mean a token that {both[0]!r} means, too; add token= or serial= so that only one does"
        raise SettingError("pkcs11_token", both[1].partition("?")[0], hint)
    return settings


def check_modules(settings: Settings) -> None:
    """See that the modules are there.  At the start a missing one is no reason to do without the others.

    Raises:
        SettingError: names the first one that is not.
    """
    for module in settings.pkcs11:
        if not Path(module.path).is_file():
            raise SettingError("pkcs11_path", module.path, "no such file")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon, and return its exit code."""
    args = parser().parse_args(argv)
    log = Log("keyd")
    passed = systemd.listen_fds()
    for fd in open_fds() - {0, 1, 2, *(one.fileno() for one in passed.values())}:
        os.close(fd)
    memory_locked = lock_down()
    try:
        settings = load(args.config)
        if args.check:
            check_modules(settings)
        ask = (lambda: getpass.getpass(_PROMPT)) if _has_terminal() and not args.check else None
        source = pin.find(settings.pkcs11_pin_file, os.environ, ask, settings.pkcs11_pin_secret)
        if args.check:
            return 0
        log, metrics = Log("keyd", settings.log_level), Metrics("K")
        log.readers.append(metrics.read)
        auditor = Auditor(settings, "keyd", log, time.time)  # noqa: TID251 - a record says when
        for warning in settings.warnings:
            log.warning("setting.ignored", detail=warning)
        if not settings.pkcs11:
            log.warning("keyd.without_tokens", detail="no pkcs11_token in the configuration: nothing can be signed")
        sandbox.check(settings.sandbox)
        sandbox.enter(sandbox_profiles.keyd(settings, args.config), settings.sandbox, log)
        within = sandbox.in_force()
        log.info("keyd.started", pid=os.getpid(), pin=source.origin.value, memory_locked=memory_locked, sandbox=within)
        return asyncio.run(_serve(settings, args.config, source, log, passed, metrics, auditor))
    except PoolError as error:
        log.error("keyd.refuses_to_start", code=int(error.code), detail=str(error))
        return EXIT_CONFIGURATION


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


async def _serve(
    settings: Settings,
    path: Path,
    source: pin.PinSource,
    log: Log,
    passed: dict[str, OwnedFd],
    metrics: Metrics,
    auditor: Auditor,
) -> int:
    reloading = Reloading(path, settings, log, read=load)
    sockets = Sockets(systemd.listener(passed, "keyd"), systemd.listener(passed, "pin"))
    for fd in passed.values():
        fd.close()
    secret = secrets.token_bytes(32)
    return await Shell(settings, source, log, secret, reloading, sockets, metrics, auditor).run()


if __name__ == "__main__":
    sys.exit(main())
