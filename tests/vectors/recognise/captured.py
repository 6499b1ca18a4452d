"""Real TLS 1.2 handshakes of OpenSSL and GnuTLS, overheard on loopback: what each side signed, and its signature.

TLS 1.2 handshakes are in the clear up to ChangeCipherSpec, so a relay between ``openssl s_client`` or ``gnutls-cli``
and ``openssl s_server`` or ``gnutls-serv`` sees all that either side signs.  Both signatures are verified here with
the public keys in the certificates: what is recorded is what was signed, by whom it was signed.
"""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from tests.fixtures import certs

_GROUPS = {
    "P-256": ("P-256", "SECP256R1"),
    "P-384": ("P-384", "SECP384R1"),
    "P-521": ("P-521", "SECP521R1"),
    "X25519": ("X25519", "X25519"),
    "X448": ("X448", "X448"),
}
_WAIT_S = 20


@dataclass(frozen=True)
class Case:
    """One handshake: programs, kinds of key, group, and what else the server sends."""

    server: str
    client: str
    server_kind: str
    client_kind: str
    group: str
    status: bool = False
    names: int = 1

    @property
    def note(self) -> str:
        extra = " with CertificateStatus" if self.status else ""
        extra += f" and {self.names} CA names" if self.names > 1 else ""
        return (
            f"{self.client} client with {self.client_kind} key, {self.server} server with {self.server_kind} key, "
            f"{self.group}{extra}"
        )

    @property
    def name(self) -> str:
        extra = ("-status" if self.status else "") + (f"-{self.names}-names" if self.names > 1 else "")
        return f"{self.client}-{self.client_kind}-to-{self.server}-{self.server_kind}-{self.group}{extra}".lower()


CASES = (
    Case("openssl", "openssl", "rsa", "rsa", "X25519"),
    Case("openssl", "openssl", "p256", "p256", "P-256"),
    Case("openssl", "openssl", "p384", "p384", "P-384"),
    Case("openssl", "openssl", "ed25519", "ed25519", "X448"),
    Case("openssl", "openssl", "p256", "rsa", "P-521"),
    Case("openssl", "openssl", "rsa", "p256", "X25519", status=True),
    Case("openssl", "openssl", "p256", "ed25519", "X25519", names=60),
    Case("openssl", "gnutls", "rsa", "rsa", "P-256"),
    Case("openssl", "gnutls", "p256", "p384", "X25519", status=True),
    Case("openssl", "gnutls", "ed25519", "ed25519", "X25519"),
    Case("gnutls", "openssl", "rsa", "p256", "P-384"),
    Case("gnutls", "openssl", "p384", "rsa", "X25519"),
    Case("gnutls", "openssl", "ed25519", "p384", "X25519", names=40),
    Case("gnutls", "openssl", "rsa", "ed25519", "X25519", status=True),
    Case("gnutls", "gnutls", "p256", "p256", "X25519"),
    Case("gnutls", "gnutls", "rsa", "ed25519", "X448"),
    Case("gnutls", "gnutls", "ed25519", "rsa", "P-521"),
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_key(path: Path, issued: certs.Issued) -> None:
    path.write_bytes(issued.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _status(issued: certs.Issued) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = ocsp.OCSPResponseBuilder().add_response(
        issued.certificate,
        certs.intermediate().certificate,
        hashes.SHA1(),
        ocsp.OCSPCertStatus.GOOD,
        now,
        now + datetime.timedelta(days=1),
        None,
        None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.NAME, certs.intermediate().certificate)
    return builder.sign(certs.intermediate().private, hashes.SHA256()).public_bytes(Encoding.DER)


def _authorities(number: int) -> bytes:
    """The intermediate, and strangers with long names."""
    pem = certs.intermediate().pem
    for n in range(1, number):
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "NL"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"Authority number {n} of a long list of authorities"),
                x509.NameAttribute(NameOID.COMMON_NAME, f"Root certificate {n}"),
            ]
        )
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        builder = x509.CertificateBuilder(name, name, certs.key("p256", 200).public_key(), n, now)
        made = builder.not_valid_after(now + datetime.timedelta(days=1)).sign(certs.key("p256", 200), hashes.SHA256())
        pem += made.public_bytes(Encoding.PEM)
    return pem


def _gnutls_priority(case: Case) -> str:
    group = _GROUPS[case.group][1]
    return (
        f"NORMAL:-VERS-ALL:+VERS-TLS1.2:-GROUP-ALL:+GROUP-{group}:+GROUP-SECP256R1:+GROUP-SECP384R1:"
        "+SIGN-EDDSA-ED25519:%SERVER_PRECEDENCE"
    )


def _commands(case: Case, directory: Path, server_port: int, client_port: int) -> tuple[list[str], list[str]]:
    groups = ":".join(dict.fromkeys((case.group, "P-256", "P-384")))
    if case.server == "openssl":
        server = ["openssl", "s_server", "-accept", f"127.0.0.1:{server_port}", "-tls1_2", "-groups", groups]
        server += ["-cert", "server.pem", "-key", "server.key", "-cert_chain", "chain.pem", "-CAfile", "names.pem"]
        server += ["-Verify", "3", "-quiet", "-naccept", "1"] + (["-status_file", "status.der"] if case.status else [])
    else:
        server = [
            "gnutls-serv",
            "--port",
            str(server_port),
            "--priority",
            _gnutls_priority(case),
            "--require-client-cert",
        ]
        server += [
            "--x509certfile",
            "server.pem",
            "--x509keyfile",
            "server.key",
            "--x509cafile",
            "names.pem",
            "--quiet",
        ]
        server += ["--ocsp-response", "status.der", "--ignore-ocsp-response-errors"] if case.status else []
    if case.client == "openssl":
        client = ["openssl", "s_client", "-connect", f"127.0.0.1:{client_port}", "-tls1_2", "-groups", groups, "-quiet"]
        client += ["-cert", "client.pem", "-key", "client.key"] + (["-status"] if case.status else [])
    else:
        client = ["gnutls-cli", "--insecure", "--port", str(client_port), "--priority", _gnutls_priority(case)]
        client += ["--x509certfile", "client.pem", "--x509keyfile", "client.key", "127.0.0.1"]
        client += [] if case.status else ["--no-ocsp"]
    (directory / "names.pem").write_bytes(_authorities(case.names))
    return server, client


def _overhear(client: socket.socket, server: socket.socket) -> tuple[bytes, bytes]:
    """Relay until both sides have sent encrypted records or closed; return what each sent."""
    sent = {client: bytearray(), server: bytearray()}
    for _ in range(200):
        readable, _, _ = select.select([client, server], [], [], _WAIT_S)
        for source in readable:
            data = source.recv(65536)
            sent[source] += data
            if not data:
                return bytes(sent[client]), bytes(sent[server])
            (server if source is client else client).sendall(data)
        if all(_in_clear(bytes(data))[1] for data in sent.values()):
            return bytes(sent[client]), bytes(sent[server])
    raise AssertionError("the handshake does not end")


def _in_clear(stream: bytes) -> tuple[bytes, bool]:
    """Return the handshake messages before ChangeCipherSpec, and whether that was seen."""
    found, at = b"", 0
    while at + 5 <= len(stream):
        kind, size = stream[at], int.from_bytes(stream[at + 3 : at + 5], "big")
        if kind == 20:
            return found, True
        if kind == 22:
            found += stream[at + 5 : at + 5 + size]
        at += 5 + size
    return found, False


def messages(data: bytes) -> list[bytes]:
    """Split handshake messages, headers included."""
    found = []
    while data:
        size = 4 + int.from_bytes(data[1:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def verify(certificate: bytes, scheme: int, signature: bytes, content: bytes) -> None:
    """Verify a signature as RFC 8446 section 4.2.3 says; raises InvalidSignature."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    chosen = {4: hashes.SHA256(), 5: hashes.SHA384(), 6: hashes.SHA512()}.get(scheme >> 8)
    if isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signature, content)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signature, content, ec.ECDSA(chosen))
    elif scheme >> 8 == 8:
        chosen = {0x0804: hashes.SHA256(), 0x0805: hashes.SHA384(), 0x0806: hashes.SHA512()}[scheme]
        public.verify(signature, content, padding.PSS(padding.MGF1(chosen), chosen.digest_size), chosen)
    else:
        public.verify(signature, content, padding.PKCS1v15(), chosen)


def _leaf_of(message: bytes) -> bytes:
    size = int.from_bytes(message[7:10], "big")
    return message[10 : 10 + size]


def run(case: Case) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    """Return (scheme, content) of the server's signature and of the client's."""
    server_port, client_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        leaves = {
            "server": certs.intermediate().issue("localhost", case.server_kind, number=1),
            "client": certs.intermediate().issue("someone@example.com", case.client_kind, number=2),
        }
        for role, issued in leaves.items():
            _write_key(directory / f"{role}.key", issued)
            (directory / f"{role}.pem").write_bytes(issued.pem)
        (directory / "chain.pem").write_bytes(certs.intermediate().pem)
        (directory / "status.der").write_bytes(_status(leaves["server"]))
        server_command, client_command = _commands(case, directory, server_port, client_port)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", client_port)))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": directory}
        programs = [subprocess.Popen(server_command, stdin=subprocess.PIPE, **quiet)]
        stack.callback(lambda: [(program.kill(), program.wait(), program.stdin.close()) for program in programs])
        server = stack.enter_context(_connected(server_port, programs[0]))
        programs.append(subprocess.Popen(client_command, stdin=subprocess.PIPE, **quiet))
        listener.settimeout(_WAIT_S)
        client = stack.enter_context(listener.accept()[0])
        from_client, from_server = _overhear(client, server)
    return _signed(messages(_in_clear(from_client)[0]), messages(_in_clear(from_server)[0]))


def _connected(port: int, program: subprocess.Popen) -> socket.socket:
    while program.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), _WAIT_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(0.02)
    raise AssertionError(f"{program.args[0]} ended with {program.returncode}")


def _signed(of_client: list[bytes], of_server: list[bytes]) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
    hello, certificate, exchange, proof = of_client
    of_server = [message for message in of_server if message[0] != 4]  # NewSessionTicket comes after what is signed
    transcript = b"".join([hello, *of_server, certificate, exchange])
    scheme, size = int.from_bytes(proof[4:6], "big"), int.from_bytes(proof[6:8], "big")
    verify(_leaf_of(certificate), scheme, proof[8 : 8 + size], transcript)
    by_kind = {message[0]: message for message in of_server}
    key_exchange = by_kind[12][4:]
    params, rest = key_exchange[: 4 + key_exchange[3]], key_exchange[4 + key_exchange[3] :]
    content = hello[6:38] + of_server[0][6:38] + params
    server_scheme = int.from_bytes(rest[:2], "big")
    verify(_leaf_of(by_kind[11]), server_scheme, rest[4:], content)
    return (server_scheme, content), (scheme, transcript)
