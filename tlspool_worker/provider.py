"""Bring our OpenSSL provider into effect, and make sure that it is.

libcrypto reads OPENSSL_CONF once, when it is initialised.  With Debian's python3-openssl that happens as soon
as ``hashlib`` is used, so the variable has to be there at exec: ``ensure`` writes the configuration to a
memfd and executes this process again.  The memfd stays open for as long as the variable names it: any other
libcrypto in the process reads the same file, and the number must not come to mean something else.

A provider that is missing is not an error in OpenSSL; ``self_test`` is what makes it one (fail closed: a worker
without the provider must not start).
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
import warnings
from pathlib import Path

from tlspool_common.errors import Code, PoolError, code_of

SHARED_OBJECT = Path(__file__).resolve().parent / "native" / "tlspool_provider.so"

VERSION = "1"
"""As in native/provider.h; a shared object of another version was left over by an earlier build."""

_ATTEMPT = "TLSPOOL_PROVIDER_EXEC"
"""Environment variable: pid of the process that has executed itself already (exec keeps the pid)."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

# The section's name sorts behind "default", and default_properties prefers the default provider for everything
# that both offer: without either, our key management would be asked first for software keys too.
_CONFIGURATION = """openssl_conf = openssl_init
[openssl_init]
providers = provider_list
alg_section = evp_properties
[provider_list]
default = default_section
tlspool = tlspool_section
[default_section]
activate = 1
[tlspool_section]
module = {module}
activate = 1
[evp_properties]
default_properties = ?provider=default
"""


def configuration(module: Path) -> str:
    """Return the text of the OpenSSL configuration (config(5)) that activates a provider."""
    return _CONFIGURATION.format(module=re.sub(r"([\\$#;\"'`])", r"\\\1", str(module)))


def configuration_fd() -> int:
    """Return the descriptor that OPENSSL_CONF names, which must stay open; -1 when it names none."""
    number = os.environ.get("OPENSSL_CONF", "").removeprefix("/proc/self/fd/")
    return int(number) if number.isdigit() else -1


def _is_in_effect() -> bool:
    """Whether OPENSSL_CONF names, in this very process, a file with our configuration."""
    path = os.environ.get("OPENSSL_CONF", "")
    try:
        return path.startswith("/proc/self/fd/") and Path(path).read_bytes() == configuration(SHARED_OBJECT).encode()
    except OSError:
        return False


def ensure() -> None:
    """Return with the provider configured; the first call executes the process again to get there.

    To be called before anything is opened, and before threads are started.

    Raises:
        PoolError: PROVIDER_ABSENT, the shared object was not built, or executing again did not help.
    """
    if _is_in_effect():
        return
    if not SHARED_OBJECT.exists():
        raise PoolError(Code.PROVIDER_ABSENT, f"{SHARED_OBJECT} does not exist")
    if os.environ.get(_ATTEMPT) == str(os.getpid()):
        raise PoolError(Code.PROVIDER_ABSENT, "OPENSSL_CONF does not survive the execution of this program")
    memory_fd = os.memfd_create("openssl.cnf", os.MFD_ALLOW_SEALING)  # not closed by exec
    os.write(memory_fd, configuration(SHARED_OBJECT).encode())
    fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, _SEALS)
    os.environ["OPENSSL_CONF"] = f"/proc/self/fd/{memory_fd}"
    os.environ[_ATTEMPT] = str(os.getpid())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same program again


def self_test() -> None:
    """Load a key reference through OpenSSL, and hold the version of the provider that did it against ours.

    Raises:
        PoolError: PROVIDER_ABSENT, the provider is not in effect, or is another version.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from OpenSSL import crypto

    from tlspool_common.messages import KeyKind
    from tlspool_worker import keyref

    # The C side tells its version only when it refuses a reference of another one: pyOpenSSL has no way to ask.
    unfit = keyref.armour(b"\x30\x03\x04\x01\x00")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        reference = keyref.encode(KeyKind.EC_P256, spki, ours.fileno(), 100, b"self-test")
        try:
            crypto.load_privatekey(crypto.FILETYPE_PEM, unfit)
            version = None
        except crypto.Error as error:
            version = _version_from_openssl(error)
        if version is None:
            raise PoolError(Code.PROVIDER_ABSENT, f"OpenSSL has not loaded {SHARED_OBJECT}")
        if version != VERSION:
            raise PoolError(Code.PROVIDER_ABSENT, f"{SHARED_OBJECT} has version {version}, not {VERSION}")
        try:
            key = crypto.load_privatekey(crypto.FILETYPE_PEM, reference)
            if crypto.dump_publickey(crypto.FILETYPE_ASN1, key) != spki:
                raise PoolError(Code.PROVIDER_ABSENT, "a key reference comes back as another key")
        except crypto.Error as error:
            raise PoolError(Code.PROVIDER_ABSENT, f"a key reference does not load: {error}") from None


def _reasons(error: Exception) -> list[str]:
    """Return the reason texts of our provider in an OpenSSL.SSL.Error or OpenSSL.crypto.Error."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return [item[2] for item in queue if len(item) == 3 and item[0] == "tlspool"]


def _version_from_openssl(error: Exception) -> str | None:
    for reason in _reasons(error):
        found = re.fullmatch(r"\[702\] .* provider version (\S+)", reason)
        if found:
            return found[1]
    return None


def code_from_openssl(error: Exception) -> Code | None:
    """Find the stable code in an error that our provider raised; None when it raised none.

    The number stands in brackets before the reason: ``('tlspool', '', '[508] the token is not present')``.
    """
    for reason in _reasons(error):
        found = re.match(r"\[(\d{3})\] ", reason)
        if found:
            return code_of(int(found[1]))
    return None
