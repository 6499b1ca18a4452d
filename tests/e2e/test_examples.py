"""Every program of examples/ does what it says."""

import concurrent.futures
import ssl

import pytest

import libstub
from tests.e2e.conftest import COMMANDS, connect
from tests.e2e.examples import EXAMPLES, Running, curl, example, run
from tests.fixtures.ports import free_port

SERVER = "testsrv@tlspool.arpa2.lab"


@pytest.fixture
def serve(pool, tmp_path):
    """Run a server example; all are stopped at the end."""
    made = []

    def start(name, *words):
        made.append(Running(pool, tmp_path, example(name, *words)))
        return made[-1]

    start.list = made
    yield start
    for one in made:
        one.path = tmp_path / "stopped" if not one.path.exists() else one.path
        one.stop()


def test_every_example_is_run():
    here = EXAMPLES.parent / "tests"
    tests = "".join(path.read_text() for path in here.rglob("test_*.py")) + (EXAMPLES / "demo.py").read_text()
    missing = [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" and path.name not in tests]
    assert missing == []


def test_three_lines(pool, serve):
    server = serve("three_lines_server.py", "localhost", 0)
    text = run(pool, "three_lines_client.py", "localhost", server.port)
    # It was asked who it is, and told what it may disclose to anybody.
    assert text == "localhost TLSv1.3 X25519MLKEM768 b'hello tlspool.arpa2.lab at 127.0.0.1\\n'\n"


def test_three_lines_to_somebody_else(pool, serve):
    server = serve("three_lines_server.py", "playground.arpa2.lab", 0)
    assert "HandshakeFailed" in run(pool, "three_lines_client.py", "localhost", server.port, fails=True)


def test_echo_programs(pool, serve):
    server = serve("echo_server.py", "--listen", "127.0.0.1:0", "--localid", SERVER, "--once")
    text = run(pool, "echo_client.py", "--connect", f"127.0.0.1:{server.port}", "--remoteid", SERVER)
    assert "it said: hello over TLS" in text


def test_asyncio(pool, serve):
    server = serve("aio_server.py", "127.0.0.1", 0, SERVER)
    assert run(pool, "aio_client.py", "127.0.0.1", server.port, SERVER) == (
        f"hello over TLS\n{SERVER} at 127.0.0.1, TLSv1.3, X25519MLKEM768\n"
    )
    server.await_output(r"client testcli@tlspool\.arpa2\.lab \('127\.0\.0\.1', \d+\)\n")


def test_starttls_in_mid_stream(pool, serve):
    server = serve("midstream_server.py", 0, "localhost")
    assert run(pool, "midstream_client.py", server.port, "localhost") == (
        "220 hello\n220 go ahead\n250 tlspool.arpa2.lab said hello over TLS\n"
    )


def test_commands_glued_to_starttls(pool, serve):
    """Whoever sits in the middle says something in plaintext, to be believed after TLS has begun."""
    server = serve("midstream_server.py", 0, "localhost")
    with connect(server.port) as sock:
        sock.sendall(b"STARTTLS\r\nsomething evil\r\n")
        assert sock.makefile("rb").read() == b"220 hello\r\n"
    server.await_output("no session: .* bytes came in plaintext")


def test_socketserver(pool, serve):
    server = serve("socketserver_upper.py", 0, "localhost")
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    # Somebody who says nothing delays nobody.
    with connect(server.port), context.wrap_socket(connect(server.port), server_hostname="localhost") as tls:
        tls.sendall(b"hello\n")
        assert tls.recv(100) == b"HELLO\n"
        server.await_output(rf"client \('127\.0\.0\.1', {tls.getsockname()[1]}\) TLSv1\.3\n")


def test_https(pool, serve):
    server = serve("https_server.py", 0, "localhost")
    how = "for somebody at 127.0.0.1, TLSv1.3"
    assert run(pool, "https_client.py", "localhost", server.port) == (
        f"/first {how}\n/second {how}\n200 /urllib {how}\n"
    )
    assert curl(pool, f"https://localhost:{server.port}/page") == f"/page {how}\n"


def test_uvicorn(pool, serve):
    server = serve("uvicorn_https.py", 0, "localhost")
    url = f"https://localhost:{server.port}/"
    assert curl(pool, url, "-w", "%{http_code} %{ssl_verify_result}") == "https for 127.0.0.1\n200 0"
    # Two clients that say nothing, and one that is no TLS client, delay nobody.
    with connect(server.port), connect(server.port), connect(server.port) as third:
        third.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            pages = list(threads.map(lambda _: curl(pool, url), range(16)))
    assert set(pages) == {"https for 127.0.0.1\n"}


@pytest.mark.parametrize("worker", ["sync", "gthread"])
def test_gunicorn(pool, tmp_path, worker):
    port = free_port()
    command = [str(COMMANDS / "gunicorn"), "--config", str(EXAMPLES / "gunicorn_https.py"), "--worker-class", worker]
    command += ["--chdir", str(EXAMPLES), "--no-control-socket", "wsgi_page:application"]  # of examples/wsgi_page.py
    server = Running(pool, tmp_path, command, BIND=f"127.0.0.1:{port}", LOCALID="localhost")
    try:
        server.await_output(r"(?s)Serving as localhost.*Serving as localhost")
        url = f"https://localhost:{port}/"
        with connect(port), concurrent.futures.ThreadPoolExecutor(8) as threads:
            pages = list(threads.map(lambda _: curl(pool, url), range(16)))
        assert set(pages) == {"https for somebody at 127.0.0.1\n"}
        # A client of the pool shows who it is, and the application learns of it.
        with libstub.starttls_client(connect(port), "localhost", pool=str(pool.socket)) as tls:
            tls.sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            page = b"".join(iter(lambda: tls.sock.recv(4096), b""))
        assert page.endswith(b"https for tlspool.arpa2.lab at 127.0.0.1\n")
    finally:
        text = server.stop()
    assert "Traceback" not in text, text
    assert server.process.returncode == 0
