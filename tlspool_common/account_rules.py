"""Account rules as the configuration has them: which program may ask RADIUS about whom, and account for whom.

    account NAME allow|deny [CRITERION=VALUE[,VALUE...]] ...

The criteria are those of access rules: socket, user, group, unit, exe, localid, service; and

    remoteid  identity or selector of whom is asked about, or accounted for; ``-`` is a remote without identity

The first rule that applies decides.  Where none does, and without rules, a program may ask about and account for the
remotes of sessions that relay and are its own user's, at the identity that we have in these sessions, and nobody else.
A rule that denies holds for these sessions, too.

Without a session a program says for itself which ``localid`` and which ``service`` it means, as with access rules; a
rule that allows should name ``remoteid``, and a user, a unit or a program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tlspool_common.access import Rule, caller_casts, read_verdict, selector, session_casts


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRule(Rule):
    """A rule; criteria that are empty apply to everything."""

    allow: bool
    localids: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    remoteids: frozenset[str] = frozenset()


def parse_account(text: str, uid: Callable[[str], int], gid: Callable[[str], int]) -> AccountRule:
    """Read what is behind ``account``; ``uid`` and ``gid`` look up names of users and groups.

    Raises:
        ValueError: what is wrong with it.
    """
    casts = {**caller_casts(uid, gid), **session_casts(), "remoteid": ("remoteids", selector)}
    del casts["role"]  # who asks without a session has none
    return AccountRule(**read_verdict(text, casts))
