"""A worker process, from fork to exit.

The master has done what must be done once: the provider is in effect and tested, everything is imported, no
thread runs.  ``run`` is called in the child, with the channel to the broker and nothing else open.

    take the channel -> signals into a pipe -> sandbox -> serve until the core says Finish -> exit code

The sandbox comes before the loop's threads start and before the first message is read: nothing that a stranger sent has
been looked at by then.

SIGTERM  end now: close_notify to remotes whose session relays, nothing to the others.
SIGHUP   retired: no more sessions come; end after the last one.
The broker's channel closed: what relays goes on to its end, the rest ends at once.  A broker that is away
(BrokerAway) leaves the channel open for another one.

What would have to change if a session had a process of its own: nothing, the broker retires a worker after it.
"""

from __future__ import annotations

import gc
import signal
import socket
import traceback

from tlspool_common import channel, sandbox, sandbox_profiles
from tlspool_common.errors import PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log
from tlspool_common.messages import Party
from tlspool_common.settings import Settings
from tlspool_worker import binding
from tlspool_worker.exits import Exit
from tlspool_worker.shell import Shell


def run(channel_fd: OwnedFd, worker_id: int, settings: Settings) -> int:
    """Be a worker; return the exit code.  To be called right after the fork."""
    log = Log("worker", settings.log_level)
    try:
        binding.check()
        broker = channel.from_fd(channel_fd, Party.WORKER, Party.BROKER)
    except (PoolError, channel.ChannelBroken) as error:
        log.error("worker.start", worker=worker_id, detail=str(error))
        return Exit.START
    gc.freeze()  # what is here stays, and need not be looked at again, nor copied because it was
    signals_in, signals_out = socket.socketpair()
    with signals_in, signals_out:
        _take_signals(signals_out)
        try:
            sandbox.enter(sandbox_profiles.worker(), settings.sandbox, log)
        except PoolError as error:
            signal.set_wakeup_fd(-1)
            log.error("worker.start", worker=worker_id, code=int(error.code), detail=str(error))
            return Exit.START
        shell = Shell(broker, worker_id, settings, log, signals_in)
        log.debug("worker.start", worker=worker_id)
        try:
            status = shell.run()
        except Exception:  # the border of the process: say what it was, then end
            log.error("worker.bug", worker=worker_id, trace=traceback.format_exc()[-380:])
            status = Exit.BUG
        finally:
            signal.set_wakeup_fd(-1)
            shell.close()
    log.debug("worker.end", worker=worker_id, status=int(status))
    return status


def _take_signals(sock: socket.socket) -> None:
    """Turn signals into bytes on a socket (signal.set_wakeup_fd): nothing is done in a handler."""
    sock.setblocking(False)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C goes to the whole terminal; the master says what it means
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(sock.fileno(), warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the byte on the socket has it."""
