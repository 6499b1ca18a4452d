"""The Debian package in a world of its own: one for all tests, from the installation to the purge."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fixtures.native import ROOT
from tests.fixtures.systemd_world import SystemdWorld
from tlspool_admin.devca import DevCa

CA = "/home/alice/ca.pem"
SESSIONS = "/home/alice/echo_sessions.py"
SERVICES = ("tlspool-broker", "tlspool-worker", "tlspool-keyd")


def build(directory: Path, version: str) -> Path:
    """Build the package from this tree.  Wheels that were made once stay in build/deb."""
    command = [
        "/usr/bin/python3",
        str(ROOT / "scripts/deb"),
        "--fast",
        "--version",
        version,
        "--output",
        str(directory),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    """The package, and the one that follows it."""
    directory = tmp_path_factory.mktemp("deb")
    return build(directory, "0.1.0"), build(directory, "0.1.1")


class Host(SystemdWorld):
    """A host with the package, and a user who is nobody in particular."""

    def install(self, package: Path) -> str:
        """Install a package, without any network."""
        self.put("/root/tlspool.deb", package.read_bytes())
        return self.run("dpkg", "--force-confold", "-i", "/root/tlspool.deb").stdout

    def await_ready(self) -> None:
        """Wait until the broker has both of the others."""
        self.wait(self._is_ready, what="the daemons do not find one another")

    def _is_ready(self) -> bool:
        answer = self.ask("broker", "status")
        return bool(answer.get("keyd")) and bool(answer.get("master")) and int(answer.get("spares", 0)) > 0

    def ask(self, daemon: str, command: str) -> dict:
        """Return the answer of a daemon's control socket to a command."""
        socket = f"UNIX-CONNECT:/run/tlspool/{daemon}.sock"
        done = self.run("socat", "-t10", "-", socket, text=json.dumps({"cmd": command}) + "\n", check=False)
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def add_identity(self, directory: Path) -> None:
        """Have a key made on the token, certify it, and give it to the pool."""
        pin = self.run(
            "systemd-creds", "decrypt", "--name=pkcs11-pin", "/etc/credstore.encrypted/tlspool.pkcs11-pin", "-"
        )
        made = self.run(
            "env", "SOFTHSM2_CONF=/etc/tlspool/softhsm2.conf", "/usr/lib/tlspool/bin/tlspool-token-keys", "--module",
            "/usr/lib/softhsm/libsofthsm2.so", "--label", "tlspool", "--pin-file", "-", "localhost",
            user="tlspool-keyd", text=pin.stdout,
        )  # fmt: skip
        key = json.loads(made.stdout)["localhost"]
        authority = DevCa(directory)
        certificate = authority.issue("localhost", bytes.fromhex(key["spki"]))
        self.put("/root/localhost.pem", certificate.public_bytes(Encoding.PEM))
        self.put(CA, (directory / "ca.pem").read_bytes())
        self.run("tlspool", "localid", "import", "/root/localhost.pem", "--key", key["uri"])

    def sessions(self, count: int) -> subprocess.Popen[str]:
        """Start so many sessions of alice's."""
        return self.start("/usr/bin/python3", SESSIONS, CA, str(count), user="alice")


@pytest.fixture(scope="session")
def bare() -> Iterator[Host]:
    """A world without the package."""
    with Host() as host:
        host.run("useradd", "-m", "alice")
        host.put(SESSIONS, (ROOT / "tests/system/echo_sessions.py").read_bytes())
        yield host


@pytest.fixture(scope="session")
def before(bare) -> tuple[set[str], set[str]]:
    """The files, and users and groups, before anything is installed."""
    return bare.changed_files(*EPHEMERAL), bare.users()


EPHEMERAL = (
    "/var/log/journal", "/var/log/dpkg.log", "/run/log", "/run/systemd", "/run/user", "/run/credentials", "/var/cache",
    "/var/tmp", "/tmp/systemd-private", "/var/lib/dpkg", "/var/lib/systemd", "/root/",
    "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock",
)  # fmt: skip
"""What a host keeps of any package: its logs, its caches, and copies of the user database."""


@pytest.fixture(scope="session")
def host(bare, before, packages, tmp_path_factory) -> Host:
    """A host with the package installed and an identity, ready to serve."""
    bare.install(packages[0])
    bare.await_ready()
    bare.add_identity(tmp_path_factory.mktemp("ca"))
    return bare
