"""A pool-backed client completes with openssl s_server, gnutls-serv and nginx, with and without a certificate."""

import getpass
import re
import shutil

import pytest

import libstub
from tests.e2e.conftest import Authority, connect, tlspool
from tests.fixtures.ports import free_port


@pytest.fixture(scope="module")
def world(each_pool, tmp_path_factory):
    """A pool of each key kind and an authority it trusts."""
    kind, pool = each_pool
    authority = Authority(tmp_path_factory.mktemp("servers"))
    tlspool(pool, "trust", "set", "x509,client", "1", str(authority.path))
    return kind, pool, authority


def s_server(port, authority, pool_ca, version, ask):
    certificate, key = authority.issue("www.example.com")
    command = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key)]
    command += ["-www", f"-tls{version.replace('.', '_')}"]
    return [*command, "-Verify", "2", "-verify_return_error", "-CAfile", pool_ca] if ask else command


def gnutls_serv(port, authority, pool_ca, version, ask):
    certificate, key = authority.issue("www.example.com")
    command = ["gnutls-serv", "--http", "-p", str(port), f"--x509certfile={certificate}", f"--x509keyfile={key}"]
    command += [f"--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"]
    return (
        [*command, f"--x509cafile={pool_ca}", "--require-client-cert", "--verify-client-cert"]
        if ask
        else [*command, "--disable-client-cert"]
    )


def nginx(port, authority, pool_ca, version, ask):
    certificate, key = authority.issue("www.example.com")
    directory = authority.directory / f"nginx-{port}"
    directory.mkdir()
    verify = f"ssl_verify_client on; ssl_client_certificate {pool_ca};" if ask else ""
    path = directory / "nginx.conf"
    path.write_text(
        f"daemon off; pid {directory}/pid; error_log stderr; worker_processes 1; user {getpass.getuser()};\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory};\n"
        f" fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory};\n"
        f" server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n"
        f"  ssl_protocols TLSv{version}; {verify}\n"
        '  location / { return 200 "hello $ssl_client_s_dn\\n"; } } }\n'
    )
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-p", str(directory), "-c", str(path)]


@pytest.mark.parametrize("ask", [False, True], ids=["no-certificate", "with-certificate"])
@pytest.mark.parametrize("version", ["1.3", "1.2"])
@pytest.mark.parametrize("server", [s_server, gnutls_serv, nginx], ids=lambda f: f.__name__)
def test_request(world, start, server, version, ask, table):
    kind, pool, authority = world
    port = free_port()
    program = start(server(port, authority, str(pool.directory / "ca.pem"), version, ask), port)
    client = libstub.Pool(str(pool.socket))
    try:
        with libstub.starttls_client(connect(port), "www.example.com", pool=client) as session:
            session.sock.sendall(b"GET / HTTP/1.0\r\nHost: www.example.com\r\n\r\n")
            answer = b""
            while part := session.sock.recv(65536):
                answer += part
            assert re.match(rb"HTTP/1\.[01] 200", answer), (answer, program.output())
            assert session.version == f"TLSv{version}"
            assert session.remoteid == "www.example.com"
            assert session.localid == ("tlspool.arpa2.lab" if ask else session.localid)
    finally:
        client.close()
    note = "with certificate" if ask else "without"
    table.append(
        (f"our client, {kind}, TLS {version}", f"{server.__name__} {note}", f"{session.cipher} {session.group}")
    )
