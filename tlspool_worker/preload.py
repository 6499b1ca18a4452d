"""Import what would otherwise be imported in the middle of a session, where a worker's sandbox has no files.

cryptography imports many of its modules at their first use, from Rust, where nobody sees it; which ones changes with
its version.  So it is all of them: 20 ms, once, in the master, whose memory the workers share.  Of the standard library
it is codecs, for text in certificates, and what formats a trace of a bug.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
import warnings

import cryptography
from cryptography.utils import CryptographyDeprecationWarning

_CODECS = ("ascii", "idna", "latin_1", "punycode", "unicode_escape", "utf_8", "utf_16_be", "utf_32_be")
"""BMPString is UTF-16, UniversalString is UTF-32, TeletexString is taken for Latin 1."""


def everything() -> None:
    """Import it; to be called in the master, before the sandbox and the first fork.  And warn of no certificates."""
    for module in pkgutil.walk_packages(cryptography.__path__, "cryptography."):
        importlib.import_module(module.name)
    # What strangers write into certificates is no news for standard error.
    warnings.filterwarnings("ignore", category=CryptographyDeprecationWarning)
    for codec in _CODECS:
        "".encode(codec)
    try:
        raise ValueError
    except ValueError:
        traceback.format_exc()  # imports, and reads sources, on the way
