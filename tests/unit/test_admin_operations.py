"""Commands about the databases, by a broker or, while none runs, on the files: the same answers either way."""

import datetime
import fcntl
import json
import os
import socket
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fixtures import certs
from tlspool_admin.__main__ import main
from tlspool_admin.client import ask

URI = "pkcs11:token=t;object=www.example;type=private"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The configuration of a pool whose broker does not run, and some files."""
    path = tmp_path / "conf"
    path.write_text(f"run_dir {tmp_path}\ndbenv_dir {tmp_path}/db\n")
    monkeypatch.setenv("TLSPOOL_CONFIG_FILE", str(path))
    middle = certs.intermediate()
    (tmp_path / "leaf.pem").write_bytes(middle.issue("www.example").pem + middle.pem)
    (tmp_path / "mixed.pem").write_bytes(certs.root().pem + middle.pem + middle.issue("www.example").pem)
    (tmp_path / "root.pem").write_bytes(certs.root().pem)
    return tmp_path


@pytest.fixture
def run(capsys):
    def run(*words, code=0):
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        return capsys.readouterr()

    return run


def answer(told):
    return json.loads(told.out)


def test_a_day_without_a_broker(home, run):
    told = run("localid", "set", "www.example", "x509,client,server", URI, home / "leaf.pem", "--reason", "new")
    assert "no broker runs; working on the files" in told.err
    assert "www.example: 1 set, generation 2" in told.out
    assert "CN=Test intermediate" in run("localid", "get", "www.example").out
    assert "www.example" in run("localid", "list").out
    run("disclose", "set", ".example.com", "www.example")
    run("trust", "set", "x509,client", "1", home / "root.pem")
    run("policy", "set", "service:smtp", "modern")
    assert "modern" in run("policy", "get", "service:smtp").out
    assert run("policy", "get", "service:imap", code=1).out == "service:imap: nothing is assigned\n"
    history = answer(run("--json", "history"))["history"]
    assert [row["command"] for row in history] == ["policy.set", "trust.set", "disclose.set", "localid.set"]
    assert history[-1]["reason"] == "new"
    assert history[-1]["uid"] == os.getuid()
    assert "+ www.example" in run("diff", "2", "3").out
    assert "- www.example" in run("diff", "3", "2").out
    assert "reason: new" in run("history", "2").out
    assert "as at generation 2 again, generation 6" in run("rollback", "2", "--reason", "oops").out
    assert "nothing is disclosed to anybody" in run("disclose", "list").out
    assert run("diff", "2").out == "there is no difference\n"


def test_expected_generation(home, run):
    run("policy", "set", "host", "modern", "--if-generation", "1")
    told = run("policy", "set", "host", "intermediate", "--if-generation", "1", code=1)
    assert "[13" in told.err
    assert "modern" in run("policy", "get", "host").out


def test_two_at_a_time_are_refused(home, run):
    run("localid", "list")
    fd = os.open(home / "db", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        assert "db" in run("localid", "list", code=1).err
    finally:
        os.close(fd)


def test_import_puts_a_chain_in_order(home, run):
    run("localid", "import", home / "mixed.pem", "--key", URI)
    (record,) = answer(run("--json", "localid", "get", "www.example"))["records"]
    assert [one["subject"] for one in record["chain"]] == ["CN=www.example", "CN=Test intermediate"]
    assert record["uri"] == URI


def test_import_of_several_is_one_change(home, run, monkeypatch):
    keys = [{"token": "t 1", "object": "WWW.example"}, {"token": "t", "object": "mail.example"}]
    monkeypatch.setattr("tlspool_admin.commands.localid.ask", lambda *_: {"keys": keys})
    (home / "mail.pem").write_bytes(certs.root().issue("mail.example", number=3).pem)
    told = run("localid", "import", home / "leaf.pem", home / "mail.pem")
    assert told.out == "www.example: 1 set\nmail.example: 1 set\ngeneration 2\n"
    assert "pkcs11:token=t%201;object=WWW.example;type=private" in run("localid", "list").out
    (home / "other.pem").write_bytes(certs.root().issue("other.example", number=4).pem)
    assert (
        "0 keys on the tokens have the label other.example" in run("localid", "import", home / "other.pem", code=1).err
    )


def test_import_says_who_is_meant(home, run):
    (home / "wild.pem").write_bytes(certs.root().issue("*.example").pem)
    assert "--id" in run("localid", "import", home / "wild.pem", "--key", URI, code=1).err
    run("localid", "import", home / "wild.pem", "--key", URI, "--id", "www.example")


def test_import_of_disclosures(home, run):
    run("localid", "set", "www.example", "x509,client", URI, home / "leaf.pem")
    (home / "list").write_text("# comment\n\n.example.com www.example\n@. =T www.example\n")
    assert "2 selectors set, generation 3" in run("disclose", "import", home / "list").out
    assert "if the remote fulfils T" in run("disclose", "get", "jane@x.org").out
    (home / "list").write_text(".example.com\n")
    assert "line 1: no identity" in run("disclose", "import", home / "list", code=1).err
    (home / "list").write_text(".example.com nobody.example\n")
    assert "operations[1]" in run("disclose", "import", home / "list", code=1).err


def test_nothing_is_found(home, run):
    assert run("disclose", "get", "www.example", code=1).out.endswith("nothing is disclosed\n")
    assert run("trust", "get", "00ff", code=1).out == "there are no such records\n"
    assert run("localid", "get", "www.example", code=1).err.startswith("tlspool: ")


def test_a_bundle(home, run):
    old = certs.make("Old root", ca=True, days=(-30, -1), number=9)
    (home / "bundle.pem").write_bytes(certs.root().pem + old.pem + certs.root().pem)
    told = run("trust", "import", home / "bundle.pem", "--dry-run")
    assert told.out == "1 anchors imported, 2 left out, nothing written\n"
    told = run("trust", "import", home / "bundle.pem", "--reason", "first")
    assert told.out == "1 anchors imported, 2 left out, generation 2\n"
    assert "left out: CN=Old root: expired on" in told.err
    shown = answer(run("trust", "import", "--json", "--expired", home / "bundle.pem"))
    assert (shown["anchors"], shown["left_out"], shown["crls"]) == (2, 1, 0)
    assert {"subject", "why"} == set(shown["unfit"][0])
    (home / "bundle.pem").write_bytes(old.pem)
    assert "expired on" in run("trust", "import", home / "bundle.pem", code=1).err


def test_pins_and_revocations(home, run):
    run("trust", "set", "x509,client", "1", home / "root.pem")
    run("trust", "pin", "www.example", home / "leaf.pem", "--days", "30", "--replace-days", "7")
    assert "pin of www.example" in run("trust", "list").out
    assert "in force" in run("trust", "pins", "www.example").out
    assert "nothing is pinned" in run("trust", "pins", "mail.example").out
    assert "1 pins removed" in run("trust", "unpin", "www.example").out
    assert "--days" in run("trust", "pin", "www.example", "0" * 64, "--replace-days", "1", code=1).err
    assert "neither a file" in run("trust", "pin", "www.example", "00", code=1).err
    run("trust", "revoke", home / "root.pem", "0x1F", home / "leaf.pem")
    assert "2 revoked" in run("trust", "list").out
    assert "1 removed" in run("trust", "unrevoke", home / "root.pem", "1f").out
    assert "1 removed" in run("trust", "unrevoke", home / "root.pem").out


def crl(number, *serials):
    """Return a revocation list of the test root."""
    root = certs.root().certificate
    start = root.not_valid_before_utc + datetime.timedelta(seconds=number)
    builder = x509.CertificateRevocationListBuilder().issuer_name(root.subject)
    builder = builder.last_update(start).next_update(root.not_valid_after_utc)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier(certs.root().key_identifier, None, None), False)
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        builder = builder.add_revoked_certificate(one.build())
    return builder.sign(certs.root().private, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_revocation_lists(home, run):
    (home / "list.pem").write_bytes(crl(1, 17, 18))
    assert run("trust", "revoke", home / "list.pem", code=1).err  # nobody whom we trust has signed it
    run("trust", "set", "x509,client", "1", home / "root.pem")
    assert "2 revoked" in run("trust", "revoke", home / "list.pem", "--reason", "CA's list").out
    (home / "bundle.pem").write_bytes(crl(2, 17, 18, 19) + certs.root().pem)
    assert "1 anchors, 1 revocation lists imported" in run("trust", "import", home / "bundle.pem").out
    assert "3 revoked" in run("trust", "list").out
    (home / "two.pem").write_bytes(crl(3) + crl(4, 1))
    assert "1 revoked" in run("trust", "revoke", home / "two.pem").out
    assert "no revocation list" in run("trust", "revoke", home / "root.pem", code=1).err


def test_a_broker_that_says_nothing_is_not_passed_over(home, run):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "broker.sock"))
        listener.listen()

        def close_one():
            listener.accept()[0].close()

        thread = threading.Thread(target=close_one)
        thread.start()
        assert "see the daemon's log" in run("localid", "list", code=1).err
        thread.join()
    assert not (home / "db").exists()


def test_nobody_listens_at_a_socket_that_was_left(home, run):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "broker.sock"))
    assert "no broker runs" in run("localid", "list").err


def test_who_listens_is_told_apart(tmp_path):
    from tlspool_admin.client import NotReachable

    with pytest.raises(NotReachable) as caught:
        ask(tmp_path / "absent", {})
    assert caught.value.nobody
