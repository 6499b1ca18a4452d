"""The databases without a broker."""

import fcntl
import os

import pytest

from tlspool_broker import admin, offline, start
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import parse_untrusted


@pytest.fixture
def settings(tmp_path):
    return parse_untrusted(f"run_dir {tmp_path}/run\ndbenv_dir {tmp_path}/db\nhistory_keep 12345\n")


def test_the_same_operations_and_history(settings, no_leaks):
    with offline.open(settings) as databases:
        assert admin.handle(databases, {"cmd": "policy.set", "args": ["host", "modern"]})["generation"] == 2
        assert databases._history_keep == 12345
    with offline.open(settings) as databases:
        [row] = admin.handle(databases, {"cmd": "history"})["history"]
        assert (row["uid"], row["command"]) == (os.getuid(), "policy.set")


def test_not_while_a_broker_runs(settings, no_leaks):
    with start.lock(settings.dbenv_dir, 0o700):
        with pytest.raises(PoolError) as caught, offline.open(settings):
            pass
        assert caught.value.code is Code.DATABASES_IN_USE
    with offline.open(settings):
        with pytest.raises(PoolError), offline.open(settings):
            pass
        with pytest.raises(PoolError) as caught:
            start.lock(settings.dbenv_dir, 0o700)
        assert "another broker uses" in caught.value.detail
    with start.lock(settings.dbenv_dir, 0o700) as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_UN)


def test_not_as_another_user(settings, monkeypatch):
    settings.dbenv_dir.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    with pytest.raises(PoolError) as caught, offline.open(settings):
        pass
    assert caught.value.code is Code.SETTING_INVALID
    assert "sudo -u" in caught.value.detail


def test_a_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    settings = parse_untrusted(f"dbenv_dir {tmp_path}/file/db\n")
    with pytest.raises(PoolError) as caught, offline.open(settings):
        pass
    assert caught.value.code is Code.SETTING_INVALID


def test_the_lock_ends_with_an_error(settings, no_leaks):
    with pytest.raises(RuntimeError), offline.open(settings):
        raise RuntimeError
    with offline.open(settings):
        pass
