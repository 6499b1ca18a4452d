"""How the broker starts the helper that speaks RADIUS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.radius_process import Helper, Wishes
from tests.fixtures.radius_server import Server
from tlspool_common import settings
from tlspool_common.messages import PROTOCOL
from tlspool_radius import __main__ as program
from tlspool_radius import spawn

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_arguments_are_what_the_program_reads(tmp_path):
    path = tmp_path / "with space"
    wishes = Wishes(
        radius_authn=(("192.0.2.1", 1812), ("2001:db8::1", 18120)),
        radius_authz=(("radius.example", 1812),),
        radius_acct=(("192.0.2.1", 1813),),
        radius_secret_file=path,
        radius_timeout_s=0.25,
        radius_tries=3,
        radius_dead_s=5.0,
        radius_unsigned="accept",
        radius_spool_dir=tmp_path,
        radius_spool_records=77,
        radius_dynamic=("192.0.2.1", "::1"),
        radius_dynamic_listen=("::1", 3799),
        log_level="warning",
        sandbox="warn",
    )
    args = program.arguments(["--fd", "3", "--parent", "1", *spawn.arguments(wishes)])
    assert args.authn == [("192.0.2.1", 1812), ("2001:db8::1", 18120)]
    assert (args.authz, args.acct) == ([("radius.example", 1812)], [("192.0.2.1", 1813)])
    assert (args.secret_file, args.spool_dir, args.spool_records) == (path, tmp_path, 77)
    assert (args.timeout_s, args.tries, args.dead_s, args.accept_unsigned) == (0.25, 3, 5.0, True)
    assert (args.dynamic, args.listen) == (["192.0.2.1", "::1"], ("::1", 3799))
    assert (args.log_level, args.sandbox) == ("warning", "warn")


def test_arguments_of_settings():
    text = "radius_authz radius.example [2001:db8::1]:18120\nradius_secret_file /etc/tlspool/radius\n"
    args = program.arguments(["--fd", "3", "--parent", "1", *spawn.arguments(settings.parse_untrusted(text))])
    assert args.authz == [("radius.example", 1812), ("2001:db8::1", 18120)]
    assert (args.authn, args.acct, args.spool_dir, args.listen, args.dynamic) == ([], [], None, None, [])
    assert (args.timeout_s, args.tries, args.dead_s, args.accept_unsigned) == (2.0, 2, 60.0, False)


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:", "192.0.2.1:x", "192.0.2.1:0", "192.0.2.1:65536"])
def test_addresses_that_are_none(text, capsys):
    with pytest.raises(SystemExit):
        program.arguments(["--fd", "3", "--parent", "1", "--authn", text])
    assert "must be HOST:PORT" in capsys.readouterr().err


def test_the_module_imports_nothing_of_the_helper():
    code = (
        "import sys, tlspool_radius.spawn; print([name for name in sys.modules if 'pyrad' in name or 'sqlite' in name])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_it_has_its_channel_and_nothing_else(tmp_path):
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    try:
        with Helper(tmp_path, authz=(("127.0.0.1", 1),), acct=(("127.0.0.1", 1),)) as helper:
            assert (helper.hello.protocol, helper.hello.pid) == (PROTOCOL, helper.pid)
            held = {os.readlink(f"/proc/{helper.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{helper.pid}/fd")}
            assert os.readlink(f"/proc/self/fd/{write_fd}") not in held
            assert str(tmp_path / "secrets") not in held
            status = Path(f"/proc/{helper.pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            assert "Umask:\t0077" in status
            command = (
                Path(f"/proc/{helper.pid}/cmdline").read_bytes() + Path(f"/proc/{helper.pid}/environ").read_bytes()
            )
            assert b"a secret of the tests" not in command
            limits = Path(f"/proc/{helper.pid}/limits").read_text()
            assert "Max core file size        0 " in limits
    finally:
        os.close(read_fd)
        os.close(write_fd)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"127.0.0.1 a secret\n", 0o644, "can be read by others"),
        (b"127.0.0.1\n", 0o600, "line 1 must be SERVER SECRET"),
        (None, 0o600, "cannot be read: No such file or directory"),
    ],
)
def test_secrets_that_cannot_be_read(tmp_path, content, mode, why):
    path = tmp_path / "exposed"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    helper = Helper(tmp_path, log=tmp_path / "log", authz=(("127.0.0.1", 1),), secret_file=path)
    assert helper.hello is None
    assert helper.wait() == program.EXIT_CONFIG
    helper.hang_up()
    assert f"radius_secret_file: {path} {why}" in (tmp_path / "log").read_text()


def test_a_server_without_a_secret_and_one_with_a_short_one(tmp_path):
    with Server() as server:
        other = ("127.0.0.2", server.port)
        servers = (other, server.address)
        server.secret = b"short"
        lines = b"127.0.0.1 short\n"
        with Helper(tmp_path, log=tmp_path / "log", authz=servers, secrets=lines, dynamic=("127.0.0.9",)) as helper:
            assert helper.ask("User-Name=carol").access.name == "ACCEPTED"
    log = (tmp_path / "log").read_text()
    assert f"radius.no_secret server=127.0.0.2:{server.port} purpose=authz" in log
    assert "radius.no_secret server=127.0.0.9 purpose=dynamic" in log
    assert "radius.secret_short" in log
    assert "line 1: fewer than 8 bytes" in log


def test_an_address_that_cannot_be_listened_at(tmp_path):
    with Server() as server:
        helper = Helper(tmp_path, log=tmp_path / "log", dynamic=("127.0.0.1",), dynamic_listen=server.address)
        assert helper.wait() == program.EXIT_CONFIG
        helper.hang_up()
    assert "radius_dynamic_listen: Address already in use" in (tmp_path / "log").read_text()


def test_what_confines_it_is_required(tmp_path, monkeypatch):
    with Helper(tmp_path, log=tmp_path / "log") as helper:
        helper.hang_up()
        assert helper.wait() == 0
    assert "event=sandbox.on role=radius" in (tmp_path / "log").read_text()
