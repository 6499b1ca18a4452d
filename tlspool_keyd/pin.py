"""Where the PIN comes from.  It is read by keyd, sent to token processes, and goes nowhere else.

    1. systemd credential   $CREDENTIALS_DIRECTORY/pkcs11-pin (systemd.exec(5), LoadCredentialEncrypted=)
    2. file                 the setting pkcs11_pin_file: a regular file of ours or root's that only its owner can read
    3. configuration        the setting pkcs11_pin, which is refused in a file that others can read
    4. terminal             asked for once at the start, if standard input is one and there is none of the others
    5. nowhere              people are asked by way of a PIN service (post.py); tokens that want no PIN can be used

The source is chosen at the start and stays.  A file is looked at again when a token had trouble with the PIN, and
at a reload; only a PIN that differs from the one in use counts as a change, as a wrong one must not be tried twice.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import SettingError

CREDENTIAL = "pkcs11-pin"

_SETTING = "pkcs11_pin_file"
_OTHERS = 0o077
_WORLD = 0o007
"""systemd gives credentials to a service of another user by an ACL, which shows as permissions of the group."""

_Seen = tuple[int, ...]
_NEVER: _Seen = ()
_MISSING: _Seen = (0,)


class Origin(Enum):
    """What kind of source it is."""

    CREDENTIAL = "systemd credential"
    FILE = "file"
    CONFIGURATION = "configuration"
    TERMINAL = "terminal"
    NONE = "none"


class PinSource:
    """The PIN in use, and where another one may turn up."""

    def __init__(self, origin: Origin, path: Path | None = None, pin_secret: bytes = b"") -> None:
        self.origin = origin
        self.pin_secret = pin_secret
        self._path = path
        self._seen = _NEVER
        if path is not None:
            self.look()

    def __repr__(self) -> str:
        return f"PinSource({self.origin.value})"

    def look(self) -> bool:
        """See whether the source has another PIN, and take it if so.

        Raises:
            PoolError: SETTING_INVALID or PIN_FILE_EXPOSED, once for each change of the file; the PIN in use stays.
        """
        if self._path is None:
            return False
        forbidden = _WORLD if self.origin is Origin.CREDENTIAL else _OTHERS
        previous, self._seen = self._seen, _MISSING
        try:
            # O_NONBLOCK: a FIFO in its place must not stop us
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                # What is judged is what is read, not what the path means a moment later.
                found = os.fstat(fd)
                self._seen = _seen(found)
                if self._seen == previous:
                    return False
                _judge(self._path, found, forbidden)
                pin_secret = _read(self._path, fd)
            finally:
                os.close(fd)
        except OSError as error:
            if previous == _MISSING:
                return False
            raise SettingError(_SETTING, str(self._path), error.strerror or "cannot be read") from None
        changed = pin_secret != self.pin_secret
        self.pin_secret = pin_secret
        return changed


class Wallet:
    """PINs that people typed, by module and token.  Each is overwritten when it is forgotten.

    XXX Python copies: of a PIN on its way to a token process there are two more copies (TokenOpen, and its frame),
    which are freed, and not overwritten.  keyd's memory is locked, and nobody can read it (lockdown.py).
    """

    def __init__(self) -> None:
        self._pins: dict[tuple[str, str], bytearray] = {}

    def __repr__(self) -> str:
        return f"Wallet({len(self._pins)} PINs)"

    def keep(self, module: str, token_uri: str, pin_secret: bytearray) -> None:
        """Keep a PIN, in place of an older one; it belongs to the wallet from now on."""
        self.forget(module, token_uri)
        self._pins[module, token_uri] = pin_secret

    def forget(self, module: str, token_uri: str) -> None:
        """Wipe the PIN of a token, if there is one."""
        if (pin_secret := self._pins.pop((module, token_uri), None)) is not None:
            wipe(pin_secret)

    def get(self, module: str, token_uri: str) -> bytes:
        """Return the PIN of a token; empty if there is none."""
        return bytes(self._pins.get((module, token_uri), b""))

    def close(self) -> None:
        """Wipe all."""
        for module, token_uri in list(self._pins):
            self.forget(module, token_uri)


def wipe(secret: bytearray) -> None:
    """Overwrite, in place."""
    secret[:] = bytes(len(secret))


def _seen(found: os.stat_result) -> _Seen:
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _judge(path: Path, found: os.stat_result, forbidden: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SettingError(_SETTING, str(path), "must be a regular file")
    if found.st_uid not in (os.geteuid(), 0):
        raise PoolError(Code.PIN_FILE_EXPOSED, f"{path} belongs to user {found.st_uid}")
    if found.st_mode & forbidden:
        raise PoolError(Code.PIN_FILE_EXPOSED, f"{path} has mode {stat.S_IMODE(found.st_mode):04o}")


def _read(path: Path, fd: int) -> bytes:
    pin_secret = os.read(fd, limits.PIN_B + 3).rstrip(b"\r\n")
    if not 0 < len(pin_secret) <= limits.PIN_B or any(octet in pin_secret for octet in b"\r\n\0"):
        raise SettingError(_SETTING, str(path), f"must hold the PIN, one line of 1 to {limits.PIN_B} bytes")
    return pin_secret


def find(
    pin_file: Path | None,
    environment: Mapping[str, str],
    ask: Callable[[], str] | None,
    configured_secret: str | None = None,
) -> PinSource:
    """Choose the source and take the PIN from it.  ``ask`` asks at the terminal; None: there is none.

    Raises:
        PoolError: SETTING_INVALID or PIN_FILE_EXPOSED, the PIN cannot be had where it should be.
    """
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    if directory.startswith("/") and (path := Path(directory, CREDENTIAL)).exists():
        return PinSource(Origin.CREDENTIAL, path)
    if pin_file is not None:
        return PinSource(Origin.FILE, pin_file)
    if configured_secret is not None:
        return PinSource(Origin.CONFIGURATION, pin_secret=_fitting("pkcs11_pin", configured_secret))
    if ask is not None and (typed_secret := ask()):
        return PinSource(Origin.TERMINAL, pin_secret=_fitting("PIN", typed_secret))
    return PinSource(Origin.NONE)


def _fitting(name: str, pin_secret: str) -> bytes:
    found_secret = pin_secret.encode("utf-8", "surrogateescape")
    if len(found_secret) > limits.PIN_B:
        raise SettingError(name, "(secret)", f"has more than {limits.PIN_B} bytes")
    return found_secret
