"""Copies of the broker's ends of channels, by the process id of the worker at the other end.

A channel stays open for the next broker because of what is here.  What is kept is in systemd's store too, if there
is one (FileDescriptorStoreMax= of the unit), so that it outlives the master; it is found there under a name
that says whose it is, and what protocol is spoken over it.

Nothing is read here.  That a worker has ended, or that a broker has let go of it, the kernel tells of a channel that
nobody reads, too (EPOLLHUP).
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Mapping
from contextlib import suppress

from tlspool_common import systemd
from tlspool_common.channel import ChannelClosed, from_fd
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import BrokerAway, Party

_NAME = re.compile(r"worker-([1-9][0-9]{0,9})-([1-9][0-9]{0,4})")


class Keeping:
    """All of them."""

    def __init__(self) -> None:
        self._ends: dict[int, OwnedFd] = {}
        self._names: dict[int, str] = {}
        self._processes: dict[int, OwnedFd] = {}
        self._pids: dict[int, int] = {}
        self._epoll = select.epoll()

    def __contains__(self, pid: int) -> bool:
        return pid in self._ends

    def fileno(self) -> int:
        """Return the descriptor that is readable when a channel has ended."""
        return self._epoll.fileno()

    def hold(self, pid: int, protocol: int, end: OwnedFd, *, is_stored: bool = False) -> None:
        """Keep an end; it is ours from now on."""
        name = self._names[pid] = f"worker-{pid}-{protocol}"
        self._ends[pid] = end
        self._pids[end.fileno()] = pid
        self._epoll.register(end.fileno(), 0)
        if not is_stored:
            systemd.notify(f"FDSTORE=1\nFDNAME={name}", [end.fileno()])

    def adopt(self, pid: int, protocol: int, end: OwnedFd, *, is_stored: bool = False) -> bool:
        """Keep the end of a worker that is no child of ours; return whether it lives."""
        try:
            process = OwnedFd(os.pidfd_open(pid))
        except (OSError, OverflowError):
            end.close()
            return False
        # As long as its end is open it runs, so the number was its own when we asked for the process.
        poll = select.poll()
        poll.register(end.fileno(), 0)
        if poll.poll(0):
            end.close()
            process.close()
            return False
        self._processes[pid] = process
        self.hold(pid, protocol, end, is_stored=is_stored)
        return True

    def take_stored(self, inherited: Mapping[str, OwnedFd]) -> list[tuple[int, int]]:
        """Take what systemd has kept for us; return (process id, protocol) of workers that live.  Others are closed."""
        found = []
        for name, fd in inherited.items():
            parts = _NAME.fullmatch(name)
            if parts is None:
                fd.close()
                continue
            pid, protocol = int(parts[1]), int(parts[2])
            if pid not in self and self.adopt(pid, protocol, fd, is_stored=True):
                found.append((pid, protocol))
            else:
                fd.close()
                systemd.notify(f"FDSTOREREMOVE=1\nFDNAME={name}")
        return found

    def copy(self, pid: int) -> OwnedFd | None:
        """Return a copy of an end; None: the channel has ended."""
        end = self._ends.get(pid)
        return OwnedFd(os.dup(end.fileno())) if end is not None else None

    def over(self) -> list[int]:
        """Return the process ids of channels that have ended."""
        return [self._pids[fd] for fd, _ in self._epoll.poll(0)]

    def forget(self, pid: int) -> None:
        """Close a copy, if there is one."""
        end = self._ends.pop(pid, None)
        if end is not None:
            del self._pids[end.fileno()]
            self._epoll.unregister(end.fileno())
            end.close()
            systemd.notify(f"FDSTOREREMOVE=1\nFDNAME={self._names.pop(pid)}")
        if (process := self._processes.pop(pid, None)) is not None:
            process.close()

    def tell_away(self, pid: int) -> None:
        """Speak to a worker in place of its broker, which has died."""
        copy = self.copy(pid)
        if copy is None:
            return
        with suppress(ChannelClosed):
            channel = from_fd(copy, Party.BROKER, Party.WORKER)
            channel.send(BrokerAway())  # if there is no room for it, the next broker says as much
            channel.close()

    def signal(self, pid: int, number: signal.Signals) -> bool:
        """Send a signal to a worker that is no child of ours; return whether it is one."""
        process = self._processes.get(pid)
        if process is None:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.fileno(), number)
        return True

    def close(self) -> None:
        """Close our copies; what is stored stays there."""
        self._epoll.close()
        for fd in [*self._ends.values(), *self._processes.values()]:
            fd.close()
        self._ends.clear()
        self._processes.clear()
