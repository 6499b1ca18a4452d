"""Named crypto policies with real remotes: who gets through under which, and that one commit changes them all.

The two tables in tests/vectors/policies were read by a person; what differs from them has to be read again.
"""

import contextlib
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib

import libstub
from tests.e2e.conftest import connect, make_pool
from tests.fixtures import certs
from tlspool_admin.client import ask
from tlspool_common.policies import POLICIES

VECTORS = Path(__file__).parents[1] / "vectors" / "policies"
ALERTS = {"handshake failure": 40, "protocol version": 70, "insufficient security": 71, "illegal parameter": 47}


@pytest.fixture(scope="module")
def policed(tmp_path_factory):
    """A pool whose policy the tests change."""
    made = make_pool(tmp_path_factory, "policed")
    yield made
    made.down()


def assign(pool, key, name):
    answer = ask(pool.run_dir / "broker.sock", {"cmd": "policy.set", "key": key, "policy": name})
    return answer["generation"]


def context(method, versions=(), groups="", ciphers="", suites="", sigalgs=""):
    made = SSL.Context(method)
    if versions:
        made.set_min_proto_version(versions[0])
        made.set_max_proto_version(versions[1])
    for function, text in (
        (lib.SSL_CTX_set1_curves_list, groups),
        (lib.SSL_CTX_set_cipher_list, ciphers),
        (lib.SSL_CTX_set_ciphersuites, suites),
        (lib.SSL_CTX_set1_sigalgs_list, sigalgs),
    ):
        assert not text or function(made._context, text.encode()) == 1
    return made


def shake_hands(connection):
    """Finish a handshake; return what was agreed on, or which alert came."""
    try:
        connection.do_handshake()
    except SSL.Error as error:
        reason = error.args[0][-1][2] if error.args and error.args[0] else type(error).__name__
        number = next((number for name, number in ALERTS.items() if f"alert {name}" in reason), None)
        return f"alert {number}" if number else reason
    return f"{connection.get_protocol_version_name()} {connection.get_group_name()} {connection.get_cipher_name()}"


def with_openssl4(port, **wants):
    with connect(port) as sock:
        sock.settimeout(None)
        connection = SSL.Connection(context(SSL.TLS_CLIENT_METHOD, **wants), sock)
        connection.set_tlsext_host_name(b"localhost")
        connection.set_connect_state()
        found = shake_hands(connection)
        with contextlib.suppress(SSL.Error):
            connection.shutdown()
        return found


def with_openssl3(port, *options):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *options]
    done = subprocess.run(command, input="Q\n", capture_output=True, text=True, timeout=20)
    if found := re.search(r"alert number (\d+)", done.stderr):
        return f"alert {found[1]}"
    version, cipher = re.search(r"New, (\S+), Cipher is (\S+)", done.stdout).groups()
    key = re.search(r"Server Temp Key: (\w+)(?:, ([\w-]+))?", done.stdout)
    group = {"ECDH": key[2]}.get(key[1], key[1])
    return f"{version} {group} {cipher}"


def with_gnutls(port, priority):
    command = ["gnutls-cli", "--insecure", "--priority", priority, "--port", str(port), "localhost"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=20)
    if found := re.search(r"Received alert \[(\d+)\]", done.stdout + done.stderr):
        return f"alert {found[1]}"
    description = re.search(r"- Description: (.*)", done.stdout)
    return description[1] if description else done.stderr.splitlines()[-1]


TLS12, TLS13 = (SSL.TLS1_2_VERSION,) * 2, (SSL.TLS1_3_VERSION,) * 2

CLIENTS = {
    "OpenSSL 4 as it comes": with_openssl4,
    "OpenSSL 4 TLS 1.2 only": lambda port: with_openssl4(port, versions=TLS12),
    "OpenSSL 4 TLS 1.3 only": lambda port: with_openssl4(port, versions=TLS13),
    "OpenSSL 4 X25519 only": lambda port: with_openssl4(port, groups="X25519"),
    "OpenSSL 4 P-256 only": lambda port: with_openssl4(port, groups="P-256"),
    "OpenSSL 4 P-521 only": lambda port: with_openssl4(port, groups="P-521"),
    "OpenSSL 4 X448 only": lambda port: with_openssl4(port, groups="X448"),
    "OpenSSL 4 X25519MLKEM768 only": lambda port: with_openssl4(port, groups="X25519MLKEM768"),
    "OpenSSL 4 SecP256r1MLKEM768 only": lambda port: with_openssl4(port, groups="SecP256r1MLKEM768"),
    "OpenSSL 4 SecP384r1MLKEM1024 only": lambda port: with_openssl4(port, groups="SecP384r1MLKEM1024"),
    "OpenSSL 4 TLS 1.3 ChaCha20 only": lambda port: with_openssl4(
        port, versions=TLS13, suites="TLS_CHACHA20_POLY1305_SHA256"
    ),
    "OpenSSL 4 TLS 1.2 ChaCha20 only": lambda port: with_openssl4(port, versions=TLS12, ciphers="ECDHE+CHACHA20"),
    "OpenSSL 4 TLS 1.2 AES-GCM only": lambda port: with_openssl4(port, versions=TLS12, ciphers="ECDHE+AESGCM"),
    "OpenSSL 4 TLS 1.2 CBC only": lambda port: with_openssl4(port, versions=TLS12, ciphers="ECDHE+AES:!AESGCM:!AESCCM"),
    "OpenSSL 4 TLS 1.2 DHE only": lambda port: with_openssl4(port, versions=TLS12, ciphers="DHE"),
    "OpenSSL 4 ECDSA P-256 signatures only": lambda port: with_openssl4(port, sigalgs="ecdsa_secp256r1_sha256"),
    "OpenSSL 4 RSA signatures only": lambda port: with_openssl4(port, sigalgs="rsa_pss_rsae_sha256"),
    "OpenSSL 3.0 as it comes": with_openssl3,
    "OpenSSL 3.0 TLS 1.2 only": lambda port: with_openssl3(port, "-tls1_2"),
    "OpenSSL 3.0 P-256 only": lambda port: with_openssl3(port, "-groups", "P-256"),
    "GnuTLS as it comes": lambda port: with_gnutls(port, "NORMAL"),
    "GnuTLS TLS 1.2 only": lambda port: with_gnutls(port, "NORMAL:-VERS-ALL:+VERS-TLS1.2"),
    "GnuTLS P-384 only": lambda port: with_gnutls(port, "NORMAL:-GROUP-ALL:+GROUP-SECP384R1"),
}


def table(found):
    """Write {row: {policy: outcome}} as a text; each row under the outcomes that its policies have."""
    lines = []
    for name, outcomes in found.items():
        lines.append(name)
        lines += [f"    {policy + ':':<14}{outcome}" for policy, outcome in outcomes.items()]
    return "\n".join(lines) + "\n"


def compare(found, path):
    text = table(found)
    assert text == path.read_text(), f"read what differs; if it is right it goes into {path}:\n{text}"


def test_who_gets_through_to_a_server(policed, echo_server):
    server = echo_server(policed)
    found = {name: {} for name in CLIENTS}
    for policy in POLICIES:
        assign(policed, "host", policy)
        for name, probe in CLIENTS.items():
            found[name][policy] = probe(server.port)
    compare(found, VECTORS / "clients.txt")


SERVERS = {
    "OpenSSL 4 as it comes": {},
    "OpenSSL 4 TLS 1.2 only": {"versions": TLS12},
    "OpenSSL 4 TLS 1.2 ChaCha20 only": {"versions": TLS12, "ciphers": "ECDHE+CHACHA20"},
    "OpenSSL 4 TLS 1.2 CBC only": {"versions": TLS12, "ciphers": "ECDHE+AES:!AESGCM:!AESCCM"},
    "OpenSSL 4 X25519 only": {"groups": "X25519"},
    "OpenSSL 4 P-384 only": {"groups": "P-384"},
    "OpenSSL 4 X25519MLKEM768 only": {"groups": "X25519MLKEM768"},
    "OpenSSL 4 SecP384r1MLKEM1024 only": {"groups": "SecP384r1MLKEM1024"},
    "OpenSSL 4 TLS 1.3 ChaCha20 only": {"versions": TLS13, "suites": "TLS_CHACHA20_POLY1305_SHA256"},
}


@contextlib.contextmanager
def serving(wants):
    """Serve one connection after the other, each until its end."""
    made = context(SSL.TLS_SERVER_METHOD, **wants)
    leaf = certs.leaf("localhost")
    made.use_certificate(leaf.certificate)
    made.use_privatekey(leaf.private)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                connection = SSL.Connection(made, sock)
                connection.set_accept_state()
                with contextlib.suppress(SSL.Error):
                    connection.do_handshake()
                    while connection.recv(4096):
                        pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def as_client(pool, port, **options):
    """Return what the pool agrees on with a server."""
    try:
        options = {"remote_auth": "ignore", **options}
        with libstub.starttls_client(connect(port), "localhost", pool=pool, **options) as session:
            return f"{session.version} {session.group} {session.cipher}"
    except libstub.PoolError as error:
        return f"error {error.code}"


def test_which_servers_a_client_gets_through_to(policed):
    found = {name: {} for name in SERVERS}
    with libstub.Pool(str(policed.socket)) as pool:
        for name, wants in SERVERS.items():
            with serving(wants) as port:
                for policy in POLICIES:
                    assign(policed, "host", policy)
                    found[name][policy] = as_client(pool, port)
    compare(found, VECTORS / "servers.txt")


def test_the_policy_of_a_host_changes_for_everybody_in_one_commit(policed, echo_server):
    """Of the databases there is one more generation; a session that was there goes on."""
    server = echo_server(policed)
    before = assign(policed, "host", "intermediate")
    with connect(server.port) as sock:
        sock.settimeout(None)
        connection = SSL.Connection(context(SSL.TLS_CLIENT_METHOD, versions=TLS12), sock)
        connection.set_connect_state()
        connection.do_handshake()
        assert assign(policed, "host", "modern") == before + 1
        assert with_openssl4(server.port, versions=TLS12) == "alert 70"
        connection.sendall(b"still there")
        assert connection.recv(100) == b"still there"
    ask(policed.run_dir / "broker.sock", {"cmd": "rollback", "to": before})
    assert with_openssl4(server.port, versions=TLS12).startswith("TLSv1.2")


def test_services_and_identities_have_policies_of_their_own(policed, echo_server):
    assign(policed, "host", "intermediate")
    assign(policed, "service:smtp", "modern")
    assign(policed, "localid:playground.arpa2.lab", "pq-required")
    cases = [
        ({"service": "imap"}, "intermediate"),
        ({"service": "smtp"}, "modern"),
        ({"service": "smtp", "localid": "playground.arpa2.lab"}, "pq-required"),
    ]
    for options, policy in cases:
        port = echo_server(policed, **options).port
        sni = options.get("localid", "localhost").encode()
        outcomes = {}
        for wants in ({"versions": TLS12}, {"groups": "X25519"}, {}):
            with connect(port) as sock:
                sock.settimeout(None)
                connection = SSL.Connection(context(SSL.TLS_CLIENT_METHOD, **wants), sock)
                connection.set_tlsext_host_name(sni)
                connection.set_connect_state()
                outcomes[str(wants)] = shake_hands(connection).startswith("TLSv1")
        expected = {"intermediate": [1, 1, 1], "modern": [0, 1, 1], "pq-required": [0, 0, 1]}[policy]
        assert list(outcomes.values()) == expected, (policy, outcomes)
    for key in ("service:smtp", "localid:playground.arpa2.lab"):
        ask(policed.run_dir / "broker.sock", {"cmd": "policy.del", "key": key})


HOSTS = {"tlspool.arpa2.lab": "modern", "playground.arpa2.lab": "intermediate"}


@pytest.fixture(scope="module")
def hosting(tmp_path_factory):
    """A pool for servers that leave it to their clients who they are; each of two names has a policy of its own."""
    made = make_pool(tmp_path_factory, "hosting", "ec", "default_localid localhost", "peer_listen_s 10")
    for name, policy in HOSTS.items():
        assign(made, f"localid:{name}", policy)
    yield made
    made.down()


def named(port, name, **wants):
    """Shake hands with a server by name; return version, group and cipher, or the alert, and who it is."""
    with connect(port) as sock:
        sock.settimeout(None)  # as pyOpenSSL wants it; the pool ends what takes too long
        connection = SSL.Connection(context(SSL.TLS_CLIENT_METHOD, **wants), sock)
        connection.set_tlsext_host_name(name.encode())
        connection.set_connect_state()
        outcome = shake_hands(connection)
        shown = connection.get_peer_certificate(as_cryptography=True)
        with contextlib.suppress(SSL.Error):
            connection.shutdown()
        return outcome, shown and name in str(shown.subject)


CHOOSE = {"by default": {}, "by LOCALID_CHECK": {"on_localid": lambda localid: localid or "localhost"}}


@pytest.mark.parametrize("options", CHOOSE.values(), ids=CHOOSE)
def test_one_server_of_two_names_that_have_two_policies(hosting, echo_server, options):
    """The policy is that of the name which the client asks for, although nobody knew it when the session began."""
    port = echo_server(hosting, localid="", **options).port
    assert named(port, "tlspool.arpa2.lab", versions=TLS12) == ("alert 70", None)
    outcome, is_shown = named(port, "playground.arpa2.lab", versions=TLS12)
    assert (outcome.split()[0], is_shown) == ("TLSv1.2", True)
    for name, groups, good in (
        ("tlspool.arpa2.lab", "P-521", False),
        ("playground.arpa2.lab", "P-521", True),
        ("tlspool.arpa2.lab", "X25519", True),
    ):
        outcome, is_shown = named(port, name, groups=groups)
        assert (outcome.startswith("TLSv1.3"), bool(is_shown)) == (good, good), (name, groups, outcome)


@pytest.mark.parametrize(("name", "version"), [("tlspool.arpa2.lab", None), ("playground.arpa2.lab", "TLSv1.2")])
def test_and_a_peer_of_two_names(hosting, name, version):
    """It is set up as a client under the policy of the host; the name that it is asked for brings another one."""
    found = []

    def peer():
        sock, _ = listener.accept()
        try:
            with (
                sock,
                libstub.Pool(str(hosting.socket)) as pool,
                libstub.starttls_peer(sock, "", "", pool=pool, remote_auth="ignore") as session,
            ):
                found.append((session.version, session.localid))
                session.sock.recv(1)
        except libstub.PoolError as error:
            found.append(error.code)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=peer)
        thread.start()
        outcome, _ = named(listener.getsockname()[1], name, versions=TLS12)
        thread.join(30)
    assert found == ([(version, name)] if version else [306])
    assert outcome.startswith(version or "alert 70")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize(("expression", "named"), [("T", True), ("t", False), ("", True)])
def test_a_server_names_its_anchors_only_if_nothing_else_will_do(hosting, echo_server, expression, named, version):
    """A client with another certificate would keep it to itself.  Who the server is becomes known by its client."""
    who = "testsrv@tlspool.arpa2.lab"
    control = hosting.run_dir / "broker.sock"
    if expression:
        record = {"uri": expression}
        ask(control, {"cmd": "localid.set", "id": who, "flags": ["valexp", "server"], "records": [record]})
    else:
        ask(control, {"cmd": "localid.del", "id": who, "flags": ["valexp", "server"]})
    port = echo_server(hosting, localid="", remote_auth="request", on_localid=lambda _localid: who).port
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-noservername", version]
    said = subprocess.run(command, input="Q\n", capture_output=True, text=True, timeout=20, check=True).stdout
    assert ("No client certificate CA names sent" in said) != named
    assert ("Acceptable client certificate CA names" in said) == named
