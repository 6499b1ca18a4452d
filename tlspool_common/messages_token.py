"""Border messages between keyd and its token processes.  A part of the border table (messages.py)."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from tlspool_common import limits
from tlspool_common.codec import U16, U32, Items
from tlspool_common.message import Message
from tlspool_common.record import named_record

Prose = Annotated[str, limits.PROSE_B]


@named_record
class TokenOpen(Message):
    """Load the module and log in with this PIN (empty: none is known) to tokens matching ``token_uri``.

    ``pin_refused_by`` names tokens that did not take this PIN before, and must not be asked again.
    ``typed_pin_secrets`` are PINs that somebody typed, for the tokens in ``typed_pin_tokens``, in the same order.
    """

    module: Annotated[str, limits.PATH_B]
    token_uri: Annotated[str, limits.KEY_URI_B]
    pin_secret: Annotated[bytes, limits.PIN_B] = field(repr=False)
    pin_refused_by: Annotated[tuple[str, ...], Items(64, limits.KEY_URI_B)]
    typed_pin_tokens: Annotated[tuple[str, ...], Items(64, limits.KEY_URI_B)] = ()
    typed_pin_secrets: Annotated[tuple[bytes, ...], Items(64, limits.PIN_B)] = field(default=(), repr=False)
    sessions: U16


@named_record
class TokenOpened(Message):
    """``code`` 0: ready.  Otherwise why not; ``tokens`` describes what was found, one line each."""

    code: U16
    detail: Prose
    tokens: Annotated[tuple[str, ...], Items(64, limits.KEY_URI_B)]


@named_record
class TokenSign(Message):
    """Sign recognised content.  ``spki_sha256`` is the public key the caller's certificate names."""

    uri: Annotated[str, limits.KEY_URI_B]
    scheme: U16
    spki_sha256: Annotated[bytes, 32]
    content: Annotated[bytes, limits.SIGN_CONTENT_B]


@named_record
class TokenSigned(Message):
    """The signature in TLS form, or a stable code and the CKR_ name."""

    code: U16
    detail: Prose
    signature: Annotated[bytes, limits.SIGNATURE_B]


@named_record
class TokenFind(Message):
    """Find a private key."""

    uri: Annotated[str, limits.KEY_URI_B]


@named_record
class TokenFound(Message):
    """What was found; ``spki`` is empty when the token keeps no public key."""

    code: U16
    detail: Prose
    spki: Annotated[bytes, limits.SPKI_B]


@named_record
class TokenList(Message):
    """List the private keys on the tokens that can be used, leaving out the first ``skip``."""

    skip: U32


@named_record
class TokenListed(Message):
    """Keys in the order of their URIs, each as ``KIND STATE URI``; ``more`` when there are others behind them."""

    code: U16
    detail: Prose
    keys: Annotated[tuple[str, ...], Items(limits.LISTED_KEYS, limits.KEY_LINE_B)]
    more: bool
