"""What the other processes of a pool must not do, each tried by an attacker's Python in its place, inside its sandbox.

They may do more than a worker: ``MAY`` lists what, and everything else that a worker must not do they must not either.
Each attempt is made a second time with ``sandbox off``, as in test_sandbox_worker.py.
"""

import os
import signal

import pytest

from tests import report
from tests.fixtures.attempts import INTO_USER_NAMESPACE, has_user_namespaces
from tests.fixtures.attempts_system import REFUSED
from tests.fixtures.intruder import BESIDE_LISTS, BESIDE_SECRETS, IN_SPOOL, OF_SECRETS, UDP
from tests.fixtures.intrusion import Aims, Intrusion
from tests.fixtures.keyd_world import PIN, KeydWorld
from tests.fixtures.slowtoken import SOFTHSM
from tlspool_common.channel import pair
from tlspool_common.messages import Party, TokenOpen

TRACE = "trace itself (ptrace PTRACE_TRACEME)"
"""One of those attempts of which a process dies; test_sandbox_worker.py has the others."""

TITLES = {
    "master": "a worker master",
    "keyd": "keyd",
    "token": "a token process",
    "broker": "a broker",
    "looker": "a broker's looker",
    "online": "tlspool-online",
    "radius": "tlspool-radius",
}
REFUSALS = ("EPERM", "EACCES", "ENOSYS")


class World:
    """Aims, and intruders in each place."""

    def __init__(self, directory):
        self.directory = directory
        self.keyd = KeydWorld(directory / "keyd", {"ours": "ec"})
        self.secrets, beside_lists = directory / "secrets" / "radius", directory / "lists" / "radius"
        for path in (self.secrets, beside_lists):
            path.parent.mkdir(mode=0o700)
            path.write_text("127.0.0.1 a secret of the tests\n")
            path.chmod(0o600)
        self.aims = Aims(
            directory / "aims", parent=os.getpid(), sibling=os.getpid(), broker=os.getpid(), keyd=os.getpid()
        )
        self.spool = directory / "spool"
        self.spool.mkdir()
        self.aims.found |= {"secrets": str(self.secrets), "beside_lists": str(beside_lists), "spool": str(self.spool)}

    def config(self, name, inside, *lines):
        path = self.directory / f"{name}-{inside}"
        path.mkdir(exist_ok=True)
        config = path / "conf"
        text = [
            *lines,
            f"run_dir {path}/run",
            f"dbenv_dir {path}/db",
            "sandbox " + ("required" if inside else "off"),
            "",
        ]
        config.write_text("\n".join(text))
        (path / "run").mkdir(exist_ok=True)
        return ["--config", str(config)]

    def words(self, role, inside, stack, lines):
        """Return arguments, and descriptors to pass; ``lines`` are for the configuration of a broker."""
        if role in ("broker", "looker"):
            return self.config(role, inside, *lines), ()
        if role == "keyd":
            lines = (
                f"pkcs11_path {SOFTHSM}",
                "pkcs11_token pkcs11:token=ours",
                f"pkcs11_pin_file {self.keyd.pin_path}",
            )
            return self.config(role, inside, *lines), ()
        if role == "master":
            return self.config(role, inside, "workers 1"), ()
        mode = "required" if inside else "off"
        if role == "online":
            channel, theirs = pair(Party.BROKER, Party.ONLINE)
            stack += [channel, theirs]
            words = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), "--port", "80", "--sandbox", mode]
            return [*words, "--crl-file", str(self.directory / "lists" / "list.pem")], (theirs.fileno(),)
        if role == "radius":
            channel, theirs = pair(Party.BROKER, Party.RADIUS)
            stack += [channel, theirs]
            words = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), "--sandbox", mode]
            words += ["--acct", "127.0.0.1:1813", "--spool-dir", str(self.spool)]
            return [*words, "--secret-file", str(self.secrets)], (theirs.fileno(),)
        channel, theirs = pair(Party.KEYD, Party.TOKEN)
        stack += [channel, theirs]
        opening = TokenOpen(
            module=SOFTHSM,
            token_uri="pkcs11:token=ours",
            pin_secret=PIN.encode(),
            pin_refused_by=(),
            typed_pin_tokens=(),
            typed_pin_secrets=(),
            sessions=1,
        )
        channel.send(opening, exchange=1)
        return [str(theirs.fileno()), str(os.getpid()), mode, "local"], (theirs.fileno(),)

    def run(self, role, inside, *, lines=("online no",), **more):
        stack = []
        try:
            words, fds = self.words(role, inside, stack, lines)
            log = self.directory / f"log-{role}-{inside}"
            process = {"master": "worker", "looker": "broker"}.get(role, role)
            environment = {"SOFTHSM2_CONF": str(self.keyd.directory / "softhsm2.conf")}
            options = {"role": role, "environment": environment, **more}
            with Intrusion(process, words, log, self.aims, inside=inside, fds=fds, **options) as intrusion:
                if more:
                    return intrusion.process.wait(40)
                intrusion.wait_for(lambda: self.ended(intrusion, role), f"{role} does not come to an end")
                return intrusion.outcomes(role)
        finally:
            for one in stack:
                one.close()

    @staticmethod
    def ended(intrusion, role):
        return any(line["role"] == role and line["outcome"] == "end" for line in intrusion.lines())


READS = {
    "openat(2) of /dev/null, to write",
    "openat2(2)",
    "stat(2): is there such a file",
    "readlink(2) of /proc/self/exe",
    "access(2)",
    "statfs(2)",
    "load a shared library (dlopen)",
    "import a module that nobody has imported",
}
ETC = {"open /etc/passwd"}
UNIX = {"a new socket: UNIX stream", "connect to the broker's application socket"}
USES = {"connect a socket that it has", "send to an address"}
"""With sockets that have no address: a pair stays a pair."""

LISTENS = {
    "a new socket: UNIX datagrams",
    "a new socket: UNIX packets",
    "give a socket that it has an address (bind)",
    "listen on a socket that it has",
    "accept on a socket that it has",
    "change the mode of a file",
}
PARENT = {
    "a descriptor of a sibling's process (pidfd_open)",
    "set a limit of its own",
    "outlive its parent's wish (prctl PR_SET_PDEATHSIG)",
    "a filter of its own (seccomp)",
    "a Landlock ruleset of its own",
}
MODULES = {"shared memory (shmget)", "semaphores (semget)"}
INTERNET = {"a new socket: TCP over IPv4", "a new socket: UDP over IPv4", "a new socket: TCP over IPv6"}
DAEMON = READS | ETC | UNIX | USES | LISTENS | PARENT
SIGNALS = {
    "a signal to a sibling",
    "a signal to the master",
    "tgkill(2) of the master's thread",
    "a signal to keyd",
    "a signal to the broker",
}
"""It has to end workers that are not its children.  Here all are of one user; others are refused by the kernel."""

MAY = {
    "master": DAEMON | SIGNALS | {"fork"},
    "keyd": DAEMON | MODULES,
    "token": READS | UNIX | USES | MODULES,
    "broker": DAEMON,
    "looker": {"readlink(2) of /proc/self/exe"},
    "online": READS | ETC | UNIX | USES | INTERNET,
    "radius": READS | ETC | UNIX | USES | INTERNET,
}
OF_ROOT = {
    "/proc/self/environ",
    "/proc/MASTER/environ",
    "/proc/BROKER/maps",
    "pass a forged process id (SCM_CREDENTIALS)",
}
"""What the capabilities of root open for a daemon that keeps them; as a user of its own it has none."""

NOBODYS = "pass a descriptor that it has not (SCM_RIGHTS)"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("daemons")
    (directory / "keyd").mkdir()
    made = World(directory)
    yield made
    made.aims.close()
    made.keyd.close()


@pytest.mark.parametrize("role", MAY)
def test_attempts(world, role):
    inside, outside = world.run(role, True), world.run(role, False)
    title = f"{TITLES[role]} that was taken over: attempts (inside its sandbox; outside)"
    for one in REFUSED:
        report.row(title, one.name, inside[one.name], outside[one.name])
    through = {name for name, outcome in inside.items() if outcome.split()[0] not in REFUSALS}
    through -= {NOBODYS, IN_SPOOL, BESIDE_LISTS}
    if os.getuid() == 0:
        through -= OF_ROOT
    assert through == MAY[role]
    for one in REFUSED:
        nobodys = one.name == NOBODYS or (one.name == INTO_USER_NAMESPACE and not has_user_namespaces())
        if one.name not in MAY[role] and not one.root and not nobodys:
            assert outside[one.name].split()[0] not in REFUSALS, "it fails without a sandbox, too, and shows nothing"


@pytest.mark.parametrize("role", ["master", "keyd", "token", "broker", "online", "radius"])
def test_who_traces_is_gone(world, role):
    """test_sandbox_worker.py has the whole list; it is one list for all."""
    code = world.run(role, True, kill=TRACE)
    report.row(
        f"{TITLES[role]} that was taken over: attempts (inside its sandbox; outside)", TRACE, "killed (SIGSYS)", ""
    )
    assert code == -signal.SIGSYS


def test_the_spool_is_all_that_tlspool_radius_has(world):
    inside, outside = world.run("radius", True), world.run("radius", False)
    assert [inside[name].split()[0] for name in (IN_SPOOL, OF_SECRETS, UDP)] == ["done", "EACCES", "EPERM"]
    assert [outside[name] for name in (IN_SPOOL, OF_SECRETS, UDP)] == ["done"] * 3


NAMED = ("radius_secret_file {0.secrets}", "radius_spool_dir {0.spool}")
SERVERS = ("radius_authz 127.0.0.1", "radius_acct 127.0.0.1")


@pytest.mark.parametrize(
    ("lines", "outcomes"),
    [
        (("online no", *NAMED), ["EACCES"] * 3),
        (("online yes",), ["EACCES"] * 3),
        (("online yes", *NAMED), ["done", "EACCES", "done"]),
        (("online no", *NAMED, *SERVERS), ["done", "EACCES", "done"]),
    ],
)
def test_what_a_broker_has_of_radius(world, lines, outcomes):
    """What its helper will need: with a server, or where it has a network, and these places, for a first server."""
    tries = (OF_SECRETS, BESIDE_SECRETS, IN_SPOOL)
    lines = [line.format(world) for line in lines]
    inside = world.run("broker", True, lines=lines)
    assert [inside[name].split()[0] for name in tries] == outcomes
    through = {name for name, outcome in inside.items() if outcome.split()[0] not in REFUSALS} - {NOBODYS, *tries}
    network = INTERNET if "online yes" in lines or SERVERS[0] in lines else set()
    assert through - (OF_ROOT if os.getuid() == 0 else set()) == MAY["broker"] | network
    outside = world.run("broker", False, lines=lines)
    assert [outside[name] for name in tries] == ["done"] * 3


def test_tlspool_online_has_no_secrets_of_radius(world):
    """Of its user, and in a directory of their own: as the package has them.  In one that it reads it has them, too."""
    inside, outside = world.run("online", True), world.run("online", False)
    assert [inside[name] for name in (OF_SECRETS, BESIDE_LISTS)] == ["EACCES", "done"]
    assert [outside[name] for name in (OF_SECRETS, BESIDE_LISTS)] == ["done"] * 2
