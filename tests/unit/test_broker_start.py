"""What the broker needs before it can serve."""

import os
import resource
import socket
import stat

import pytest

from tlspool_broker import start
from tlspool_common import sandbox
from tlspool_common.errors import Code, PoolError
from tlspool_common.fd import OwnedFd
from tlspool_common.log import Log
from tlspool_common.sandbox import Profile
from tlspool_common.sandbox_landlock import READ, WRITE, Grant
from tlspool_common.settings import SettingError, parse_untrusted


def test_a_directory_is_one_brokers(no_leaks, tmp_path):
    directory = tmp_path / "a" / "b"
    with start.lock(directory, 0o710):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o710
        with pytest.raises(PoolError, match="another broker uses"):
            start.lock(directory, 0o700)
        assert stat.S_IMODE(directory.stat().st_mode) == 0o710
    with start.lock(directory, 0o700):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_directories_that_cannot_be(no_leaks, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "link"):
        with pytest.raises(PoolError) as caught:
            start.lock(path, 0o700)
        assert caught.value.code is Code.SETTING_INVALID
        assert str(path) in caught.value.detail
    with pytest.raises(PoolError):
        start.make_run_dir(tmp_path / "file" / "run")


def test_the_run_dir_lets_applications_pass(tmp_path):
    before = os.umask(0o077)
    try:
        start.make_run_dir(tmp_path / "run")
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755
        (tmp_path / "run").chmod(0o750)
        start.make_run_dir(tmp_path / "run")  # somebody knows better
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("lines", "modes"),
    [
        ("broker_user 1\nworker_user 1\nkeyd_user 1\n", (0o700, 0o600)),
        ("broker_user 1\nworker_user 2\nkeyd_user 1\n", (0o710, 0o660)),
        ("broker_user 1\nworker_user 1\nkeyd_user 2\n", (0o710, 0o660)),
    ],
)
def test_modes_of_the_private_socket(lines, modes):
    assert start.private_modes(parse_untrusted(lines)) == modes


def test_as_many_descriptors_as_we_may_have():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        most = start.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most >= 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def listening(tmp_path, kind=socket.SOCK_STREAM, listen=True):
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(tmp_path / "s"))
    if listen:
        sock.listen()
    return sock


@pytest.mark.parametrize("name", ["app", "tlspool.sock", "app#4"])
def test_systemds_socket(no_leaks, tmp_path, name):
    other = OwnedFd(os.open("/dev/null", os.O_RDONLY))
    passed = {name: OwnedFd(listening(tmp_path).detach()), "x": other}
    [sock] = start.inherited_sockets(passed)
    assert sock.getsockname() == str(tmp_path / "s")
    assert passed == {"x": other}
    other.close()
    sock.close()
    assert start.inherited_sockets({}) == []


def test_systemds_sockets(no_leaks, tmp_path):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.mkdir()
    passed = {name: OwnedFd(listening(path).detach()) for name, path in zip(("app", "app#4"), paths, strict=True)}
    found = start.inherited_sockets(passed)
    assert [sock.getsockname() for sock in found] == [str(path / "s") for path in paths]
    for sock in found:
        sock.close()


def test_one_of_systemds_sockets_is_none(no_leaks, tmp_path):
    good, bad = OwnedFd(listening(tmp_path).detach()), OwnedFd(os.open("/dev/null", os.O_RDONLY))
    with pytest.raises(PoolError, match="socket from systemd"):
        start.inherited_sockets({"app": good, "app#4": bad})


@pytest.mark.parametrize("options", [{"listen": False}, {"kind": socket.SOCK_SEQPACKET}])
def test_systemds_socket_that_is_none(no_leaks, tmp_path, options):
    with pytest.raises(PoolError, match="ListenStream"):
        start.inherited_sockets({"app": OwnedFd(listening(tmp_path, **options).detach())})
    with pytest.raises(PoolError, match="socket from systemd"):
        start.inherited_sockets({"app": OwnedFd(os.open("/dev/null", os.O_RDONLY))})


def test_a_record_is_reported_once(capsys):
    report = start.once(Log("broker"))
    for _ in range(3):
        report(PoolError(Code.RECORD_MALFORMED, "localid a: why"))
    report(PoolError(Code.RECORD_MALFORMED, "localid b: why"))
    assert capsys.readouterr().err.count("record.unusable") == 2
    for number in range(1100):
        report(PoolError(Code.RECORD_MALFORMED, f"{number}"))
    capsys.readouterr()
    report(PoolError(Code.RECORD_MALFORMED, "localid a: why"))
    assert "code=118 rule=record_malformed" in capsys.readouterr().err


@pytest.fixture
def entered(monkeypatch, tmp_path):
    """As if this broker were in a sandbox that was made for its first configuration."""
    (tmp_path / "lists").mkdir()
    profile = Profile("test", (), (Grant(tmp_path / "lists", READ, "for a test"),), connect=(53, 80))
    monkeypatch.setattr(sandbox._State, "profile", profile)
    monkeypatch.setattr(sandbox._State, "in_force", "landlock-7,seccomp")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("crl_file {}/lists/one.pem", ""),
        ("crl_file {}/one.pem", "crl_file '{}"),
        ("online_ports 80", ""),
        ("online no", ""),
        ("online_ports 80 8080", "online_ports '80 8080'"),
        ("online no\nonline_ports 8080", ""),
    ],
)
def test_a_reload_that_the_sandbox_has_no_room_for(entered, line, refusal):
    path = entered / "conf"
    path.write_text(line.format(entered) + "\n")
    if not refusal:
        start.reload(path, parse_untrusted(""))
        return
    with pytest.raises(SettingError) as caught:
        start.reload(path, parse_untrusted(""))
    assert refusal.format(str(entered)[:40]) in str(caught.value)
    assert "out of reach of the sandbox" in str(caught.value)
    assert "restart the broker" in str(caught.value)


def test_a_reload_online_that_was_not(entered, monkeypatch):
    monkeypatch.setattr(sandbox._State, "profile", Profile("test", ()))
    (entered / "conf").write_text("online yes\n")
    with pytest.raises(SettingError, match="online 'yes': out of reach"):
        start.reload(entered / "conf", parse_untrusted(""))


def test_a_list_that_was_out_of_reach_all_the_time_is_no_reason_to_refuse(entered):
    text = f"crl_file {entered}/one.pem\n"
    (entered / "conf").write_text(text + "log_level debug\n")
    assert start.reload(entered / "conf", parse_untrusted(text)).log_level == "debug"


def test_secrets_that_change_are_seen_at_a_reload(tmp_path):
    path = tmp_path / "secrets"
    config = parse_untrusted(f"radius_secret_file {path}\n")
    seen = start.Secrets(config)
    assert not seen.changed(config)
    path.write_text("192.0.2.1 first\n")
    assert seen.changed(config)
    assert not seen.changed(config)
    path.write_text("192.0.2.1 other secret\n")
    assert seen.changed(config)
    assert seen.changed(parse_untrusted(""))
    assert not seen.changed(parse_untrusted(""))


RADIUS = "radius_authz 192.0.2.1\nradius_secret_file {}/lists/secrets\n"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (RADIUS, ""),
        ("online no\n" + RADIUS, ""),
        ("radius_authz 192.0.2.1\nradius_secret_file {}/secrets\n", "radius_secret_file '{}"),
        (RADIUS + "radius_acct 192.0.2.1\nradius_spool_dir {}/spool\n", "radius_acct: {}"),
    ],
)
def test_a_reload_with_radius(entered, text, refusal):
    path = entered / "conf"
    path.write_text(text.replace("{}", str(entered)))
    if not refusal:
        start.reload(path, parse_untrusted(""))
        return
    with pytest.raises(SettingError) as caught:
        start.reload(path, parse_untrusted(""))
    assert refusal.replace("{}", str(entered)[:40]) in str(caught.value)
    assert "restart the broker" in str(caught.value)


def test_a_reload_with_radius_without_a_network(entered, monkeypatch):
    monkeypatch.setattr(sandbox._State, "profile", Profile("test", ()))
    (entered / "conf").write_text("online no\nradius_authn 192.0.2.1\nradius_secret_file /secrets\n")
    with pytest.raises(SettingError, match="radius_authn: out of reach"):
        start.reload(entered / "conf", parse_untrusted(""))


@pytest.mark.parametrize(
    ("granted", "named", "out_of_reach"),
    [
        (["spool"], "spool", None),
        ([], "spool", "spool"),
        (["spool"], "newer", "newer"),
        (["newer"], "newer", "spool"),
    ],
)
def test_records_wait_where_the_broker_had_a_place_for_them(entered, monkeypatch, granted, named, out_of_reach):
    """A spool of another name takes a restart; until then it is that of the start, and both have to be in reach."""
    grants = [Grant(entered / name, WRITE, "for a test") for name in granted]
    grants.append(Grant(entered / "lists", READ, "for a test"))
    monkeypatch.setattr(sandbox._State, "profile", Profile("test", (), tuple(grants), connect=(53, 80)))
    text = f"{RADIUS}radius_acct 192.0.2.1\nradius_spool_dir {{}}/{named}\n"
    (entered / "conf").write_text(text.replace("{}", str(entered)))
    config = parse_untrusted(f"radius_spool_dir {entered}/spool\n")
    if out_of_reach is None:
        assert start.reload(entered / "conf", config).radius_acct
        return
    with pytest.raises(
        SettingError, match=f"radius_acct: {entered}/{out_of_reach} is out of reach.*restart the broker"
    ):
        start.reload(entered / "conf", config)
    assert not (entered / "spool").exists()


def test_a_reload_makes_the_spool_where_there_is_no_sandbox(tmp_path):
    text = f"radius_acct 192.0.2.1\nradius_secret_file /secrets\nradius_spool_dir {tmp_path}/a/spool\n"
    (tmp_path / "conf").write_text(text)
    config = parse_untrusted(text)
    for _ in range(2):
        start.reload(tmp_path / "conf", config)
        assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
    (tmp_path / "a" / "spool").rmdir()
    (tmp_path / "a" / "spool").write_text("")
    with pytest.raises(SettingError, match=r"radius_acct: .*/a/spool: File exists"):
        start.reload(tmp_path / "conf", config)


def test_the_directory_of_the_spool(tmp_path):
    secret = "radius_secret_file /secrets\n"
    start.make_spool_dir(parse_untrusted(secret))
    text = f"{secret}radius_spool_dir {tmp_path}/a/spool\n"
    for config in (parse_untrusted(text), parse_untrusted(text + "radius_acct 192.0.2.1\n")):
        start.make_spool_dir(config)
        assert stat.S_IMODE((tmp_path / "a" / "spool").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    start.make_spool_dir(parse_untrusted(f"radius_spool_dir {tmp_path}/file\n"))  # nobody uses it, and nobody may ever
    with pytest.raises(PoolError, match="file: File exists"):
        start.make_spool_dir(
            parse_untrusted(f"radius_acct 192.0.2.1\nradius_secret_file /s\nradius_spool_dir {tmp_path}/file\n")
        )


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("radius_authn 192.0.2.1\nradius_secret_file /etc/tlspool/secrets\n", True),
        ("radius_authn 192.0.2.1\nradius_secret_file /var/lib/tlspool/secrets/radius\n", False),
        ("radius_secret_file /etc/tlspool/secrets\n", False),
    ],
)
def test_secrets_that_the_other_helper_could_read(text, warned, capsys):
    start.warn_of_secrets(parse_untrusted(text), Log("broker", "info"))
    written = capsys.readouterr().err
    assert ("radius.secrets_in_reach" in written) == warned
    assert ("move it to" in written) == warned
