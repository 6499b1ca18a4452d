"""Lists in OpenSSL's syntax: giving them to OpenSSL, and whether it takes those of the configuration.

Only a worker has OpenSSL, so that only its master can tell.  The broker sends the lists, and a list that OpenSSL
does not take would end every handshake.
"""

from __future__ import annotations

from pathlib import Path

from OpenSSL import SSL
from OpenSSL._util import lib

from tlspool_common import settings as config
from tlspool_common.settings import Part, Problem, SettingError, Settings
from tlspool_worker.tls_errors import take_queue

_FUNCTIONS = {
    "tls_groups": "SSL_CTX_set1_curves_list",
    "tls_ciphers12": "SSL_CTX_set_cipher_list",
    "tls_ciphersuites13": "SSL_CTX_set_ciphersuites",
    "tls_sigalgs": "SSL_CTX_set1_sigalgs_list",
}


def fault(context: SSL.Context, name: str, text: str) -> str:
    """Let a context have a list, '' for OpenSSL's own; return why that cannot be, '' when it is done."""
    if not text:
        return ""
    give = getattr(lib, _FUNCTIONS[name], None)
    if give is None:
        return "this version of cryptography cannot set it"
    if give(context._context, text.encode("ascii", "replace")) == 1:
        return ""
    take_queue()
    return "OpenSSL does not take this list; docs/policies.md has examples of what it takes"


def check(settings: Settings) -> None:
    """Let OpenSSL read each list.

    Raises:
        SettingError: names each one that it does not take.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    problems = []
    for name in _FUNCTIONS:
        text = getattr(settings, name)
        if why := fault(context, name, text):
            problems.append(Problem(settings.origins.get(name, 0), name, text, why))
    if problems:
        raise SettingError.of(problems)


def load(path: Path) -> Settings:
    """Read a worker's part of a configuration, with its lists.

    Raises:
        SettingError: names what is wrong.
    """
    settings = config.load(path, Part.WORKER)
    check(settings)
    return settings
