"""What a configuration names on this host: each thing that may be wrong is found, with its remedy."""

import os
import subprocess

import pytest

from tlspool_admin.devpool import softhsm_module
from tlspool_common import setting_checks
from tlspool_common.setting_checks import look
from tlspool_common.settings import parse_untrusted

NOBODY = 65534


@pytest.fixture
def host(tmp_path):
    """A host that is in order: look(host.text) finds nothing but that there is one user."""

    class Host:
        path = tmp_path / "conf"
        db = tmp_path / "db"
        pin = tmp_path / "pin"
        run = tmp_path / "run"

        def look(self, *more):
            text = "\n".join([f"run_dir {self.run}", f"dbenv_dir {self.db}", f"pkcs11_pin_file {self.pin}", *more, ""])
            self.path.write_text(text)
            found = look(parse_untrusted(text), self.path)
            assert all(str(one) and one.remedy for one in found)
            return [(one.level, one.keyword) for one in found if one.keyword != "keyd_user"]

    for directory in (Host.db, Host.run):
        directory.mkdir(mode=0o700)
    Host.pin.write_text("1234\n")
    Host.pin.chmod(0o600)
    Host.path.touch(mode=0o644)
    return Host()


def test_a_host_in_order(host):
    assert host.look() == []
    assert host.look(f"pkcs11_path {softhsm_module()}", "pkcs11_token pkcs11:") == []


@pytest.mark.parametrize(("mode", "found"), [(0o664, 1), (0o646, 1), (0o644, 0), (0o600, 0)])
def test_the_file_itself(host, mode, found):
    host.path.chmod(mode)
    assert host.look() == [("error", "configuration")] * found


def test_the_audit_trail(host, tmp_path):
    place = tmp_path / "audit"
    line = f"audit_dir {place}"
    assert host.look(line) == [("note", "audit_dir")]
    place.write_text("")
    assert host.look(line) == [("error", "audit_dir")]
    place.unlink()
    place.mkdir(mode=0o750)
    assert host.look(line) == []
    two = [one for one in host.look(line, f"broker_user {os.getuid()}", f"keyd_user {NOBODY}") if one[1] == "audit_dir"]
    assert two == [("warning", "audit_dir")]
    place.chmod(0o3770)
    assert ("warning", "audit_dir") not in host.look(line, f"keyd_user {NOBODY}")
    place.chmod(0o777)
    assert host.look(line) == [("error", "audit_dir")]


def test_databases(host):
    host.db.chmod(0o755)
    assert host.look() == [("warning", "dbenv_dir")]
    host.db.rmdir()
    assert host.look() == [("note", "dbenv_dir")]
    host.db.write_text("")
    assert host.look() == [("error", "dbenv_dir")]
    host.db.unlink()
    host.db.mkdir(mode=0o700)
    assert host.look(f"broker_user {os.getuid() + 1}") == [("error", "dbenv_dir")]


def test_the_pin(host):
    host.pin.chmod(0o640)
    assert host.look() == [("error", "pkcs11_pin_file")]
    host.pin.unlink()
    assert host.look() == [("error", "pkcs11_pin_file")]
    host.pin.mkdir()
    assert host.look() == [("error", "pkcs11_pin_file")]


def test_users(host):
    def look_at(*users):
        lines = [f"{name}_user {uid}" for name, uid in zip(("broker", "worker", "keyd"), users, strict=True)]
        settings = parse_untrusted("".join(f"{line}\n" for line in lines))
        return [(one.level, one.keyword) for one in setting_checks._users(settings)]

    assert look_at(7, 8, 9) == []
    assert look_at(7, 7, 9) == [("note", "keyd_user")]
    assert look_at(7, 0, 9) == [("warning", "worker_user")]


def test_sockets(host):
    assert host.look(f"socket_name /{'x' * 107}") == [("error", "socket_name")]
    assert host.look(f"socket_name /{'x' * 106}") == []
    host.run.chmod(0o777)
    assert host.look() == [("error", "run_dir")]
    host.run.chmod(0o1777)
    assert host.look() == []


def test_modules(host, tmp_path):
    def look_at(path):
        return host.look(f"pkcs11_path {path}", "pkcs11_token pkcs11:")

    assert look_at(tmp_path / "none.so") == [("error", "pkcs11_path")]
    text = tmp_path / "text.so"
    text.write_text("no library")
    assert look_at(text) == [("error", "pkcs11_path")]
    assert "does not load: " in setting_checks._why_not_loadable(str(text))
    text.chmod(0o666)
    assert look_at(text) == [("error", "pkcs11_path")]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("int C_GetFunctionListe;", "undefined symbol: C_GetFunctionList"),
        ("int C_GetFunctionList; __attribute__((constructor)) void f(void) { *(volatile int *)0 = 0; }", "crashed"),
        ("int C_GetFunctionList;", ""),
    ],
)
def test_a_library_that_is_no_module_or_a_bad_one(tmp_path, code, said):
    library = tmp_path / "x.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-"], input=code.encode(), check=True)
    found = setting_checks._why_not_loadable(str(library))
    assert said in found
    assert bool(said) == bool(found)


def test_one_that_takes_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(setting_checks, "_LOAD_S", 0.2)
    monkeypatch.setattr(setting_checks, "_LOAD", "import time; time.sleep(60)")
    assert setting_checks._why_not_loadable("/x") == "did not load within 0.2 s"


def test_a_directory_of_modules_that_is_not_there(host, tmp_path):
    assert host.look(f"pkcs11_directory {tmp_path}") == []
    assert host.look(f"pkcs11_directory {tmp_path}/none") == [("warning", "pkcs11_directory")]


def test_revocation_lists(host, tmp_path):
    path = tmp_path / "crl.pem"
    assert host.look(f"crl_file {path}") == [("error", "crl_file")]
    path.write_text("")
    assert host.look(f"crl_file {path}") == [("error", "crl_file")]
    path.write_text("x")
    path.chmod(0o644)
    assert host.look(f"crl_file {path}") == []
    path.chmod(0o600)
    host.db.chmod(0o700)
    found = host.look(f"crl_file {path}", f"broker_user {NOBODY}")
    assert ("warning", "crl_file") in found
    assert host.look(f"crl_file {tmp_path}") == [("error", "crl_file")]
