"""From facts to letters: what each predicate means, and why it has the value that it has.

A predicate is None, not known, for three reasons: nobody has been asked yet (SLOW), this pool cannot find out at all
(``DdGg``), or there was no handshake.  Without a credential of the remote all that is about the credential is false.

An upper-case letter wants proof, its lower-case one is content if nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Callable

from tlspool_broker.validation import levels, pinning, revocation, usages
from tlspool_broker.validation.facts import LONGER, Answer, Context, Facts, is_longer
from tlspool_common.errors import TABLE as ERRORS
from tlspool_common.errors import Code
from tlspool_common.identity import best_name, parse_untrusted, remote_matches
from tlspool_common.messages import RemoteAuth, Side
from tlspool_common.messages_judging import RemoteShown

SLOW = frozenset("RrOo")
"""What somebody else has to be asked about."""

WITHOUT_CREDENTIAL = frozenset("FfAaSsCcqu")
"""What is about the session, and has an answer when the remote shows no credential."""

ROLES = frozenset("SsCc")
"""What says who we are, and nothing about the remote."""

MEANINGS = {
    "L": "every key and signature in the chain has 128 bits of security",
    "l": "every key and signature in the chain has 112 bits of security",
    "I": "the certificate names exactly whom the application expects; anybody, if it expects nobody",
    "i": "the same, or it names the domain of the expected user",
    "F": "the key exchange is ephemeral",
    "f": "the key exchange is ephemeral",
    "A": "the certificates are hidden from who only listens (TLS 1.3)",
    "a": "always true",
    "T": "the chain leads to a trust anchor, and everything about it is in order",
    "t": "the same, or the certificate is self-signed, and in date",
    "D": "DANE: proved by secure DNS",
    "d": "DANE: proved by secure DNS, or proved that nothing is there",
    "R": "a valid revocation list says for the whole chain that it is not revoked",
    "r": "the same, or there is no such list",
    "E": "the extended key usage of the service is there, and critical",
    "e": "the extended key usage of the service is there",
    "O": "an OCSP responder says that the certificate is good",
    "o": "the same, or no responder knows about it",
    "G": "the Global Directory has the certificate",
    "g": "the Global Directory has it, or nothing about the remote",
    "P": "the certificate is pinned for the remote",
    "p": "the same, or nothing is pinned for it: then this certificate will be",
    "U": "the remote has proved to be a user of a domain",
    "u": "always true",
    "S": "we are the server, with a credential for servers only",
    "s": "we are the server",
    "C": "we are the client, with a credential for clients only",
    "c": "we are the client",
    "Q": "key exchange, and every key in the chain, withstand quantum computers",
    "q": "the key exchange withstands quantum computers",
}

_TLS13 = (0x0304, 0xFEFC)
_TLS12 = (0x0303, 0xFEFD)
_EPHEMERAL = ("ECDHE-", "DHE-", "TLS_ECDHE_", "TLS_DHE_")

_NO_VERSION = Answer(None, "the TLS version is not known of the handshake")
_NO_CIPHER = Answer(None, "version and cipher are not known of the handshake")
_NO_GROUP = Answer(None, "the key exchange is not known of the handshake")
"""A certificate may be judged without a handshake, or with half of one, by an operator who wants to know."""

Predicate = Callable[[Facts, RemoteShown], Answer]
"""What looks at a credential that is there."""


def answer(letter: str, facts: Facts) -> Answer:
    """Return the value of one predicate and the reason.

    Raises:
        PoolError: what the databases raise, for P p R r O o.
    """
    if letter in WITHOUT_CREDENTIAL:
        return _OF_SESSION[letter](facts)
    if facts.shown is None:
        return _unseen(facts.context)
    return _OF_CREDENTIAL[letter](facts, facts.shown)


def _unseen(context: Context) -> Answer:
    if context.remote_auth is RemoteAuth.IGNORE:
        return Answer(False, "the application does not ask who the remote is")
    return Answer(False, "the remote showed no certificate", Code.CERTIFICATE_MISSING)


# --- about the session ------------------------------------------------------------------------------


def _ephemeral(facts: Facts) -> Answer:
    if facts.tls_version in _TLS13:
        return Answer(True, "always in TLS 1.3")
    if not facts.cipher:
        return _NO_CIPHER
    ephemeral = facts.tls_version in _TLS12 and facts.cipher.upper().startswith(_EPHEMERAL)
    return Answer(ephemeral, f"the cipher is {facts.cipher}")


def _concealed(facts: Facts) -> Answer:
    if not facts.tls_version:
        return _NO_VERSION
    if facts.tls_version in _TLS13:
        return Answer(True, "certificates are encrypted in TLS 1.3")
    return Answer(False, "certificates are sent in the clear before TLS 1.3")


def _always(_facts: Facts) -> Answer:
    return Answer(True, "it demands nothing")


def _side(facts: Facts, side: Side) -> Answer:
    return Answer(facts.context.side is side, f"we are the {facts.context.side.name.lower()}")


def _side_only(facts: Facts, side: Side) -> Answer:
    if facts.context.side is not side:
        return _side(facts, side)
    if facts.context.local_sides == side:
        return Answer(True, f"our credential is for the {side.name.lower()} role only")
    if facts.context.local_sides:
        return Answer(False, "our credential may be used in the other role too")
    return Answer(False, "we show no credential")


def _group(facts: Facts) -> Answer:
    if levels.group_resists_quantum(facts.group):
        return Answer(True, f"the key exchange is {facts.group}")
    if not facts.group and (not facts.tls_version or facts.tls_version in _TLS13):
        return _NO_GROUP
    return Answer(False, f"the key exchange is {facts.group or 'a classical one'}", Code.NOT_POST_QUANTUM)


_OF_SESSION: dict[str, Callable[[Facts], Answer]] = {
    "F": _ephemeral,
    "f": _ephemeral,
    "A": _concealed,
    "a": _always,
    "u": _always,
    "S": lambda facts: _side_only(facts, Side.SERVER),
    "s": lambda facts: _side(facts, Side.SERVER),
    "C": lambda facts: _side_only(facts, Side.CLIENT),
    "c": lambda facts: _side(facts, Side.CLIENT),
    "q": _group,
}


# --- about the credential ---------------------------------------------------------------------------


def _chain(facts: Facts, shown: RemoteShown) -> Answer:
    if shown.fault == Code.OK:
        return Answer(True, f"the chain leads to anchor {shown.anchor_sha256.hex()[:16]}")
    return Answer(False, shown.detail or ERRORS[facts.fault].happened, facts.fault)


def _chain_or_self(facts: Facts, shown: RemoteShown) -> Answer:
    trusted = _chain(facts, shown)
    if trusted.value or not shown.self_signed:
        return trusted
    if facts.fault is not Code.SELF_SIGNED:
        return trusted  # a worker says "self-signed" only if nothing else is wrong
    if shown.not_after_s and facts.context.now_s > shown.not_after_s:
        return Answer(
            False, f"the self-signed certificate has expired on {revocation.day(shown.not_after_s)}", Code.EXPIRED
        )
    return Answer(True, "the certificate is self-signed, and its signature is good")


def _name(facts: Facts, shown: RemoteShown, domain_represents_user: bool) -> Answer:
    expected = facts.context.expected
    if expected is None:
        name = best_name(shown.names)
        if name:
            return Answer(True, f"nobody in particular is expected, and it is {name}")
        return Answer(False, "the certificate names nobody", Code.NAME_MISMATCH)
    if remote_matches(expected, shown.names, domain_represents_user):
        return Answer(True, f"the certificate proves {expected}")
    names = ", ".join(shown.names[:8])[:300] or "nobody"
    return Answer(False, f"{expected} is expected, the certificate names {names}", Code.NAME_MISMATCH)


def _user(facts: Facts, shown: RemoteShown) -> Answer:
    proved = _name(facts, shown, domain_represents_user=False)
    if not proved.value:
        return proved
    donai = facts.context.expected or parse_untrusted(best_name(shown.names))
    if donai.user is not None:
        return Answer(True, f"the certificate proves the user {donai}")
    return Answer(False, f"the certificate proves {donai}, which is no user", Code.NAME_MISMATCH)


def _usage(facts: Facts, shown: RemoteShown, wants_critical: bool) -> Answer:
    service = facts.context.service
    oid = usages.required(service, facts.context.side)
    there, critical = usages.has(shown.usages, oid)
    what = f"extended key usage {usages.named(oid)}" + (f" (for {service})" if service else "")
    if not there:
        return Answer(False, f"{what} is not in the certificate", Code.WRONG_PURPOSE)
    if wants_critical and not critical:
        return Answer(False, f"{what} is not critical", Code.WRONG_PURPOSE)
    return Answer(True, f"{what} is there" + (", and critical" if critical else ""))


def _level(_facts: Facts, shown: RemoteShown, least: int) -> Answer:
    if not shown.strengths:
        return Answer(False, "nothing is known of the keys in the chain", Code.KEY_WEAK)
    if is_longer(shown):
        return Answer(False, LONGER, Code.KEY_WEAK)
    bits, which = levels.weakest(shown.strengths, bool(shown.anchor_sha256))
    if bits >= least:
        return Answer(True, f"{which}: {bits} bits of security, {least} are wanted")
    return Answer(False, f"{which}: {bits or 'no known'} bits of security, {least} are wanted", Code.KEY_WEAK)


def _quantum(facts: Facts, shown: RemoteShown) -> Answer:
    exchange = _group(facts)
    if exchange.value is False:
        return exchange
    classical = levels.first_classical(shown.strengths) if shown.strengths else "nothing is known of the chain's keys"
    if is_longer(shown):
        classical = LONGER
    if classical:
        return Answer(False, classical, Code.NOT_POST_QUANTUM)
    if exchange.value is None:
        return exchange
    return Answer(True, f"{exchange.why}, and all keys in the chain are post-quantum")


# --- what cannot be found out -----------------------------------------------------------------------


def _dane(_facts: Facts, _shown: RemoteShown) -> Answer:
    return Answer(None, "this pool does not look up DANE records")


def _directory(_facts: Facts, _shown: RemoteShown) -> Answer:
    return Answer(None, "this pool does not ask the Global Directory")


_OF_CREDENTIAL: dict[str, Predicate] = {
    "L": lambda facts, shown: _level(facts, shown, levels.STRONG),
    "l": lambda facts, shown: _level(facts, shown, levels.ALTERNATIVE),
    "I": lambda facts, shown: _name(facts, shown, domain_represents_user=False),
    "i": lambda facts, shown: _name(facts, shown, domain_represents_user=True),
    "T": _chain,
    "t": _chain_or_self,
    "D": _dane,
    "d": _dane,
    "R": lambda facts, shown: revocation.lists(facts, shown, wants_proof=True),
    "r": lambda facts, shown: revocation.lists(facts, shown, wants_proof=False),
    "E": lambda facts, shown: _usage(facts, shown, wants_critical=True),
    "e": lambda facts, shown: _usage(facts, shown, wants_critical=False),
    "O": lambda facts, shown: revocation.responder(facts, shown, wants_proof=True),
    "o": lambda facts, shown: revocation.responder(facts, shown, wants_proof=False),
    "G": _directory,
    "g": _directory,
    "P": pinning.pinned,
    "p": pinning.pinned_or_first,
    "U": _user,
    "Q": _quantum,
}
