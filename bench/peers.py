"""The terminators that are compared: each listens with TLS on loopback and speaks plaintext to one backend.

All use TLS 1.2 and 1.3 with an ECDSA P-256 certificate of the same CA and no session resumption.  The pool and
one stunnel use keys in the same SoftHSM token; the others have theirs in memory, which is what they offer.
"""

from __future__ import annotations

import datetime
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import DevPool, softhsm_module

IDENTITY = "localhost"


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(port: int, seconds: float = 15.0) -> None:
    """Wait until something listens on a loopback port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing listens on port {port}")


def family(pids: list[int]) -> list[int]:
    """Return these processes and all their descendants."""
    found, todo = [], list(pids)
    while todo:
        pid = todo.pop()
        found.append(pid)
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
    return sorted(set(found))


def pss_kib(pids: list[int]) -> int:
    """Return the proportional set size of processes and their descendants (proc(5), smaps_rollup)."""
    total = 0
    for pid in family(pids):
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1))  # type: ignore[union-attr]
    return total


@dataclass
class Peer:
    """A running terminator."""

    name: str
    port: int
    processes: list[subprocess.Popen[bytes]]
    extra_pids: list[int] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        """Everything that belongs to it, without descendants."""
        return [process.pid for process in self.processes] + self.extra_pids

    def stop(self) -> None:
        """Stop what was started here, by its pid."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class World:
    """A scratch directory with a pool, a CA, and a software key for the peers."""

    def __init__(self, directory: Path, backend_port: int) -> None:
        self.directory = directory
        self.backend_port = backend_port
        self.pool = DevPool(directory / "pool")
        self.pool.up("ec", ["log_level warning", "socket_mode 0666"])
        self.ca = self.pool.directory / "ca.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        certificate = DevCa(self.pool.directory).issue(IDENTITY, spki).public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.certificate = directory / "memory.crt"
        self.key = directory / "memory.key"
        self.both = directory / "memory.pem"
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(secret)
        self.both.write_bytes(certificate + secret)

    def close(self) -> None:
        """Stop the pool and remove it."""
        self.pool.down()

    def run(self, name: str, command: list[str], port: int, **environment: str) -> Peer:
        """Start a peer and wait until it listens."""
        log = (self.directory / f"{re.sub('[^a-z0-9]', '-', name)}.log").open("wb")
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        log.close()
        wait_for(port)
        return Peer(name, port, [process])

    # --- the peers ------------------------------------------------------------------------------------

    def tlspool(self) -> Peer:
        """Our tunnel: the pool's daemons and the tunnel process."""
        port = free_port()
        command = [str(Path(sys.executable).parent / "tlspool"), "tunnel", "server", "--listen", f"127.0.0.1:{port}"]
        command += ["--connect", f"127.0.0.1:{self.backend_port}", "--localid", IDENTITY, "--client-auth", "ignore"]
        peer = self.run("tlspool", command, port, **self.pool.environment)
        peer.extra_pids = list(self.pool.running().values())
        return peer

    def _stunnel(self, name: str, lines: list[str], **environment: str) -> Peer:
        port = free_port()
        path = self.directory / f"{name}.conf"
        head = ["foreground = yes", "pid =", "debug = 3", "sslVersionMin = TLSv1.2", "sessionCacheSize = 0"]
        service = ["[bench]", f"accept = 127.0.0.1:{port}", f"connect = 127.0.0.1:{self.backend_port}"]
        if lines[0].startswith("engine"):
            cut = next(i for i, line in enumerate(lines) if line.startswith("engineId"))
            head, service = head[:4] + lines[:cut], service + lines[cut:]
        else:
            head, service = head[:4], service + lines
        path.write_text("\n".join([*head, *service, "options = NO_TICKET", "sessionCacheSize = 1", ""]))
        return self.run(name, ["stunnel", str(path)], port, **environment)

    def stunnel_memory(self) -> Peer:
        """Stunnel with its key in memory."""
        return self._stunnel("stunnel memory", [f"cert = {self.certificate}", f"key = {self.key}"])

    def stunnel_token(self) -> Peer:
        """Stunnel with the pool's own key, through libp11's engine."""
        pin_secret = (self.pool.directory / "pin").read_text().strip()
        return self._stunnel(
            "stunnel token",
            [
                "engine = pkcs11",
                f"engineCtrl = MODULE_PATH:{softhsm_module()}",
                f"engineCtrl = PIN:{pin_secret}",
                "engineCtrl = INIT",
                "engineId = pkcs11",
                f"cert = {self.pool.directory}/certs/{IDENTITY}.pem",
                f"key = pkcs11:token=tlspool-dev;object={IDENTITY};type=private",
            ],
            SOFTHSM2_CONF=str(self.pool.directory / "softhsm2.conf"),
        )

    def haproxy(self) -> Peer:
        """Haproxy in TCP mode."""
        port = free_port()
        path = self.directory / "haproxy.cfg"
        path.write_text(
            "global\n nbthread 2\n maxconn 8000\n tune.ssl.cachesize 0\n"
            " ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets\n"
            "defaults\n mode tcp\n timeout connect 10s\n timeout client 300s\n timeout server 300s\n"
            f"frontend f\n bind 127.0.0.1:{port} ssl crt {self.both}\n default_backend b\n"
            f"backend b\n server s 127.0.0.1:{self.backend_port}\n"
        )
        return self.run("haproxy", ["haproxy", "-db", "-f", str(path)], port)

    def hitch(self) -> Peer:
        """Hitch with two workers."""
        port = free_port()
        path = self.directory / "hitch.conf"
        path.write_text(
            f'frontend = {{ host = "127.0.0.1" port = "{port}" }}\nbackend = "[127.0.0.1]:{self.backend_port}"\n'
            f'pem-file = "{self.both}"\nworkers = 2\ntls-protos = TLSv1.2 TLSv1.3\nquiet = on\ndaemon = off\n'
            f'user = "{_user()}"\n'
        )
        return self.run("hitch", ["hitch", f"--config={path}"], port)

    def starters(self) -> Iterator[Callable[[], Peer]]:
        """Return all of them, ours first."""
        yield from (self.tlspool, self.stunnel_memory, self.stunnel_token, self.haproxy, self.hitch)


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def today() -> str:
    """Return the date for a report's head."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
