"""A pool-backed server completes TLS 1.3 and 1.2 with openssl, gnutls and curl, whatever kind its key is."""

import subprocess

import pytest

from tests.e2e.conftest import tlspool

TEXT = b"a line that comes back\n"


def converse(command, timeout=30):
    """Send a line to a client program and keep its stdin open until the line has come back."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdin.write(TEXT)
    process.stdin.flush()
    seen = b""
    while TEXT not in seen:
        part = process.stdout.read1(65536)
        if not part:
            break
        seen += part
    process.stdin.close()
    seen += process.stdout.read()
    process.wait(timeout)
    process.stdout.close()
    return process.returncode, seen.decode(errors="replace")


def s_client(port, ca, version):
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-quiet"]
    command += ["-CAfile", ca, "-verify_return_error", "-verify_hostname", "localhost", "-no_ign_eof"]
    return [*command, f"-tls{version.replace('.', '_')}"]


def gnutls_cli(port, ca, version):
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS{version}"
    return ["gnutls-cli", f"--priority={priority}", f"--x509cafile={ca}", "--sni-hostname=localhost",
            "--verify-hostname=localhost", "-p", str(port), "127.0.0.1"]  # fmt: skip


@pytest.mark.parametrize("version", ["1.3", "1.2"])
@pytest.mark.parametrize("client", [s_client, gnutls_cli], ids=lambda f: f.__name__)
def test_echo(each_pool, echo_server, client, version, table):
    kind, pool = each_pool
    server = echo_server(pool, localid="localhost", remote_auth="ignore")
    status, text = converse(client(server.port, str(pool.directory / "ca.pem"), version))
    assert TEXT.decode() in text, text
    assert status == 0, text
    session = server.await_session()
    assert session.version == f"TLSv{version}"
    assert session.localid == "localhost"
    assert session.remoteid == ""
    table.append((f"our server, {kind}, TLS {version}", client.__name__, f"{session.cipher} {session.group}"))


@pytest.mark.parametrize("version", ["1.3", "1.2"])
def test_curl(each_pool, http_behind_tunnel, version, table):
    kind, pool = each_pool
    port = http_behind_tunnel(pool)
    limit = ["--tlsv1.3"] if version == "1.3" else ["--tlsv1.2", "--tls-max", "1.2"]
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--cacert", str(pool.directory / "ca.pem"), *limit]
        + ["--resolve", f"localhost:{port}:127.0.0.1", f"https://localhost:{port}/"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr
    table.append((f"our tunnel, {kind}, TLS {version}", "curl", "200"))


@pytest.mark.parametrize("version", ["1.3", "1.2"])
def test_client_certificate(each_pool, echo_server, stranger, tmp_path_factory, version, table):
    """The remote proves who it is, and the server is told."""
    from tests.e2e.conftest import Authority

    kind, pool = each_pool
    authority = Authority(tmp_path_factory.mktemp("clients"))
    tlspool(pool, "trust", "set", "x509,server", "1", str(authority.path))
    certificate, key = authority.issue("john@example.com")
    server = echo_server(pool, remote_auth="require")
    command = s_client(server.port, str(pool.directory / "ca.pem"), version)
    status, text = converse([*command, "-cert", str(certificate), "-key", str(key)])
    assert status == 0, text
    session = server.await_session()
    assert session.remoteid == "john@example.com"
    assert session.verified
    table.append((f"our server, {kind}, TLS {version}", "s_client with certificate", session.remoteid))


def test_hybrid_group_from_pool_to_pool(each_pool, echo_server, table):
    """Two pools agree on the post-quantum group."""
    import libstub
    from tests.e2e.conftest import connect

    kind, pool = each_pool
    server = echo_server(pool, localid="testsrv@tlspool.arpa2.lab", remote_auth="require")
    client_pool = libstub.Pool(str(pool.socket))
    with libstub.starttls_client(connect(server.port), "testsrv@tlspool.arpa2.lab", pool=client_pool) as session:
        session.sock.sendall(b"x" * 1000)
        assert session.sock.recv(4000)
        assert session.version == "TLSv1.3"
        assert session.group == "X25519MLKEM768"
        assert (session.localid, session.remoteid) == ("testcli@tlspool.arpa2.lab", "testsrv@tlspool.arpa2.lab")
    other = server.await_session()
    assert (other.localid, other.remoteid) == ("testsrv@tlspool.arpa2.lab", "testcli@tlspool.arpa2.lab")
    client_pool.close()
    table.append((f"our server, {kind}", "our client", f"{session.version} {session.group} {session.cipher}"))
