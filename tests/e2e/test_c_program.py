"""A program in C, written from the specification with plain structs, against a whole pool; and libstub beside it."""

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography import x509

import libstub
from tests.e2e.conftest import await_log, log_of
from tests.fixtures.native import compile_c
from tlspool_admin.devpool import DevPool

CLIENT, SERVER = "testcli@tlspool.arpa2.lab", "testsrv@tlspool.arpa2.lab"


@pytest.fixture(scope="session")
def v2(tmp_path_factory):
    """Compile it: a warning is an error."""
    return compile_c(tmp_path_factory.mktemp("v2") / "v2", Path(__file__).parents[1] / "fixtures" / "v2.c")


@pytest.fixture
def run(v2, pool, no_leaks):
    """Start the program with some words; it is waited for at the end."""
    started = []

    def go(*words, of=pool):
        command = [str(v2), str(of.socket), *map(str, words)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield go
    for program in started:
        program.kill()
        program.communicate()


def lines(program, status=0):
    """Wait for the end of a program; return what it printed."""
    output, _ = program.communicate(timeout=30)
    assert program.returncode == status, output
    return output.splitlines()


class Match:
    """A port where two programs meet: what comes over one connection goes out over the other."""

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with self._listener, self._listener.accept()[0] as one, self._listener.accept()[0] as other:
            open_ends = {one: other, other: one}
            while open_ends:
                for end in select.select(list(open_ends), [], [], 20)[0]:
                    data = end.recv(65536)
                    with contextlib.suppress(OSError):
                        open_ends[end].sendall(data)
                        if not data:
                            open_ends[end].shutdown(socket.SHUT_WR)
                    if not data:
                        del open_ends[end]

    def close(self):
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture
def match(no_leaks):
    made = Match()
    yield made
    made.close()


@pytest.fixture
def remote(pool, authority):
    """Accept one connection of a program, and speak TLS over it: a context manager for (listener, role, name)."""

    @contextlib.contextmanager
    def speak(listener, role, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(pool.directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(*authority.issue(SERVER if role == "server" else CLIENT))
        listener.settimeout(20)
        sock, _ = listener.accept()
        sock.settimeout(20)
        with context.wrap_socket(sock, server_side=role == "server", **options) as tls:
            yield tls

    return speak


@pytest.fixture
def listener(no_leaks):
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def der_subject(tls):
    return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)).subject.public_bytes().hex()


# --- sessions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manner", ["ok", "asynch"])
def test_sessions(run, listener, remote, manner):
    """A server and a client in C, each against another TLS library."""
    port = listener.getsockname()[1]
    program = run(manner, "server", "localhost", "-", "127.0.0.1", port, "ping", "end")
    with remote(listener, "client", server_hostname="localhost") as tls:
        assert tls.recv(16) == b"ping"
        tls.sendall(b"pong")
        tls.unwrap()
        assert lines(program) == [f"localhost {CLIENT}"]
    program = run(manner, "client", CLIENT, SERVER, "127.0.0.1", port, "pong", "end")
    with remote(listener, "server") as tls:
        tls.sendall(b"ping")
        assert tls.recv(16) == b"pong"
        tls.unwrap()
        assert lines(program) == [f"{CLIENT} {SERVER}"]


@pytest.mark.parametrize(("manner", "said"), [("refuse", "refused"), ("stray", "stray")])
def test_the_callback_function_refuses(run, listener, remote, manner, said):
    program = run(manner, "server", "localhost", "-", "127.0.0.1", listener.getsockname()[1])
    with remote(listener, "client", server_hostname="localhost") as tls, contextlib.suppress(OSError):
        assert tls.recv(1) == b""
    assert lines(program) == [said]


@pytest.mark.parametrize("manner", ["named", "named-late"])
@pytest.mark.parametrize("name", ["localhost", "playground.arpa2.lab"])
def test_virtual_hosts(run, listener, remote, manner, name):
    program = run(manner, "server", "-", "-", "127.0.0.1", listener.getsockname()[1], "ping", "end")
    with remote(listener, "client", server_hostname=name) as tls:
        assert tls.recv(16) == b"ping"
        tls.sendall(b"pong")
        shown = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
        tls.unwrap()
    assert lines(program) == [f"proposed {name}", f"{name} {CLIENT}"]
    assert name in shown.subject.rfc4514_string()


def test_a_virtual_host_that_is_refused_by_silence(run, listener, remote):
    program = run("named-no", "server", "-", "-", "127.0.0.1", listener.getsockname()[1])
    with pytest.raises(OSError), remote(listener, "client", server_hostname="localhost"):
        pass
    assert lines(program) == ["proposed localhost", "refused"]


def test_control_exporter_and_info_are_equal_on_both_ends(run, match):
    deeds = ["control", "prng", "info"]
    server = run("ok", "server", SERVER, "-", "127.0.0.1", match.port, "ping", *deeds, "end")
    client = run("ok", "client", CLIENT, SERVER, "127.0.0.1", match.port, "pong", *deeds, "end")
    ours, theirs = lines(server), lines(client)
    assert (ours[:2], theirs[:2]) == ([f"{SERVER} {CLIENT}", "control"], [f"{CLIENT} {SERVER}", "control"])
    facts, others = (dict(line.split() for line in found[2:]) for found in (ours, theirs))
    assert len(facts["prng"]) == 32
    assert (facts["prng"], facts["end-point"]) == (others["prng"], others["end-point"])
    assert (facts["mine"], facts["peer"]) == (others["peer"], others["mine"])


def test_the_subject_is_what_the_other_library_sees(run, listener, remote):
    program = run("ok", "server", "localhost", "-", "127.0.0.1", listener.getsockname()[1], "ping", "info", "end")
    with remote(listener, "client", server_hostname="localhost") as tls:
        tls.recv(16)
        tls.sendall(b"pong")
        subject = der_subject(tls)
        tls.unwrap()
    found = dict(line.split() for line in lines(program)[1:])
    assert found["mine"] == subject


def test_an_error_of_the_pool(run, listener):
    program = run("ok", "server", "nobody.example", "-", "127.0.0.1", listener.getsockname()[1])
    [said] = lines(program, status=2)
    assert said.startswith("error -1167372265 [201] ")


# --- the same from libstub -------------------------------------------------------------------------------


@pytest.fixture
def serve(pool, match):
    """Be a server with libstub where the programs meet; return what it found when the session is over."""
    threads, found = [], {}

    def run(**options):
        sock = socket.create_connection(("127.0.0.1", match.port))
        with libstub.Pool(str(pool.socket)) as mine:
            session = libstub.starttls_server(sock, pool=mine, **options)
            with session:
                session.sock.sendall(b"ping")
                found["pong"] = session.sock.recv(16)
                session.detach()
                with pytest.raises(libstub.NotInControl):
                    session.export_keying_material("EXPERIMENTAL-tlspool-test", None, 16)
                session.reattach()
                context = bytes(range(16))
                found["prng"] = session.export_keying_material("EXPERIMENTAL-tlspool-test", context, 16).hex()
                found["end-point"] = session.channel_binding("tls-server-end-point").hex()
                found["mine"] = session.distinguished_name("subject", local=True).hex()
                found["peer"] = session.distinguished_name("subject").hex()
                found["ids"] = f"{session.localid} {session.remoteid}"
                found["end"] = session.sock.recv(16)

    def start(**options):
        threads.append(threading.Thread(target=run, kwargs=options, daemon=True))
        threads[-1].start()
        return found

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


@pytest.mark.parametrize("manner", ["ok", "named", "named-late"])
def test_a_client_in_c_and_a_server_of_libstub(run, match, serve, manner):
    proposed = []

    def accept(name):
        proposed.append(name)
        return name

    found = serve(localid=SERVER, on_localid=accept)
    client = run(manner, "client", CLIENT, SERVER, "127.0.0.1", match.port, "pong", "prng", "info", "end")
    told = dict(line.split(" ", 1) for line in lines(client))
    match.close()
    assert (found["pong"], found["end"], proposed) == (b"pong", b"", [SERVER])
    assert found["ids"] == f"{SERVER} {CLIENT}"
    assert told[CLIENT] == SERVER
    assert (found["prng"], found["end-point"]) == (told["prng"], told["end-point"])
    assert (found["mine"], found["peer"]) == (told["peer"], told["mine"])


# --- services -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(service):
    """Run a service of libstub in a thread."""
    thread = threading.Thread(target=service.run, daemon=True)
    with service:
        thread.start()
        yield
        service.stop()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def pinless(tmp_path_factory):
    """A pool whose token has no configured PIN."""
    made = DevPool(tmp_path_factory.mktemp("pinless") / "p")
    made.up("ec", ["log_level debug"], knows_pin=False)
    yield made
    made.down()


def handshake(pool):
    """Do the server's side of a session with libstub, and the client's with another library; return what arrived."""
    one, other = socket.socketpair()
    context = ssl.create_default_context(cafile=pool.directory / "ca.pem")
    other.settimeout(40)

    def talk():
        with contextlib.suppress(OSError), context.wrap_socket(other, server_hostname="localhost") as tls:
            tls.sendall(b"hello")

    client = threading.Thread(target=talk, daemon=True)
    client.start()
    try:
        with (
            libstub.Pool(str(pool.socket)) as mine,
            libstub.starttls_server(one, pool=mine, localid="localhost", remote_auth="ignore") as session,
        ):
            return session.sock.recv(16)
    finally:
        client.join(40)
        other.close()


def test_pin_service(run, pinless):
    """A wrong PIN, then the right one; each is asked for, and the second try says that it is one."""
    right = (pinless.directory / "pin").read_text().strip()
    program = run("pin", "99999999", right, of=pinless)
    assert program.stdout.readline() == "registered\n"
    assert handshake(pinless) == b"hello"
    asked = [program.stdout.readline() for _ in range(2)]
    assert [line.split(":")[0] for line in asked] == [
        f"attempt {number} SoftHSM project SoftHSM v2 tlspool-dev" for number in (0, 1)
    ]
    assert_no_pin_in_logs(pinless, right)
    pinless.down()
    assert "stopped" in lines(program)  # a C library would take a mere end for one more question


def test_pin_service_of_libstub(pinless, no_leaks):
    right = (pinless.directory / "pin").read_text().strip()
    asked, pins = [], ["99999999", right]

    def ask(question):
        asked.append((question.attempt, question.manufacturer, question.model, question.label))
        return pins[question.attempt]

    with running(libstub.PinService(ask, pool=str(pinless.socket))):
        assert handshake(pinless) == b"hello"
    assert asked == [(number, "SoftHSM project", "SoftHSM v2", "tlspool-dev") for number in (0, 1)]
    assert_no_pin_in_logs(pinless, right)


def assert_no_pin_in_logs(pool, right):
    for name in ("broker", "keyd", "worker"):
        assert right not in log_of(pool, name)
        assert "99999999" not in log_of(pool, name)


@pytest.fixture
def client_of_libstub(pool, remote, listener):
    """Be a client with libstub that leaves its identity to others; return (who it was, whom the remote met)."""

    def be():
        sock = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        found = []

        def talk():
            with remote(listener, "server") as tls:
                found.append(x509.load_der_x509_certificate(tls.getpeercert(binary_form=True)))
                tls.sendall(b"hello")
                assert tls.recv(1) == b""

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        with libstub.Pool(str(pool.socket)) as mine, libstub.starttls_client(sock, SERVER, pool=mine) as session:
            assert session.sock.recv(16) == b"hello"
            session.sock.shutdown(socket.SHUT_WR)
            thread.join(20)
            return session.localid, found[0].subject.rfc4514_string()

    return be


def test_localid_service(run, pool, client_of_libstub):
    program = run("localid", "playground.arpa2.lab")
    assert program.stdout.readline() == "registered\n"
    localid, met = client_of_libstub()
    assert localid == "playground.arpa2.lab"
    assert localid in met
    entry, asked = (program.stdout.readline().split() for _ in range(2))
    assert entry == ["entry", "@.arpa2.lab", CLIENT, "3"]
    assert asked == ["asked", SERVER, "7"]


def test_localid_service_of_libstub(pool, client_of_libstub, no_leaks):
    asked = []

    def choose(question):
        asked.append((question.remoteid, question.entries[0].localid, question.entries[0].levels))
        return "playground.arpa2.lab"

    registered = len(log_of(pool, "broker"))
    with running(libstub.LocalidService(choose, pool=str(pool.socket))):
        await_log(pool, "broker", "event=choice.service_registered", registered)
        localid, met = client_of_libstub()
    assert localid == "playground.arpa2.lab"
    assert localid in met
    assert asked == [(SERVER, CLIENT, 3)]
