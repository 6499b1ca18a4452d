"""`tlspool tunnel server --protocol`: real clients of each protocol, real servers behind."""

import contextlib
import ftplib
import imaplib
import os
import poplib
import smtplib
import socket
import ssl
import subprocess
import threading

import pytest

from tests.e2e.conftest import connect, readable
from tests.e2e.test_tunnels import Tunnel
from tests.fixtures.ports import free_port
from tests.fixtures.servers import Server
from tests.fixtures.servers_mail import DOMAIN, PASSWORD, USER, Dovecot, Postfix
from tests.fixtures.servers_other import FILE, SUFFIX, Postgres, Prosody, Slapd, Vsftpd

WAIT_S = 20


@pytest.fixture
def serve(pool):
    """Put a tunnel with a protocol in front of a port."""
    with contextlib.ExitStack() as stack:

        def make(protocol, port, *words):
            made = Tunnel(
                pool, "server", "--connect", f"127.0.0.1:{port}", "--localid", "localhost", "--client-auth", "ignore",
                *(["--protocol", protocol] if protocol else []), *words,
            )  # fmt: skip
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture(scope="module")
def postfix(authority):
    with Postfix(authority.issue("localhost")) as made:
        yield made


@pytest.fixture(scope="module")
def dovecot(authority):
    with Dovecot(authority.issue("localhost")) as made:
        yield made


@pytest.fixture
def context(pool):
    return ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))


class Scripted:
    """A backend that says what it is told to, and keeps what it hears."""

    def __init__(self, *answers):
        self._answers = answers
        self.heard = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        with contextlib.suppress(OSError):
            sock, _ = self.listener.accept()
            with sock:
                for answer in self._answers:
                    if answer is not None:
                        sock.sendall(answer)
                    data = sock.recv(65536)
                    if not data:
                        return
                    self.heard.append(data)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


@pytest.fixture
def scripted():
    made = []

    def make(*answers):
        made.append(Scripted(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def s_client(pool, protocol, port, said, *words):
    """Talk over `openssl s_client -starttls`; return what came."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-starttls", protocol, "-connect", f"127.0.0.1:{port}", "-quiet",
         "-CAfile", str(pool.directory / "ca.pem"), "-verify_return_error", "-verify_hostname", "localhost", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write(said)
    process.stdin.flush()
    return process


def until(process, mark):
    """Return what s_client prints up to a mark."""
    text = b""
    while mark not in text:
        assert readable(process.stdout, WAIT_S), text
        part = os.read(process.stdout.fileno(), 4096)
        assert part, (text, process.stderr.read())
        text += part
    return text


def end(process):
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    process.terminate()
    process.wait(WAIT_S)


# --- SMTP ---------------------------------------------------------------------------------------------


def test_smtp_of_python_to_postfix(serve, postfix, context):
    with smtplib.SMTP("localhost", serve("smtp", postfix.plain).port, timeout=WAIT_S) as smtp:
        smtp.ehlo()
        before = dict(smtp.esmtp_features)
        smtp.starttls(context=context)
        smtp.ehlo()
        after = dict(smtp.esmtp_features)
        smtp.sendmail("a@tlspool.arpa2.lab", f"b@{DOMAIN}", "Subject: one\r\n\r\nthrough the tunnel\r\n")
    assert before.pop("starttls") == ""
    assert before == after
    assert "8bitmime" in after
    assert any("through the tunnel" in text for text in postfix.await_mail())


def test_smtp_refuses_everything_but_starttls(serve, postfix):
    with smtplib.SMTP("127.0.0.1", serve("smtp", postfix.plain).port, timeout=WAIT_S) as smtp:
        smtp.ehlo()
        assert smtp.docmd("MAIL FROM:<a@tlspool.arpa2.lab>")[0] == 530
        assert smtp.docmd("AUTH PLAIN AGEAYg==")[0] == 530
        assert smtp.docmd("STARTTLS now")[0] == 501


@pytest.mark.parametrize("name", ["smtp", "lmtp"])
def test_mail_of_s_client(pool, serve, postfix, scripted, name):
    port = postfix.plain
    if name == "lmtp":
        backend = scripted(b"220 mail LMTP\r\n", b"250-mail\r\n250 SIZE 10\r\n", b"250 over TLS\r\n")
        port = backend.port
    said, mark = (b"EHLO x.example\r\n", b"8BITMIME") if name == "smtp" else (b"LHLO x.example\r\n", b"250 over TLS")
    process = s_client(pool, name, serve(name, port).port, said)
    try:
        assert mark in until(process, mark)
    finally:
        end(process)


def test_postfix_delivers_through_the_tunnel(pool, serve, postfix, authority):
    """Postfix as client, which verifies us."""
    port = serve("smtp", postfix.plain).port
    settings = (
        f"smtp_tls_security_level = verify\nsmtp_tls_CAfile = {{ca}}\nsmtp_tls_verify_cert_match = localhost\n"
        f"transport_maps = inline:{{ {DOMAIN}=smtp:[localhost]:{port} }}\nsmtp_host_lookup = native\n"
        "mynetworks = 127.0.0.0/8\nvirtual_mailbox_domains =\nrelay_domains = $mydestination\n"
    )
    with contextlib.closing(Postfix(authority.issue("localhost"))) as other:
        ca = other.write("ca.pem", (pool.directory / "ca.pem").read_bytes())
        other._settings = settings.replace("{ca}", str(ca))
        other.start()
        already = len(list(postfix.inbox.iterdir())) if postfix.inbox.exists() else 0
        with smtplib.SMTP("127.0.0.1", other.plain, timeout=WAIT_S) as smtp:
            smtp.sendmail("a@tlspool.arpa2.lab", f"b@{DOMAIN}", "Subject: two\r\n\r\nfrom Postfix to Postfix\r\n")
        try:
            found = postfix.await_mail(already + 1)
        except AssertionError:
            raise AssertionError(other.output()) from None
        assert any("from Postfix to Postfix" in text for text in found)
        other.await_output("Verified TLS connection established to localhost|relay=localhost")


def test_bytes_behind_starttls_are_refused(serve, postfix):
    """CVE-2011-0411: what is glued behind the command in plaintext must not come out behind TLS."""
    tunnel = serve("smtp", postfix.plain)
    with connect(tunnel.port) as sock, sock.makefile("rb") as lines:
        assert lines.readline().startswith(b"220 ")
        sock.sendall(b"STARTTLS\r\nRSET\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert lines.read() == b""
    _, output = tunnel.stop()
    assert "the client sent 6 bytes in plaintext after it agreed on TLS" in output


# --- IMAP, POP3, ManageSieve --------------------------------------------------------------------------


def test_imap_of_python_to_dovecot(serve, dovecot, context):
    with imaplib.IMAP4("localhost", serve("imap", dovecot.imap).port, timeout=WAIT_S) as imap:
        assert "STARTTLS" in imap.capabilities
        assert "LOGINDISABLED" in imap.capabilities
        assert "IDLE" in imap.capabilities
        assert not [name for name in imap.capabilities if name.startswith("AUTH=")]
        imap.starttls(context)
        assert "AUTH=PLAIN" in imap.capabilities
        imap.login(USER, PASSWORD)
        assert imap.append("INBOX", "", None, b"Subject: x\r\n\r\nbody\r\n")[0] == "OK"
        assert imap.select()[0] == "OK"


def test_pop3_of_python_to_dovecot(serve, dovecot, context):
    pop3 = poplib.POP3("localhost", serve("pop3", dovecot.pop3).port, timeout=WAIT_S)
    try:
        before = pop3.capa()
        assert "STLS" in before
        assert "USER" not in before
        assert "TOP" in before
        pop3.stls(context)
        assert "USER" in pop3.capa()
        pop3.user(USER)
        assert pop3.pass_(PASSWORD).startswith(b"+OK")
    finally:
        pop3.quit()


@pytest.mark.parametrize(
    ("name", "said", "mark"),
    [
        ("imap", b"1 CAPABILITY\r\n", b"AUTH=PLAIN"),
        ("pop3", b"CAPA\r\n", b"SASL"),
        ("sieve", b"", b'"SIEVE"'),
    ],
)
def test_dovecot_of_s_client(pool, serve, dovecot, name, said, mark):
    process = s_client(pool, name, serve(name, getattr(dovecot, name)).port, said)
    try:
        assert mark in until(process, mark)
    finally:
        end(process)


# --- others -------------------------------------------------------------------------------------------


def test_ftp_of_curl_to_vsftpd(pool, serve):
    with Vsftpd(None) as vsftpd:
        port = serve("ftp", vsftpd.port).port
        done = subprocess.run(
            ["curl", "-sS", "--ftp-ssl-control", "--cacert", str(pool.directory / "ca.pem"),
             f"ftp://localhost:{port}/file"],
            capture_output=True, timeout=WAIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout == FILE
        process = s_client(pool, "ftp", port, b"FEAT\r\n")
        try:
            assert b"EPSV" in until(process, b"EPSV")
        finally:
            end(process)
        plain = ftplib.FTP()
        plain.connect("127.0.0.1", port, timeout=WAIT_S)
        with pytest.raises(ftplib.error_perm, match="530"):
            plain.login()
        plain.close()


def test_ldapsearch_to_slapd(pool, serve, authority):
    with Slapd(authority.issue("localhost")) as slapd:
        port = serve("ldap", slapd.port).port
        command = ["ldapsearch", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{port}", "-s", "base", "-b", ""]
        environment = {**os.environ, "LDAPTLS_CACERT": str(pool.directory / "ca.pem")}
        done = subprocess.run(
            [*command, "-ZZ", "namingContexts"], capture_output=True, text=True, timeout=WAIT_S, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert SUFFIX in done.stdout
        refused = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment)
        assert refused.returncode == 13
        assert "StartTLS comes first" in refused.stderr
        process = s_client(pool, "ldap", port, bytes.fromhex("300c020102600702010304008000"))
        try:
            assert b"\x61\x07\x0a\x01\x00" in until(process, b"\x61\x07\x0a\x01\x00")
        finally:
            end(process)


def test_psql_to_postgresql(pool, serve, authority):
    with Postgres(authority.issue("localhost")) as postgres:
        port = serve("postgres", postgres.port).port
        base = f"host=localhost port={port} user=jane dbname=postgres sslrootcert={pool.directory / 'ca.pem'}"
        query = ["-XAt", "-c", "select 6*7"]
        done = subprocess.run(
            ["psql", f"{base} sslmode=verify-full", *query], capture_output=True, text=True, timeout=WAIT_S
        )
        assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
        refused = subprocess.run(
            ["psql", f"{base} sslmode=disable", *query], capture_output=True, text=True, timeout=WAIT_S
        )
        assert refused.returncode == 2
        assert "TLS is required" in refused.stderr


def test_xmpp_of_s_client_to_prosody(pool, serve, authority):
    with Prosody(authority.issue("localhost"), requires_tls=False) as prosody:
        port = serve("xmpp", prosody.port).port
        header = (
            b"<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' "
            b"xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        process = s_client(pool, "xmpp", port, header, "-xmpphost", "localhost")
        try:
            assert b"<mechanism>" in until(process, b"</mechanisms>")
        finally:
            end(process)
        with connect(port) as sock:
            sock.sendall(header.replace(b"localhost", b"elsewhere.example"))
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert b"<host-unknown" in answer


@pytest.mark.parametrize(
    ("name", "answers", "said", "mark"),
    [
        ("irc", [None, b":x 001 you :welcome\r\n"], b"NICK you\r\n", b"welcome"),
        ("nntp", [b"200 hello\r\n", b"101 list\r\nREADER\r\n.\r\n", b"111 over TLS\r\n"], b"DATE\r\n", b"over TLS"),
        ("postgres", [None, b"over TLS"], b"ping", b"over TLS"),
        ("xmpp-server", [None, b"<over-tls/>"], b"<stream/>", b"<over-tls/>"),
    ],
)  # fmt: skip
def test_others_of_s_client(pool, serve, scripted, name, answers, said, mark):
    backend = scripted(*answers)
    words = ["-xmpphost", "localhost"] if name.startswith("xmpp") else []
    process = s_client(pool, name, serve(name, backend.port).port, said, *words)
    try:
        assert mark in until(process, mark)
    finally:
        end(process)
    assert any(said.strip() in data for data in backend.heard)


# --- stunnel ------------------------------------------------------------------------------------------


class Stunnel(Server):
    """stunnel with one service; ``lines`` say which."""

    def __init__(self, *lines):
        super().__init__()
        self._lines = lines
        self.port = free_port()

    def start(self):
        text = f"foreground = yes\npid =\n[x]\naccept = 127.0.0.1:{self.port}\n" + "\n".join(self._lines) + "\n"
        self.launch(["stunnel4", str(self.write("stunnel.conf", text))], self.port)


@pytest.mark.parametrize(
    ("protocol", "name", "said", "mark"),
    [
        ("smtp", "smtp", b"EHLO example.com\r\n", b"8BITMIME"),
        ("imap", "imap", b"1 CAPABILITY\r\n", b"AUTH=PLAIN"),
        ("pop3", "pop3", b"CAPA\r\n", b"SASL"),
        ("nntp", "nntp", b"DATE\r\n", b"over TLS"),
        ("pgsql", "postgres", b"ping", b"over TLS"),
        ("ldap", "ldap", b"ping", b"over TLS"),
    ],
)
def test_stunnel_as_client(pool, serve, postfix, dovecot, scripted, protocol, name, said, mark):
    ports = {"smtp": postfix.plain, "imap": dovecot.imap, "pop3": dovecot.pop3}
    answers = [b"200 hello\r\n", b"101 list\r\nVERSION 2\r\n.\r\n"] if name == "nntp" else [None]
    port = ports[name] if name in ports else scripted(*answers, b"over TLS\r\n").port
    lines = [
        "client = yes", f"connect = 127.0.0.1:{serve(name, port).port}", f"protocol = {protocol}", "sni = localhost",
        f"CAfile = {pool.directory / 'ca.pem'}", "verifyChain = yes", "checkHost = localhost",
    ]  # fmt: skip
    with Stunnel(*lines) as stunnel, connect(stunnel.port) as sock:
        sock.sendall(said)
        text = b""
        while mark not in text:
            part = sock.recv(4096)
            assert part, (text, stunnel.output())
            text += part


# --- the PROXY protocol -------------------------------------------------------------------------------


def test_postfix_learns_where_a_client_comes_from(serve, authority, context):
    settings = "smtpd_upstream_proxy_protocol = haproxy\n"
    with Postfix(authority.issue("localhost"), settings) as postfix:
        for version in ("v1", "v2"):
            port = serve("smtp", postfix.plain, "--send-proxy", version).port
            source = ("127.0.0.7", 0)
            with smtplib.SMTP("localhost", port, source_address=source, timeout=WAIT_S) as smtp:
                smtp.starttls(context=context)
                smtp.ehlo()
        postfix.await_output(r"\[127\.0\.0\.7\]", times=2)


def test_the_backend_learns_who_the_remote_is(pool, serve, scripted, authority):
    backend = scripted(None, b"ok")
    port = serve("", backend.port, "--send-proxy", "v2", "--accept-proxy", "--client-auth", "require").port
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    context.load_cert_chain(*authority.issue("jane@tlspool.arpa2.lab"))
    with connect(port) as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 198.51.100.1 50412 443\r\n")
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"hello")
            assert tls.recv(10) == b"ok"
    heard = b"".join(backend.heard)
    assert heard.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
    assert socket.inet_aton("192.0.2.7") in heard
    assert b"\x22\x00\x16jane@tlspool.arpa2.lab" in heard


def test_no_proxy_header_where_one_is_needed(serve, scripted):
    tunnel = serve("", scripted(None).port, "--accept-proxy")
    with connect(tunnel.port) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(10) == b""
    assert "no PROXY header" in tunnel.stop()[1]


def test_who_is_slow_is_cut_off(serve, scripted):
    tunnel = serve("postgres", scripted(None).port, "--protocol-timeout", "0.2")
    with connect(tunnel.port) as sock:
        assert sock.recv(10) == b""
    assert "the client took too long to agree on TLS" in tunnel.stop()[1]
