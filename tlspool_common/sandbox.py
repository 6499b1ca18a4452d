"""The sandbox that a daemon puts itself in: once, at a fixed place of its start-up, and for good.

    secrets in -> imports done -> descriptors counted -> ENTER -> the first byte of a stranger

``enter`` works through the layers in this order, because each needs what the next one takes:

    limits      no core files; other resource limits of the profile
    process     no capabilities, where the profile says so; no_new_privs: no program gives us more rights;
                not dumpable: no debugger, nobody reads /proc/PID/mem
    landlock    files by path, TCP ports, signals and abstract sockets by what is inside: sandbox_landlock.py
    seccomp     system calls: sandbox_seccomp.py, sandbox_calls.py

It needs no privilege, and no systemd.  What a profile grants is in sandbox_profiles.py.  A kernel may lack Landlock or
seccomp; whether that is the end (``sandbox required``) or a warning (``warn``) is a setting.  All of it is inherited by
children, who can only take more away.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from tlspool_common import sandbox_landlock as landlock
from tlspool_common import sandbox_seccomp as seccomp
from tlspool_common.errors import Code, PoolError
from tlspool_common.log import Log
from tlspool_common.record import record

REQUIRED, WARN, OFF = MODES = ("required", "warn", "off")

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


@record
class Profile:
    """What a process may do once it is inside.

    Attributes:
        role: for the log.
        calls: system calls; all others are refused.
        grants: paths.
        connect, bind: TCP ports; connect None: any.
        abstract: whether abstract sockets of others may be connected to: where the supervisor has one.
        signals: whether it may send signals to others of its user that are not its children.
        capabilities: whether it keeps those it has; as a user of its own it has none.
        limits: resource limits besides the one of core files, both soft and hard.
    """

    role: str
    calls: tuple[seccomp.Rule, ...]
    grants: tuple[landlock.Grant, ...] = ()
    connect: tuple[int, ...] | None = ()
    bind: tuple[int, ...] = ()
    abstract: bool = False
    signals: bool = False
    capabilities: bool = True
    limits: Mapping[int, int] | None = None


class _State:
    """What this process is in; a child that was forked has its parent's until it enters its own."""

    in_force = "off"
    profile: Profile | None = None


def in_force() -> str:
    """Return the layers that are in force, as logs and ``status`` show them: ``landlock-7,seccomp``, or ``off``."""
    return _State.in_force


def missing() -> dict[str, str]:
    """Return the layers that this machine does not have, and why."""
    found = {}
    if not landlock.version():
        found["landlock"] = (
            "the kernel has no Landlock; it needs Linux 5.13, CONFIG_SECURITY_LANDLOCK and lsm=landlock,..."
        )
    if why := seccomp.available():
        found["seccomp"] = why
    return found


def check(mode: str) -> None:
    """Make sure before a daemon starts that it could enter.

    Raises:
        PoolError: SANDBOX_MISSING, names the layer.
    """
    if mode == REQUIRED:
        for layer, why in missing().items():
            raise _absent(layer, why)


def _absent(layer: str, why: str) -> PoolError:
    return PoolError(Code.SANDBOX_MISSING, f"{layer}: {why}")


def enter(profile: Profile, mode: str, log: Log) -> None:
    """Enter the sandbox; there is no way out.  To be called while there is one thread.

    Raises:
        PoolError: SANDBOX_MISSING, a layer cannot be had and is required.
    """
    if mode == OFF:
        log.warning("sandbox.off", role=profile.role, detail="setting sandbox off: nothing confines this process")
        return
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise AssertionError("Landlock would leave the other threads free")
    absent = missing()
    there = tuple(grant for grant in profile.grants if os.access(grant.path, os.F_OK))
    _limit(profile.limits or {})
    _close_up(profile.capabilities)
    layers = []
    if "landlock" not in absent:
        try:
            version = landlock.restrict(
                profile.grants,
                profile.connect,
                profile.bind,
                abstract=profile.abstract,
                signals=profile.signals,
            )
            layers.append(f"landlock-{version}")
        except OSError as error:
            absent["landlock"] = error.strerror or str(error)
    lacks = " ".join(landlock.unknown(landlock.version())) if layers else ""
    if "seccomp" not in absent and (mode == WARN or not absent):
        try:
            seccomp.restrict(profile.calls)
            layers.append("seccomp")
        except seccomp.Unavailable as error:
            absent["seccomp"] = str(error)
    for layer, why in absent.items():
        if mode == REQUIRED:
            raise _absent(layer, why)
        log.warning("sandbox.missing", role=profile.role, code=int(Code.SANDBOX_MISSING), layer=layer, detail=why)
    _State.in_force = ",".join(layers) or "none"
    _State.profile = replace(profile, grants=there)  # what is made later is out of reach
    log.debug("sandbox.on", role=profile.role, sandbox=_State.in_force, open=lacks)


def _limit(limits: Mapping[int, int]) -> None:
    for what, most in ({resource.RLIMIT_CORE: 0} | dict(limits)).items():
        _, hard = resource.getrlimit(what)
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; no capabilities are a struct __user_cap_data_struct of zeros."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


_CAPABILITIES_3 = 0x20080522


def _has_capabilities() -> bool:
    """Whether this process has, or could take, any capability (proc_pid_status(5))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("CapInh:", "CapPrm:", "CapEff:")))


def _close_up(capabilities: bool) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Who has none need not ask: where a supervisor filters system calls this one is not allowed.
    to_drop = not capabilities and _has_capabilities()
    if to_drop and libc.capset(ctypes.byref(_Header(_CAPABILITIES_3, 0)), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")


def covers(path: Path, access: landlock.Access) -> bool:
    """Whether a path is within what was granted at the start; always, where Landlock is not in force."""
    if _State.profile is None or "landlock" not in _State.in_force:
        return True
    return granted(_State.profile.grants, path, access)


def granted(grants: Iterable[landlock.Grant], path: Path, access: landlock.Access) -> bool:
    """Whether a path is within these grants, symbolic links followed."""
    real = Path(os.path.realpath(path))
    return any(
        grant.access & access == access and real.is_relative_to(os.path.realpath(grant.path)) for grant in grants
    )


def reaches(ports: Iterable[int]) -> bool:
    """Whether these TCP ports are among those that were granted at the start."""
    if _State.profile is None or _State.profile.connect is None or "landlock" not in _State.in_force:
        return True
    return set(ports) <= set(_State.profile.connect)
