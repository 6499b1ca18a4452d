"""``pip install`` into an environment, and ``tlspool install-units``: the same pool without the package."""

import subprocess

import pytest

from tests.fixtures.native import ROOT
from tests.system.conftest import SERVICES, Host

PREFIX = "/opt/tlspool"


@pytest.fixture(scope="module")
def wheel(packages, tmp_path_factory):
    """Our wheel, built by the tools that the package's build has left behind, as is the directory of the others."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = sorted((ROOT / "build/deb").glob("tools-*/bin/pip"))[-1]
    command = [str(pip), "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(directory), "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return next(directory.glob("*.whl"))


def test_a_pool_in_an_environment(wheel):
    with Host() as host:
        newest = max((ROOT / "build/deb").glob("wheels-*"), key=lambda path: path.stat().st_mtime)
        wheels = [wheel, *newest.glob("*.whl")]
        for path in wheels:
            host.put(f"/root/wheels/{path.name}", path.read_bytes())
        host.run("/usr/bin/python3", "-m", "venv", PREFIX)
        # without what pyrad asks for and does not use: it is not among the wheels of the package
        found = [f"/root/wheels/{path.name}" for path in wheels]
        host.run(f"{PREFIX}/bin/pip", "install", "-q", "--no-index", "--no-deps", *found)
        tlspool = f"{PREFIX}/bin/tlspool"
        assert "write" in host.run(tlspool, "install-units", "--check").stdout
        assert not host.path("/etc/tlspool.conf").exists()
        said = host.run(tlspool, "install-units").stdout
        # what it says is to be done next, word for word
        for line in said.partition("as root:\n")[2].splitlines()[:4]:
            host.run(*line.split())
        host.await_ready()
        for service in SERVICES:
            assert host.show(service, "ActiveState") == "active"
            assert PREFIX in host.show(service, "ExecStart")
            host.run("systemctl", "reload", service)
        said = host.run(tlspool, "uninstall-units", "--check").stdout
        host.run(*said.partition("as root:\n")[2].splitlines()[0].split())
        host.run(tlspool, "uninstall-units")
        host.run("systemctl", "daemon-reload")
        assert not list(host.path("/etc/systemd/system").glob("tlspool*"))
