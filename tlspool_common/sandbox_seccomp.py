"""seccomp: which system calls a process may make, and with which arguments (seccomp(2)), by libseccomp.

libseccomp knows the calls by name on each architecture, and kills what calls by the numbers of another one (x32, i386).
What a filter says of a call:

    ALLOW     the call is made
    REFUSE    EPERM: everything that is not named; libraries try much, and must be told no in a way they know
    ABSENT    ENOSYS: libraries then do without a newer call (clone3, and those that libseccomp does not know yet)
    KILL      the process is gone: for calls that only an attacker makes

A condition compares one argument; 64 bits of it, so that what a library leaves in the upper half is refused, never
allowed, by mistake.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable
from enum import Enum, IntEnum

from tlspool_common.record import record

LIBRARY = "libseccomp.so.2"


class Verdict(IntEnum):
    """What becomes of a call (SCMP_ACT_*)."""

    ALLOW = 0x7FFF0000
    REFUSE = 0x00050000 | errno.EPERM
    ABSENT = 0x00050000 | errno.ENOSYS
    KILL = 0x80000000


class Compare(Enum):
    """How an argument is compared (enum scmp_compare)."""

    EQUAL = 4
    MASKED = 7


@record
class Condition:
    """An argument, and the value it must have; of a masked one, the value of the bits in ``mask``."""

    argument: int
    compare: Compare
    value: int
    mask: int = 0


@record
class Rule:
    """What becomes of a call if all conditions hold, and why it is so."""

    call: str
    verdict: Verdict = Verdict.ALLOW
    conditions: tuple[Condition, ...] = ()
    why: str = ""


def equal(argument: int, value: int) -> Condition:
    """Return the condition that an argument is a value."""
    return Condition(argument, Compare.EQUAL, value)


def masked(argument: int, mask: int, value: int = 0) -> Condition:
    """Return the condition that the bits of an argument in a mask are these."""
    return Condition(argument, Compare.MASKED, value, mask)


class _Argument(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("compare", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


_ATTRIBUTES = {2: Verdict.KILL, 3: 1, 4: 1, 8: 2}
"""SCMP_FLTATR_ACT_BADARCH: the process, not its thread; CTL_NNP yes; CTL_TSYNC yes: all threads; CTL_OPTIMIZE: a binary
tree instead of a list."""

_NEWER = range(424, 600)
"""Numbers that are the same on all architectures; those that libseccomp has no name for are newer than itself."""

_NATIVE = 0


class Unavailable(Exception):
    """The kernel or the library has no filters; says why."""


def _library() -> ctypes.CDLL:
    """Load the library.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise Unavailable(f"{error}; apt-get install libseccomp2") from None
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_init.argtypes = [ctypes.c_uint32]
    found.seccomp_release.argtypes = [ctypes.c_void_p]
    found.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    found.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    found.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    found.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
    found.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Argument),
    ]
    found.seccomp_load.argtypes = [ctypes.c_void_p]
    return found


def available() -> str:
    """Return why there can be no filters; '' when there can."""
    try:
        library = _library()
    except Unavailable as error:
        return str(error)
    if library.seccomp_api_get() < 2:  # level 2: the system call seccomp(2), all threads at once
        return "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"
    return ""


def restrict(rules: Iterable[Rule]) -> None:
    """Make no other calls from now on than the rules allow, in all threads of this process and in its children.

    Raises:
        Unavailable: the kernel or the library cannot do it; nothing has changed.
    """
    library = _library()
    context = library.seccomp_init(Verdict.REFUSE)
    if not context:
        raise Unavailable("libseccomp: seccomp_init failed")
    try:
        for attribute, value in _ATTRIBUTES.items():
            _check(library.seccomp_attr_set(context, attribute, value), f"attribute {attribute}")
        for rule in rules:
            number = library.seccomp_syscall_resolve_name(rule.call.encode())
            if number != -1:  # __NR_SCMP_ERROR: a name that this library is too old for, and so stays refused
                _add(library, context, rule, number)
        for number in _NEWER:
            if not library.seccomp_syscall_resolve_num_arch(_NATIVE, number):
                _add(library, context, Rule(str(number), Verdict.ABSENT), number)
        _check(library.seccomp_load(context), "seccomp_load")
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: int, rule: Rule, number: int) -> None:
    if rule.verdict is Verdict.REFUSE and not rule.conditions:
        return  # what is not named is refused; libseccomp does not want to hear it twice
    arguments = (_Argument * len(rule.conditions))(*map(_argument, rule.conditions))
    result = library.seccomp_rule_add_array(context, rule.verdict, number, len(rule.conditions), arguments)
    _check(result, f"rule for {rule.call}")


def _argument(one: Condition) -> _Argument:
    if one.compare is Compare.MASKED:
        return _Argument(one.argument, one.compare.value, one.mask, one.value)
    return _Argument(one.argument, one.compare.value, one.value, 0)


def _check(result: int, what: str) -> None:
    if result != 0:
        name = errno.errorcode.get(-result, str(result))
        raise Unavailable(f"libseccomp: {what}: {name}")
