"""A PKCS #11 module, its tokens and its keys.  The only importer of PyKCS11 beside the tool that makes keys.

Runs in a token process (token_process.py), never in keyd itself: a module may crash, hang, or hold the GIL.
What it must never do: sign anything that was not recognised (keyd sends nothing else), decrypt, or try a PIN
a second time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import PyKCS11

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind
from tlspool_keyd import der
from tlspool_keyd.pkcs11uri import Pkcs11Uri, key_uri, parse_untrusted, place_of, token_uri
from tlspool_keyd.schemes import BY_NUMBER
from tlspool_keyd.token_sign import FITS, CryptokiError, Signer

_GONE = frozenset(
    (
        "CKR_DEVICE_REMOVED",
        "CKR_TOKEN_NOT_PRESENT",
        "CKR_TOKEN_NOT_RECOGNIZED",
        "CKR_SLOT_ID_INVALID",
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_SESSION_CLOSED",
        "CKR_OBJECT_HANDLE_INVALID",
        "CKR_KEY_HANDLE_INVALID",
        "CKR_USER_NOT_LOGGED_IN",
        "CKR_CRYPTOKI_NOT_INITIALIZED",
    )
)
"""The token, or what we had open on it, is not there any more.  A fresh process finds out whether it is back."""

_UNFIT = frozenset(
    (
        "CKR_KEY_TYPE_INCONSISTENT",
        "CKR_KEY_SIZE_RANGE",
        "CKR_KEY_FUNCTION_NOT_PERMITTED",
        "CKR_MECHANISM_INVALID",
        "CKR_MECHANISM_PARAM_INVALID",
        "CKR_DATA_LEN_RANGE",
    )
)
"""The token will not do this with this key, now or later."""

_PIN_WRONG = frozenset(
    (
        "CKR_PIN_INCORRECT",
        "CKR_PIN_INVALID",
        "CKR_PIN_LEN_RANGE",
        "CKR_PIN_EXPIRED",
    )
)

_LOST_HANDLE = frozenset(("CKR_OBJECT_HANDLE_INVALID", "CKR_KEY_HANDLE_INVALID"))

_CKK_EC_EDWARDS = 0x40  # PKCS #11 v3.0 section 2.3

_KEYS = 4096
"""Keys remembered per process: a host with more identities than this looks some of them up again."""


_NONE: Mapping[str, bytes] = {}


def ckr_name(rv: int) -> str:
    """Name a return value."""
    name = PyKCS11.CKR.get(rv)
    return name if isinstance(name, str) else f"CKR_{rv:#x}"


def trouble(rv: int, what: str) -> PoolError:
    """Make the error for a return value."""
    name = ckr_name(rv)
    detail = f"{what}: {name}"
    if name in _GONE:
        return PoolError(Code.TOKEN_GONE, detail)
    if name in _UNFIT:
        return PoolError(Code.SCHEME_REFUSED, detail)
    if name in _PIN_WRONG:
        return PoolError(Code.PIN_WRONG, detail)
    if name == "CKR_PIN_LOCKED":
        return PoolError(Code.PIN_LOCKED, detail)
    return PoolError(Code.TOKEN_FAILED, detail)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it was found; ``code`` is OK when it can be used."""

    slot: int
    place: dict[str, bytes]
    uri: str
    code: Code
    detail: str

    def __str__(self) -> str:
        return f"{self.uri} {'ready' if self.code is Code.OK else self.code.name}"


@dataclass(frozen=True, slots=True)
class Key:
    """A private key; ``spki`` is empty when the token keeps no public half."""

    token: Token
    handle: int
    kind: KeyKind
    spki: bytes
    spki_sha256: bytes


class Module:
    """A loaded module and the tokens it showed at that time.

    ``station()`` gives a thread its own sessions; everything else is shared and only read after ``open``.
    """

    def __init__(self, path: str) -> None:
        self._library: Any = PyKCS11.PyKCS11Lib()
        try:
            self._library.load(path)
            self._signer = Signer(path)
            info = self._library.getInfo()
        except PyKCS11.PyKCS11Error as error:
            raise PoolError(Code.TOKEN_FAILED, f"cannot load {path}: {_error_text(error)}") from None
        except (OSError, AttributeError, CryptokiError) as error:
            raise PoolError(Code.TOKEN_FAILED, f"cannot load {path}: {error}") from None
        self._about = {
            "manufacturer": info.manufacturerID,
            "description": info.libraryDescription,
            "version": ".".join(str(number) for number in info.libraryVersion),
        }
        self._keepers: list[Any] = []  # a session on each token: the login ends when the last one is closed
        self.tokens: list[Token] = []
        self.keys: dict[str, Key] = {}

    # --- tokens ---------------------------------------------------------------------------------------

    def open(
        self, wanted: Pkcs11Uri, pin_secret: bytes, refused: Collection[str], typed: Mapping[str, bytes] = _NONE
    ) -> None:
        """Log in, once, to every token that is meant.

        ``refused`` names tokens that did not take ``pin_secret``; ``typed`` has PINs for the tokens it names.

        Raises:
            PoolError: the list of slots cannot be had.  What is wrong with one token is in ``tokens``.
        """
        try:
            slots = self._library.getSlotList(tokenPresent=True)
        except PyKCS11.PyKCS11Error as error:
            raise trouble(error.value, "C_GetSlotList") from None
        for slot in slots:
            try:
                info = self._library.getTokenInfo(slot)
                place = self._place(slot, info)
            except PyKCS11.PyKCS11Error:
                continue  # went away between the two calls
            if not info.flags & PyKCS11.CKF_TOKEN_INITIALIZED or not wanted.matches_place(place):
                continue
            name = token_uri(place)
            code, detail = Code.OK, ""
            try:
                if name in typed:
                    self._login(slot, info.flags, typed[name], refused=False)
                else:
                    self._login(slot, info.flags, pin_secret, name in refused)
            except PoolError as error:
                code, detail = error.code, error.detail
            except PyKCS11.PyKCS11Error as error:
                code, detail = (found := trouble(error.value, "C_Login")).code, found.detail
            self.tokens.append(Token(slot, place, name, code, detail))

    def _place(self, slot: int, token: Any) -> dict[str, bytes]:
        slot_info = self._library.getSlotInfo(slot)
        names = {
            "token": token.label,
            "manufacturer": token.manufacturerID,
            "model": token.model,
            "serial": token.serialNumber,
        }
        about = {"manufacturer": slot_info.manufacturerID, "description": slot_info.slotDescription}
        return place_of(names, self._about, about, int(slot))

    def _login(self, slot: int, flags: int, pin_secret: bytes, refused: bool) -> None:
        session = self._library.openSession(slot)
        self._keepers.append(session)
        if not flags & PyKCS11.CKF_LOGIN_REQUIRED:
            return
        if flags & PyKCS11.CKF_USER_PIN_LOCKED:
            raise PoolError(Code.PIN_LOCKED, "CKF_USER_PIN_LOCKED")
        if flags & PyKCS11.CKF_USER_PIN_FINAL_TRY:
            # A daemon must not be what locks the token; a person who logs in elsewhere clears the flag.
            raise PoolError(Code.PIN_LAST_TRY, "CKF_USER_PIN_FINAL_TRY")
        if not pin_secret:
            raise PoolError(Code.PIN_MISSING, "")
        if refused:
            raise PoolError(Code.PIN_WRONG, "refused before, not tried again")
        session.login(pin_secret)

    def verdict(self) -> tuple[Code, str]:
        """Say whether any token can be used, else what is wrong with the first."""
        if not self.tokens:
            return Code.TOKEN_GONE, "no token of this module matches"
        bad = next((token for token in self.tokens if token.code is not Code.OK), None)
        if bad is None or any(token.code is Code.OK for token in self.tokens):
            return Code.OK, ""
        return bad.code, f"{bad.uri}: {bad.detail}" if bad.detail else bad.uri

    def close(self) -> None:
        """Log out and finalise; no thread may be inside a call."""
        self._keepers.clear()
        self._library.unload()

    def station(self) -> Station:
        """Make the sessions of one thread."""
        return Station(self, self._library, self._signer)


def _error_text(error: Any) -> str:
    return ckr_name(error.value) if error.value >= 0 else "no PKCS #11 library, or a library it needs is missing"


class Station:
    """One thread's sessions: at most one per token, opened when first needed."""

    def __init__(self, module: Module, library: Any, signer: Signer) -> None:
        self._module = module
        self._library = library
        self._signer = signer
        self._sessions: dict[int, Any] = {}

    def _session(self, slot: int) -> Any:
        session = self._sessions.get(slot)
        if session is None:
            session = self._sessions[slot] = self._library.openSession(slot)
        return session

    def _forget_session(self, slot: int) -> None:
        """Drop a session whose state is unknown."""
        session = self._sessions.pop(slot, None)
        if session is not None:
            try:
                session.closeSession()
            except PyKCS11.PyKCS11Error:
                return  # it was invalid already

    # --- keys -----------------------------------------------------------------------------------------

    def find(self, uri: str) -> Key:
        """Find the one private key that a URI names.

        Raises:
            PoolError: KEY_URI_MALFORMED, KEY_NOT_FOUND, KEY_AMBIGUOUS, TOKEN_GONE, PIN_*, TOKEN_FAILED.
        """
        key = self._module.keys.get(uri)
        if key is None:
            key = self._look_up(uri)
            if len(self._module.keys) >= _KEYS:
                self._module.keys.clear()
            self._module.keys[uri] = key
        return key

    def _look_up(self, text: str) -> Key:
        uri = parse_untrusted(text)
        uri.wants_private_key()
        tokens = [token for token in self._module.tokens if uri.matches_place(token.place)]
        if not tokens:
            raise PoolError(Code.TOKEN_GONE, "no token that is present matches the URI")
        found: list[tuple[Token, Any]] = []
        for token in tokens:
            if token.code is Code.OK:
                found += [(token, handle) for handle in self._search(token, uri)]
        if len(found) > 1:
            raise PoolError(Code.KEY_AMBIGUOUS, f"{len(found)} private keys match")
        if not found:
            self._explain_absence(tokens)
        token, handle = found[0]
        try:
            return self._describe(token, handle)
        except PyKCS11.PyKCS11Error as error:
            self._forget_session(token.slot)
            raise trouble(error.value, "C_GetAttributeValue") from None

    def _search(self, token: Token, uri: Pkcs11Uri) -> list[Any]:
        template: list[tuple[int, Any]] = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY)]
        key_id, label = uri.attributes.get("id"), uri.attributes.get("object")
        if key_id:
            template.append((PyKCS11.CKA_ID, key_id))
        try:
            session = self._session(token.slot)
            handles = session.findObjects(template)
            # Compared here, not by the template: PyKCS11 takes a label as text, and it may be any octets;
            # and an empty value in a template matches everything on some tokens.
            return [
                handle
                for handle in handles
                if (key_id is None or _attribute(session, handle, PyKCS11.CKA_ID) == key_id)
                and (label is None or _attribute(session, handle, PyKCS11.CKA_LABEL) == label)
            ]
        except PyKCS11.PyKCS11Error as error:
            self._forget_session(token.slot)
            raise trouble(error.value, "C_FindObjects") from None

    def _explain_absence(self, tokens: list[Token]) -> NoReturn:
        """Tell a key that is not there from a token that is not."""
        for token in tokens:
            if token.code is not Code.OK:
                raise PoolError(token.code, f"{token.uri}: {token.detail}" if token.detail else token.uri)
            try:
                present = self._library.getTokenInfo(token.slot).serialNumber.strip().encode()
            except PyKCS11.PyKCS11Error as error:
                raise PoolError(Code.TOKEN_GONE, f"C_GetTokenInfo: {ckr_name(error.value)}") from None
            if present != token.place["serial"]:
                raise PoolError(Code.TOKEN_GONE, "another token is in its slot")
        raise PoolError(Code.KEY_NOT_FOUND, f"looked on {', '.join(token.uri for token in tokens)}")

    def _describe(self, token: Token, handle: Any) -> Key:
        session = self._session(token.slot)
        if any(_attribute(session, handle, PyKCS11.CKA_ALWAYS_AUTHENTICATE)):
            raise PoolError(Code.PIN_MISSING, "the key wants the PIN for each signature (CKA_ALWAYS_AUTHENTICATE)")
        key_type = session.getAttributeValue(handle, [PyKCS11.CKA_KEY_TYPE])[0]
        kind = _kind(key_type, _attribute(session, handle, PyKCS11.CKA_EC_PARAMS))
        spki = self._public_half(session, handle, key_type, kind)
        return Key(token, handle.value(), kind, spki, hashlib.sha256(spki).digest() if spki else b"")

    @staticmethod
    def _public_half(session: Any, handle: Any, key_type: int, kind: KeyKind) -> bytes:
        """Return the SubjectPublicKeyInfo, empty if the token has none.

        An RSA private key shows its own numbers; otherwise the public key with the same CKA_ID counts, and of
        several (CKA_ID is not unique by law) the one with the same label.
        """
        if kind is KeyKind.RSA:
            modulus = _attribute(session, handle, PyKCS11.CKA_MODULUS)
            exponent = _attribute(session, handle, PyKCS11.CKA_PUBLIC_EXPONENT)
            if modulus and exponent:
                return der.rsa_spki(modulus, exponent)
        key_id = _attribute(session, handle, PyKCS11.CKA_ID)
        label = _attribute(session, handle, PyKCS11.CKA_LABEL)
        parameters = _attribute(session, handle, PyKCS11.CKA_EC_PARAMS)
        template = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY), (PyKCS11.CKA_KEY_TYPE, key_type)]
        if key_id:
            template.append((PyKCS11.CKA_ID, key_id))
        halves = [
            public
            for public in session.findObjects(template)
            if _attribute(session, public, PyKCS11.CKA_EC_PARAMS) == parameters
        ]
        named = [public for public in halves if _attribute(session, public, PyKCS11.CKA_LABEL) == label]
        chosen = halves if key_id and len(halves) == 1 else named
        if len(chosen) == 1:
            return _spki(session, chosen[0], kind)
        return _attribute(session, handle, PyKCS11.CKA_PUBLIC_KEY_INFO)  # PKCS #11 v2.40 section 4.9

    def list_keys(self) -> list[str]:
        """Return the URIs of all private keys on tokens that can be used, in order.

        Raises:
            PoolError: TOKEN_GONE, TOKEN_FAILED.
        """
        uris: set[str] = set()
        for token in self._module.tokens:
            if token.code is not Code.OK:
                continue
            try:
                session = self._session(token.slot)
                for handle in session.findObjects([(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY)]):
                    key_id, label = (_attribute(session, handle, n) for n in (PyKCS11.CKA_ID, PyKCS11.CKA_LABEL))
                    uris.add(key_uri(token.place, key_id, label))
            except PyKCS11.PyKCS11Error as error:
                self._forget_session(token.slot)
                raise trouble(error.value, "C_FindObjects") from None
        return sorted(uris)

    # --- signatures -------------------------------------------------------------------------------------

    def sign(self, uri: str, scheme: int, spki_sha256: bytes, content: bytes) -> bytes:
        """Sign recognised content.

        Raises:
            PoolError: as ``find``, and KEY_MISMATCH, SCHEME_REFUSED, TOKEN_FAILED.
        """
        known = uri in self._module.keys
        try:
            return self._sign(self.find(uri), scheme, spki_sha256, content)
        except CryptokiError as error:
            self._module.keys.pop(uri, None)
            if not known or ckr_name(error.rv) not in _LOST_HANDLE:
                raise trouble(error.rv, error.call) from None
        # The key was deleted, and perhaps made again, by another program: look once more.
        try:
            return self._sign(self.find(uri), scheme, spki_sha256, content)
        except CryptokiError as error:
            raise trouble(error.rv, error.call) from None
        except PoolError as error:
            # A key that was there and is not: this process may be blind, a fresh one will know.
            code = Code.TOKEN_GONE if error.code is Code.KEY_NOT_FOUND else error.code
            raise PoolError(code, error.detail) from None

    def _sign(self, key: Key, scheme: int, spki_sha256: bytes, content: bytes) -> bytes:
        if key.spki_sha256 and key.spki_sha256 != spki_sha256:
            raise PoolError(Code.KEY_MISMATCH, f"the token's key is {key.spki_sha256.hex()[:16]}...")
        row = BY_NUMBER.get(scheme)
        if row is None or row.form not in FITS[key.kind]:
            raise PoolError(Code.SCHEME_REFUSED, f"scheme {scheme:#06x} with a key of kind {key.kind.name}")
        slot = key.token.slot
        try:
            session = self._session(slot).session.value()
            return self._signer.sign(session, key.handle, key.kind, row, content)
        except PyKCS11.PyKCS11Error as error:
            raise trouble(error.value, "C_OpenSession") from None
        except ValueError as error:
            raise PoolError(Code.TOKEN_FAILED, f"C_Sign: {error}") from None
        except CryptokiError:
            self._forget_session(slot)
            raise


def _attribute(session: Any, handle: Any, name: int) -> bytes:
    """Return an attribute as octets; empty when the object has none or will not show it."""
    value = session.getAttributeValue_fragmented(handle, [name], allAsBinary=True)[0]
    return b"" if value is None else bytes(value)


def _kind(key_type: int, parameters: bytes) -> KeyKind:
    """Tell the kind of a private key.

    Raises:
        PoolError: SCHEME_REFUSED, TLS has no use for it here.
    """
    if key_type == PyKCS11.CKK_RSA:
        return KeyKind.RSA
    if key_type == PyKCS11.CKK_EC and parameters == der.P256:
        return KeyKind.EC_P256
    if key_type == PyKCS11.CKK_EC and parameters == der.P384:
        return KeyKind.EC_P384
    if key_type == _CKK_EC_EDWARDS:
        return KeyKind.ED25519
    name = PyKCS11.CKK.get(key_type, hex(key_type))
    raise PoolError(Code.SCHEME_REFUSED, f"a key of type {name} {parameters.hex()} is not supported")


def _spki(session: Any, public: Any, kind: KeyKind) -> bytes:
    """Write a public key object as SubjectPublicKeyInfo; empty when its point cannot be read."""
    if kind is KeyKind.RSA:
        modulus = _attribute(session, public, PyKCS11.CKA_MODULUS)
        exponent = _attribute(session, public, PyKCS11.CKA_PUBLIC_EXPONENT)
        return der.rsa_spki(modulus, exponent) if modulus and exponent else b""
    point = _attribute(session, public, PyKCS11.CKA_EC_POINT)
    size = {KeyKind.EC_P256: 65, KeyKind.EC_P384: 97, KeyKind.ED25519: 32}[kind]
    # A DER OCTET STRING by the standard (v2.40 section 2.3.3), bare octets on some tokens
    if len(point) == size + 2 and point[:2] == bytes((4, size)):
        point = point[2:]
    if len(point) != size:
        return b""
    if kind is KeyKind.ED25519:
        return der.ed25519_spki(point)
    return der.ec_spki(der.P256 if kind is KeyKind.EC_P256 else der.P384, point)
