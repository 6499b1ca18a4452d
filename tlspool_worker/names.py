"""Who a certificate says its holder is."""

from __future__ import annotations

from cryptography import x509

from tlspool_common import limits


def names_untrusted(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the names of a certificate as ``dns:``, ``email:`` and ``ip:`` text, at most IDENTITY_NAMES.

    A common name counts for nothing (RFC 9525 section 2).  What is too long or not printable is left out.

    Raises:
        ValueError: the extensions cannot be read.
    """
    try:
        general = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, TypeError, OverflowError, LookupError) as error:
        raise ValueError(f"extensions: {type(error).__name__}") from None
    found = []
    for name in general:
        match name:
            case x509.DNSName():
                text = f"dns:{name.value}"
            case x509.RFC822Name():
                text = f"email:{name.value}"
            case x509.IPAddress():
                text = f"ip:{name.value}"
            case _:
                continue
        if text.isprintable() and len(text.encode()) <= limits.IDENTITY_NAME_B:
            found.append(text)
            if len(found) == limits.IDENTITY_NAMES:
                break
    return tuple(found)


def subject_untrusted(certificate: x509.Certificate) -> str:
    """Return the subject as RFC 4514 text, cut to SUBJECT_B bytes; '' when it cannot be read."""
    try:
        text = certificate.subject.rfc4514_string()
    except (ValueError, TypeError):  # the latter for a BIT STRING in a name
        return ""
    return text.encode("utf-8", "replace")[: limits.SUBJECT_B].decode("utf-8", "ignore")
