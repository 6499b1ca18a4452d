"""Make a token and signing keys on it: ``python -m tlspool_keyd.token_keys --module M --label L --pin-file F NAME...``

For development pools, tests, and the first token of an installation: a token has to be there before keyd starts.
Keys are generated on the token, cannot be extracted, and are found again by label: a second run makes only what
is missing.
Prints one JSON object: {NAME: {"uri": PKCS #11 URI, "spki": hex of the SubjectPublicKeyInfo}}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import PyKCS11
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_CURVES = {"ec": ec.SECP256R1(), "ec384": ec.SECP384R1()}
_OIDS = {
    "ec": bytes.fromhex("06082a8648ce3d030107"),  # secp256r1, RFC 5480 section 2.1.1.1
    "ec384": bytes.fromhex("06052b81040022"),  # secp384r1
    "ed25519": b"\x13\x0cedwards25519",  # PrintableString, PKCS #11 v3.0 section 2.3.5
}
KINDS = ("rsa", "ec", "ec384", "ed25519")

_EC_EDWARDS_KEY_PAIR_GEN = 0x1055
_RSA_BITS = 2048

_LABEL_B = 32
"""CK_TOKEN_INFO has labels padded with blanks (PKCS #11 v2.40 section 3.2); PyKCS11 would pad with NUL."""


def _templates(kind: str, label: str, key_id: bytes) -> tuple[list[Any], list[Any], Any]:
    both = [(PyKCS11.CKA_TOKEN, PyKCS11.CK_TRUE), (PyKCS11.CKA_LABEL, label), (PyKCS11.CKA_ID, key_id)]
    public = [*both, (PyKCS11.CKA_VERIFY, PyKCS11.CK_TRUE)]
    private = [
        *both,
        (PyKCS11.CKA_PRIVATE, PyKCS11.CK_TRUE),
        (PyKCS11.CKA_SENSITIVE, PyKCS11.CK_TRUE),
        (PyKCS11.CKA_EXTRACTABLE, PyKCS11.CK_FALSE),
        (PyKCS11.CKA_SIGN, PyKCS11.CK_TRUE),
        (PyKCS11.CKA_DECRYPT, PyKCS11.CK_FALSE),
    ]
    if kind == "rsa":
        public += [(PyKCS11.CKA_MODULUS_BITS, _RSA_BITS), (PyKCS11.CKA_PUBLIC_EXPONENT, (1, 0, 1))]
        return public, private, PyKCS11.Mechanism(PyKCS11.CKM_RSA_PKCS_KEY_PAIR_GEN, None)
    public.append((PyKCS11.CKA_EC_PARAMS, _OIDS[kind]))
    mechanism = _EC_EDWARDS_KEY_PAIR_GEN if kind == "ed25519" else PyKCS11.CKM_EC_KEY_PAIR_GEN
    return public, private, PyKCS11.Mechanism(mechanism, None)


def _spki(session: Any, public: Any, kind: str) -> bytes:
    key: Any
    if kind == "rsa":
        modulus, exponent = session.getAttributeValue(public, [PyKCS11.CKA_MODULUS, PyKCS11.CKA_PUBLIC_EXPONENT])
        numbers = rsa.RSAPublicNumbers(int.from_bytes(bytes(exponent), "big"), int.from_bytes(bytes(modulus), "big"))
        key = numbers.public_key()
    else:
        # CKA_EC_POINT is the point inside a DER OCTET STRING, whose length fits one byte here.
        point = bytes(session.getAttributeValue(public, [PyKCS11.CKA_EC_POINT])[0])[2:]
        if kind == "ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(point)
        else:
            key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[kind], point)
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def _open(module: str, label: str, pin: str) -> tuple[Any, Any]:
    """Open the token with this label, making it in the first free slot if there is none."""
    library = PyKCS11.PyKCS11Lib()
    library.load(module)

    def slot_of_token() -> Any:
        for slot in library.getSlotList(tokenPresent=True):
            if library.getTokenInfo(slot).label.rstrip(" \0") == label:
                return slot
        return None

    slot = slot_of_token()
    if slot is None:
        free = [
            s
            for s in library.getSlotList(tokenPresent=True)
            if not library.getTokenInfo(s).flags & PyKCS11.CKF_TOKEN_INITIALIZED
        ]
        if not free:
            raise SystemExit(f"{module}: no free slot for a token named {label}")
        # The security officer's PIN of a development token is the user's: it protects nothing else.
        library.initToken(free[0], pin, label.ljust(_LABEL_B))
        slot = slot_of_token() or free[0]
        officer = library.openSession(slot, PyKCS11.CKF_SERIAL_SESSION | PyKCS11.CKF_RW_SESSION)
        officer.login(pin, PyKCS11.CKU_SO)
        officer.initPin(pin)
        officer.logout()
        officer.closeSession()
    session = library.openSession(slot, PyKCS11.CKF_SERIAL_SESSION | PyKCS11.CKF_RW_SESSION)
    session.login(pin)
    return library, session


def make(module: str, label: str, pin: str, kind: str, names: list[str]) -> dict[str, dict[str, str]]:
    """Make what is missing and describe all: {name: {"uri": ..., "spki": ...}}.

    Raises:
        PyKCS11.PyKCS11Error: the token refuses.
    """
    _library, session = _open(module, label, pin)
    made = {}
    for number, name in enumerate(names, 1):
        key_id = number.to_bytes(2, "big")
        template = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY), (PyKCS11.CKA_LABEL, name)]
        found = session.findObjects(template)
        if not found:
            public, private, mechanism = _templates(kind, name, key_id)
            session.generateKeyPair(public, private, mecha=mechanism)
            found = session.findObjects(template)
        uri = f"pkcs11:token={quote(label)};object={quote(name, safe='@.')};type=private"
        made[name] = {"uri": uri, "spki": _spki(session, found[0], kind).hex()}
    session.logout()
    session.closeSession()
    return made


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Make a token and signing keys on it.")
    parser.add_argument("--module", required=True)
    parser.add_argument("--label", required=True)
    parser.add_argument("--pin-file", type=Path, required=True, help="-: standard input")
    parser.add_argument("--key-type", choices=KINDS, default="ec")
    parser.add_argument("names", nargs="*", help="none: only the token")
    args = parser.parse_args()
    pin_secret = (sys.stdin.read() if args.pin_file == Path("-") else args.pin_file.read_text()).strip()
    json.dump(make(args.module, args.label, pin_secret, args.key_type, args.names), sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
