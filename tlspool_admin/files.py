"""Certificates in files: PEM, one or many, or DER."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from tlspool_common.errors import Code, PoolError

_FILE_B = 8 * 1024 * 1024
"""Far above the bundle of all public CAs, which has 0.3 MiB."""

_PEM = re.compile(rb"-----BEGIN (X509 )?CERTIFICATE-----(.*?)-----END (?:X509 )?CERTIFICATE-----", re.DOTALL)


def certificates_of(path: Path) -> list[str]:
    """Return the certificates of a file, in their order, as base64 of DER; private keys beside them stay unread.

    Raises:
        PoolError: RECORD_MALFORMED, there is none.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_FILE_B + 1)
    if len(data) > _FILE_B:
        raise PoolError(Code.RECORD_MALFORMED, f"{path} has more than {_FILE_B} bytes")
    if data[:1] == b"\x30":
        return [base64.b64encode(data).decode()]
    found = []
    for block in _PEM.finditer(data):
        try:
            der = base64.b64decode(b"".join(block.group(2).split()), validate=True)
        except binascii.Error:
            raise PoolError(Code.RECORD_MALFORMED, f"{path} has a PEM block that is no base64") from None
        found.append(base64.b64encode(der).decode())
    if not found:
        raise PoolError(Code.RECORD_MALFORMED, f"{path} holds no certificate, neither as PEM nor as DER")
    return found


def pem(der_base64: str) -> str:
    """Return a certificate as PEM (RFC 7468)."""
    lines = [der_base64[at : at + 64] for at in range(0, len(der_base64), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
