"""Lists of the configuration in OpenSSL's syntax: whether this OpenSSL takes them.

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


def check(settings: Settings) -> None:
    """Let OpenSSL read each list.

    Raises:
        SettingError: names each one that it does not take.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    problems = []
    for name, function in _FUNCTIONS.items():
        text = getattr(settings, name)
        if text and getattr(lib, function)(context._context, text.encode("ascii")) != 1:
            take_queue()
            problems.append(Problem(settings.origins.get(name, 0), name, text, "OpenSSL does not take this list"))
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
