"""What is granted to whom: by settings, by where things are, and nothing that nobody has asked for."""

import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tlspool_common import sandbox_calls as calls
from tlspool_common import sandbox_profiles as profiles
from tlspool_common.sandbox_landlock import READ, WRITE, Access
from tlspool_common.sandbox_seccomp import Verdict
from tlspool_common.settings import Part, parse_untrusted

CONFIG = Path("/srv/pool/tlspool.conf")


WITH_PLACES = ("open", "openat", "stat", "newfstatat", "statx", "socket", "connect", "execve", "fork", "kill", "ptrace")
WITH_CONDITIONS = ("clone", "mmap", "mprotect", "ioctl", "fcntl", "prctl", "setsockopt", "sendto", "sendmsg")


def settings(text, part):
    return parse_untrusted(f"run_dir /run/p\ndbenv_dir /var/p/db\n{text}", part)


def paths(profile, access):
    return {str(grant.path) for grant in profile.grants if grant.access & access}


def allowed(profile, call):
    return [rule for rule in profile.calls if rule.call == call and rule.verdict is Verdict.ALLOW]


def everybody(text=""):
    return {
        "worker": profiles.worker(),
        "master": profiles.master(settings(text, Part.WORKER), CONFIG),
        "keyd": profiles.keyd(settings(text, Part.KEYD), CONFIG),
        "token": profiles.token(["local"], "/usr/lib/softhsm/libsofthsm2.so"),
        "broker": profiles.broker(settings(text, Part.BROKER), CONFIG),
        "online": profiles.online((), True, (80,)),
        "radius": profiles.radius(Path("/var/p/radius")),
    }


def test_a_worker_has_nothing():
    profile = profiles.worker()
    assert (profile.grants, profile.connect, profile.bind, profile.capabilities) == ((), (), (), False)
    for call in [
        "open",
        "openat",
        "stat",
        "newfstatat",
        "statx",
        "socket",
        "connect",
        "execve",
        "fork",
        "kill",
        "ptrace",
    ]:
        assert not allowed(profile, call), call
    for call in [
        "clone",
        "mmap",
        "mprotect",
        "ioctl",
        "fcntl",
        "prctl",
        "setsockopt",
        "sendto",
        "sendmsg",
        "socketpair",
    ]:
        assert all(rule.conditions for rule in allowed(profile, call)), call


def test_a_log_that_is_a_file_can_be_written():
    code = (
        "import resource; from tlspool_common import sandbox_profiles as p\n"
        "import sys; sys.stdout.write(str(resource.RLIMIT_FSIZE in p.worker().limits))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True"
    read = os.memfd_create("log")
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=read, check=True)
    done = subprocess.run([sys.executable, "-c", code], stdout=read, stderr=subprocess.DEVNULL, check=True)
    assert done.returncode == 0
    assert os.pread(read, 10, 0) == b"False"
    os.close(read)
    assert profiles.worker().limits[resource.RLIMIT_MEMLOCK] == 0


def test_who_writes_what():
    found = {name: paths(profile, Access.WRITE_FILE) - {"/dev/null"} for name, profile in everybody().items()}
    tokens = found.pop("token")
    lasting = {"/var/p/db", "/run/p/private", "/var/lib/tlspool/radius"}
    assert found == {"worker": set(), "master": set(), "keyd": tokens, "broker": lasting, "online": set()} | {
        "radius": {"/var/p/radius"}
    }
    assert tokens <= {"/var/lib/softhsm/tokens", "/var/lib/softhsm/tokens/"}


def test_who_writes_audit_trails():
    for name, profile in everybody("audit_dir /var/p/trail").items():
        assert ("/var/p/trail" in paths(profile, Access.WRITE_FILE)) == (name in ("broker", "keyd"))


def test_who_executes_what():
    found = {name: paths(profile, Access.EXECUTE) for name, profile in everybody().items()}
    assert found["keyd"] == found["broker"]
    assert sys.executable in found["keyd"]
    assert len(found["keyd"]) == 2
    assert not any(found[name] for name in ("worker", "master", "token", "online", "radius"))


def test_the_linker_is_the_one_of_this_program():
    (linker,) = {grant.path for grant in profiles.interpreter()} - {Path(sys.executable)}
    maps = Path("/proc/self/maps").read_text()
    assert str(linker.resolve()) in maps


def test_who_has_a_network():
    def families(profile):
        return {rule.conditions[0].value for rule in allowed(profile, "socket")}

    inet = {socket.AF_INET, socket.AF_INET6}
    everyone = everybody()
    found = {name: families(profile) for name, profile in everyone.items()}
    assert found == {
        "worker": set(),
        "master": {socket.AF_UNIX},
        "keyd": {socket.AF_UNIX},
        "token": {socket.AF_UNIX},
        "broker": {socket.AF_UNIX} | inet,  # for its helper
        "online": {socket.AF_UNIX} | inet,
        "radius": {socket.AF_UNIX} | inet,
    }
    ports = {name: one.connect for name, one in everyone.items() if one.connect}
    assert ports == {"broker": (53, 80), "online": (53, 80), "radius": (53,)}
    off = everybody("online no\n")["broker"]
    assert families(off) == {socket.AF_UNIX}
    assert off.connect == ()
    assert families(profiles.online((), False, (80,))) == {socket.AF_UNIX}


RADIUS = """\
online no
radius_authz 127.0.0.1
radius_secret_file /etc/tlspool/radius.secrets
"""


def test_the_broker_has_what_its_helper_for_radius_needs():
    broker = everybody(RADIUS)["broker"]
    assert {rule.conditions[0].value for rule in allowed(broker, "socket")} > {socket.AF_INET, socket.AF_INET6}
    assert broker.connect == (53,)
    assert "/etc/tlspool" in paths(broker, READ)
    assert "/var/lib/tlspool/secrets" not in paths(broker, READ)
    broker = everybody(RADIUS + "radius_acct 127.0.0.1\nradius_spool_dir /var/p/spool\n")["broker"]
    assert "/var/p/spool" in paths(broker, Access.WRITE_FILE)
    helper = profiles.radius(None)
    assert not allowed(helper, "unlink")
    assert not allowed(helper, "bind")
    assert not paths(helper, Access.WRITE_FILE) - {"/dev/null"}


@pytest.mark.parametrize(
    ("text", "secrets", "spool"),
    [
        ("", "/var/lib/tlspool/secrets", "/var/lib/tlspool/radius"),
        ("radius_secret_file /srv/secrets/radius\nradius_spool_dir /srv/spool\n", "/srv/secrets", "/srv/spool"),
        ("online no\n", None, None),
        ("online no\nradius_secret_file /srv/secrets/radius\nradius_spool_dir /srv/spool\n", None, None),
    ],
)
def test_the_broker_has_room_for_a_first_server(text, secrets, spool):
    """Where it has a network for it; what it may do there is what it may do with a server, and no more."""
    bare = profiles.broker(settings("crl_file /l/list\n" + text, Part.BROKER), CONFIG)
    without = profiles.broker(settings("crl_file /l/list\nonline no\n", Part.BROKER), CONFIG)
    more = {(str(grant.path), grant.access) for grant in bare.grants} - {
        (str(grant.path), grant.access) for grant in without.grants
    }
    resolvers = {(name, READ) for name in profiles._RESOLVERS}
    assert more - resolvers == ({(secrets, READ), (spool, WRITE)} if secrets else set())
    servers = "radius_acct 127.0.0.1\n" + ("" if "radius_secret_file" in text else f"radius_secret_file {secrets}/r\n")
    if secrets:
        with_server = profiles.broker(settings("crl_file /l/list\n" + text + servers, Part.BROKER), CONFIG)
        assert (bare.grants, bare.connect, bare.calls) == (with_server.grants, with_server.connect, with_server.calls)


@pytest.mark.parametrize("name", ["worker", "master", "keyd", "token", "online"])
def test_nobody_else_has_secrets_and_spool(name):
    assert not {str(grant.path) for grant in everybody(RADIUS + "radius_acct 127.0.0.1\n")[name].grants} & {
        "/etc/tlspool",
        "/var/lib/tlspool/secrets",
        "/var/lib/tlspool/radius",
    }


def test_a_module_may_need_the_network():
    keyd = settings("pkcs11_network yes\npkcs11_directory /opt/hsm\n", Part.KEYD)
    words = profiles.token_words(keyd)
    assert words == ["required", "network", "/opt/hsm"]
    token = profiles.token(words[1:], "/opt/hsm/lib/module.so")
    for profile in (profiles.keyd(keyd, CONFIG), token):
        assert profile.connect is None
        assert len(allowed(profile, "socket")) > 1
        assert "/opt/hsm" in paths(profile, Access.MAKE_REG)
    assert "/opt/hsm/lib" in paths(token, READ)


@pytest.mark.parametrize("name", ["master", "keyd", "token", "broker", "online", "radius", "worker"])
def test_attacks_kill(name):
    killed = {rule.call for rule in everybody()[name].calls if rule.verdict is Verdict.KILL}
    assert set(calls.KILLED.split()) <= killed
    assert not killed & {rule.call for rule in everybody()[name].calls if rule.verdict is Verdict.ALLOW}
    assert "execve" in killed or name in ("keyd", "broker")


@pytest.mark.parametrize("text", ["pkcs11_pin_file /etc/tlspool/pin\n", ""])
def test_the_pin(text, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/tlspool-keyd.service")
    found = everybody(text)
    assert ("/etc/tlspool" in paths(found["keyd"], READ)) == bool(text)
    assert "/run/credentials/tlspool-keyd.service" in paths(found["keyd"], READ)
    for name in ("master", "token", "broker", "online", "radius", "worker"):
        assert not paths(found[name], READ) & {"/etc/tlspool", "/run/credentials/tlspool-keyd.service"}


def test_an_abstract_supervisor(monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "@/org/example/notify")
    assert {name for name, one in everybody().items() if one.abstract} == {"master", "keyd", "broker"}
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    assert not any(one.abstract for one in everybody().values())


def test_nothing_is_granted_at_the_root():
    everyone = everybody("crl_file /lists.pem\npkcs11_pin_file /pin\n")
    everyone["unusual"] = profiles.master(settings("", Part.WORKER), Path("/tlspool.conf"))
    for profile in everyone.values():
        assert "/" not in {os.path.realpath(grant.path) for grant in profile.grants}
        assert all(grant.why for grant in profile.grants)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("directories.tokendir = /var/lib/x\n", "/var/lib/x"),
        ("# directories.tokendir = /no\n directories.tokendir=/var/lib/x # so\n", "/var/lib/x"),
        ("directories.tokendir = relative\n", None),
        ("directories.tokendir\nlog.level = INFO\n", None),
        ("", None),
    ],
)
def test_where_softhsm_keeps_tokens(tmp_path, text, path):
    (tmp_path / "conf").write_text(text)
    assert profiles.token_directory(tmp_path / "conf") == (path and Path(path))


def test_softhsm_without_a_configuration(tmp_path, monkeypatch):
    assert profiles.token_directory(tmp_path / "none") is None
    (tmp_path / "conf").write_text(f"directories.tokendir = {tmp_path}/t\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "conf"))
    token = profiles.token(["local"], "/usr/lib/softhsm/libsofthsm2.so")
    assert {str(grant.path) for grant in token.grants if grant.access == WRITE} == {f"{tmp_path}/t"}
    assert str(tmp_path / "conf") in paths(token, READ)
