"""C_SignInit and C_Sign by ctypes, because PyKCS11 holds the GIL while the token works.

A token that takes 200 ms for a signature would stop every thread of the process with PyKCS11; ctypes lets
go of the GIL for the call.  The module is the one PyKCS11 loaded: dlopen(3) of the same path returns the same
image, so its sessions and its login are ours.  Each thread has a session of its own, as PKCS #11 allows one
signature at a time in a session (PKCS #11 v2.40 base, section 5.6, CKR_OPERATION_ACTIVE).

The host hashes; the token gets a digest and CKM_RSA_PKCS, CKM_RSA_PKCS_PSS or CKM_ECDSA.  The combined
mechanisms (CKM_SHA256_RSA_PKCS, ...) would send up to 64 KiB over a network or a USB reader instead of 64
bytes, are missing for some hashes on many tokens, and gain nothing here: who may not have a digest signed is
the worker, and keyd has seen the whole content.  Ed25519 hashes twice and so takes the content itself.
"""

from __future__ import annotations

import ctypes
import hashlib

from tlspool_common import limits
from tlspool_common.messages import KeyKind
from tlspool_keyd import der
from tlspool_keyd.schemes import Form, Row

_CKM_RSA_PKCS = 0x0001
_CKM_RSA_PKCS_PSS = 0x000D
_CKM_ECDSA = 0x1041
_CKM_EDDSA = 0x1057

_PSS_HASH = {"sha256": (0x250, 2), "sha384": (0x260, 3), "sha512": (0x270, 4)}
"""CKM_SHAxxx, CKG_MGF1_SHAxxx."""

FITS = {
    KeyKind.RSA: (Form.PKCS1, Form.PSS),
    KeyKind.EC_P256: (Form.ECDSA,),
    KeyKind.EC_P384: (Form.ECDSA,),
    KeyKind.ED25519: (Form.EDDSA,),
}
"""Which forms a kind of key can make."""

_ORDER_B = {KeyKind.EC_P256: 32, KeyKind.EC_P384: 48}

CKR_OK = 0

_SLOT_SIGN_INIT = 42
_SLOT_SIGN = 43
"""Places in CK_FUNCTION_LIST (PKCS #11 v2.40 pkcs11f.h; C_Initialize is place 0)."""

_FUNCTIONS = 68


class _FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), ("functions", ctypes.c_void_p * _FUNCTIONS))


class _Mechanism(ctypes.Structure):
    _fields_ = (
        ("mechanism", ctypes.c_ulong),
        ("parameter", ctypes.c_void_p),
        ("parameter_b", ctypes.c_ulong),
    )


class _PssParams(ctypes.Structure):
    _fields_ = (("hash", ctypes.c_ulong), ("mgf", ctypes.c_ulong), ("salt_b", ctypes.c_ulong))


_SignInit = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.POINTER(_Mechanism), ctypes.c_ulong)
_Sign = ctypes.CFUNCTYPE(
    ctypes.c_ulong,
    ctypes.c_ulong,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_ulong),
)


class CryptokiError(Exception):
    """A PKCS #11 call did not return CKR_OK."""

    def __init__(self, rv: int, call: str) -> None:
        super().__init__(rv, call)
        self.rv = rv
        self.call = call


class Signer:
    """The two signing calls of a module that is loaded and initialised already."""

    def __init__(self, path: str) -> None:
        library = ctypes.CDLL(path)
        get_function_list = library.C_GetFunctionList
        get_function_list.restype = ctypes.c_ulong
        get_function_list.argtypes = [ctypes.POINTER(ctypes.POINTER(_FunctionList))]
        functions = ctypes.POINTER(_FunctionList)()
        rv = get_function_list(ctypes.byref(functions))
        if rv != CKR_OK:
            raise CryptokiError(rv, "C_GetFunctionList")
        self._sign_init = _SignInit(functions.contents.functions[_SLOT_SIGN_INIT])
        self._sign = _Sign(functions.contents.functions[_SLOT_SIGN])
        self._library = library  # keeps the image

    def sign(self, session: int, key: int, kind: KeyKind, row: Row, content: bytes) -> bytes:
        """Sign content; return the signature as TLS has it.

        Raises:
            CryptokiError: a call failed; the session may be in the middle of an operation.
            ValueError: the token's ECDSA signature is malformed.
        """
        mechanism, data, keep = _prepare(kind, row, content)
        rv = self._sign_init(session, ctypes.byref(mechanism), key)
        del keep
        if rv != CKR_OK:
            raise CryptokiError(rv, "C_SignInit")
        out = ctypes.create_string_buffer(limits.SIGNATURE_B)
        size = ctypes.c_ulong(limits.SIGNATURE_B)
        rv = self._sign(session, data, len(data), out, ctypes.byref(size))
        if rv != CKR_OK:
            raise CryptokiError(rv, "C_Sign")
        signature = out.raw[: size.value]
        return der.ecdsa_signature(signature) if row.form is Form.ECDSA else signature


def _prepare(kind: KeyKind, row: Row, content: bytes) -> tuple[_Mechanism, bytes, object]:
    """Return mechanism, data for C_Sign, and what must live as long as the mechanism is used."""
    if row.form is Form.EDDSA:
        return _Mechanism(_CKM_EDDSA, None, 0), content, None
    digest = hashlib.new(row.hash_name, content).digest()
    if row.form is Form.PKCS1:
        return _Mechanism(_CKM_RSA_PKCS, None, 0), der.DIGEST_INFO[row.hash_name] + digest, None
    if row.form is Form.PSS:
        hash_mechanism, mgf = _PSS_HASH[row.hash_name]
        parameter = _PssParams(hash_mechanism, mgf, len(digest))  # salt as long as the hash: RFC 8446 section 4.2.3
        pointer = ctypes.cast(ctypes.pointer(parameter), ctypes.c_void_p)
        return _Mechanism(_CKM_RSA_PKCS_PSS, pointer, ctypes.sizeof(parameter)), digest, parameter
    # FIPS 186-5 section 6.4.1 takes the leftmost bits of a longer hash; not every token does that itself
    return _Mechanism(_CKM_ECDSA, None, 0), digest[: _ORDER_B[kind]], None
