"""Write the files."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs7, pkcs12
from cryptography.x509 import ocsp

from tests.fixtures import certs
from tests.fixtures.authority import DAY, Authority, now
from tests.fuzz.seeds import HERE


def rich(ca: Authority) -> Authority:
    """A leaf with every extension that anything here looks at."""
    leaf = ca.leaf("rich")
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("http://a.example/1")], None, None, None)
    access = x509.AccessDescription(
        x509.oid.AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://o.example/")
    )
    names = [
        x509.DNSName("a.example"),
        x509.RFC822Name("b@c.example"),
        x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
        x509.DirectoryName(leaf.certificate.subject),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "rich, ü")]))
        .issuer_name(ca.certificate.subject)
        .public_key(leaf.key.public_key())
        .serial_number(4711)
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + 30 * DAY)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
        .add_extension(x509.AuthorityInformationAccess([access]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        .add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), critical=True)
    )
    leaf.certificate = builder.sign(ca.key, hashes.SHA256())
    return leaf


def main() -> None:
    """Write the files."""
    root = Authority("Root")
    ca = root.authority("CA", crl="http://r.example/r.crl", ocsp="http://r.example/o")
    leaf = rich(ca)
    rsa_ca = root.authority("RSA CA", key=rsa.generate_private_key(65537, 2048))
    responder = ca.responder()
    files: dict[str, bytes] = {
        "certificate-0-leaf": leaf.der,
        "certificate-1-ca": ca.der,
        "certificate-2-root": root.der,
        "certificate-3-rsa": rsa_ca.der,
        "certificate-4-ed25519": certs.leaf("ed.example", "ed25519").der,
        "list-some": ca.crl(dict.fromkeys([*range(1, 9), 4711], "key_compromise")),
        "list-empty": ca.crl(),
        "list-late": ca.crl({300: "", 70000: "superseded"}, until=36500 * DAY),
        "list-scope": ca.crl(
            {5: ""},
            extensions=[
                (
                    x509.IssuingDistributionPoint(
                        [x509.UniformResourceIdentifier("http://a.example/1")], None, True, False, None, False, False
                    ),
                    True,
                ),
                (x509.CRLNumber(7), False),
            ],
            entry_extensions=[(x509.InvalidityDate(datetime.datetime(2020, 1, 1)), False)],
        ),
        "list-rsa": rsa_ca.crl({1: ""}),
        "response-good": ca.response(leaf),
        "response-revoked": ca.response(leaf, "revoked"),
        "response-delegated": ca.response(leaf, signer=responder),
        "response-unknown": ca.response(leaf, "unknown", until=None),
        "response-later": ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
            Encoding.DER
        ),
        "file-pkcs7": pkcs7.serialize_certificates([leaf.certificate, ca.certificate], Encoding.DER),
        "file-pkcs12": pkcs12.serialize_java_truststore(
            [pkcs12.PKCS12Certificate(root.certificate, b"x")], NoEncryption()
        ),
    }
    for name, content in files.items():
        (HERE / f"{name}.der").write_bytes(content)
    (HERE / "made-at").write_text(f"{int(now().timestamp())}\n")


if __name__ == "__main__":
    main()
