"""Remotes with identities of their own: each has a certificate that is made when it comes, and no other has its name.

So a RADIUS server's records of a session are found by its User-Name, whatever became of the session.
"""

from __future__ import annotations

import itertools
import os
import ssl
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.fixtures.pki import days


class People:
    """Makes them; ``issuer`` is a file with the certificate and the key of who certifies them."""

    def __init__(self, issuer: Path, number: int) -> None:
        pem = issuer.read_bytes()
        self._issuer = x509.load_pem_x509_certificate(pem)
        self._issuer_key = load_pem_private_key(pem, None)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._names = (f"a{number}-{time.monotonic_ns():x}-{serial}" for serial in itertools.count(1))

    def issue(self, domain: str, context: ssl.SSLContext) -> str:
        """Have a context prove a new identity of a domain, and return that."""
        name = f"{next(self._names)}@{domain}"
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._issuer.subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(days(-1))
            .not_valid_after(days(1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._issuer_key.public_key()), critical=False
            )
            .sign(self._issuer_key, hashes.SHA256())
        )
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem += b"".join(one.public_bytes(Encoding.PEM) for one in (certificate, self._issuer))
        # ssl reads files only; this one has no name, and is gone when it is closed.
        fd = os.memfd_create("somebody", os.MFD_CLOEXEC)
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        return name
