"""Which crypto policy a session is under: the one that was assigned most specifically.

    1. policy.db: that of the local identity, of the service, or of the host; in that order
    2. the configuration: ``tls_policy``, with the lists (``tls_groups`` ...) that stand there in place of its own

Two things no policy gets around: the versions from ``tls_min_version`` to ``tls_max_version``, and what
``quantum_proof_...`` demands.  For a server whose identity follows from the name that its client asks for, this is
asked once more when that is known: nothing of the handshake is settled before.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Protocol

from tlspool_common.errors import Code, PoolError
from tlspool_common.policies import POLICIES, CryptoPolicy
from tlspool_common.settings import VERSIONS, Settings

_LISTS = (
    ("groups", "tls_groups"),
    ("ciphers_tls12", "tls_ciphers12"),
    ("ciphersuites_tls13", "tls_ciphersuites13"),
    ("sigalgs", "tls_sigalgs"),
)


class Assigned(Protocol):
    """What is asked of the databases."""

    def crypto_policy(self, service: str, localid: str) -> str:
        """Return the name of the policy that was assigned most specifically, '' for none."""


def choose(settings: Settings, records: Assigned, service: str, localid: str) -> CryptoPolicy:
    """Return the policy for a session; ``localid`` is '' while it is not known.

    Raises:
        PoolError: POLICY_UNKNOWN, POLICY_EMPTY; or what the databases raise.
    """
    name = records.crypto_policy(service, localid)
    origins = settings.origins
    lists = () if name else tuple((own, getattr(settings, given)) for own, given in _LISTS if given in origins)
    return _made(
        name or settings.tls_policy, lists, settings.tls_min_version, settings.tls_max_version, _also(settings)
    )


def _also(settings: Settings) -> str:
    if settings.quantum_proof_authentication:
        return "Q"
    return "q" if settings.quantum_proof_encryption or settings.quantum_proof_handshake else ""


@lru_cache(maxsize=256)  # policies times configurations of one broker's life
def _made(name: str, lists: tuple[tuple[str, str], ...], lowest: str, highest: str, also: str) -> CryptoPolicy:
    policy = POLICIES.get(name)
    if policy is None:
        raise PoolError(Code.POLICY_UNKNOWN, f"{name!r}; there are {', '.join(POLICIES)}")
    tls_min, tls_max = max(policy.tls_min, VERSIONS[lowest]), min(policy.tls_max, VERSIONS[highest])
    if tls_min > tls_max:
        raise PoolError(Code.POLICY_EMPTY, f"{name}, with tls_min_version {lowest} and tls_max_version {highest}")
    expression = _both(policy.expression, also)
    return replace(policy, tls_min=tls_min, tls_max=tls_max, expression=expression, **dict(lists))


def _both(one: str, other: str) -> str:
    if not one or not other or one == other:
        return one or other
    return f"{one}{other}&"
