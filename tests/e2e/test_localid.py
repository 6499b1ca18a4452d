"""Who we are is the application's to say: virtual hosting by SNI, and clients that choose what they disclose."""

import re
import subprocess

import pytest

import libstub
from tests.e2e.conftest import EchoServer, await_log, connect, log_of, make_pool, tlspool

CLIENT = "testcli@tlspool.arpa2.lab"
DEFAULT = "localhost"
HOSTS = ("tlspool.arpa2.lab", "playground.arpa2.lab")
ACCESS_DENIED, UNRECOGNIZED_NAME = 49, 112


@pytest.fixture
def client(pool):
    with libstub.Pool(str(pool.socket)) as made:
        yield made


class Host:
    """What a program that serves many names does: it knows two, has one for who names none, and refuses the rest."""

    def __init__(self):
        self.proposed = []

    def __call__(self, localid):
        self.proposed.append(localid)
        if not localid:
            return DEFAULT
        return localid if localid in HOSTS else None


@pytest.fixture
def hosting(pool, echo_server):
    host = Host()
    return host, echo_server(pool, localid="", on_localid=host)


def s_client(port, *words):
    """Return what `openssl s_client` says about the server."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *words]
    return subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("name", HOSTS)
def test_each_name_has_its_certificate(pool, hosting, name, version):
    host, server = hosting
    judged = ["-CAfile", str(pool.directory / "ca.pem"), "-verify_hostname", name, "-verify_return_error"]
    done = s_client(server.port, "-servername", name, *judged, version)
    assert done.returncode == 0, done.stderr
    assert b"Verify return code: 0 (ok)" in done.stdout
    assert host.proposed == [name]
    assert server.await_session().localid == name


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_an_unknown_name_is_told_so(hosting, version):
    """By the alert that RFC 6066 has for it, before any certificate is shown."""
    host, server = hosting
    done = s_client(server.port, "-servername", "nobody.example", version)
    assert done.returncode != 0
    assert re.search(rb"alert number 112|unrecognized name", done.stderr), done.stderr
    assert b"BEGIN CERTIFICATE" not in done.stdout
    assert host.proposed == ["nobody.example"]
    assert server.await_error().code == 209


def test_no_name_is_the_applications_default(pool, hosting):
    host, server = hosting
    done = s_client(
        server.port, "-noservername", "-CAfile", str(pool.directory / "ca.pem"), "-verify_hostname", DEFAULT
    )
    assert b"Verify return code: 0 (ok)" in done.stdout
    assert host.proposed == [""]


def test_a_name_of_ours_that_the_application_does_not_know(pool, echo_server):
    """Another identity may answer for it: the client sees that certificate, and judges for itself."""
    server = echo_server(pool, localid="", on_localid=lambda _: HOSTS[0])
    done = s_client(server.port, "-servername", "elsewhere.example", "-CAfile", str(pool.directory / "ca.pem"),
                    "-verify_hostname", HOSTS[0])  # fmt: skip
    assert b"Verify return code: 0 (ok)" in done.stdout
    assert server.await_session().localid == HOSTS[0]


def test_an_identity_that_the_pool_does_not_have(pool, echo_server):
    server = echo_server(pool, localid="", on_localid=lambda localid: localid)
    done = s_client(server.port, "-servername", "nobody.example")
    assert re.search(rb"alert number 112|unrecognized name", done.stderr), done.stderr
    assert server.await_error().code == 201


def test_the_strict_rule(tmp_path_factory):
    pool = make_pool(tmp_path_factory, "strict", "ec", "sni_rule strict")
    server = EchoServer(pool, localid="", on_localid=lambda _: HOSTS[0])
    try:
        done = s_client(server.port, "-servername", "elsewhere.example")
        assert re.search(rb"alert number 112|unrecognized name", done.stderr), done.stderr
        assert server.await_error().code == 203
        assert s_client(server.port, "-servername", HOSTS[0]).returncode == 0
    finally:
        server.close()
        pool.down()


def test_a_client_chooses_what_it_discloses(own_pool, echo_server):
    """It refuses the first, and takes the second of what policy may disclose."""
    server = echo_server(own_pool, localid=HOSTS[0], remote_auth="require")
    tlspool(own_pool, "disclose", "set", HOSTS[0], HOSTS[0], CLIENT, DEFAULT)
    proposed = []

    def choose(localid):
        proposed.append(localid)
        return localid if localid == CLIENT else None

    with (
        libstub.Pool(str(own_pool.socket)) as mine,
        libstub.starttls_client(connect(server.port), HOSTS[0], pool=mine, on_localid=choose) as session,
    ):
        assert proposed == [HOSTS[0], CLIENT]
        assert session.localid == CLIENT
        assert server.await_session().remoteid == CLIENT
        await_log(own_pool, "broker", r"event=localid\.refused [^\n]*localid=tlspool\.arpa2\.lab")


def test_a_client_that_wants_none_of_them(client, pool, echo_server):
    server = echo_server(pool, localid=HOSTS[0])
    with pytest.raises(libstub.Refused) as caught:
        libstub.starttls_client(connect(server.port), HOSTS[0], pool=client, on_localid=lambda _: None)
    assert caught.value.code == 209
    assert server.await_error().code in (301, 303)  # nothing was said to the server


def test_a_slow_answer_counts_to_the_handshake(client, pool, echo_server):
    server = echo_server(pool, localid=HOSTS[0])
    start = len(log_of(pool, "broker"))

    def never(localid):
        await_log(pool, "broker", r"rule=handshake_timeout", start)
        return localid

    with pytest.raises(libstub.Timeout) as caught:
        libstub.starttls_client(connect(server.port), HOSTS[0], pool=client, on_localid=never, timeout_s=0.5)
    assert caught.value.code == 307
