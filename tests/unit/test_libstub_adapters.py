"""The standard library's clients and servers over the pool: what they look like, and what must not pass."""

import contextlib
import ftplib
import http.server
import imaplib
import io
import logging
import poplib
import smtplib
import socket
import socketserver
import threading

import pytest

import libstub
from libstub.adapters.ftp import FTP_TLS
from libstub.adapters.glued import refuse_glued
from libstub.adapters.https import HTTPSConnection, build_opener
from libstub.adapters.imap import IMAP4, IMAP4_SSL
from libstub.adapters.pop3 import POP3, POP3_SSL
from libstub.adapters.scheme import https_asgi, https_wsgi
from libstub.adapters.servers import HTTPSServer, TlsPoolMixIn
from libstub.adapters.smtp import SMTP, SMTP_SSL
from tests.fixtures.fake_pool import FakePool, error
from tests.unit.test_libstub_aio_pool import running
from tlspool_common.appwire import Cmd, Flag


@pytest.fixture
def fake(no_leaks, tmp_path, monkeypatch):
    made = FakePool(tmp_path / "s")
    monkeypatch.setenv("TLSPOOL_SOCKET", made.path)
    yield made
    libstub.starttls.find_pool().close()
    libstub.starttls._default_pools.clear()
    made.stop()


def requests_of(fake):
    return [asked.starttls for asked in fake.seen if asked.frame.cmd == Cmd.STARTTLS]


@pytest.fixture
def scripted():
    """Run servers for one client each: bytes are said, None is a line to wait for, a function makes the answer to it.

    What they heard is kept.
    """
    made = []

    def make(*lines):
        listener = socket.create_server(("127.0.0.1", 0))
        heard = []

        def serve():
            with contextlib.suppress(OSError), listener:
                sock, _ = listener.accept()
                with sock, sock.makefile("rb") as file:
                    for line in lines:
                        if line is None:
                            heard.append(file.readline())
                            if not heard[-1]:
                                heard.pop()
                                return
                        else:
                            sock.sendall(line(heard[-1]) if callable(line) else line)
                    while line := file.readline():
                        heard.append(line)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        made.append((listener, thread))
        return listener.getsockname()[1], heard

    yield make
    for listener, thread in made:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(15)
        assert not thread.is_alive()


def tagged(before=b"", word=b"OK", after=b""):
    """Answer an IMAP command."""
    return lambda line: before + line.split()[0] + b" " + word + b" done\r\n" + after


CAPABILITIES = b"* CAPABILITY IMAP4rev1 STARTTLS\r\n"
SMTP_ = (b"220 hello\r\n", None, b"250-here\r\n250 STARTTLS\r\n", None)
IMAP_ = (b"* OK hello\r\n", None, tagged(CAPABILITIES), None)
POP_ = (b"+OK hello\r\n", None, b"+OK\r\nSTLS\r\n.\r\n", None)
FTP_ = (b"220 hello\r\n", None)


def smtp(port, **options):
    with SMTP("localhost", port, timeout=15) as client:
        client.starttls(**options)
        client.noop()
        return client.tls


def imap(port, **options):
    client = IMAP4("localhost", port, timeout=15)
    try:
        client.starttls(**options)
        return client.tls
    finally:
        client.shutdown()


def pop(port, **options):
    client = POP3("localhost", port, timeout=15)
    try:
        client.stls(**options)
        client.noop()
        return client.tls
    finally:
        client.close()


def ftp(port, **options):
    with FTP_TLS(timeout=15, **options) as client:
        client.connect("localhost", port)
        client.auth()
        session = client.tls
        client.voidcmd("NOOP")
        return session


# For each: what it calls, what is said before TLS, the server's consent, its refusal, and what comes after.
PROTOCOLS = {
    "smtp": (smtp, SMTP_, b"220 go\r\n", b"454 not now\r\n", (None, b"250 ok\r\n", None, b"221 bye\r\n")),
    "imap": (imap, IMAP_, tagged(), tagged(word=b"NO"), (None, tagged(CAPABILITIES))),
    "pop3": (pop, POP_, b"+OK go\r\n", b"-ERR not now\r\n", (None, b"+OK\r\n")),
    "ftp": (ftp, FTP_, b"234 go\r\n", b"502 not now\r\n", (None, b"200 ok\r\n", None, b"221 bye\r\n")),
}
ERRORS = (smtplib.SMTPResponseException, imaplib.IMAP4.error, poplib.error_proto, ftplib.error_perm)


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
    return PROTOCOLS[request.param]


def test_starttls(fake, scripted, protocol):
    """The fake pool passes everything on as it is, so the server goes on in plaintext."""
    call, before, consent, _, after = protocol
    port, _ = scripted(*before, consent, *after)
    assert call(port).remoteid == "localhost"
    (request,) = requests_of(fake)
    assert request.remoteid == "localhost"


def test_options(fake, scripted, protocol):
    call, before, consent, _, after = protocol
    port, _ = scripted(*before, consent, *after)
    assert call(port, remoteid="mail.example", localid="me@x.example").remoteid == "mail.example"
    assert requests_of(fake)[0].localid == "me@x.example"


def test_what_is_glued_to_the_consent_is_refused(fake, scripted, protocol):
    """Whoever sits in the middle answers before TLS; the client must not take that for what came over TLS."""
    call, before, consent, _, _ = protocol

    def glued(line):
        return (consent(line) if callable(consent) else consent) + b"250 evil\r\n"

    port, heard = scripted(*before, glued)
    with pytest.raises(libstub.HandshakeFailed, match="10 bytes came in plaintext"):
        call(port)
    assert requests_of(fake) == []
    assert "evil" not in repr(heard)


def test_a_server_that_does_not_want_to(fake, scripted, protocol):
    call, before, _, refusal, after = protocol
    port, _ = scripted(*before, refusal, *after)
    with pytest.raises(ERRORS):
        call(port)
    assert requests_of(fake) == []


def test_no_session(fake, scripted, protocol):
    fake.on[Cmd.STARTTLS] = lambda peer, asked: peer.send(error(asked.frame, "[402] a stranger"))
    call, before, consent, _, _ = protocol
    port, heard = scripted(*before, consent)
    said_before = before.count(None)
    with pytest.raises(libstub.RemoteUnverified):
        call(port)
    for asked in fake.seen:
        asked.drop()
    assert len(heard) == said_before  # not even a good-bye in plaintext


def test_servers_without_starttls(fake, scripted):
    port, _ = scripted(b"220 hello\r\n", None, b"250 here\r\n", None, b"221 bye\r\n")
    with pytest.raises(smtplib.SMTPNotSupportedError):
        smtp(port)
    port, _ = scripted(b"* OK hello\r\n", None, tagged(b"* CAPABILITY IMAP4rev1\r\n"))
    with pytest.raises(imaplib.IMAP4.abort):
        imap(port)
    port, _ = scripted(b"+OK hello\r\n", None, b"+OK\r\nTOP\r\n.\r\n")
    with pytest.raises(poplib.error_proto):
        pop(port)


def test_tls_from_the_first_byte(fake, scripted):
    port, _ = scripted(b"220 hello\r\n", None, b"221 bye\r\n")
    with SMTP_SSL("localhost", port, timeout=15) as client:
        assert client.tls.remoteid == "localhost"
    port, _ = scripted(b"* OK hello\r\n", None, tagged(CAPABILITIES), None, tagged(b"* BYE\r\n"))
    with IMAP4_SSL("localhost", port, timeout=15, remoteid="imap.example") as client:
        assert client.tls.remoteid == "imap.example"
        with pytest.raises(imaplib.IMAP4.abort, match="already"):
            client.starttls()
    port, _ = scripted(b"+OK hello\r\n", None, b"+OK bye\r\n")
    client = POP3_SSL("localhost", port, timeout=15)
    with pytest.raises(poplib.error_proto, match="already"):
        client.stls()
    client.quit()


def test_ftp_data(fake, scripted):
    data = socket.create_server(("127.0.0.1", 0))
    number = data.getsockname()[1]
    # EPSV names the port only: the host is the one of the commands, which the plaintext socket has to know.
    passive = b"229 it is (|||%d|)\r\n" % number
    port, heard = scripted(
        b"220 hello\r\n", None, b"234 go\r\n", None, b"200 ok\r\n", None, b"200 ok\r\n",
        None, b"200 ok\r\n", None, passive, None, b"150 here\r\n226 done\r\n", None, b"221 bye\r\n",
    )  # fmt: skip
    with data, FTP_TLS(timeout=15, localid="me@x.example") as client:
        client.af = socket.AF_INET6  # EPSV
        client.connect("localhost", port)
        client.af = socket.AF_INET6
        client.auth()
        with pytest.raises(ValueError, match="Already"):
            client.auth()
        client.prot_p()
        lines = []

        def serve():
            sock, _ = data.accept()
            with sock:
                sock.sendall(b"one\r\ntwo\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        client.retrlines("LIST", lines.append)
        thread.join()
    assert lines == ["one", "two"]
    assert [request.localid for request in requests_of(fake)] == ["me@x.example"] * 2
    assert heard[1:3] == [b"PBSZ 0\r\n", b"PROT P\r\n"]


def test_ftp_other_commands(fake, scripted):
    port, heard = scripted(
        b"220 hello\r\n", None, b"234 go\r\n", None, b"331 password\r\n", None, b"230 in\r\n",
        None, b"200 ok\r\n", None, b"226 aborted\r\n", None, b"500 what\r\n", None, b"221 bye\r\n",
    )  # fmt: skip
    with FTP_TLS(timeout=15) as client:
        client.connect("localhost", port)
        client.login("jane", "secret")
        client.prot_c()
        assert client.abort() == "226 aborted"
        with pytest.raises(ftplib.error_proto):
            client.abort()
    assert heard[0] == b"AUTH TLS\r\n"


def test_ftp_lines(fake, scripted):
    port, _ = scripted(b"220-a\r\n220 b\n", None, b"2" * 9000 + b"\r\n")
    with FTP_TLS(timeout=15) as client:
        client.connect("localhost", port)
        assert client.welcome == "220-a\n220 b"
        with pytest.raises(ftplib.Error, match="more than"):
            client.voidcmd("NOOP")
        client.close()
    port, _ = scripted(b"220 a\r\n", None)
    client = FTP_TLS(timeout=15)
    client.connect("localhost", port)
    client.sock.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        client.getresp()
    client.close()


def test_refuse_glued_reads_nothing_that_is_not_there():
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("rb") as file:
        ours.settimeout(7)
        refuse_glued(None, ours)
        refuse_glued(file, ours)
        assert ours.gettimeout() == 7
        theirs.sendall(b"x")
        with pytest.raises(libstub.HandshakeFailed):
            refuse_glued(file, ours)
    assert isinstance(file, io.BufferedReader)


# --- HTTP ---------------------------------------------------------------------------------------------------------

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
BLANK = (None, None, None, None)


def test_https_connection(fake, scripted):
    port, heard = scripted(*BLANK, PAGE)
    connection = HTTPSConnection("localhost", port, timeout=15)
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"yes"
    assert (connection.tls.remoteid, connection.tls.alpn) == ("localhost", "http/1.1")
    assert heard[0] == b"GET /x HTTP/1.1\r\n"
    connection.close()


def test_https_through_a_proxy(fake, scripted):
    port, heard = scripted(None, None, b"HTTP/1.1 200 go\r\n\r\n", *BLANK, PAGE)
    connection = HTTPSConnection("localhost", port, timeout=15)
    connection.set_tunnel("www.example", 443)
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"yes"
    assert connection.tls.remoteid == "www.example"
    assert heard[0] == b"CONNECT www.example:443 HTTP/1.0\r\n"
    connection.close()


def test_urllib(fake, scripted):
    port, _ = scripted(*BLANK, None, PAGE)
    with build_opener(remoteid="www.example").open(f"https://localhost:{port}/x", timeout=15) as response:
        assert response.read() == b"yes"
    assert requests_of(fake)[0].remoteid == "www.example"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{self.client_address[0]} {self.request.tls.localid}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.server_address
    finally:
        server.shutdown()
        server.server_close()
        thread.join(15)


def test_https_server(fake):
    with serving(HTTPSServer(("127.0.0.1", 0), Page, "localhost", tls_options={"service": "https"})) as address:
        with socket.create_connection(address, timeout=15) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(1000), b""))
        assert text.endswith(b"127.0.0.1 localhost")
    (request,) = requests_of(fake)
    assert request.service == "https"
    assert not request.flags & Flag.FORK


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().upper())


@pytest.mark.parametrize(
    "kind", [socketserver.TCPServer, socketserver.ThreadingTCPServer, socketserver.ForkingTCPServer]
)
def test_socketserver(fake, kind):
    class Server(TlsPoolMixIn, kind):
        localid = "localhost"

    with serving(Server(("127.0.0.1", 0), Upper)) as address:
        for _ in range(2):
            with socket.create_connection(address, timeout=15) as sock:
                sock.sendall(b"hello\n")
                assert sock.recv(100) == b"HELLO\n"
                assert sock.recv(100) == b""
    # A child ends when it has answered, and its connection to the pool with it; what it said must still arrive.
    forking = kind is socketserver.ForkingTCPServer
    assert all(bool(request.flags & Flag.FORK) == forking for request in requests_of(fake))


def test_socketserver_survives_a_failed_handshake(fake, caplog):
    class Server(TlsPoolMixIn, socketserver.ThreadingTCPServer):
        localid = "localhost"

    fake.on[Cmd.STARTTLS] = lambda peer, asked: (asked.drop(), peer.send(error(asked.frame, "[307] too slow")))
    with caplog.at_level(logging.INFO, "libstub"), serving(Server(("127.0.0.1", 0), Upper)) as address:
        with socket.create_connection(address, timeout=15) as sock:
            assert sock.recv(100) == b""
        fake.on.clear()
        with socket.create_connection(address, timeout=15) as sock:
            sock.sendall(b"hello\n")
            assert sock.recv(100) == b"HELLO\n"
    assert "[307] too slow" in caplog.text


# --- applications that are told -----------------------------------------------------------------------------------


def test_wsgi():
    class Session:
        remoteid = "me@x.example"

    class Socket:
        tls = Session()

    seen = []

    def application(environ, start_response):
        seen.append(environ)
        start_response("200 OK", [])
        return [b""]

    https_wsgi(application)({"wsgi.url_scheme": "http", "gunicorn.socket": Socket()}, lambda *_: None)
    https_wsgi(application)({"wsgi.url_scheme": "http"}, lambda *_: None)
    assert seen[0]["tlspool.remoteid"] == "me@x.example"
    assert [environ["wsgi.url_scheme"] for environ in seen] == ["https", "https"]
    assert "tlspool.remoteid" not in seen[1]


@running
async def test_asgi(fake):
    seen = []

    async def application(scope, receive, send):
        seen.append(scope.get("scheme"))

    wrapped = https_asgi(application)
    original = {"type": "http", "scheme": "http"}
    await wrapped(original, None, None)
    await wrapped({"type": "websocket", "scheme": "ws"}, None, None)
    await wrapped({"type": "lifespan"}, None, None)
    assert seen == ["https", "wss", None]
    assert original["scheme"] == "http"
