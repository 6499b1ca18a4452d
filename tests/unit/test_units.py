"""The units: right by systemd's own word, confined as far as they should be, and with a reason for everything."""

import re
import shutil
import subprocess

import pytest

from tests import report
from tests.fixtures.native import ROOT
from tlspool_admin.commands import install_units

UNITS = ROOT / "systemd"
SERVICES = ("tlspool-broker", "tlspool-worker", "tlspool-keyd")
MOST = {"tlspool-broker": 2.0, "tlspool-worker": 1.5, "tlspool-keyd": 1.5}
DIRECTORIES = ("RuntimeDirectory", "StateDirectory")


@pytest.fixture(scope="module", autouse=True)
def analyser():
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing; run scripts/need test"


def values(service, name):
    text = (UNITS / f"{service}.service").read_text()
    return re.findall(rf"(?m)^{name}=(.*)$", text)


def security(service):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"{service}.service"],
        cwd=UNITS, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_exposure(service):
    exposure = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", security(service))[1])
    report.row("systemd-analyze security --offline", service, f"{exposure}", f"at most {MOST[service]}")
    assert exposure <= MOST[service]


@pytest.mark.parametrize("service", SERVICES)
def test_every_directive_is_considered(service):
    """All that systemd-analyze knows is on, or named where the reason against it stands."""
    named = {
        name
        for line in security(service).splitlines()
        if line[:1] in "✓✗"
        for name in re.findall(r"([A-Z][A-Za-z]+)=", line.split("  ")[0])
    } - {"User", "DynamicUser", "SupplementaryGroups", "Delegate", "NotifyAccess", "AmbientCapabilities", "DeviceAllow"}
    assert len(named) > 20
    text = (UNITS / f"{service}.service").read_text()
    assert not {name for name in named if name not in text}


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.stem)
def test_every_line_has_a_reason(path):
    """A comment stands above each paragraph of settings."""
    explained = False
    for line in path.read_text().partition("[Service]\n")[2].partition("[Install]")[0].splitlines():
        if line.startswith("# ---") or not line:
            explained = False
        elif line.startswith("#"):
            explained = True
        else:
            assert explained or line.startswith(("User=", "Group=", "UMask=", "TimeoutStartSec=", "Restart=")), line


def test_they_are_units(tmp_path):
    """systemd-analyze verify, on what install-units writes for programs that are there."""
    (tmp_path / "bin").mkdir()
    for name in ("tlspool", "tlspool-broker", "tlspool-worker", "tlspool-keyd"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for file in install_units.plan(tmp_path, tmp_path):
        if file.path.parent.name == "system":
            file.path.parent.mkdir(parents=True, exist_ok=True)
            file.path.write_text(file.text)
    made = sorted(map(str, (tmp_path / install_units.UNIT_DIR).iterdir()))
    assert len(made) == 9
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *made], capture_output=True, text=True, timeout=60)
    assert "tlspool" not in done.stderr
    assert done.returncode == 0


def test_every_socket_is_one_that_a_daemon_takes():
    """The names under which daemons look for them, and the paths where others do."""
    found = {}
    for path in UNITS.glob("*.socket"):
        text = path.read_text()
        one = dict(re.findall(r"(?m)^([A-Z]\w+)=(.*)$", text))
        found[one["FileDescriptorName"]] = (one["ListenStream"], one["Service"])
        assert f"{path.stem}.socket" in values(one["Service"].removesuffix(".service"), "Sockets")[0].split()
    assert found == {
        "app": ("/run/tlspool/tlspool.sock", "tlspool-broker.service"),
        "broker": ("/run/tlspool/broker.sock", "tlspool-broker.service"),
        "worker": ("/run/tlspool/worker.sock", "tlspool-worker.service"),
        "keyd": ("/run/tlspool/keyd.sock", "tlspool-keyd.service"),
        "pin": ("/run/tlspool/pin.sock", "tlspool-keyd.service"),
    }


def test_directories_are_the_same_everywhere():
    """What tmpfiles makes for what runs before the units, and what the units make."""
    made = {}
    for line in (UNITS / "tlspool.tmpfiles.conf").read_text().splitlines():
        if line.startswith("d "):
            _, path, mode, user, _, _ = line.split()
            made[path] = (mode, user)
    for service in SERVICES:
        for name in DIRECTORIES:
            base = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib"}[name]
            for path in " ".join(values(service, name)).split():
                assert made[f"{base}/{path}"] == (values(service, f"{name}Mode")[0], service)


def test_users_are_those_of_the_configuration():
    users = set(re.findall(r"(?m)^u (\S+)", (UNITS / "tlspool.sysusers.conf").read_text()))
    assert users == set(SERVICES)
    assert {values(service, "User")[0] for service in SERVICES} == users
    configured = re.findall(r"(?m)^(?:broker|worker|keyd)_user (\S+)$", (UNITS / "tlspool.conf").read_text())
    assert set(configured) == users
