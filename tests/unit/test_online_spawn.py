"""How the broker starts the helper."""

import os
from pathlib import Path

import pytest

from tests.fixtures.online_process import Helper, Wishes
from tlspool_common import settings
from tlspool_common.messages import PROTOCOL
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
