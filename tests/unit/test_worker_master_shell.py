"""The worker master on a host where much is used up."""

import os

import pytest

from tests.fixtures.crowd import crowded
from tests.fixtures.loops import Lines
from tlspool_common import settings
from tlspool_common.fd import OwnedFd
from tlspool_worker.master_shell import Master


@pytest.fixture
def master(tmp_path, no_leaks):
    made = Master(settings.parse_untrusted(f"run_dir {tmp_path}"), tmp_path / "tlspool.conf", Lines())
    yield made
    made.close()


def test_a_broker_is_looked_for_although_there_are_many_workers(master):
    """Each is a descriptor, or two, and there may be 4096."""
    life, other = os.pipe()
    with crowded(), OwnedFd(other):
        master._life = OwnedFd(os.dup(life))
        os.close(life)
        master._connect_at_ms = 0
        master._connect_if_due()
        assert master._connect_at_ms > 0  # nobody was there
