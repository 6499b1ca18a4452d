"""A certificate authority for development pools: one root, leaves for keys that live on a token.

The root's private key is a file in the pool's directory; nothing outside that directory trusts it.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_DAYS = 365
LEAF_DAYS = 90
_SKEW = datetime.timedelta(minutes=5)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "TLS Pool development"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def general_names(identity: str) -> list[x509.GeneralName]:
    """Return the subjectAltName of an identity: rfc822Name for user@domain, dNSName for a domain."""
    if "@" in identity:
        return [x509.RFC822Name(identity)]
    names: list[x509.GeneralName] = [x509.DNSName(identity)]
    if identity == "localhost":
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    return names


class DevCa:
    """The root of one development pool, kept in ``ca.pem`` and ``ca.key``."""

    def __init__(self, directory: Path) -> None:
        self.certificate_path = directory / "ca.pem"
        self._key_path = directory / "ca.key"
        if not (self.certificate_path.exists() and self._key_path.exists()):
            self._make()
        key = load_pem_private_key(self._key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._key_path} holds another kind of key")
        self._key = key
        self.certificate = x509.load_pem_x509_certificate(self.certificate_path.read_bytes())

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        name = _name("Development root")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + datetime.timedelta(days=ROOT_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._key_path.touch(mode=0o600)
        self._key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, identity: str, spki: bytes) -> x509.Certificate:
        """Issue a leaf for a public key (DER SubjectPublicKeyInfo), good for both TLS roles."""
        public = load_der_public_key(spki)
        if isinstance(public, ec.ECDH):
            raise TypeError("an ECDH key signs nothing")
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(_name(identity))
            .issuer_name(self.certificate.subject)
            .public_key(public)  # type: ignore[arg-type]  # the union of signing keys, as far as a token makes them
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + datetime.timedelta(days=LEAF_DAYS))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(general_names(identity)), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)  # type: ignore[arg-type]
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
