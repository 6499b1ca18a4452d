"""Whom to trust, in numbered generations that never change.

The broker sends a generation (TrustBegin, TrustAnchor ...) before the first session that is to use it.  From
that session on it is frozen: a later anchor for it breaks the table.  A generation lives as long as it is the
newest one, or a handshake holds it.

X509_V_FLAG_PARTIAL_CHAIN: an anchor need not be a root (``notroot`` in the trust database).  The broker lets
nothing else in, so the flag takes nothing away from roots.
"""

from __future__ import annotations

from cryptography import x509
from OpenSSL import crypto

from tlspool_common.messages import Side, TrustAnchor, TrustBegin

NAMED_ANCHORS = 32
"""Anchors whose names a server tells its clients; with more, none is told, which means the same as all."""

NAMED_B = 8192
"""Their size.  A TLS 1.2 client signs its transcript, with these in it, and what keyd signs is bounded."""

_BITS = {Side.CLIENT: 1, Side.SERVER: 2}


class Generation:
    """One state of the trust database, as this worker sees it."""

    __slots__ = ("_anchors", "_sides", "_stores", "frozen", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.frozen = False
        self._anchors: list[tuple[int, crypto.X509]] = []
        self._stores: dict[Side, crypto.X509Store] = {}
        self._sides: dict[bytes, int] = {}

    def add(self, for_sides: int, der: bytes) -> None:
        """Take an anchor.

        Raises:
            ValueError: it is no certificate.
        """
        try:
            self._anchors.append((for_sides, crypto.load_certificate(crypto.FILETYPE_ASN1, der)))
        except crypto.Error:
            raise ValueError("the anchor is no certificate") from None
        self._sides[der] = self._sides.get(der, 0) | for_sides

    def has(self, side: Side, der: bytes) -> bool:
        """Whether a certificate is an anchor, for chains that are shown to a local client, or to a local server."""
        return bool(self._sides.get(der, 0) & _BITS[side])

    def _for(self, side: Side) -> list[crypto.X509]:
        """Return the anchors for chains that are shown to a local client, or to a local server."""
        bit = _BITS[side]
        return [certificate for for_sides, certificate in self._anchors if for_sides & bit]

    def store(self, side: Side) -> crypto.X509Store:
        """Return OpenSSL's form of them; made once."""
        made = self._stores.get(side)
        if made is None:
            made = crypto.X509Store()
            for certificate in self._for(side):
                made.add_cert(certificate)
            made.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
            self._stores[side] = made
        return made

    def named(self, side: Side) -> list[x509.Certificate]:
        """Return the anchors to be named in a CertificateRequest: all, or none when these are too many."""
        anchors = self._for(side)
        if len(anchors) > NAMED_ANCHORS:
            return []
        certificates = [anchor.to_cryptography() for anchor in anchors]
        size_b = sum(len(certificate.subject.public_bytes()) for certificate in certificates)
        return certificates if size_b <= NAMED_B else []


class Trust:
    """The newest generation, and those that are held by a handshake."""

    def __init__(self) -> None:
        self._newest: Generation | None = None

    def begin(self, number: int) -> None:
        """Start a generation.  The last one is forgotten here, and lives on with those who hold it.

        Raises:
            ValueError: it is there already.
        """
        if self._newest is not None and number == self._newest.number:
            raise ValueError(f"trust generation {number} begins twice")
        self._newest = Generation(number)

    def forget(self) -> None:
        """Another broker counts its generations anew; those in use live on with those who hold them."""
        self._newest = None

    def anchor(self, number: int, for_sides: int, der: bytes) -> bool:
        """Add to the newest generation; say whether the anchor could be read.

        Raises:
            ValueError: another generation is meant, or this one is in use already.
        """
        newest = self._newest
        if newest is None or newest.number != number or newest.frozen:
            raise ValueError(f"an anchor for trust generation {number}, which is not being filled")
        try:
            newest.add(for_sides, der)
        except ValueError:
            return False
        return True

    def said(self, message: TrustBegin | TrustAnchor) -> bool:
        """Take what the broker says; say whether it could be read.

        Raises:
            ValueError: as the others do.
        """
        if isinstance(message, TrustAnchor):
            return self.anchor(message.generation, message.for_sides, message.certificate)
        self.begin(message.generation)
        return True

    def use(self, number: int) -> Generation:
        """Return a generation for a session; it is frozen from now on.

        Raises:
            ValueError: it is not the newest one.
        """
        if self._newest is None or self._newest.number != number:
            raise ValueError(f"trust generation {number} is not known")
        self._newest.frozen = True
        return self._newest
