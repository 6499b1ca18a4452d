"""What a configuration names for RADIUS: each thing that may be wrong is found, with its remedy; no secret is shown."""

import os

import pytest

from tlspool_common import setting_checks_radius
from tlspool_common.settings import parse_untrusted

CANARY = "canary-shared-secret"


@pytest.fixture
def host(tmp_path):
    """A host that is in order."""

    class Host:
        secrets = tmp_path / "radius-secrets"
        spool = tmp_path / "spool"

        def look(self, *more, acct="radius_acct 192.0.2.1"):
            lines = [acct, f"radius_secret_file {self.secrets}", f"radius_spool_dir {self.spool}"]
            text = "\n".join([*lines, "radius_spool_records 100", f"broker_user {os.getuid()}", *more, ""])
            found = list(setting_checks_radius.look(parse_untrusted(text)))
            assert all(str(one) and one.remedy for one in found)
            assert CANARY not in str(found)
            return [(one.level, one.keyword) for one in found]

    Host.spool.mkdir(mode=0o700)
    Host.secrets.write_text(
        f"# of the tests\n192.0.2.1 {CANARY}\n192.0.2.2:1812 {CANARY}\n[2001:db8::1]:1812 {CANARY}\n"
    )
    Host.secrets.chmod(0o600)
    return Host()


def test_a_host_in_order(host):
    assert host.look() == []
    more = ["radius_authn 192.0.2.2", "radius_authz [2001:db8::1]:1812", "radius_dynamic 192.0.2.2"]
    assert host.look(*more, "radius_dynamic_listen 127.0.0.1:3799") == []


def test_a_pool_without_servers_is_not_looked_at():
    assert list(setting_checks_radius.look(parse_untrusted("radius_spool_dir /nowhere/at/all\n"))) == []


def test_servers_without_a_secret(host):
    more = ["radius_authn 192.0.2.2:1645", "radius_authz 192.0.2.3", "radius_dynamic 192.0.2.4"]
    expected = [("error", "radius_authn"), ("error", "radius_authz"), ("error", "radius_dynamic")]
    assert host.look(*more, "radius_dynamic_listen 127.0.0.1:3799") == expected


def test_a_line_without_a_secret_is_none(host):
    host.secrets.write_text("192.0.2.1\n#192.0.2.1 commented\n")
    assert host.look() == [("error", "radius_acct")]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_secrets_that_others_can_read(host, mode):
    host.secrets.chmod(mode)
    assert host.look() == [("error", "radius_secret_file")]


def test_secrets_that_are_not_there(host):
    host.secrets.unlink()
    assert host.look() == [("error", "radius_secret_file")]
    host.secrets.mkdir()
    assert host.look() == [("error", "radius_secret_file")]


def test_secrets_of_somebody_else(host):
    theirs = [("error", "radius_secret_file"), ("error", "radius_spool_dir")]
    assert host.look("broker_user 65534") == theirs, "what is ours, or root's, is not the broker's"
    if os.getuid() == 0:  # who gives files away
        os.chown(host.spool, 65534, -1)
        assert host.look("broker_user 65534") == theirs[:1]
        os.chown(host.secrets, 65534, -1)
        assert host.look("broker_user 65534") == []
        os.chown(host.spool, 0, -1)
        assert host.look() == theirs[:1]


def test_the_spool(host):
    assert host.look("radius_spool_records 10000000") in ([], [("warning", "radius_spool_dir")])
    host.spool.chmod(0o750)
    assert host.look() == [("warning", "radius_spool_dir")]
    host.spool.rmdir()
    assert host.look() == [("note", "radius_spool_dir")]
    host.spool.write_text("")
    assert host.look() == [("error", "radius_spool_dir")]


def test_room_for_the_spool(host, monkeypatch):
    class Room:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(setting_checks_radius.os, "statvfs", lambda _path: Room)
    assert host.look("radius_spool_records 10000") == [("warning", "radius_spool_dir")]


def test_where_requests_are_taken(host):
    dynamic = "radius_dynamic 192.0.2.1"
    assert host.look(dynamic, "radius_dynamic_listen 192.0.2.77:3799") == [("error", "radius_dynamic_listen")]
    assert host.look(dynamic, "radius_dynamic_listen 0.0.0.0:3799") == [("note", "radius_dynamic_listen")]
    assert host.look(dynamic, "radius_dynamic_listen [::1]:3799") == []


def test_what_is_worth_a_word(host):
    assert host.look("radius_unsigned accept") == [("warning", "radius_unsigned")]
    assert host.look(acct="radius_authn 192.0.2.1") == [("note", "radius_acct")]
