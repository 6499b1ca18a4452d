"""A day of an operator: the `tlspool` command and a pool with everything that it has."""

import datetime
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

import libstub
from tests.e2e.conftest import COMMANDS, connect, make_pool, tlspool
from tlspool_admin.devca import DevCa
from tlspool_admin.devpool import TOKEN_LABEL, softhsm_module

NAME = "new.example.com"
ROOTS = 2000
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A pool that these tests change."""
    made = make_pool(tmp_path_factory, "command")
    yield made
    made.down()


@pytest.fixture(scope="module")
def new_key(pool):
    """A key that was just made on the token, and a certificate for it, with its root, in no particular order."""
    command = [sys.executable, "-m", "tlspool_keyd.token_keys", "--module", softhsm_module(), "--label", TOKEN_LABEL]
    command += ["--pin-file", str(pool.directory / "pin"), "--key-type", "ec", NAME]
    environment = {**os.environ, "SOFTHSM2_CONF": str(pool.directory / "softhsm2.conf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    spki = bytes.fromhex(json.loads(done.stdout)[NAME]["spki"])
    path = pool.directory.parent / "new.pem"
    root = (pool.directory / "ca.pem").read_bytes()
    path.write_bytes(root + DevCa(pool.directory).issue(NAME, spki).public_bytes(Encoding.PEM))
    return path


def answer(pool, *words, code=0):
    done = tlspool(pool, "--json", *words, check=False)
    assert done.returncode == code, (done.stdout, done.stderr)
    return json.loads(done.stdout)


def generation(pool):
    return answer(pool, "status")["broker"]["generation"]


def found(pool, *levels):
    """Return what the doctor has to say, and the exit status."""
    done = tlspool(pool, "doctor", "--json", check=False)
    return [one for one in json.loads(done.stdout)["findings"] if one["level"] in levels], done.returncode


def handshake(port, *words):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words]
    return subprocess.run(command, input=b"", capture_output=True, timeout=30).returncode


def test_in_the_morning_all_is_well(pool):
    assert found(pool, "error", "warning") == ([], 0)
    done = tlspool(pool, "doctor", "--all")
    assert "0 wrong, 0 doubtful" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_a_new_identity(pool, new_key, echo_server):
    done = tlspool(pool, "localid", "import", str(new_key), "--strict", "--reason", "ticket 17")
    assert f"{NAME}: 1 set" in done.stdout
    assert done.stderr == ""
    (record,) = answer(pool, "localid", "get", NAME)["records"]
    assert len(record["chain"]) == 1  # the root was left out
    (row,) = [row for row in answer(pool, "keys")["keys"] if row["object"] == NAME]
    assert row["usable"]
    assert answer(pool, "history", "-n", "1")["history"][0]["reason"] == "ticket 17"
    server = echo_server(pool, localid=NAME)
    words = ["-CAfile", str(pool.directory / "ca.pem"), "-verify_hostname", NAME, "-verify_return_error"]
    assert handshake(server.port, *words) == 0
    assert found(pool, "error", "warning") == ([], 0)


def test_would_it_be_accepted(pool, stranger, tmp_path):
    good, _ = stranger.issue("www.example.org")
    words = ["explain", "--service", "smtp", "--as", "tlspool.arpa2.lab"]
    refused = tlspool(pool, *words, "--certificate", str(good), check=False)
    assert refused.returncode == 1
    assert "would be refused" in refused.stdout
    assert answer(pool, *words, "--certificate", str(good), code=1)["code"] == 402
    tlspool(pool, "trust", "set", "x509,client", "1", str(stranger.path), "--reason", "a partner")
    accepted = answer(pool, *words, "--certificate", str(good))
    assert accepted["outcome"] == "accepted"
    assert accepted["remoteid"] == "www.example.org"
    assert answer(pool, *words, "--certificate", str(good), "--remote", "mail.example.org", code=1)["field"]
    assert "would be" in tlspool(pool, *words, "--certificate", str(good)).stdout
    assert answer(pool, *words, "--certificate", str(good), "--server", code=1)["code"] == 402
    # an anchor that asks for more
    tlspool(pool, "trust", "set", "x509,client", "TQ&", str(stranger.path))
    more = answer(pool, *words, "--certificate", str(good), code=1)
    assert "Q" in [line["name"] for line in more["trace"] if line["value"] is False]
    tlspool(pool, "trust", "del", str(stranger.path))


def test_why_was_it_refused(pool, echo_server):
    server = echo_server(pool, localid=NAME)
    with pytest.raises(libstub.PoolError):
        libstub.starttls_client(connect(server.port), "other.example.com", pool=str(pool.socket))
    last = tlspool(pool, "explain", "last").stdout
    assert "refused" in last
    assert "other.example.com" in last
    with libstub.starttls_client(connect(server.port), NAME, pool=str(pool.socket)) as session:
        number = str(session.session_id)
        told = tlspool(pool, "explain", number).stdout
        assert "accepted" in told.splitlines()[0]
        listed = answer(pool, "explain")["accounts"]
        assert listed[0]["outcome"] == "accepted"
        assert all(row["outcome"] == "refused" for row in answer(pool, "explain", "--refused")["accounts"])
        rows = answer(pool, "sessions")["sessions"]
        assert number in {str(row["session"]) for row in rows}
        assert f"session {number}: ended" in tlspool(pool, "sessions", "kill", number).stdout
        assert session.sock.recv(1) == b""
    assert tlspool(pool, "sessions", "kill", "123456789", check=False).returncode == 1
    assert answer(pool, "explain", "123456789", code=1)["ok"] is False


def test_the_host_becomes_modern_and_back(pool, echo_server):
    before = generation(pool)
    server = echo_server(pool, localid=NAME)
    assert handshake(server.port, "-tls1_2") == 0
    tlspool(pool, "policy", "set", "host", "modern", "--if-generation", str(before))
    assert handshake(server.port, "-tls1_2") != 0
    assert handshake(server.port, "-tls1_3") == 0
    shown = tlspool(pool, "policy", "list").stdout
    assert "host  modern" in shown
    assert "X25519MLKEM768" in shown
    assert answer(pool, "policy", "list")["meanings"]["modern"]["tls_min"] == "1.3"
    late = tlspool(pool, "policy", "set", "host", "intermediate", "--if-generation", str(before), check=False)
    assert late.returncode == 1
    assert str(before + 1) in late.stderr
    told = tlspool(pool, "rollback", str(before), "--reason", "mail from a customer").stdout
    assert "- modern" in told
    assert handshake(server.port, "-tls1_2") == 0
    assert "there is no difference" in tlspool(pool, "diff", str(before)).stdout
    assert "+ modern" in tlspool(pool, "diff", str(before), str(before + 1)).stdout


def roots(path):
    """Write a bundle of thousands of roots."""
    now = datetime.datetime.now(datetime.UTC)
    pem = []
    for number in range(ROOTS):
        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Root {number} of a long list of authorities")])
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(number + 1)
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(days=100))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(private, hashes.SHA256())
        )
        pem.append(made.public_bytes(Encoding.PEM))
    path.write_bytes(b"".join(pem))


def test_thousands_of_roots_are_one_change(pool, tmp_path):
    before = generation(pool)
    roots(tmp_path / "bundle.pem")
    started = time.monotonic()
    done = tlspool(pool, "trust", "import", str(tmp_path / "bundle.pem"), "--flags", "x509,client")
    assert f"{ROOTS} anchors imported, 0 left out, generation {before + 1}" in done.stdout
    assert time.monotonic() - started < 30
    done = tlspool(pool, "trust", "list")
    assert done.stdout.count("of a long list") == ROOTS
    tlspool(pool, "rollback", str(before))
    assert "of a long list" not in tlspool(pool, "trust", "list").stdout


def test_the_public_roots(pool):
    before = generation(pool)
    done = tlspool(pool, "trust", "import", BUNDLE)
    assert f"generation {before + 1}" in done.stdout
    assert found(pool, "error")[0] == []
    tlspool(pool, "rollback", str(before))


def test_progress_is_shown_on_a_terminal(pool, tmp_path):
    import pty

    pid, fd = pty.fork()
    if pid == 0:
        words = [str(COMMANDS / "tlspool"), "trust", "import", str(pool.directory / "ca.pem"), "--dry-run"]
        os.execve(words[0], words, {**os.environ, **pool.environment, "TERM": "xterm"})
    seen = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and select.select([fd], [], [], 10)[0]:
        try:
            seen += os.read(fd, 4096)
        except OSError:  # EIO: the other side has ended
            break
    os.close(fd)
    assert os.waitpid(pid, 0)[1] == 0
    assert b"reading: 1 of 1" in seen
    assert b"1 anchors imported" in seen


def test_a_configuration_that_is_wrong_changes_nothing(pool):
    good = pool.config.read_text()
    try:
        pool.config.write_text(good + "colour red\nworkers many\n")
        done = tlspool(pool, "check", check=False)
        assert done.returncode == 1
        assert "colour" in done.stdout
        assert "workers 'many'" in done.stdout
        assert len(answer(pool, "check", code=1)["problems"]) == 2
        done = tlspool(pool, "reload", check=False)
        assert done.returncode == 1
        assert done.stderr.count("not reloaded") == 3
        assert found(pool, "error")[1] == 1
        pool.config.write_text(good + "handshake_timeout_s 39\n")
        done = tlspool(pool, "reload")
        assert "broker: reloaded; handshake_timeout_s" in done.stdout
        assert tlspool(pool, "config", "--value", "handshake_timeout_s").stdout == "39\n"
        (row,) = answer(pool, "config", "handshake_timeout_s")["settings"]
        assert row["line"] == len(good.splitlines()) + 1
        assert tlspool(pool, "config", "nonsense", check=False).returncode == 1
    finally:
        pool.config.write_text(good)
        tlspool(pool, "reload")
    assert "pkcs11_pin_file" in tlspool(pool, "config", "--of", "keyd").stdout
    pin = (pool.directory / "pin").read_text().strip()
    assert pin not in tlspool(pool, "config", "--of", "keyd").stdout


def test_the_old_tools_speak_to_the_broker(pool):
    def tool(name, *words):
        program = f"import sys; from tlspool_admin.legacy import {name}; sys.exit({name}(sys.argv[1:]))"
        return subprocess.run(
            [sys.executable, "-c", program, str(pool.config), *words], capture_output=True, text=True, timeout=30
        )

    assert "@.arpa2.lab: present\ntestcli@tlspool.arpa2.lab\n" in tool("disclose_get", "@.arpa2.lab").stdout
    assert tool("disclose_set", "@old.example", NAME).returncode == 0
    assert answer(pool, "history", "-n", "1")["history"][0]["command"] == "disclose.set"
    assert tool("disclose_set", "@old.example").returncode == 0
    assert tool("localid_get", "localhost", "x509").stdout.startswith("x509,client,server")
    assert tool("db_have").returncode == 0


def test_ailments_are_found_with_remedies(pool, new_key):
    control = pool.run_dir / "broker.sock"
    mode = control.stat().st_mode & 0o777
    control.chmod(0o666)
    (pool.directory / "pin").chmod(0o644)
    before = generation(pool)
    expired = new_key.parent / "expired.pem"
    key = next(row for row in answer(pool, "keys")["keys"] if row["object"] == NAME)["uri"]
    old = x509.load_pem_x509_certificate((pool.directory / "certs" / "localhost.pem").read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    authority = DevCa(pool.directory)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(old.public_key())
        .serial_number(99)
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("expired.example")]), critical=False)
        .sign(authority._key, hashes.SHA256())
    )
    expired.write_bytes(leaf.public_bytes(Encoding.PEM))
    uri = "pkcs11:token=tlspool-dev;object=localhost;type=private"
    done = tlspool(pool, "localid", "set", "expired.example", "x509,server", uri, str(expired))
    assert "expired" in done.stderr
    # a key that is another's is refused at once
    wrong = tlspool(pool, "localid", "set", "wrong.example", "x509,server", key, str(expired), check=False)
    assert wrong.returncode == 1
    # one that is not there is a warning, unless it must be there
    absent = ["localid", "set", "absent.example", "x509,server", "pkcs11:object=absent", str(expired)]
    assert tlspool(pool, *absent, "--strict", check=False).returncode == 1
    assert "warning" in tlspool(pool, *absent).stderr
    tlspool(pool, "disclose", "set", "@gone.example", "absent.example")
    tlspool(pool, "localid", "del", "absent.example")
    try:
        findings, code = found(pool, "error", "warning")
        assert code == 1
        assert all(one["remedy"] for one in findings)
        subjects = {(one["check"], one["subject"]) for one in findings}
        assert ("sockets", str(control)) in subjects
        assert ("pin", str(pool.directory / "pin")) in subjects
        assert ("certificates", "expired.example") in subjects
        assert ("disclosures", "@gone.example") in subjects
    finally:
        control.chmod(mode)
        (pool.directory / "pin").chmod(0o600)
        tlspool(pool, "rollback", str(before))
    assert found(pool, "error", "warning") == ([], 0)


FIELDS = {
    # command: list in the answer, and fields that programs may rely on
    ("localid", "list"): ("identities", {"id", "records", "malformed"}),
    ("disclose", "list"): ("selectors", {"selector", "ids", "malformed"}),
    ("trust", "list"): ("keys", {"key", "records", "malformed"}),
    ("policy", "list"): ("policies", {"key", "policy"}),
    ("history",): ("history", {"generation", "time", "uid", "author", "command", "reason", "changed"}),
    ("config",): ("settings", {"name", "value", "line", "restart"}),
    ("keys",): ("keys", {"token", "object", "kind", "usable", "trouble", "uri"}),
    ("workers",): ("workers", {"worker", "pid", "age_s"}),
    ("explain",): ("accounts", {"session", "at_s", "outcome", "code", "localid", "remoteid", "rule", "sentence"}),
    ("doctor",): ("findings", {"level", "check", "subject", "text", "remedy"}),
}


@pytest.mark.parametrize("words", FIELDS, ids=" ".join)
def test_fields_that_programs_may_rely_on(pool, words):
    if words == ("policy", "list"):
        tlspool(pool, "policy", "set", "service:x", "modern")
    name, fields = FIELDS[words]
    found = answer(pool, *words)
    assert found["ok"] is True
    assert found[name]
    assert all(fields <= row.keys() for row in found[name])


def test_in_a_pipe(pool):
    line = f"{COMMANDS}/tlspool --json sessions | head -c 1; {COMMANDS}/tlspool localid list | grep -c arpa2"
    done = subprocess.run(
        line, shell=True, env={**os.environ, **pool.environment}, capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    assert done.stdout == "{4\n"


def test_nothing_of_a_remote_controls_the_terminal(pool):
    """A service name with what an application may say of itself."""
    ours, theirs = socket.socketpair()
    with theirs, ours, pytest.raises(libstub.PoolError):
        theirs.close()
        libstub.starttls_client(ours, "x.example.com", pool=str(pool.socket), service="\x1b[2Jhttp")
    for words in (["explain"], ["explain", "last"], ["sessions"]):
        assert "\x1b" not in tlspool(pool, *words, check=False).stdout


def test_without_a_broker_the_files_are_worked_on(pool):
    """Last of all: the broker is stopped, and started again."""
    before = generation(pool)
    pid = pool.running()["broker"]
    os.kill(pid, signal.SIGTERM)
    fd = os.pidfd_open(pid)
    assert select.select([fd], [], [], 30)[0]
    os.close(fd)
    os.waitpid(pid, 0)
    done = tlspool(pool, "disclose", "set", "@offline.example", NAME, "--reason", "at night")
    assert "no broker runs; working on the files" in done.stderr
    findings, code = found(pool, "error")
    assert code == 1
    assert "tlspool-broker" in {one["subject"] for one in findings}
    assert "note" in tlspool(pool, "config", "--changed").stderr
    pool.up()
    assert tlspool(pool, "disclose", "get", "jane@offline.example").stderr == ""
    assert answer(pool, "history", str(before + 1))["reason"] == "at night"
