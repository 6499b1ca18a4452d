"""Which system calls each process may make: tables, by what they are for.  docs/sandbox.md is made from them.

A name that an architecture does not have (open on aarch64, newfstatat on 32 bits) grants nothing there.  All that is
not in the list of a process is refused with EPERM; ``KILLED`` ends it.
"""

from __future__ import annotations

import fcntl
import mmap
import socket
import termios

from tlspool_common.sandbox_seccomp import Condition, Rule, Verdict, equal, masked

_PR_SET_NAME, _PR_SET_DUMPABLE = 15, 4
_PR_OTHERS = (1, 3, 16, 21, 38, 39)
"""PR_SET_PDEATHSIG, GET_DUMPABLE, GET_NAME, GET_SECCOMP, SET_NO_NEW_PRIVS, GET_NO_NEW_PRIVS (linux/prctl.h)."""

_SOL_SOCKET = socket.SOL_SOCKET
_FIONBIO, _FIOCLEX, _FIONCLEX, _FIONREAD = 0x5421, 0x5451, 0x5450, 0x541B  # asm-generic/ioctls.h

_FORK, _SPAWN = 0x01200011, 0x4111
"""clone(2) as fork of glibc calls it: CHILD_SETTID CHILD_CLEARTID SIGCHLD; and posix_spawn: VM VFORK SIGCHLD."""

_THREAD = 0x003D0F00
"""And pthread_create: VM FS FILES SIGHAND THREAD SYSVSEM SETTLS PARENT_SETTID CHILD_CLEARTID."""

KILLED = (
    "ptrace process_vm_readv process_vm_writev kcmp process_madvise pidfd_getfd "
    "mount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root chroot unshare setns "
    "bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register "
    "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff "
    "add_key request_key keyctl open_by_handle_at acct quotactl personality ioperm iopl modify_ldt "
    "setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid "
    "settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname syslog vhangup "
    "process_mrelease"
)
"""No program of ours, no library it uses and no PKCS #11 module makes them: who does is not ours any more."""

EXECUTING = "execve execveat"
"""Besides, in a process that executes no program."""

WITHOUT_CHILDREN = "capset"
"""Besides, in a process that has no children; those give up their capabilities."""

MEMORY = "brk munmap mremap madvise mincore msync membarrier"
THREADS = (
    "futex futex_waitv set_robust_list get_robust_list rseq set_tid_address sched_yield sched_getaffinity "
    "exit exit_group restart_syscall gettid getpid"
)
SIGNALS = "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack"
TIME = "pause clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage"
IDENTITY = "getuid geteuid getgid getegid getgroups getresuid getresgid getppid uname sysinfo"
BYTES = "read readv write writev close close_range getrandom lseek dup"
WAITING = "poll ppoll select pselect6 epoll_create1 epoll_create epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2"
SOCKETS = "recvfrom recvmsg recvmmsg shutdown getsockname getpeername getsockopt"

FILES = (
    "open openat openat2 stat lstat fstat newfstatat fstatat64 statx access faccessat faccessat2 readlink readlinkat "
    "getcwd getdents getdents64 statfs fstatfs pread64 preadv preadv2 fadvise64 readahead flock umask"
)
"""Landlock says which files; whether there is a file, it tells everybody."""

CHANGES = (
    "creat mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 truncate ftruncate fallocate fsync fdatasync "
    "sync_file_range pwrite64 pwritev pwritev2 sendfile copy_file_range dup2 dup3 pipe pipe2"
)
MODES = "chmod fchmod fchmodat"
"""XXX Landlock does not look at modes: a process can change those of all files of its user."""

LOCKING = "mlock mlock2 munlock mlockall munlockall arch_prctl"
PROCESSES = "wait4 waitid kill pidfd_open pidfd_send_signal"
LOOKING = "getpgid getpgrp getsid getrlimit sched_getparam sched_getscheduler getpriority getcpu capget"
LISTENING = "bind listen accept accept4"
NARROWING = "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self capset"
OWNERS = "chown fchown fchownat lchown"
IPC = (
    "shmget shmat shmdt shmctl semget semop semctl semtimedop signalfd4 timerfd_create timerfd_settime timerfd_gettime"
)


def allow(names: str, *conditions: Condition, why: str = "") -> list[Rule]:
    """Return rules that allow each of these calls."""
    return [Rule(name, Verdict.ALLOW, conditions, why) for name in names.split()]


def forbid(names: str) -> list[Rule]:
    """Return rules that end who makes any of these calls."""
    return [Rule(name, Verdict.KILL) for name in names.split()]


_KIND = 0xF
"""The bits of a socket's type that are no flags."""

_NO_DATAGRAMS = "a pair of datagram sockets would send to any address all the same; these do not"

_NO_OTHERS = "TCP and UDP; Landlock does not look at MPTCP and SCTP"

_FASTOPEN = 0x20000000
"""MSG_FASTOPEN of linux/socket.h."""

_NO_FASTOPEN = "MSG_FASTOPEN connects, and Landlock does not see it"

_COMMON = [
    *allow(f"{MEMORY} {THREADS} {SIGNALS} {TIME} {IDENTITY} {BYTES} {WAITING} {SOCKETS}"),
    *allow("clone", equal(0, _THREAD), why="threads, and nothing else"),
    Rule("clone3", Verdict.ABSENT, (), "its flags are in memory, where no filter sees them; glibc then uses clone"),
    *(
        rule
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
        for rule in allow("socketpair", equal(0, socket.AF_UNIX), masked(1, _KIND, kind), why=_NO_DATAGRAMS)
    ),
    *allow("sendmsg", masked(2, _FASTOPEN), why=_NO_FASTOPEN),
    *allow("prctl", equal(0, _PR_SET_NAME), why="the title in ps and top"),
    *(rule for number in (_FIONBIO, _FIOCLEX, _FIONCLEX, _FIONREAD) for rule in allow("ioctl", equal(1, number))),
]

_FCNTL = (fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_DUPFD_CLOEXEC)
"""Not F_SETOWN and F_SETSIG, which make the kernel send signals for us; nor locks and leases."""

_LOCKS = (fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, 36, 37, 38)
"""Of files, by process and (F_OFD_*) by open file."""

_OPTIONS = (
    (_SOL_SOCKET, socket.SO_LINGER),
    (_SOL_SOCKET, socket.SO_REUSEADDR),
    (_SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_IP, 11),  # IP_RECVERR, and IPV6_RECVERR: name servers that are not there
    (socket.IPPROTO_IPV6, 25),
    (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
)
"""Options of sockets that asyncio and the C library set."""


def _internet(family: int) -> list[Rule]:
    """Return rules for TCP and UDP, by their numbers."""
    return [
        Rule("socket", Verdict.ALLOW, (equal(0, family), masked(1, _KIND, kind), equal(2, protocol)), _NO_OTHERS)
        for kind, protocols in (
            (socket.SOCK_STREAM, (0, socket.IPPROTO_TCP)),
            (socket.SOCK_DGRAM, (0, socket.IPPROTO_UDP)),
        )
        for protocol in protocols
    ]


def worker(pid: int) -> list[Rule]:
    """Return the rules of a worker: bytes between descriptors that it was given, and threads.

    Without any call that takes a path, an address or a process, but tgkill to itself (abort(3), raise(3)).
    """
    return [
        *_COMMON,
        *allow("sendto", equal(4, 0), masked(3, _FASTOPEN), why="without an address: that is send(2)"),
        *allow("mmap mmap2 mprotect", masked(2, mmap.PROT_EXEC), why="memory is data, and is not made code"),
        *allow("tgkill", equal(0, pid), why="abort(3)"),
        *allow("prlimit64", equal(0, 0), equal(2, 0), why="limits are read (pthread_getattr_np), not set"),
        *(rule for number in _FCNTL for rule in allow("fcntl", equal(1, number))),
        *allow("ioctl", equal(1, termios.TIOCOUTQ), why="what a remote has not acknowledged yet (lingering.py)"),
        *allow("setsockopt", equal(1, _SOL_SOCKET), equal(2, socket.SO_LINGER), why="close must not wait"),
        *allow("setsockopt", equal(1, socket.IPPROTO_TCP), equal(2, socket.TCP_NODELAY), why="records go out whole"),
        *forbid(f"{KILLED} {EXECUTING} {WITHOUT_CHILDREN}"),
    ]


def _files_and_memory() -> list[Rule]:
    """Return the rules of all but workers: files, shared libraries, the address of a service."""
    code = (masked(2, mmap.PROT_EXEC | mmap.PROT_WRITE, mmap.PROT_EXEC), masked(3, mmap.MAP_ANONYMOUS))
    return [
        *_COMMON,
        *allow(f"{FILES} {LOCKING} {LOOKING} connect"),
        *allow("mmap mmap2 mprotect", masked(2, mmap.PROT_EXEC), why="memory is data"),
        *allow("mmap mmap2", *code, why="shared libraries: code comes from files, and is not written"),
        *allow("sendto sendmmsg", masked(3, _FASTOPEN), why=_NO_FASTOPEN),
        *(rule for number in _FCNTL + _LOCKS for rule in allow("fcntl fcntl64", equal(1, number))),
        *(rule for number in (termios.TCGETS, termios.TIOCGWINSZ) for rule in allow("ioctl", equal(1, number))),
        *forbid(KILLED),
    ]


def _options() -> list[Rule]:
    return [rule for one in _OPTIONS for rule in allow("setsockopt", equal(1, one[0]), equal(2, one[1]))]


def _network() -> list[Rule]:
    return [rule for family in (socket.AF_INET, socket.AF_INET6) for rule in _internet(family)]


def service(
    *, network: bool = False, executes: bool = False, forks: bool = False, owners: bool = False, modules: bool = False
) -> list[Rule]:
    """Return the rules of a daemon that has children, who inherit them.

    ``network``: TCP (Landlock says to which ports) and UDP, besides UNIX sockets.  ``executes``: its children are
    programs (posix_spawn), ``forks``: or forked.  ``owners``: gives files away.  ``modules``: its children load
    PKCS #11 modules.
    """
    return [
        *_files_and_memory(),
        *allow(f"{CHANGES} {MODES} {PROCESSES} {LISTENING} tgkill"),
        *allow("socket", equal(0, socket.AF_UNIX)),
        *allow(NARROWING, why="children confine themselves further"),
        *allow("prlimit64", equal(0, 0), why="limits of its own, for children"),
        *allow("setrlimit"),
        *(rule for number in _PR_OTHERS for rule in allow("prctl", equal(0, number))),
        *allow("prctl", equal(0, _PR_SET_DUMPABLE), equal(1, 0), why="closed to debuggers, and not opened again"),
        *(allow("clone", equal(0, _SPAWN), why="posix_spawn") + allow("execve") if executes else forbid(EXECUTING)),
        *(allow("clone", equal(0, _FORK), why="fork") + allow("fork") if forks else []),
        *(allow(OWNERS) if owners else []),
        *(_modules(network) if modules else _options()),
        *(_network() if network else []),
    ]


def leaf(pid: int, *, network: bool = False, modules: bool = False, writes: bool = False) -> list[Rule]:
    """Return the rules of a process without children: a token process with its module, or who asks the network.

    ``writes``: it has files of its own; Landlock says where.
    """
    return [
        *_files_and_memory(),
        *allow("socket", equal(0, socket.AF_UNIX), masked(1, _KIND, socket.SOCK_STREAM), why="pcscd, nscd, resolved"),
        *allow("tgkill", equal(0, pid), why="abort(3)"),
        *allow("prlimit64", equal(0, 0), equal(2, 0), why="limits are read, not set"),
        *forbid(f"{EXECUTING} {WITHOUT_CHILDREN}"),
        *(allow(CHANGES) if modules or writes else []),
        *(_modules(network) if modules else _options()),
        *(_network() if network else []),
    ]


def _modules(network: bool) -> list[Rule]:
    """Return what PKCS #11 modules may need besides."""
    return [
        *allow(IPC, why="modules that speak with a daemon of theirs"),
        *allow("ioctl", masked(1, 0xFF00, 0x5500), why="USB devices (usbdevfs)"),
        *(allow("setsockopt") if network else _options()),
    ]
