"""The provider in real handshakes, under the virtual environment's OpenSSL and under Debian's."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.native import INSTALLED, NATIVE, ROOT, shared
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side
from tlspool_keyd.recognise import recognise_untrusted
from tlspool_worker import provider

DEBIAN = "/usr/bin/python3"
SOURCES = tuple(sorted(NATIVE.glob("*.c")))


@pytest.fixture(scope="module", params=["wheel", "debian"])
def python(request):
    """Return the interpreter to run a scenario with."""
    assert INSTALLED.exists(), "the provider is not built: pip install -e ."
    if request.param == "wheel":
        return sys.executable
    found = subprocess.run([DEBIAN, "-c", "import OpenSSL, cryptography"], capture_output=True, check=False)
    assert found.returncode == 0, "python3-openssl is missing: apt install python3-openssl"
    return DEBIAN


def run(python, scenario, **environment):
    """Run one scenario of tests/fixtures/remote_handshakes.py; return its findings."""
    inherited = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    done = subprocess.run(
        [python, "-m", "tests.fixtures.remote_handshakes", scenario],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- handshakes ------------------------------------------------------------------------------------

SCHEMES = {
    "rsa_pss_rsae_sha256": 0x0804,
    "rsa_pss_rsae_sha384": 0x0805,
    "rsa_pss_rsae_sha512": 0x0806,
    "RSA+SHA256": 0x0401,
    "RSA+SHA384": 0x0501,
    "RSA+SHA512": 0x0601,
    "ECDSA+SHA256": 0x0403,
    "ECDSA+SHA384": 0x0503,
    "ECDSA+SHA512": 0x0603,
}


def test_every_kind_version_scheme_and_side(python):
    found = run(python, "matrix")
    assert len(found) == 46
    for kind, version, sigalgs, side, scheme, content_hex in found:
        if sigalgs:
            assert scheme == SCHEMES[sigalgs]
        recognised = recognise_untrusted(bytes.fromhex(content_hex), Side(side), scheme)
        assert recognised, (kind, version)  # else it raises: keyd signs no such thing
    assert {(kind, version, side) for kind, version, _, side, _, _ in found} == {
        (kind, version, side)
        for kind in ("rsa", "p256", "p384", "ed25519")
        for version in ("TLSv1.2", "TLSv1.3")
        for side in (1, 2)
    }


def test_each_refusal_keeps_its_code(python):
    found = {int(number): one for number, one in run(python, "refusals").items()}
    known = [code for code in Code if code // 100 == 5]
    assert {number for number in found if number < 600} == set(known)
    for number, one in found.items():
        assert one["code"] == (number if number in (*known, 604, 610) else Code.INTERNAL)
        assert one["errors"][0][0] == "tlspool"
        assert len(one["errors"][0][2]) > 10


def test_trouble_with_keyd(python):
    found = run(python, "trouble")
    assert found["used grant"] == [0, Code.GRANT_USED]
    assert set(found["garbage"]) == {Code.INTERNAL}
    for name in ("gone", "hangup", "reused by TCP", "closed"):
        assert found[name]["code"] == Code.KEYD_UNREACHABLE, name
        assert found[name]["took_s"] < 2, name  # their timeout is 5 s
    for name, timeout_s in (
        ("silent", 0.2),
        ("silent, with signals", 0.2),
        ("silent client", 0.1),
        ("not reading", 0.1),
    ):
        assert found[name]["code"] == Code.TOKEN_SLOW, name
        assert timeout_s * 0.95 < found[name]["took_s"] < timeout_s + 2, name
    assert found["end told early"]["code"] == found["after all that"]["code"] == 0
    assert found["leaked"] == ""


def test_a_slow_signature_delays_nobody_else(python):
    found = run(python, "threads")
    assert found["failures"] == []
    assert found["grants"] == found["threads"]
    assert found["took_s"] < 6 * found["slow_ms"] / 1000  # one after the other it is 8 times


def test_forms_of_a_reference(python):
    found = run(python, "forms")
    for kind in ("rsa", "p256", "p384", "ed25519"):
        assert found[f"{kind} public half"] is True
        assert found[f"{kind} as ASN.1"] is True
        assert found[f"{kind} for a stranger"] == "key values mismatch"
        assert found[f"{kind} in one file of KiB"] > 16
        assert found[f"{kind} dump"] == found[f"{kind} cryptography"] == "Error"
    assert [found[f"{kind} bits"] for kind in ("rsa", "p256", "p384", "ed25519")] == [2048, 256, 384, 253]
    assert found["malformed"] == [Code.INTERNAL] * 4


def test_keys_survive_a_fork(python):
    assert run(python, "fork") == {"child": 0}


def test_descriptors_are_not_used_up(python):
    assert run(python, "loads")["fds left"] == 0


# --- configuration and self-test -------------------------------------------------------------------


def test_ensure_executes_the_same_program(python):
    found = run(python, "started")
    assert found["code"] == 0
    assert found["argv"] == ["-m", "tests.fixtures.remote_handshakes", "started"]
    assert found["version"].startswith("OpenSSL 3.0." if python == DEBIAN else "OpenSSL 4.")


def test_without_configuration_the_self_test_fails(python):
    found = run(python, "absent")
    assert found["code"] == Code.PROVIDER_ABSENT
    assert "has not loaded" in found["detail"]


def test_an_unusable_shared_object_fails_the_self_test(python, tmp_path):
    (tmp_path / "empty.so").write_bytes(b"")
    found = run(python, "started", TEST_PROVIDER=str(tmp_path / "empty.so"))
    assert found["code"] == Code.PROVIDER_ABSENT


def test_another_version_fails_the_self_test(python, tmp_path):
    for path in (*SOURCES, *NATIVE.glob("*.h")):
        shutil.copy(path, tmp_path)
    header = tmp_path / "provider.h"
    header.write_text(header.read_text().replace(f'#define VERSION "{provider.VERSION}"', '#define VERSION "0"'))
    shared(tmp_path / "other.so", *sorted(tmp_path.glob("*.c")))
    found = run(python, "started", TEST_PROVIDER=str(tmp_path / "other.so"))
    assert found["code"] == Code.PROVIDER_ABSENT
    assert "has version 0, not 1" in found["detail"]


def test_ensure_without_a_shared_object(monkeypatch, tmp_path):
    monkeypatch.setattr(provider, "SHARED_OBJECT", tmp_path / "missing.so")
    with pytest.raises(PoolError) as caught:
        provider.ensure()
    assert caught.value.code is Code.PROVIDER_ABSENT


@pytest.fixture
def executed(monkeypatch):
    """Do not execute anything; return what would have been."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append((path, arguments)))
    for name in ("OPENSSL_CONF", provider._ATTEMPT):
        monkeypatch.setenv(name, "")
    yield calls
    if os.environ["OPENSSL_CONF"].startswith("/proc/self/fd/"):
        os.close(int(Path(os.environ["OPENSSL_CONF"]).name))


def test_ensure_does_it_once(executed):
    provider.ensure()
    assert executed == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    provider.ensure()
    assert len(executed) == 1
    fd = int(Path(os.environ["OPENSSL_CONF"]).name)
    assert os.get_inheritable(fd)
    with pytest.raises(OSError) as caught:
        os.write(fd, b"x")
    assert caught.value.errno == errno.EPERM  # sealed


def test_ensure_does_not_go_round_in_circles(executed, monkeypatch):
    monkeypatch.setenv(provider._ATTEMPT, str(os.getpid()))
    with pytest.raises(PoolError) as caught:
        provider.ensure()
    assert caught.value.code is Code.PROVIDER_ABSENT
    assert executed == []


def test_ensure_takes_no_other_configuration_for_ours(executed, monkeypatch, tmp_path):
    (tmp_path / "openssl.cnf").write_text(provider.configuration(INSTALLED))
    with (tmp_path / "openssl.cnf").open() as foreign:
        monkeypatch.setenv("OPENSSL_CONF", foreign.name)  # could be changed later
        assert not provider._is_in_effect()
    monkeypatch.setenv("OPENSSL_CONF", "/proc/self/fd/1023")
    provider.ensure()
    assert len(executed) == 1


# --- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "code"),
    [
        ([("tlspool", "", "[508] the token is not present"), ("SSL routines", "", "EVP lib")], Code.TOKEN_GONE),
        ([("tlspool", "", "[999] from the future")], Code.INTERNAL),
        ([("SSL routines", "", "[508] not ours")], None),
        ([("SSL routines", "", "certificate verify failed")], None),
        ([("tlspool", "", "no number")], None),
        ([], None),
    ],
)
def test_code_from_openssl(queue, code):
    assert provider.code_from_openssl(Exception(queue)) == code


@pytest.mark.parametrize("arguments", [(), ("text",), (-1, "Unexpected EOF")])
def test_errors_without_a_queue(arguments):
    assert provider.code_from_openssl(Exception(*arguments)) is None


# --- beside the default provider -------------------------------------------------------------------


def openssl(configuration, *arguments, stdin=b""):
    return subprocess.run(
        ["openssl", *arguments],
        env={**os.environ, "OPENSSL_CONF": str(configuration)},
        input=stdin,
        capture_output=True,
        check=False,
    )


def test_a_path_of_odd_characters(tmp_path):
    odd = tmp_path / "a $b #c;d\\e'f\"g`h"
    odd.mkdir()
    module = Path(shutil.copy(INSTALLED, odd))
    (tmp_path / "openssl.cnf").write_text(provider.configuration(module))
    listed = openssl(tmp_path / "openssl.cnf", "list", "-providers").stdout.decode()
    assert "TLS pool: keys behind keyd" in listed
    assert f"version: {provider.VERSION}" in listed


def software_key_works(configuration, tmp_path, *algorithm):
    key, data, signature = (tmp_path / name for name in ("key.pem", "data", "signature"))
    data.write_bytes(b"data")
    steps = [
        ("genpkey", "-algorithm", *algorithm, "-out", key),
        ("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", data, "-out", signature),
        ("pkeyutl", "-verify", "-rawin", "-inkey", key, "-in", data, "-sigfile", signature),
    ]
    codes = [openssl(configuration, *step).returncode for step in steps]
    assert min(codes) >= 0, f"killed by signal {-min(codes)}"
    return not any(codes)


ALGORITHMS = [("RSA",), ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"), ("ED25519",)]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: algorithm[0])
def test_software_keys_are_left_to_the_default_provider(tmp_path, algorithm):
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(provider.configuration(INSTALLED))
    assert software_key_works(configuration, tmp_path, *algorithm)


def test_nothing_crashes_when_ours_is_asked_first(python, tmp_path):
    """A configuration that is not ours may break software keys; it must not kill the process (``run`` would tell)."""
    text = provider.configuration(INSTALLED).replace("?provider=default", "?provider=tlspool")
    (tmp_path / "openssl.cnf").write_text(text)
    run(python, "strangers", OPENSSL_CONF=str(tmp_path / "openssl.cnf"))


def test_software_keys_work_beside_ours(python, tmp_path):
    (tmp_path / "openssl.cnf").write_text(provider.configuration(INSTALLED))
    found = run(python, "strangers", OPENSSL_CONF=str(tmp_path / "openssl.cnf"))
    assert set(found.values()) == {True}
