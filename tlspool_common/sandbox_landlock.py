"""Landlock: which files, TCP ports and other processes are within reach (landlock(7)), of us and our children.

Three system calls, whose numbers are the same on all architectures.  Older kernels know fewer kinds of access; what
they do not know stays as it was, and ``unknown`` names it.  It takes effect for the calling thread and what that
starts: to be called while there is only one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

from tlspool_common.record import record

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
"""landlock_create_ruleset(2) and its sisters: system calls newer than 424 have one number everywhere."""

_GET_VERSION = 1
_RULE_PATH, _RULE_PORT = 1, 2


class Access(IntFlag):
    """What may be done with a file, or beneath a directory (LANDLOCK_ACCESS_FS_*)."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
RUN = Access.READ_FILE | Access.EXECUTE
LIST = Access.READ_DIR
SOCKETS = Access.READ_DIR | Access.MAKE_SOCK | Access.REMOVE_FILE
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.MAKE_REG
    | Access.MAKE_DIR
    | Access.REMOVE_FILE
    | Access.REMOVE_DIR
)
_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV

_FS_SINCE = {1: Access.REFER - 1, 2: Access.REFER, 3: Access.TRUNCATE, 5: Access.IOCTL_DEV}
"""Kinds of access by the version of the interface that brought them."""

BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
_NET_SINCE = 4
_SCOPE_ABSTRACT, _SCOPE_SIGNAL = 1 << 0, 1 << 1
_SCOPE_SINCE = 6

SINCE = {_NET_SINCE: "tcp", 5: "ioctl", _SCOPE_SINCE: "signal abstract"}
"""What is left open by kernels whose version is lower, in words for the log."""


@record
class Grant:
    """What may be done beneath a path, and why it must be."""

    path: Path
    access: Access
    why: str


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _PortRule(ctypes.Structure):
    _fields_ = (("access", ctypes.c_uint64), ("port", ctypes.c_uint64))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    """Make a system call of the family.

    Raises:
        OSError: what the kernel says.
    """
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc().syscall(ctypes.c_long(number), *words))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def version() -> int:
    """Return the version of the kernel's interface; 0 when it has none, or was started without it."""
    try:
        return _call(_CREATE, None, 0, _GET_VERSION)
    except OSError:
        return 0


def handled(number: int) -> Access:
    """Return the kinds of access to files that a version of the interface knows, and so can refuse."""
    return Access(sum(bits for since, bits in _FS_SINCE.items() if since <= number))


def unknown(number: int) -> list[str]:
    """Return what a version of the interface cannot refuse."""
    return [word for since, words in SINCE.items() if since > number for word in words.split()]


def restrict(
    grants: Iterable[Grant],
    connect: Iterable[int] | None,
    bind: Iterable[int],
    *,
    abstract: bool,
    signals: bool = False,
) -> int:
    """Confine this process to these paths and TCP ports; return the version of the interface.

    ``connect`` None: any port may be connected to.  Refused are signals to processes outside, unless ``signals``, and
    sockets without a path that others made there, unless ``abstract``.  A path that does not exist grants nothing.

    Raises:
        OSError: the kernel did not do it; nothing has changed.
    """
    number = version()
    known = handled(number)
    rules = _Ruleset(known, 0, 0)
    if number >= _NET_SINCE:
        rules.net = BIND_TCP | (0 if connect is None else CONNECT_TCP)
    if number >= _SCOPE_SINCE:
        rules.scoped = (0 if signals else _SCOPE_SIGNAL) | (0 if abstract else _SCOPE_ABSTRACT)
    size_b = 24 if number >= _SCOPE_SINCE else 16 if number >= _NET_SINCE else 8
    ruleset_fd = _call(_CREATE, ctypes.byref(rules), size_b, 0)
    try:
        for grant in grants:
            _add_path(ruleset_fd, grant.path, grant.access & known)
        for right, ports in ((CONNECT_TCP, connect or ()), (BIND_TCP, bind)):
            for port in ports if number >= _NET_SINCE else ():
                _call(_ADD_RULE, ruleset_fd, _RULE_PORT, ctypes.byref(_PortRule(right, port)), 0)
        _call(_RESTRICT, ruleset_fd, 0)
    finally:
        os.close(ruleset_fd)
    return number


def _add_path(ruleset_fd: int, path: Path, access: int) -> None:
    try:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            return  # what is not there, or out of our reach anyway, needs no permission
        raise
    try:
        if not stat.S_ISDIR(os.fstat(path_fd).st_mode):
            access &= _OF_FILES
        if access:
            _call(_ADD_RULE, ruleset_fd, _RULE_PATH, ctypes.byref(_PathRule(access, path_fd)), 0)
    finally:
        os.close(path_fd)
