"""Which program may use what: several application sockets, and access rules, with a whole pool."""

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, DevPool, EchoServer, connect, log_of, tlspool

SERVER = "tlspool.arpa2.lab"
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
needs_pidfd = pytest.mark.skipif(KERNEL < (6, 5), reason="rules with exe= need SO_PEERPIDFD, of Linux 6.5")
PYTHON = str(Path(sys.executable).resolve())


@pytest.fixture(scope="module")
def fenced(tmp_path_factory):
    """A pool with a socket for servers, one for everybody, and one that no program of ours may use."""
    pool = DevPool(tmp_path_factory.mktemp("access") / "p")
    mail, other = pool.directory / "mail.sock", pool.directory / "other.sock"
    pool.up(
        "ec",
        [
            "socket_mode 0660",
            f"socket_name {mail}",
            f"socket_group {os.getgid()}",
            "socket_mode 0600",
            f"socket_name {other}",
            "log_level debug",
            f"access mail allow socket={mail} user={os.getuid()} role=server localid=.arpa2.lab service=smtp",
            f"access web allow socket={pool.socket} exe={PYTHON} role=server localid={SERVER}",
            f"access nobody deny socket={pool.socket} localid=localhost",
            f"access clients allow socket={pool.socket} role=client",
        ],
    )
    yield pool, mail, other
    pool.down()


def attempt(path, localid, **options):
    """Ask for a server session; return its code, 0 when it got as far as the handshake."""
    ours, theirs = socket.socketpair()
    with theirs, libstub.Pool(str(path)) as pool, pytest.raises(libstub.PoolError) as caught:
        theirs.sendall(b"this is no TLS at all\n")
        libstub.starttls_server(ours, localid, pool=pool, **options)
    return 0 if caught.value.code // 100 == 3 else caught.value.code, str(caught.value)


def test_each_socket_has_its_mode(fenced):
    pool, mail, other = fenced
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (pool.socket, mail, other)]
    assert modes == [0o600, 0o660, 0o600]
    assert other.stat().st_gid == os.getgid()
    for path in (pool.socket, mail, other):
        assert libstub.ping(str(path))


@pytest.mark.parametrize(
    ("place", "localid", "service", "rule"),
    [
        ("mail", SERVER, "smtp", None),
        ("mail", SERVER, "http", "no rule allows it"),
        ("mail", "localhost", "smtp", "no rule allows it"),
        ("mail", "nobody.example", "smtp", "no rule allows it"),
        pytest.param("first", SERVER, "http", None, marks=needs_pidfd),
        ("first", "playground.arpa2.lab", "", "no rule allows it"),
        ("first", "localhost", "", "rule nobody"),
        ("other", SERVER, "smtp", "no rule allows it"),
    ],
)
def test_rules_decide(fenced, place, localid, service, rule):
    pool, mail, other = fenced
    path = {"first": pool.socket, "mail": mail, "other": other}[place]
    code, text = attempt(path, localid, service=service)
    if rule is None:
        assert code == 0, text
    else:
        assert code == 210
        assert rule in text
        assert f'detail="{rule}"' in log_of(pool, "broker")


@needs_pidfd
def test_what_is_allowed_works_to_the_end(fenced):
    pool, *_ = fenced
    server = EchoServer(pool, localid=SERVER)
    try:
        with (
            libstub.Pool(str(pool.socket)) as mine,
            libstub.starttls_client(connect(server.port), SERVER, pool=mine) as session,
        ):
            session.sock.sendall(b"x")
            assert session.sock.recv(1) == b"x"
    finally:
        server.close()


def test_a_role_that_is_not_allowed(fenced):
    _, mail, _ = fenced
    ours, theirs = socket.socketpair()
    with theirs, libstub.Pool(str(mail)) as pool, pytest.raises(libstub.Refused) as caught:
        libstub.starttls_client(ours, SERVER, pool=pool)
    assert caught.value.code == 210
    assert theirs.fileno() < 0


def test_the_operator_sees_sockets_and_rules(fenced):
    pool, mail, _ = fenced
    attempt(mail, "localhost")
    shown = tlspool(pool, "status", "--all").stdout
    assert re.search(rf"{re.escape(str(mail))} +0660", shown), shown
    assert re.search(r"nobody +deny socket=", shown), shown
    assert re.search(r"^ +- +deny +[1-9]", shown, re.MULTILINE), shown


def test_a_rule_that_is_wrong_is_named_before_anything_starts(tmp_path):
    config = tmp_path / "tlspool.conf"
    config.write_text("run_dir /nowhere\naccess mail allow colour=red\n")
    done = subprocess.run(
        [str(COMMANDS / "tlspool-broker"), "--check", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert "access 'mail allow colour=red': 'colour=red' is no criterion" in done.stderr


def test_a_group_that_cannot_be_given(tmp_path):
    """Only root, or a member, may give a socket to a group."""
    config = tmp_path / "tlspool.conf"
    config.write_text(f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\nsocket_group 4294967294\n")
    unprivileged = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    done = subprocess.run(
        [*unprivileged, str(COMMANDS / "tlspool-broker"), "--config", str(config)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "cannot listen at" in done.stderr
