"""How the broker starts the helper."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.fixtures.online_process import Helper, Wishes
from tlspool_common import child, settings
from tlspool_common.channel import pair
from tlspool_common.fd import OwnedFd
from tlspool_common.messages import PROTOCOL, Party
from tlspool_online import __main__ as program
from tlspool_online import spawn

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_arguments_are_what_the_program_reads(tmp_path):
    path = tmp_path / "with space"
    wishes = Wishes((path, tmp_path), False, True, (80, 8080), "warning", "warn")
    args = program.arguments(["--fd", "3", "--parent", "1", *spawn.arguments(wishes)])
    assert (args.files_only, args.private, args.port, args.log_level) == (True, True, [80, 8080], "warning")
    assert (args.crl_file, args.sandbox) == ([path, tmp_path], "warn")
    args = program.arguments(["--fd", "3", "--parent", "1", *spawn.arguments(settings.parse_untrusted(""))])
    assert (args.files_only, args.private, args.port, args.crl_file) == (False, False, [80], [])


def test_the_environment(monkeypatch):
    monkeypatch.setenv("OPENSSL_CONF", "/provider.cnf")
    monkeypatch.setenv("NOTIFY_SOCKET", "/x")
    found = child.helper_environment()
    assert not set(child.NOT_PASSED_ON) & set(found)
    assert found["RES_OPTIONS"] == child.RESOLVER
    monkeypatch.setenv("RES_OPTIONS", "timeout:1")
    assert child.helper_environment()["RES_OPTIONS"] == "timeout:1"


def test_it_has_its_channel_and_nothing_else():
    read_fd, write_fd = os.pipe()
    os.set_inheritable(write_fd, True)
    try:
        with Helper() as helper:
            assert (helper.hello.protocol, helper.hello.pid) == (PROTOCOL, helper.pid)
            held = {os.readlink(f"/proc/{helper.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{helper.pid}/fd")}
            assert os.readlink(f"/proc/self/fd/{write_fd}") not in held
            status = Path(f"/proc/{helper.pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status
            limits = Path(f"/proc/{helper.pid}/limits").read_text()
            assert "Max core file size        0 " in limits
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_it_ends_with_its_channel():
    with Helper() as helper:
        helper.hang_up()
        assert helper.wait() == 0


def test_it_ends_when_told_to():
    with Helper() as helper:
        os.kill(helper.pid, signal.SIGTERM)
        assert helper.wait() == 0


def test_a_broker_that_breaks_the_table(tmp_path):
    with Helper(log=tmp_path / "log") as helper:
        helper.send_raw(b"\0\0\0\0\0\0\0\0")
        assert helper.wait() == 76
    assert "helper.broker_broken" in (tmp_path / "log").read_text()


def test_a_descriptor_that_is_no_channel(capfd):
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    pid = spawn.spawn(OwnedFd(read_fd), [])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == program.EXIT_USAGE
    assert "online.refuses_to_start" in capfd.readouterr().err


def test_a_parent_that_is_another(capfd):
    channel, theirs = pair(Party.BROKER, Party.ONLINE)
    with theirs:
        argv = [sys.executable, "-m", "tlspool_online", "--fd", "3", "--parent", "1"]
        actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
        pid = os.posix_spawn(sys.executable, argv, child.helper_environment(), file_actions=actions)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    channel.close()
