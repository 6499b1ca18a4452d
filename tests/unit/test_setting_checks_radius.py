"""What a configuration names for RADIUS: each thing that may be wrong is found, with its remedy; no secret is shown."""

import os
from pathlib import Path

import pytest

from tlspool_common import sandbox_profiles, setting_checks_radius
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


@pytest.mark.parametrize(
    ("path", "more", "warned"),
    [
        ("/etc/tlspool/radius-secrets", "", True),
        ("/usr/local/secrets", "", True),
        ("/lists/secrets", "crl_file /lists/list.pem\n", True),
        ("/lists/secrets", "", False),
        ("/etc/tlspool/radius-secrets", "online no\n", False),
        ("/etc/tlspool/radius-secrets", "online no\ncrl_file /lists/list.pem\n", True),
        ("/var/lib/tlspool/secrets/radius", "crl_file /var/lib/lists/list.pem\n", False),
        ("/run/credentials/tlspool-broker.service/radius-secrets", "", False),
    ],
)
def test_secrets_in_reach_of_the_other_helper(path, more, warned):
    remark = setting_checks_radius.in_reach(parse_untrusted(f"radius_secret_file {path}\n{more}"))
    assert (remark is not None) == warned
    if remark is not None:
        assert (remark.level, remark.keyword, remark.subject) == ("warning", "radius_secret_file", path)
        assert "/var/lib/tlspool/secrets" in remark.remedy


def test_secrets_in_reach_are_told_of(host, tmp_path):
    assert host.look(f"crl_file {tmp_path}/list.pem") == [("warning", "radius_secret_file")]
    assert host.look(f"crl_file {tmp_path}/lists/list.pem") == []
    (tmp_path / "lists").mkdir()
    host.secrets.rename(tmp_path / "lists" / "secrets")
    host.secrets.symlink_to(tmp_path / "lists" / "secrets")
    assert host.look(f"crl_file {tmp_path}/lists/list.pem") == [("warning", "radius_secret_file")]


def test_a_credential(host, tmp_path, monkeypatch):
    monkeypatch.setattr(setting_checks_radius, "_CREDENTIALS", tmp_path)
    unit = tmp_path / "tlspool-broker.service"
    secrets, host.secrets = host.secrets, unit / "radius-secrets"
    assert host.look() == [("note", "radius_secret_file")], "the unit does not run"
    unit.mkdir()
    assert host.look() == [("error", "radius_secret_file")], "it runs, and has no such credential"
    secrets.rename(host.secrets)
    host.secrets.chmod(0o440)
    assert host.look() == []
    if os.getuid() == 0:  # root's, as systemd has it where there are ACLs
        assert host.look("broker_user 65534") == [("error", "radius_spool_dir")]
    host.secrets.chmod(0o444)
    assert host.look() == [("error", "radius_secret_file")]


def test_the_directory_that_is_recommended_is_made():
    lines = (Path(__file__).parents[2] / "systemd" / "tlspool.tmpfiles.conf").read_text().splitlines()
    row = f"d {sandbox_profiles.SECRETS_DIR} 0700 tlspool-broker tlspool -"
    assert row in lines
