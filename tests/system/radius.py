"""A RADIUS server in the world, and what is asked of it: the configuration of the examples, as the package has them."""

from __future__ import annotations

import re
import subprocess
from types import TracebackType

from tests.system.conftest import Host

SECRETS = "/var/lib/tlspool/secrets/radius"
IN_ETC = "/etc/tlspool/radius-secrets"
ENCRYPTED = "/etc/credstore.encrypted/tlspool.radius-secrets"
CREDENTIAL = "/run/credentials/tlspool-broker.service/radius-secrets"
DROP_IN = "/etc/systemd/system/tlspool-broker.service.d/radius-secrets.conf"


class Radius:
    """The server; made by ``with``.  Afterwards the host knows nothing of it."""

    SECRET = "change-this-secret-of-the-pool"
    LINE = f"127.0.0.1 {SECRET}\n"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._config = host.path("/etc/tlspool.conf")

    def __enter__(self) -> Radius:
        host = self._host
        self._before = self._config.read_text()
        host.run("cp", "-r", "/usr/share/doc/tlspool/examples/radius", "/root/raddb")
        host.run("mkdir", "/root/records")
        local = host.path("/root/raddb/local.conf")
        local.write_text(local.read_text().replace("/var/log/freeradius/tlspool", "/root/records"))
        self._server = host.start("freeradius", "-d", "/root/raddb", "-D", "/usr/share/freeradius", "-f")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.terminate()
        self._server.wait(30)
        self._config.write_text(self._before)
        directory = DROP_IN.rpartition("/")[0]
        self._host.run("rm", "-rf", "/root/raddb", "/root/records", SECRETS, IN_ETC, ENCRYPTED, directory)
        self._host.run("systemctl", "daemon-reload")
        self._host.run("systemctl", "restart", "tlspool-broker")
        self._host.await_ready()

    def page(self, block: str) -> None:
        """Run commands of a page as root, who needs no sudo, with this server instead of the page's."""
        block = block.replace("192.0.2.1", "127.0.0.1").replace("SECRET", self.SECRET)
        self._host.run("bash", "-e", "-o", "pipefail", "-c", f'sudo() {{ "$@"; }}\n{block}')

    def asked(self, remote: str = "alice@home.example") -> subprocess.CompletedProcess[str]:
        """Have the server asked about a remote, and return what came out."""
        words = ("--localid", "home.example", "--service", "imap")
        return self._host.run("tlspool", "radius", "test", remote, *words, check=False)

    def await_answer(self) -> None:
        """Wait until the pool asks the server, and is let in."""
        self._host.await_ready()
        self._host.wait(lambda: self.asked().returncode == 0, what="nobody asks the server")

    def checked(self) -> str:
        """Return what is said of the configuration: errors, and what is only worth a word."""
        done = self._host.run("tlspool", "check", check=False)
        return done.stdout + done.stderr

    def records(self) -> list[str]:
        """Return the kinds of records that the server has been told of sessions."""
        text = self._host.run("find", "/root/records", "-name", "detail*", "-exec", "cat", "{}", "+").stdout
        return re.findall(r"Acct-Status-Type = (\w+)", text)
