"""What is asked of an OCSP responder (RFC 6960 appendix A, RFC 5019).

Without a nonce: responders that sign in advance leave it out of their answers, so that nothing could be concluded
from its absence, and dates limit what an old answer is good for.  The CertID is made with SHA-1, as RFC 5019 has it
and as the responders of public authorities expect; it names a certificate and protects nothing.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tlspool_online.chains import Link

_GET_B = 255
"""Longest request that is sent with GET, in base64 and escaped (RFC 5019 section 5): caches like them."""


def request(link: Link) -> bytes:
    """Return the request for one certificate.

    Raises:
        ValueError, TypeError: there can be none, for a key or a serial number that cannot be written.
    """
    builder = ocsp.OCSPRequestBuilder().add_certificate(link.certificate, link.issuer, hashes.SHA1())  # noqa: S303
    return builder.build().public_bytes(Encoding.DER)


def get_url(url: str, request_der: bytes) -> str:
    """Return the URL of a GET request, '' when it has to be a POST."""
    text = quote(base64.b64encode(request_der).decode(), safe="")
    return f"{url}{'' if url.endswith('/') else '/'}{text}" if len(text) <= _GET_B else ""
