"""docs/operations.md: every command in it is run here, in its order, or is marked for a host with systemd."""

import os
import re
import select
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.conftest import COMMANDS, make_pool
from tests.fixtures.freeradius import FreeRadius
from tests.fixtures.page import KINDS, commands, pieces
from tlspool_admin.__main__ import parser
from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import TOKEN_LABEL, softhsm_module
from tlspool_admin.tree import tree

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BLOCK_S = 60


class Desk:
    """An operator's working directory beside a pool, and what others do for him."""

    def __init__(self, pool, directory):
        self.pool = pool
        self.directory = directory
        self.authority = DevCa(pool.directory)
        self.stopped = []
        (directory / "ca.pem").write_bytes((pool.directory / "ca.pem").read_bytes())
        self.environment = {
            **os.environ,
            **pool.environment,
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "SOFTHSM2_CONF": str(pool.directory / "softhsm2.conf"),
            "TOKEN": f"pkcs11:token={TOKEN_LABEL}",
            "LABEL": TOKEN_LABEL,
            "MODULE": softhsm_module(),
            "PIN_FILE": str(pool.directory / "pin"),
            "CONF": str(pool.config),
            "DB": str(pool.directory / "db"),
            "BACKUP": str(directory / "backup"),
            "SECRETS": str(pool.directory / "radius-secrets"),
        }
        self.radius = FreeRadius(people="", resources="www.example.com/*/home.example\n")
        self.environment |= {"AUTH": self.radius.auth, "ACCT": self.radius.acct}

    def run(self, block):
        """Run a block; the first command that fails ends it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
        )

    def happen(self, words):
        """Do what others do."""
        what, _, whom = words.partition(" ")
        if what == "sign":
            request = x509.load_pem_x509_csr((self.directory / "request.pem").read_bytes())
            spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            issued = self.authority.issue("www.example.com", spki).public_bytes(Encoding.PEM)
            (self.directory / "www.example.com.pem").write_bytes(issued)
        elif what == "radius":
            (self.pool.directory / "radius-secrets").write_text(f"127.0.0.1 {self.radius.secret}\n")
            self.radius.start()
        elif what == "stop":
            self.stopped = ["broker"] if whom == "broker" else ["worker", "keyd", "broker"]
            for name in self.stopped:
                end(self.pool, name)
        elif what == "start":
            for name in reversed(self.stopped):
                self.pool._start(name)
            self.pool._await_connected()
        else:
            raise AssertionError(f"nobody knows how to {words}")


def end(pool, name):
    pid = pool.running()[name]
    pid_fd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        assert select.select([pid_fd], [], [], 20)[0], f"{name} does not end"
        os.waitpid(pid, os.WNOHANG)  # what make_pool has started is a child of ours
    finally:
        os.close(pid_fd)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    spool = tmp_path_factory.mktemp("records") / "spool"  # where the package has it only root can make it
    pool = make_pool(tmp_path_factory, "page", "ec", f"radius_spool_dir {spool}")
    made = Desk(pool, tmp_path_factory.mktemp("desk"))
    yield made
    pool.down()
    made.radius.close()


def test_every_block_is_of_a_kind_that_somebody_runs():
    for piece in pieces(PAGE):
        assert piece.kind in (*KINDS, "here"), f"line {piece.line}: {piece.kind!r} is run by nobody"
    assert PAGE.count("```") == 2 * len([piece for piece in pieces(PAGE) if piece.kind != "here"])
    assert not re.findall(r"^(?: {4,}|\t)\S", re.sub(r"^```.*?^```$", "", PAGE, flags=re.M | re.S), re.M), "unmarked"
    assert len(commands(PAGE, "sh")) > 20
    assert commands(PAGE, "sh host")


def test_every_command_of_the_page(desk):
    for piece in pieces(PAGE):
        if piece.kind == "here":
            desk.happen(piece.text)
        elif piece.kind == "sh":
            done = desk.run(piece.text)
            told = f"line {piece.line} of operations.md:\n{piece.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert done.returncode == 0, told
            assert "Traceback" not in done.stderr, told


def words_of(text):
    """Yield the commands ``tlspool ...`` in code, on lines of their own and in sentences."""
    for piece in pieces(text):
        if piece.kind.startswith("sh"):
            for line in piece.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"\$\((?!\()|\|\||\||&&|;(?=\s)", line):
                    if part.strip().startswith("tlspool "):
                        yield part.strip()
    yield from re.findall(r"`(tlspool [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@pytest.mark.parametrize("command", sorted(set(words_of(PAGE))))
def test_commands_in_sentences_exist_too(command):
    """What is only mentioned, or run elsewhere, has to be a command with such options at least."""
    words = shlex.split(command, comments=True)[1:]
    node = tree(parser())
    while words and (child := next((one for one in node.children if one.words[-1] == words[0]), None)):
        node, words = child, words[1:]
    assert node.words, f"{command}: no such command"
    known = {name for option in node.options for name in option.names}
    assert {word for word in words if word.startswith("-") and len(word) > 1} <= known
    plain = [word for word in words if not word.startswith("-")]
    assert not plain or node.arguments or any(option.metavar for option in node.options), f"{command}: {plain}"
