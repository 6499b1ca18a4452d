"""What a case has besides applications: connected sockets, one end of which goes to the pool, and TLS at the other."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import Hash
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tlspool_admin.devca import DevCa, general_names
from tlspool_admin.devpool import DevPool

WAIT_S = 20.0
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class Identities:
    """Certificates of remotes that are no pool, from the CA that the pool believes; and facts about the pool's own."""

    def __init__(self, pool: DevPool) -> None:
        self._pool = pool
        self._issued: dict[str, tuple[x509.Certificate, Path]] = {}

    def remote(self, identity: str) -> tuple[x509.Certificate, Path]:
        """Return (certificate, file with key and certificate) of a remote."""
        if identity not in self._issued:
            key = ec.generate_private_key(ec.SECP256R1())
            spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            directory = self._pool.directory
            strange, _, name = identity.rpartition(":")
            if strange:  # of an authority that nobody believes
                directory = self._pool.directory / "certs" / "strange"
                directory.mkdir(exist_ok=True)
            certificate = DevCa(directory).issue(name, spki)
            path = self._pool.directory / "certs" / f"remote-{identity}.pem"
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
            self._issued[identity] = certificate, path
        return self._issued[identity]

    def _certificate(self, whose: str) -> x509.Certificate:
        side, _, identity = whose.partition(".")
        if side == "remote":
            return self.remote(identity)[0]
        return x509.load_pem_x509_certificate((self._pool.directory / "certs" / f"{identity}.pem").read_bytes())

    def fact(self, name: str) -> bytes:
        """Return what is known of a certificate: subject:pool.localhost, issuer:remote.ID, san:..., end-point:..."""
        what, _, whose = name.partition(":")
        if what == "san":
            # a GeneralName with tag and length (RFC 5280 section 4.2.1.6): rfc822Name [1], dNSName [2]
            value = general_names(whose)[0]
            assert isinstance(value, x509.RFC822Name | x509.DNSName)
            text = value.value.encode()
            return bytes([0x81 if "@" in whose else 0x82, len(text)]) + text
        certificate = self._certificate(whose)
        if what == "end-point":
            # RFC 5929 section 4.1: the hash of the certificate's signature, which is SHA-256 here
            algorithm = certificate.signature_hash_algorithm
            assert algorithm is not None
            digest = Hash(algorithm)
            digest.update(certificate.public_bytes(Encoding.DER))
            return digest.finalize()
        return {"subject": certificate.subject, "issuer": certificate.issuer}[what].public_bytes()


class Wire:
    """Two connected ends: ours, and the one that goes to the pool."""

    def __init__(self, authority: Path, kind: str = "unix") -> None:
        self.authority = authority
        self.asked_for = ""
        self.ours, self.theirs = _pair(kind)
        self.ours.settimeout(WAIT_S)
        self.tls: ssl.SSLSocket | None = None
        self.error: Exception | None = None
        self._read = b""
        self._thread: threading.Thread | None = None

    def begin(self, role: str, pem: Path | None, sni: str, version: str) -> None:
        """Begin a TLS handshake at our end; a server asks the pool who it is, and lets nobody in too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.authority)
        context.verify_mode = ssl.CERT_OPTIONAL
        if role == "server":
            context.sni_callback = self._named
        else:
            context.post_handshake_auth = True
        if pem:
            context.load_cert_chain(pem)
        if version:
            context.minimum_version = context.maximum_version = VERSIONS[version]

        def run() -> None:
            try:
                self.tls = context.wrap_socket(
                    self.ours, server_side=role == "server", server_hostname=sni or None, suppress_ragged_eofs=False
                )
            except Exception as error:
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _named(self, _sock: object, name: str | None, _context: ssl.SSLContext) -> None:
        self.asked_for = name or ""

    def met(self) -> str:
        """Return the identity in the certificate that the pool showed."""
        assert self.tls is not None, self.error
        shown = self.tls.getpeercert(binary_form=True)
        assert shown, "it showed no certificate"
        names = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return str(next(iter(names.value)).value)

    def notify(self) -> None:
        """Send close_notify, and do not wait for the other one."""
        assert self.tls is not None
        self.tls.setblocking(False)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.tls.settimeout(WAIT_S)

    def unwrap(self) -> None:
        """Send close_notify; the other one has come, or will."""
        assert self.tls is not None
        self.tls.unwrap()

    def wait(self) -> None:
        """Wait for the end of the handshake at our end."""
        if self._thread is not None:
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive(), "the handshake at the remote's end does not end"
            self._thread = None

    def say(self, data: bytes) -> None:
        """Send, through TLS if there is TLS."""
        self.wait()
        (self.tls or self.ours).sendall(data)

    def hear(self, size_b: int) -> bytes:
        """Receive this many bytes, or what there is until the end."""
        self.wait()
        data = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while len(data) < size_b and (part := (self.tls or self.ours).recv(size_b - len(data))):
                data += part
        return data

    def begin_to_read(self) -> None:
        """Read one piece, whenever it comes; TLS is served by that."""
        self.wait()
        self._read = b""

        def run() -> None:
            with contextlib.suppress(OSError):
                self._read = (self.tls or self.ours).recv(1 << 16)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def has_read(self, size_b: int) -> bytes:
        """Return what was read, and what is missing of it."""
        self.wait()
        return self._read + (self.hear(size_b - len(self._read)) if len(self._read) < size_b else b"")

    def passed(self) -> None:
        """Close our copy of what was passed."""
        _close(self.theirs)

    def far_passed(self) -> None:
        """Close our copy of the other end, which was passed too."""
        _close(self.ours)

    def close(self) -> None:
        """Close everything."""
        if self._thread is not None:
            with contextlib.suppress(OSError):
                self.ours.shutdown(socket.SHUT_RDWR)
            self.wait()
        if self.tls is not None:
            self.tls.close()
        _close(self.ours)
        _close(self.theirs)


class File:
    """A descriptor that is no socket."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.fd

    def close(self) -> None:
        """Close it, once."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _close(end: socket.socket | File) -> None:
    if isinstance(end, File) or end.fileno() >= 0:
        end.close()


def _pair(kind: str) -> tuple[socket.socket, socket.socket | File]:
    types = {"unix": socket.SOCK_STREAM, "seqpacket": socket.SOCK_SEQPACKET, "datagram": socket.SOCK_DGRAM}
    if kind in types:
        return socket.socketpair(socket.AF_UNIX, types[kind])
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        return one, other
    ours, unused = socket.socketpair()
    if kind == "unconnected":
        unused.close()
        return ours, socket.socket()
    if kind == "listening":
        unused.close()
        return ours, socket.create_server(("127.0.0.1", 0))
    if kind == "file":
        unused.close()
        return ours, File(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    raise AssertionError(f"no such socket: {kind}")
