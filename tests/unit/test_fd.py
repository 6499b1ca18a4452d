"""One owner, one close."""

import os

import pytest

from tlspool_common.fd import OwnedFd


def test_closed_once_and_only_by_its_owner():
    read_fd, write_fd = os.pipe()
    with OwnedFd(read_fd) as owned:
        assert owned.fileno() == read_fd
    owned.close()
    with pytest.raises(OSError):
        os.fstat(read_fd)
    with pytest.raises(ValueError):
        owned.fileno()
    owner = OwnedFd(write_fd)
    assert owner.detach() == write_fd
    assert owner.closed
    del owner
    os.close(write_fd)


def test_dropped_means_closed():
    read_fd, write_fd = os.pipe()
    owned = OwnedFd(read_fd)
    del owned
    with pytest.raises(OSError):
        os.fstat(read_fd)
    os.close(write_fd)
