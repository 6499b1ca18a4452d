"""The package on a host: what it installs works, is confined, survives, is upgraded under load, and goes without trace.

The tests run in the order in which they stand here: the last ones take the package away.  How many sessions live
through an upgrade is TLSPOOL_TEST_SESSIONS (200).
"""

import contextlib
import json
import os
import re

import pytest

from tests import report
from tests.fixtures.native import ROOT
from tests.fixtures.page import commands
from tests.fixtures.systemd_world import line_of
from tests.system.conftest import CA, EPHEMERAL, SERVICES
from tests.system.radius import CREDENTIAL, DROP_IN, ENCRYPTED, IN_ETC, SECRETS, Radius

COUNT = int(os.environ.get("TLSPOOL_TEST_SESSIONS", "200"))
MOST = {"tlspool-broker": 2.0, "tlspool-worker": 1.5, "tlspool-keyd": 1.5}


def echoed(process, count):
    """Have every session carry something, and say how many did."""
    process.stdin.write("again\n")
    process.stdin.flush()
    line = line_of(process)
    found = re.fullmatch(rf"echoed (\d+) of {count}", line)
    assert found, line
    return int(found[1])


@contextlib.contextmanager
def live(host, count):
    """Sessions of an ordinary user's program."""
    process = host.sessions(count)
    assert (line := line_of(process, 120)) == "up", line + host.journal()[-2000:]
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(30)


def test_three_units_are_active(host):
    for service in SERVICES:
        assert host.show(service, "ActiveState") == "active"
        assert host.show(service, "NRestarts") == "0"
        uid = host.run("stat", "-c", "%U", f"/proc/{host.main_pid(service)}").stdout.strip()
        assert uid == service
    assert host.show("tlspool.target", "ActiveState") == "active"
    failed = host.run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout
    assert "tlspool" not in failed


def test_nothing_is_wrong_in_the_journal(host):
    warnings = host.run("journalctl", "-o", "cat", "-u", "tlspool-*", "-p", "warning").stdout
    assert not warnings
    systemds = host.run("journalctl", "-o", "cat", "_PID=1", "-p", "warning").stdout
    assert "tlspool" not in systemds


def test_the_pin_is_for_keyd_alone(host):
    status = host.ask("keyd", "status")
    assert status["pin"] == "systemd credential"
    assert [module["state"] for module in status["modules"]] == ["ready"]
    credential = host.path("/etc/credstore.encrypted/tlspool.pkcs11-pin")
    assert credential.stat().st_mode & 0o077 == 0
    pin = host.run("systemd-creds", "decrypt", "--name=pkcs11-pin", "/etc/credstore.encrypted/tlspool.pkcs11-pin", "-")
    assert len(pin.stdout) == 24
    assert pin.stdout not in host.journal()
    assert pin.stdout.encode() not in host.path("/var/cache/debconf/passwords.dat").read_bytes()


def test_files_are_their_owners(host):
    for user in ("tlspool-broker", "tlspool-worker", "alice"):
        assert host.run("ls", "/var/lib/tlspool/keyd", user=user, check=False).returncode
    for user in ("tlspool-keyd", "tlspool-worker", "alice"):
        assert host.run("ls", "/var/lib/tlspool/db", user=user, check=False).returncode
        assert host.run("ls", "/var/lib/tlspool/radius", user=user, check=False).returncode
        assert host.run("ls", "/var/lib/tlspool/secrets", user=user, check=False).returncode
    assert host.run("touch", "/run/tlspool/x", user="tlspool-broker", check=False).returncode
    found = host.run("find", "/usr/lib/tlspool", "/usr/bin", "-name", "*tlspool*", "-not", "-user", "root").stdout
    assert not found


def test_starttls_of_an_ordinary_user(host):
    """With a client that is nobody's but OpenSSL's."""
    server = """
import socket, libstub
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
session = libstub.starttls_server(sock, pool="/run/tlspool.sock", localid="localhost", remote_auth="ignore")
session.sock.sendall(session.sock.recv(100).upper())
session.close()
"""
    process = host.start("/usr/bin/python3", "-c", server, user="alice")
    port = line_of(process)
    client = host.run(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", CA,
        "-verify_return_error", "-verify_hostname", "localhost", "-quiet",
        user="alice", text="hello\n", check=False,
    )  # fmt: skip
    assert "HELLO" in client.stdout, client.stderr + host.journal()
    assert process.wait(30) == 0


def test_the_doctor_finds_what_the_package_has(host):
    found = json.loads(host.run("tlspool", "doctor", "--json", check=False).stdout)
    assert [one["level"] for one in found["findings"] if one["check"] == "provider"] == ["ok"]


def test_operators_and_others(host):
    answer = host.run("socat", "-t10", "-", "UNIX-CONNECT:/run/tlspool/broker.sock", text="status\n").stdout
    assert json.loads(answer)["ok"] is True
    assert "\n" in answer.strip()  # for people
    for name in ("broker", "worker", "keyd", "pin"):
        refused = host.run(
            "socat", "-", f"UNIX-CONNECT:/run/tlspool/{name}.sock", user="alice", check=False, text="status\n"
        )
        assert "Permission denied" in refused.stderr
    host.run("useradd", "-G", "tlspool-admin", "olga")
    assert host.run("tlspool", "status", user="olga").returncode == 0
    assert host.run("tlspool", "pin", "status", user="olga", check=False).returncode
    host.run("userdel", "-r", "olga", check=False)


def test_commands_pages_and_completion(host):
    assert "0.1.0" in host.run("dpkg-query", "-W", "tlspool").stdout
    for name in ("tlspool", "tlspool-broker", "tlspool-keyd", "tlspool-worker"):
        assert host.run(name, "--help", user="alice").returncode == 0
    for page in ("tlspool-status.1", "tlspool-localid-set.1", "tlspool.conf.5", "tlspool-broker.8"):
        host.path(f"/usr/share/man/man{page[-1]}/{page}.gz").stat()
    completed = host.run("bash", "-c", ". /usr/share/bash-completion/completions/tlspool && complete -p tlspool").stdout
    assert "tlspool" in completed
    assert host.run("tlspool", "check").returncode == 0


@pytest.mark.parametrize("service", SERVICES)
def test_reload(host, service):
    """systemctl waits for it, and fails where the file is wrong; nothing has changed then."""
    path = host.path("/etc/tlspool.conf")
    text = path.read_text()
    daemon = service.removeprefix("tlspool-")
    pid = host.main_pid(service)
    try:
        path.write_text(text + "log_level debug\n")
        host.run("systemctl", "reload", service)
        shown = host.run("tlspool", "config", "--of", daemon, "log_level", "--value").stdout
        assert shown == "debug\n"
        path.write_text(text + "log_level loud\n")
        refused = host.run("systemctl", "reload", service, check=False)
        assert refused.returncode
        assert "log_level" in host.journal(service)
        assert host.show(service, "ActiveState") == "active"
    finally:
        path.write_text(text)
        host.run("systemctl", "reload", service)
    assert host.run("tlspool", "config", "--of", daemon, "log_level", "--value").stdout == "info\n"
    assert host.main_pid(service) == pid


def test_units_are_confined(host):
    for service in SERVICES:
        text = host.run("systemd-analyze", "security", "--no-pager", service).stdout
        exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)[1])
        report.row("systemd-analyze security", service, f"{exposure}", f"at most {MOST[service]}")
        assert exposure <= MOST[service]
    host.run("systemd-analyze", "verify", *(f"/lib/systemd/system/{service}.service" for service in SERVICES))


def test_what_confinement_means(host):
    """By word of the kernel, of the processes themselves."""
    for service in SERVICES:
        status = host.path(f"/proc/{host.main_pid(service)}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
    networks = {service: os.readlink(host.path(f"/proc/{host.main_pid(service)}/ns/net")) for service in SERVICES}
    assert len(set(networks.values())) == 3


def test_the_watchdog_ends_a_loop_that_hangs(host):
    for service in SERVICES:
        host.put(f"/run/systemd/system/{service}.service.d/test.conf", "[Service]\nWatchdogSec=2s\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", *SERVICES)
    host.await_ready()
    pids = {service: host.main_pid(service) for service in SERVICES}
    for pid in pids.values():
        host.run("kill", "-STOP", str(pid))
    for service, pid in pids.items():
        host.wait(
            lambda service=service, pid=pid: host.main_pid(service) not in (0, pid), what=f"{service} still hangs"
        )
    host.await_ready()
    # and those that do not hang are let alone, however little they have to do
    pids = {service: host.main_pid(service) for service in SERVICES}
    host.run("sleep", "3")
    assert pids == {service: host.main_pid(service) for service in SERVICES}
    for service in SERVICES:
        host.path(f"/run/systemd/system/{service}.service.d/test.conf").unlink()
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", *SERVICES)
    host.await_ready()


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_configuration_is_not_tried_again(host, service):
    path = host.path("/etc/tlspool.conf")
    text = path.read_text()
    try:
        path.write_text(text + "log_level loud\n")
        assert host.run("systemctl", "restart", service, check=False).returncode
        assert host.show(service, "ExecMainStatus") == "78"
        assert host.show(service, "ActiveState") == "failed"
    finally:
        path.write_text(text)
        host.run("systemctl", "reset-failed", service)
        host.run("systemctl", "restart", service)
    host.await_ready()


def test_the_helper_starts_within_the_brokers_bounds(host):
    """tlspool-online is a child of the broker, so what its unit forbids holds for the helper, too."""
    helper = """
import os, socket, sys
sys.path.insert(0, "/usr/lib/tlspool")
from tlspool_common import channel
from tlspool_common.messages import Party
from tlspool_online import spawn

class Wishes:
    crl_file, online, online_private, online_ports, log_level, sandbox = (), True, False, (80,), "info", "required"

ours, theirs = channel.raw_pair()
spawn.spawn(theirs, spawn.arguments(Wishes))
broker = channel.from_fd(ours, Party.BROKER, Party.ONLINE)
import select
assert select.select([broker], [], [], 60)[0]
print(type(broker.receive().message).__name__)
"""
    unit = host.path("/lib/systemd/system/tlspool-broker.service").read_text()
    bounds = unit.partition("# --- what it may do")[2].partition("# --- how much")[0]
    settings = re.findall(r"(?m)^[A-Z]\w+=.*$", bounds)
    options = [word for setting in settings for word in ("-p", setting)]
    host.put("/opt/helper.py", helper)
    done = host.run("systemd-run", "-q", "--wait", "-P", "-p", "User=tlspool-broker", *options, "/usr/bin/python3",
                    "/opt/helper.py", check=False)  # fmt: skip
    host.path("/opt/helper.py").unlink()
    assert "OnlineHello" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def radius(host):
    """The server of the examples, as the package has them, and afterwards a host that knows nothing of it."""
    with Radius(host) as world:
        yield world


BY_FILE, MOVED, BY_CREDENTIAL = commands((ROOT / "docs/install.md").read_text(), "sh host")


def test_radius_by_the_pages(host, radius):
    broker = host.main_pid("tlspool-broker")
    radius.page(BY_FILE)
    assert "radius_secret_file" not in radius.checked(), "nothing is to be said of it"
    radius.await_answer()
    assert "< tags=staff" in radius.asked().stdout
    assert radius.asked("bob@home.example").returncode == 1
    assert host.run("tlspool", "radius", "status").returncode == 0
    assert "0 records wait" in host.run("tlspool", "radius", "spool").stdout
    mode = host.run("stat", "-c", "%U %a", "/var/lib/tlspool/radius").stdout
    assert mode == "tlspool-broker 700\n"
    helper = host.run("pgrep", "-u", "tlspool-broker", "-f", "radius").stdout.split()
    assert helper, "it runs as the broker's user"
    assert host.main_pid("tlspool-broker") == broker, "the first server takes no restart"
    host.run("mv", SECRETS, IN_ETC)
    host.run("sed", "-i", f"s|{SECRETS}|{IN_ETC}|", "/etc/tlspool.conf")
    assert "tlspool-online, which needs no secrets" in radius.checked()
    radius.page(MOVED)
    assert "radius_secret_file" not in radius.checked()
    radius.await_answer()


@pytest.mark.parametrize("how", ["encrypted", "plain"])
def test_radius_secrets_as_a_credential(host, radius, how):
    """A session is let in and accounted for with a secret that only systemd, and the helper, could read."""
    radius.page(BY_FILE)
    radius.page(BY_CREDENTIAL)
    assert not host.path(SECRETS).exists()
    if how == "plain":
        host.run("install", "-m", "0600", "/dev/null", IN_ETC)
        host.path(IN_ETC).write_text(radius.LINE)
        host.path(DROP_IN).write_text(f"[Service]\nLoadCredential=radius-secrets:{IN_ETC}\n")
        host.run("rm", ENCRYPTED)
    path = host.path("/etc/tlspool.conf")
    path.write_text(f"{path.read_text()}radius guests anonymous=alice@home.example NAS-Identifier=home.example\n")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "restart", "tlspool-broker")
    radius.await_answer()
    assert "radius_secret_file" not in radius.checked()
    assert radius.SECRET not in host.journal()
    for user in ("tlspool-worker", "tlspool-keyd", "alice"):
        assert host.run("cat", CREDENTIAL, user=user, check=False).returncode
    with live(host, 1) as process:
        assert echoed(process, 1) == 1
        assert "staff" in host.run("tlspool", "sessions", "--json").stdout
    host.wait(lambda: radius.records().count("Stop") == 1, what="the end of the session is not accounted for")
    assert radius.records().count("Start") == 1

    # ... and another secret is in force with a restart, not with a reload
    if how == "plain":
        host.path(IN_ETC).write_text("192.0.2.1 of-another-server\n")
    else:
        host.run("systemd-creds", "encrypt", "--name=radius-secrets", "-",
                 ENCRYPTED, text="192.0.2.1 of-another-server\n")  # fmt: skip
    host.run("tlspool", "reload")
    assert radius.asked().returncode == 0
    host.run("systemctl", "restart", "tlspool-broker")
    host.await_ready()
    host.wait(lambda: "no-secret" in host.run("tlspool", "radius", "status", check=False).stdout)
    assert radius.asked().returncode

    # ... and without any nobody is let in.
    host.run("rm", IN_ETC if how == "plain" else ENCRYPTED)
    failed = host.run("systemctl", "restart", "tlspool-broker", check=False).returncode
    assert bool(failed) == (how == "plain"), "only a path has to be there"
    said = "there only while its unit runs" if failed else "the unit has no such credential"
    assert said in radius.checked()
    assert radius.asked().returncode
    if how == "encrypted":
        host.wait(lambda: f"radius_secret_file: {CREDENTIAL} cannot be read" in host.journal())


KNOCK = """
import socket, sys, threading
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), over.set()), daemon=True).start()
print("knocks", flush=True)
knocks = 0
while not over.is_set():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/tlspool.sock")
        knocks += 1
print(knocks, flush=True)
"""


@pytest.mark.parametrize("block", commands((ROOT / "docs/operations.md").read_text(), "sh host"))
def test_commands_of_the_operations_page(host, block):
    """Those that need systemd; tests/e2e/test_operations_page.py has the others."""
    places = "CONF=/etc/tlspool.conf DB=/var/lib/tlspool/db BACKUP=/root/backup; mkdir -p $BACKUP\n"
    host.run("bash", "-e", "-o", "pipefail", "-c", places + block)
    host.await_ready()


def test_nobody_is_refused_while_the_broker_restarts(host):
    """systemd listens on."""
    process = host.start("/usr/bin/python3", "-c", KNOCK, user="alice")
    assert line_of(process) == "knocks"
    host.run("systemctl", "restart", "tlspool-broker")
    pid = host.main_pid("tlspool-broker")
    host.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "tlspool-broker")
    host.wait(lambda: host.main_pid("tlspool-broker") not in (0, pid), what="the broker does not come back")
    host.await_ready()
    process.stdin.write("\n")
    process.stdin.flush()
    assert int(line_of(process)) > 100


@pytest.mark.parametrize("how", ["restart", "kill"])
@pytest.mark.parametrize("service", SERVICES)
def test_sessions_outlive(host, service, how):
    """No session is dropped when a daemon is restarted, or killed; and new ones work afterwards."""
    with live(host, 20) as process:
        pid = host.main_pid(service)
        if how == "kill":
            host.run("systemctl", "kill", "--kill-whom=main", "-s", "KILL", service)
            host.wait(lambda: host.main_pid(service) not in (0, pid), what=f"{service} does not come back")
        else:
            host.run("systemctl", "restart", service)
        assert echoed(process, 20) == 20
        host.await_ready()
        with live(host, 2) as other:
            assert echoed(other, 2) == 2
        assert echoed(process, 20) == 20


def test_upgrade_under_load(host, packages):
    with live(host, COUNT) as process:
        assert echoed(process, COUNT) == COUNT
        pids = {service: host.main_pid(service) for service in SERVICES}
        host.install(packages[1])
        assert "0.1.1" in host.run("dpkg-query", "-W", "tlspool").stdout
        host.await_ready()
        left = echoed(process, COUNT)
        report.row("the package is upgraded", f"{COUNT} sessions", f"{COUNT - left} dropped")
        assert left == COUNT
        for service, pid in pids.items():
            assert host.main_pid(service) not in (0, pid)
        with live(host, 2) as other:
            assert echoed(other, 2) == 2


def test_removal_ends_everything(host, before):
    process = host.sessions(5)
    assert line_of(process, 120) == "up"
    host.run("dpkg", "-r", "tlspool")
    host.wait(lambda: not {row for row in host.processes() if "dpkg" not in row}, what="something still runs")
    process.stdin.close()
    process.wait(30)
    files, _ = before
    left = {path for path in host.changed_files(*EPHEMERAL) - files if not path.startswith("/var/lib/tlspool")}
    masks = {
        path
        for path in left
        if path.startswith("/etc/systemd/system/") and os.path.basename(path).startswith("tlspool")
    }
    trails = {path for path in left if path.startswith("/var/log/tlspool/")}
    assert {os.path.basename(path).partition("-")[0] for path in trails} == {"broker", "keyd"}
    assert left - masks - trails <= {
        "/etc/tlspool", "/etc/tlspool.conf", "/etc/tlspool/softhsm2.conf", "/etc/credstore.encrypted",
        "/etc/systemd/system/sockets.target.wants",
        "/etc/credstore.encrypted/tlspool.pkcs11-pin", "/var/log/tlspool",
    }  # fmt: skip
    assert (
        "tlspool"
        not in host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "--state=active,failed").stdout
    )


def test_it_comes_back_with_what_it_had(host, packages):
    host.install(packages[1])
    host.await_ready()
    assert "localhost" in host.run("tlspool", "localid", "list").stdout
    with live(host, 2) as process:
        assert echoed(process, 2) == 2


def test_root_follows_no_link_of_keyds(host):
    """keyd owns the directory with the tokens, and may put anything in their place."""
    tokens = "/var/lib/tlspool/keyd/tokens"
    host.run("mkdir", "/root/private")
    host.run("mv", tokens, f"{tokens}.away", user="tlspool-keyd")
    host.run("ln", "-s", "/root/private", tokens, user="tlspool-keyd")
    try:
        configured = host.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg-reconfigure", "tlspool", check=False)
        assert configured.returncode
        assert host.run("stat", "-c", "%U %a", "/root/private").stdout == "root 755\n"
        assert not list(host.path("/root/private").iterdir())
    finally:
        host.run("rm", tokens)
        host.run("mv", f"{tokens}.away", tokens)
        host.run("rmdir", "/root/private")
    host.run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg-reconfigure", "tlspool")
    host.await_ready()


def test_purge_leaves_the_keys_unless_told(host, before, packages):
    """... and files of an operator's, but not to whoever is given the number of their user next."""
    host.run("install", "-o", "tlspool-keyd", "-g", "tlspool", "-m", "0600", "/dev/null", "/etc/tlspool/pin")
    host.run("install", "-o", "root", "-g", "tlspool-broker", "-m", "0640", "/dev/null", "/etc/tlspool/more")
    purged = host.run("dpkg", "-P", "tlspool")
    assert "/etc/tlspool/pin is kept, and is root's now: it was of tlspool-keyd:tlspool\n" in purged.stderr
    assert "/etc/tlspool/more is kept, and is root's now: it was of root:tlspool-broker\n" in purged.stderr
    kept = host.run("stat", "-c", "%U:%G %a", "/etc/tlspool/pin", "/etc/tlspool/more").stdout
    assert kept == "root:root 600\nroot:root 640\n"
    host.run("rm", "/etc/tlspool/pin", "/etc/tlspool/more")
    assert list(host.path("/var/lib/tlspool/keyd/tokens").iterdir())
    assert not host.path("/var/lib/tlspool/db").exists()
    host.install(packages[1])
    host.await_ready()
    assert [module["state"] for module in host.ask("keyd", "status")["modules"]] == ["ready"]


def test_purge_leaves_nothing(host, before):
    host.run("debconf-set-selections", text="tlspool tlspool/purge-token boolean true\n")
    host.run("dpkg", "-P", "tlspool")
    files, users = before
    assert host.changed_files(*EPHEMERAL) - files == set()
    assert host.users() == users
    host.wait(lambda: not host.processes(), what="something still runs")
