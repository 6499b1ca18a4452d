"""Handshakes with remotes that show a certificate: what is alike wherever they are measured."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.peers import Peer, family, wait_for
from tlspool_admin.devca import DevCa


@dataclass(frozen=True)
class Figure:
    """Handshakes a second, and the processor time that our processes take for one."""

    per_s: float
    cpu_us: float


def cpu_s(pids: list[int]) -> float:
    """Return the processor time of processes and their descendants (proc_pid_stat(5), fields 14 and 15)."""
    total = 0.0
    for pid in family(pids):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def issue(ca: DevCa, name: str, path: Path) -> Path:
    """Write the certificate and the key of a remote to a file, and return that."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(ca.issue(name, spki).public_bytes(Encoding.PEM) + secret)
    return path


def start(command: Sequence[str], port: int, environment: Mapping[str, str]) -> Peer:
    """Start a terminator, and wait until it listens at its port."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    peer = Peer(command[0], port, [process])
    wait_for(port)
    return peer


def measure(
    what: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    seconds: float,
    spent_s: Callable[[], float],
) -> Figure:
    """Have a client shake hands for so long; ``spent_s`` returns the processor time of our processes.

    Raises:
        RuntimeError: it failed; ``what`` says where.
    """
    before_s = spent_s()
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr.strip()}")
    per_s = float(done.stdout.split()[0])
    return Figure(per_s, (spent_s() - before_s) * 1e6 / (per_s * seconds))
