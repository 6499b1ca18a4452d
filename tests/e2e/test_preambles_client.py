"""`tlspool tunnel client --protocol`: plain clients through the pool to real servers with STARTTLS."""

import base64
import contextlib
import ftplib
import imaplib
import poplib
import smtplib
import socket
import subprocess

import pytest

from tests.e2e.conftest import connect
from tests.e2e.test_preambles_server import WAIT_S, Scripted, Stunnel
from tests.e2e.test_tunnels import Tunnel
from tests.fixtures.ports import free_port
from tests.fixtures.servers import Server
from tests.fixtures.servers_mail import DOMAIN, PASSWORD, USER, Dovecot, Postfix
from tests.fixtures.servers_other import FILE, SUFFIX, Postgres, Prosody, Slapd, Vsftpd


@pytest.fixture
def reach(pool):
    """Put a tunnel with a protocol before a server."""
    with contextlib.ExitStack() as stack:

        def make(protocol, port, *words):
            made = Tunnel(
                pool, "client", "--connect", f"127.0.0.1:{port}", "--remoteid", "localhost", "--protocol", protocol,
                *words,
            )  # fmt: skip
            stack.callback(made.stop)
            return made

        yield make


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("localhost")


@pytest.fixture(scope="module")
def postfix(pair):
    with Postfix(pair) as made:
        yield made


@pytest.fixture(scope="module")
def dovecot(pair):
    with Dovecot(pair, "disable_plaintext_auth = yes\nlogin_trusted_networks =\n") as made:
        yield made


def converse(port, said, mark):
    """Say something, and return what comes back up to a mark."""
    with connect(port) as sock:
        sock.sendall(said)
        text = b""
        while mark not in text:
            part = sock.recv(4096)
            assert part, text
            text += part
    return text


def send_mail(postfix, port, subject):
    with smtplib.SMTP("127.0.0.1", port, timeout=WAIT_S) as smtp:
        assert smtp.ehlo()[0] == 250
        assert "starttls" not in smtp.esmtp_features  # it is the answer that came over TLS
        smtp.sendmail("a@tlspool.arpa2.lab", f"b@{DOMAIN}", f"Subject: {subject}\r\n\r\nbody\r\n")
    already = 0
    while True:
        found = postfix.await_mail(already + 1)
        if any(f"Subject: {subject}" in text for text in found):
            return
        already = len(found)


def test_smtp_to_postfix(reach, postfix):
    send_mail(postfix, reach("smtp", postfix.tls).port, "one")


def test_imap_to_dovecot(reach, dovecot):
    with imaplib.IMAP4("127.0.0.1", reach("imap", dovecot.imap).port, timeout=WAIT_S) as imap:
        assert "AUTH=PLAIN" in imap.capabilities
        imap.login(USER, PASSWORD)
        assert imap.select()[0] == "OK"


def test_pop3_to_dovecot(reach, dovecot):
    pop3 = poplib.POP3("127.0.0.1", reach("pop3", dovecot.pop3).port, timeout=WAIT_S)
    try:
        assert pop3.getwelcome() == b"+OK localhost"
        pop3.user(USER)
        pop3.pass_(PASSWORD)
        pop3.stat()
    finally:
        pop3.quit()


def test_sieve_to_dovecot(reach, dovecot):
    login = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
    text = converse(
        reach("sieve", dovecot.sieve).port, f'AUTHENTICATE "PLAIN" "{login}"\r\n'.encode(), b'OK "Logged in."'
    )
    assert b'"SIEVE"' in text  # capabilities, which the server tells again over TLS
    assert b'"STARTTLS"' not in text


def test_ftp_to_vsftpd(reach, pair):
    with Vsftpd(pair) as vsftpd:
        direct = ftplib.FTP()
        direct.connect("127.0.0.1", vsftpd.port, timeout=WAIT_S)
        with pytest.raises(ftplib.error_perm, match="530"):
            direct.login()  # it requires TLS
        direct.close()
        with ftplib.FTP() as ftp:
            ftp.connect("127.0.0.1", reach("ftp", vsftpd.port).port, timeout=WAIT_S)
            ftp.login()
            parts = []
            ftp.retrbinary("RETR file", parts.append)
            assert b"".join(parts) == FILE


def test_ldap_to_slapd(reach, pair):
    with Slapd(pair) as slapd:
        done = subprocess.run(
            ["ldapsearch", "-x", "-LLL", "-H", f"ldap://127.0.0.1:{reach('ldap', slapd.port).port}",
             "-s", "base", "-b", "", "namingContexts", "supportedExtension"],
            capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert SUFFIX in done.stdout


def test_postgresql(reach, pair):
    with Postgres(pair) as postgres:
        port = reach("postgres", postgres.port).port
        done = subprocess.run(
            ["psql", f"host=127.0.0.1 port={port} user=jane dbname=postgres sslmode=disable", "-XAt",
             "-c", "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()"],
            capture_output=True, text=True, timeout=WAIT_S,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "t|TLSv1.3\n"), done.stderr


def test_xmpp_to_prosody(reach, pair):
    header = (
        b"<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' "
        b"xmlns:stream='http://etherx.jabber.org/streams'>"
    )
    with Prosody(pair, requires_tls=True) as prosody:
        assert b"starttls" in converse(prosody.port, header, b"</stream:features>")
        text = converse(reach("xmpp", prosody.port).port, header, b"</stream:features>")
    assert b"<mechanism>PLAIN</mechanism>" in text


# --- stunnel ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "name", "said", "mark"),
    [
        ("smtp", "smtp", b"EHLO example.com\r\n", b"8BITMIME"),
        ("imap", "imap", b"1 CAPABILITY\r\n", b"1 OK"),
        ("pop3", "pop3", b"CAPA\r\n", b"TOP"),
        ("pgsql", "postgres", b"ping", b"over TLS"),
    ],
)
def test_stunnel_as_server(reach, postfix, dovecot, pair, protocol, name, said, mark):
    backend = Scripted(None, b"over TLS\r\n")
    ports = {"smtp": postfix.plain, "imap": dovecot.imap, "pop3": dovecot.pop3, "postgres": backend.port}
    certificate, key = pair
    lines = [f"connect = 127.0.0.1:{ports[name]}", f"protocol = {protocol}", f"cert = {certificate}", f"key = {key}"]
    try:
        with Stunnel(*lines) as stunnel:
            assert mark in converse(reach(name, stunnel.port).port, said, mark)
    finally:
        backend.close()


# --- what must not become a session -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "answers", "text"),
    [
        ("smtp", [b"220 x\r\n", b"250-x\r\n250 8BITMIME\r\n"], "does not offer STARTTLS"),
        ("smtp", [b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"454 no\r\n"], "STARTTLS was answered with 454"),
        ("smtp", [b"220 x\r\n", b"250-x\r\n250 STARTTLS\r\n", b"220 go\r\n250 more\r\n"], "10 bytes in plaintext"),
        ("imap", [b"* PREAUTH hello\r\n"], "PREAUTH"),
        ("postgres", [b"", b"N"], "the server has no TLS"),
        ("ldap", [b"", bytes.fromhex("300c02010178070a013504000400")], "StartTLS was answered with 53"),
    ],
)
def test_servers_that_refuse(reach, protocol, answers, text):
    backend = Scripted(*(answer or None for answer in answers), None)
    try:
        tunnel = reach(protocol, backend.port)
        with connect(tunnel.port) as sock, contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        status, output = tunnel.stop()
    finally:
        backend.close()
    assert status == 0
    assert text in output


def test_the_application_hears_nothing_of_an_unverified_server(reach, stranger):
    """The greeting that is made up for it comes only when the server has proved who it is."""
    with Postfix(stranger.issue("localhost")) as impostor:
        tunnel = reach("smtp", impostor.tls)
        with connect(tunnel.port) as sock, contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
        _, output = tunnel.stop()
    assert "code=402" in output


# --- proxies ------------------------------------------------------------------------------------------


class TinyProxy(Server):
    """An HTTP proxy, which wants a password."""

    def __init__(self):
        super().__init__()
        self.port = free_port()

    def start(self):
        path = self.write(
            "tinyproxy.conf",
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nMaxClients 10\n"
            f'BasicAuth jane guess-me\nLogFile "{self.directory}/log"\n',
        )
        self.launch(["tinyproxy", "-d", "-c", str(path)], self.port)


class MicroSocks(Server):
    """A SOCKS 5 proxy, which wants a password."""

    def __init__(self):
        super().__init__()
        self.port = free_port()

    def start(self):
        self.launch(["microsocks", "-i", "127.0.0.1", "-p", str(self.port), "-u", "jane", "-P", "guess-me"], self.port)


@pytest.mark.parametrize(("scheme", "kind"), [("http", TinyProxy), ("socks5", MicroSocks)])
def test_through_a_proxy(pool, postfix, tmp_path, scheme, kind):
    secret = tmp_path / "secret"
    secret.write_text("guess-me\n")
    with kind() as proxy:
        for user, password, works in (("jane", secret, True), ("john", secret, False)):
            tunnel = Tunnel(
                pool, "client", "--connect", f"127.0.0.1:{postfix.tls}", "--remoteid", "localhost",
                "--protocol", "smtp", "--via", f"{scheme}://{user}@127.0.0.1:{proxy.port}",
                "--via-password-file", str(password),
            )  # fmt: skip
            try:
                if works:
                    send_mail(postfix, tunnel.port, f"through {scheme}")
                else:
                    with connect(tunnel.port) as sock, contextlib.suppress(ConnectionResetError):
                        assert sock.recv(100) == b""
            finally:
                _, output = tunnel.stop()
            assert works or "the proxy" in output
            assert "guess-me" not in output


def test_where_connections_come_from_is_told_to_a_server(reach, pair):
    """The header goes in front of STARTTLS, in plaintext, as such servers want it."""
    with Postfix(pair, "smtpd_upstream_proxy_protocol = haproxy\n") as postfix:
        tunnel = reach("smtp", postfix.tls, "--send-proxy", "v1")
        with socket.create_connection(("127.0.0.1", tunnel.port), WAIT_S, ("127.0.0.7", 0)) as sock:
            assert sock.recv(100) == b"220 localhost ESMTP\r\n"
            sock.sendall(b"QUIT\r\n")
            assert sock.recv(100).startswith(b"221 ")
        postfix.await_output(r"\[127\.0\.0\.7\]")
