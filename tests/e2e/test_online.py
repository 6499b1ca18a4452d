"""The helper as a process, asked about certificates whose authorities are real: `openssl ocsp`, `openssl ca`, HTTP."""

import os
import subprocess
import threading
import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fixtures.authority import DAY, HOUR, Authority, Responder, Web, index_serial, redirect
from tests.fixtures.online_process import Helper
from tests.fixtures.ports import free_port
from tlspool_common.messages import Finding

GOOD, REVOKED, UNKNOWN = Finding.GOOD, Finding.REVOKED, Finding.UNKNOWN
BAD, NONE, ABSENT = Finding.BAD, Finding.NONE, Finding.ABSENT
LISTS, OCSP = 1, 2

ROOT = Authority("Another")
CA = Authority("CA")


class Site:
    """A part of a server that a test has for itself."""

    def __init__(self, web, number):
        self._web = web
        self._root = f"/{number}"
        self.url = web.url + self._root
        self.port = web.port
        self.released = threading.Event()

    @property
    def answers(self):
        return self._web.answers

    @answers.setter
    def answers(self, answers):
        for path, answer in answers.items():
            self._web.answers[self._root + path] = answer

    @property
    def requests(self):
        with self._web.lock:
            return [request for request in self._web.requests if request[1].startswith(self._root + "/")]

    def paths(self):
        return [request[1].removeprefix(self._root) for request in self.requests]

    def never(self, handler):
        self.released.wait(60)


_numbers = iter(range(1_000_000))


@pytest.fixture(scope="module")
def server():
    with Web() as made:
        yield made


@pytest.fixture
def web(server):
    site = Site(server, next(_numbers) + 1000)
    yield site
    site.released.set()


@pytest.fixture(scope="module")
def helper(server):
    with Helper(online_ports=(server.port,)) as made:
        yield made


def leaf(web, name="leaf", **options):
    return CA.leaf(name, crl=f"{web.url}/ca.crl", **options)


# --- lists ------------------------------------------------------------------------------------------------


def test_lists_over_http(web, helper):
    good, revoked = leaf(web), leaf(web)
    web.answers = {"/ca.crl": CA.crl({revoked: "key_compromise"})}
    told = helper.ask(good.chain)
    assert (told.crl, told.ocsp) == (GOOD, ABSENT)
    assert f"{web.url}/ca.crl: not revoked" in told.detail
    told = helper.ask(revoked.chain)
    assert told.crl is REVOKED and "key compromise" in told.detail
    assert web.paths() == ["/ca.crl"]


def test_a_list_revokes_an_intermediate(web, helper):
    ca = ROOT.authority("Intermediate", crl=f"{web.url}/root.crl")
    one = ca.leaf("leaf", crl=f"{web.url}/ca.crl")
    web.answers = {"/ca.crl": ca.crl(), "/root.crl": ROOT.crl({ca: "ca_compromise"})}
    told = helper.ask(one.chain)
    assert told.crl is REVOKED and "certificate 1" in told.detail and "CA compromise" in told.detail


def test_a_list_of_openssl(web, helper, tmp_path):
    """Made by ``openssl ca -gencrl``, with its own idea of extensions and times."""
    good, revoked = leaf(web), leaf(web)
    stamp = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() - 3600))
    end = time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + 86400))
    (tmp_path / "index").write_text(
        f"R\t{end}\t{stamp},superseded\t{index_serial(revoked.serial)}\tunknown\t/CN=x\n"
        f"R\t{end}\t{stamp},holdInstruction,holdInstructionReject\t{index_serial(good.serial + 1)}\tunknown\t/CN=y\n"
    )
    (tmp_path / "crlnumber").write_text("1000\n")
    (tmp_path / "ca.pem").write_bytes(CA.certificate.public_bytes(Encoding.PEM))
    (tmp_path / "ca.key").write_bytes(CA.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=x\n[x]\ndatabase={tmp_path}/index\ncrlnumber={tmp_path}/crlnumber\ndefault_md=sha256\n"
        "default_crl_days=1\n"
    )
    subprocess.run(
        ["openssl", "ca", "-config", "ca.cnf", "-gencrl", "-keyfile", "ca.key", "-cert", "ca.pem", "-out", "ca.crl"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    subprocess.run(["openssl", "crl", "-in", "ca.crl", "-outform", "DER", "-out", "ca.der"], cwd=tmp_path, check=True)
    web.answers = {"/ca.crl": (tmp_path / "ca.der").read_bytes()}
    assert helper.ask(good.chain).crl is GOOD
    told = helper.ask(revoked.chain)
    assert told.crl is REVOKED and "superseded" in told.detail
    with Helper(online=False, crl_file=(tmp_path / "ca.crl",)) as other:
        assert other.ask(revoked.chain).crl is REVOKED


@pytest.mark.parametrize(
    ("answer", "finding", "why"),
    [
        (lambda: CA.crl(since=-3 * DAY, until=-HOUR), BAD, "out of date"),
        (lambda: b"<html>hello</html>", BAD, "cannot be read"),
        (lambda: CA.crl(key=ROOT.key), BAD, "signature"),
        (lambda: lambda to: to.give(b"", 500), NONE, "HTTP status 500"),
        (lambda: lambda to: to.give(b"x" * 100, 200, Content_Encoding="gzip"), NONE, "compressed"),
        (lambda: redirect("ca.crl"), NONE, "redirected more than 1 time"),
        (lambda: redirect("file:///etc/passwd"), NONE, "only http"),
        (lambda: redirect("http://127.0.0.1:22/"), NONE, "port 22"),
    ],
    ids=["expired", "garbage", "forged", "error", "compressed", "loop", "file", "port"],
)
def test_servers_that_do_not_help(web, helper, answer, finding, why):
    web.answers = {"/ca.crl": answer()}
    one = leaf(web)
    told = helper.ask(one.chain, wants=LISTS)
    assert told.crl is finding and why in told.detail
    requests = len(web.requests)
    assert helper.ask(one.chain, wants=LISTS).crl is finding
    assert len(web.requests) == requests  # it is left alone for a while


def test_a_list_without_an_end(web, helper):
    """A server that sends for ever is cut off at the bound, not at the time."""

    def for_ever(handler):
        handler.send_response(200)
        handler.end_headers()
        while not web.released.is_set():
            handler.wfile.write(b"x" * 65536)

    web.answers = {"/ca.crl": for_ever}
    told = helper.ask(leaf(web).chain, wants=LISTS)
    assert told.crl is NONE and "more than 16777216 bytes" in told.detail


def test_one_redirection(web, helper):
    web.answers = {"/ca.crl": redirect("moved.crl"), "/moved.crl": CA.crl()}
    assert helper.ask(leaf(web).chain).crl is GOOD


def test_a_large_list(web, helper):
    """100 000 entries: read once, and known from then on."""
    one = leaf(web)
    web.answers = {"/ca.crl": _large(one.serial)}
    assert helper.ask(one.chain).crl is REVOKED
    assert helper.ask(leaf(web).chain).crl is GOOD
    assert web.paths() == ["/ca.crl"]


def _large(serial):
    """A list that the library would take a minute to make: its entries are written by hand, and signed by it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    from tlspool_keyd.der import element, integer

    date = element(0x17, b"250101000000Z")
    entries = b"".join(element(0x30, integer((1 << 100) + n) + date) for n in range(100_000))
    entries += element(0x30, integer(serial) + date)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    now, end = (
        element(0x17, time.strftime("%y%m%d%H%M%SZ", time.gmtime(time.time() + s)).encode()) for s in (-60, 86400)
    )
    name = CA.certificate.subject.public_bytes()
    tbs = element(0x30, integer(1) + algorithm + name + now + end + element(0x30, entries))
    signature = CA.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return element(0x30, tbs + algorithm + element(0x03, b"\0" + signature))


# --- time -------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_answer_delays_nobody_else(web, helper):
    web.answers = {"/slow": web.never, "/ca.crl": CA.crl()}
    slow = [helper.question(CA.leaf("x", crl=f"{web.url}/slow{n}").chain, deadline_ms=30_000) for n in range(3)]
    for _ in range(20):
        assert helper.ask(leaf(web).chain).crl is GOOD
    told = helper.ask(CA.leaf("x", crl=f"{web.url}/slow0").chain, deadline_ms=50)  # asked for already
    assert told.crl is NONE and "no answer in time" in told.detail
    web.released.set()
    assert {helper.answer(number).crl for number in slow} == {NONE}


def test_a_download_goes_on_after_the_question_is_over(web, helper):
    go = threading.Event()

    def slow(handler):
        go.wait(60)
        handler.give(CA.crl())

    web.answers = {"/ca.crl": slow}
    one = leaf(web)
    assert helper.ask(one.chain, deadline_ms=20).crl is NONE
    go.set()
    assert helper.ask(one.chain).crl is GOOD
    assert web.paths() == ["/ca.crl"]


def test_many_questions_are_one_download(web, helper):
    web.answers = {"/ca.crl": CA.crl()}
    numbers = [helper.question(leaf(web, f"x{n}").chain, wants=LISTS) for n in range(100)]
    assert {helper.answer(number).crl for number in numbers} == {GOOD}
    assert web.paths() == ["/ca.crl"]


# --- addresses --------------------------------------------------------------------------------------------


def test_this_host_is_not_asked_unless_it_may_be(web):
    with Helper(online_ports=(web.port,), online_private=False) as helper:
        for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1"):
            told = helper.ask(CA.leaf("x", crl=web.url.replace("127.0.0.1", host) + "/").chain)
            assert told.crl is NONE, told
            assert "setting online_private" in told.detail or "no host name" in told.detail, told
    assert web.requests == []


def test_ports_that_may_not_be_asked(web):
    with Helper() as helper:
        told = helper.ask(leaf(web).chain)
        assert told.crl is NONE and "setting online_ports" in told.detail
    assert web.requests == []


def test_names_are_looked_up(web, helper):
    web.answers = {"/ca.crl": CA.crl()}
    told = helper.ask(CA.leaf("x", crl=web.url.replace("127.0.0.1", "localhost") + "/ca.crl").chain)
    assert told.crl is GOOD
    told = helper.ask(CA.leaf("x", crl=f"http://no.such.invalid:{web.port}/ca.crl").chain)
    assert told.crl is NONE and "no.such.invalid" in told.detail


# --- files ------------------------------------------------------------------------------------------------


def test_files_count_without_a_network_and_are_read_again_when_they_change(tmp_path):
    path, one = tmp_path / "ca.crl", CA.leaf("leaf")
    path.write_bytes(CA.crl())
    with Helper(log=tmp_path / "log", online=False, crl_file=(path, tmp_path / "none.crl")) as helper:
        assert helper.ask(one.chain).crl is GOOD
        path.write_bytes(b"half of a")
        _until(lambda: f"file_unusable path={path} " in (tmp_path / "log").read_text())
        assert helper.ask(one.chain).crl is GOOD
        (tmp_path / "new").write_bytes(CA.crl({one: "superseded"}))
        (tmp_path / "new").rename(path)
        _until(lambda: helper.ask(one.chain).crl is REVOKED)
    log = (tmp_path / "log").read_text()
    assert f'path={tmp_path}/none.crl detail="No such file or directory"' in log
    assert f"event=online.file_read path={path} lists=1" in log


def _until(condition, wait_s=20.0):
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- OCSP -------------------------------------------------------------------------------------------------


def test_a_real_responder(tmp_path):
    """``openssl ocsp`` with a delegated signer: good, revoked, unknown, and what comes from memory."""
    port = free_port()
    good, revoked, unknown = (CA.leaf(name, ocsp=f"http://127.0.0.1:{port}") for name in "gru")
    with Helper(online_ports=(port,)) as helper:
        with Responder(tmp_path / "r", CA, {good: "V", revoked: "R"}, CA.responder(), port):
            assert helper.ask(good.chain).ocsp is GOOD
            told = helper.ask(revoked.chain)
            assert told.ocsp is REVOKED and "keyCompromise" in told.detail
            told = helper.ask(unknown.chain)
            assert told.ocsp is UNKNOWN and "does not know" in told.detail
            staple = helper.staple(good.chain)
            assert staple.response and staple.until_s > time.time() + 3000
            assert helper.staple(revoked.chain).response == b""
        # The responder is gone, and what it said still counts.
        assert helper.ask(good.chain).ocsp is GOOD
        assert helper.ask(revoked.chain).ocsp is REVOKED
        assert helper.staple(good.chain).response == staple.response
        other = CA.leaf("other", ocsp=f"http://127.0.0.1:{port}")
        told = helper.ask(other.chain)
        assert told.ocsp is NONE and "connection refused" in told.detail


def test_a_staple_verifies_elsewhere(tmp_path):
    """What is given for stapling is what ``openssl ocsp`` accepts."""
    port = free_port()
    good = CA.leaf("good", ocsp=f"http://127.0.0.1:{port}")
    with Responder(tmp_path, CA, {good: "V"}, None, port), Helper(online_ports=(port,)) as helper:
        (tmp_path / "response").write_bytes(helper.staple(good.chain).response)
    for name, one in (("good", good), ("root", CA)):
        (tmp_path / f"{name}.pem").write_bytes(one.certificate.public_bytes(Encoding.PEM))
    command = ["openssl", "ocsp", "-respin", "response", "-issuer", "ca.pem", "-cert", "good.pem", "-no_nonce"]
    done = subprocess.run(
        [*command, "-CAfile", "root.pem", "-partial_chain"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "Response verify OK" in done.stderr and "good.pem: good" in done.stdout


@pytest.mark.parametrize(
    ("answer", "finding", "why"),
    [
        (lambda one: CA.response(one, since=-3 * DAY, until=-HOUR), BAD, "out of date"),
        (lambda one: CA.response(CA.leaf("other")), BAD, "another certificate"),
        (lambda one: CA.response(one, signer=ROOT.responder()), BAD, "not issued by the issuer"),
        (lambda one: CA.response(one)[:-1] + b"\0", BAD, "does not verify|cannot be read"),
        (lambda one: b"garbage", BAD, "cannot be read"),
        (lambda one: b"x" * 20_000, NONE, "at most 16384"),
        (lambda one: bytes.fromhex("30030a0103"), NONE, "try later"),
        (lambda one: redirect("ocsp"), NONE, "redirected"),
    ],
    ids=["expired", "other", "stranger", "forged", "garbage", "huge", "later", "loop"],
)
def test_responders_that_do_not_help(web, helper, answer, finding, why):
    one = CA.leaf("leaf", ocsp=f"{web.url}/ocsp")
    web.answers = {"/ocsp": answer(one)}
    told = helper.ask(one.chain, wants=OCSP)
    assert told.ocsp is finding
    assert any(word in told.detail for word in why.split("|")), told.detail


def test_a_responder_that_only_takes_post(web, helper):
    one = CA.leaf("leaf", ocsp=f"{web.url}/ocsp")

    def answer(handler):
        if handler.command == "GET":
            handler.give(b"no", 405)
        else:
            handler.give(CA.response(one))

    web.answers = {"/ocsp": answer}
    assert helper.ask(one.chain).ocsp is GOOD
    assert [request[0] for request in web.requests] == ["GET", "POST"]


# --- load -------------------------------------------------------------------------------------------------


def test_what_is_known_is_told_quickly(web, helper):
    """Far below what is measured (some thousands a second), and far above what a lookup over the network could."""
    web.answers = {
        "/ca.crl": CA.crl(),
    }
    one = leaf(web)
    helper.ask(one.chain, wants=LISTS)
    begin = time.monotonic()
    for _ in range(500):
        assert helper.ask(one.chain, wants=LISTS).crl is GOOD
    assert time.monotonic() - begin < 5
    assert os.path.exists(f"/proc/{helper.pid}")
