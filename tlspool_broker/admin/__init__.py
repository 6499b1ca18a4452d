"""Operations on the databases, as the broker's control socket offers them: dict in, dict out.

Requests have ``cmd`` and these fields; where a request is bare words, the words behind the command stand for
the fields that are marked with their place.

    localid.set    id, flags, records: [{"uri", "chain": [base64 DER, ...]}]     leaf first
                   (type valexp: [{"uri": EXPRESSION}]); strict: the key must be there
    localid.get    id (1)                    records with certificates, and what is malformed
    localid.list                             identities, their records without certificates
    localid.del    id (1), flags (2)         without flags: everything of that identity
    disclose.set   selector, ids: [...]      the whole list, most preferred first; expression: left as it is if
                                             not given, '' takes it away
    disclose.get   selector (1)              an identity or a selector: the walk, and what is disclosed
    disclose.list
    disclose.del   selector (1)
    trust.set      flags, valexp, data: base64 DER or a list of them; key: hexadecimal (default: each
                   certificate's own key identifier); with flags pinned or revoke: key, and data as stored
    trust.get      key (1): hexadecimal, or data: base64 DER
    trust.list
    trust.del      key (1) or data, flags (2)
    trust.pin      remote (1), sha256 (2) or data, until_s, before_s, flags: roles; alone: no other pin stays
    trust.unpin    remote (1), sha256 (2) or data; none: all of that remote
    trust.pins     remote (1); none: all
    trust.revoke   key (1) or data: the issuer's certificate; serials (2...): hexadecimal, next_update_s;
                   or crl: base64 DER or PEM, signed by an anchor, or by the certificate in data
    trust.unrevoke key (1) or data, serials (2...); none: all that is known of that issuer
    policy.set     key (1): host, service:NAME, localid:IDENTITY; policy (2)
    policy.get     key (1)
    policy.list
    policy.del     key (1)
    batch          operations: [requests that change something]; one transaction, one generation
    history        number (1): of generations, the newest first; or generation: what that one changed
    history.show   generation (1)
    diff           a (1), b (2)              what one generation has that another has not; b: the present one
    rollback       to (1), reason (2)        a new generation, in which everything is as it was

``flags`` is a list of words or one text with commas, such as ``x509,client,server``.  In ``chain`` and
``data`` one base64 text may hold several certificates behind each other.  Every answer has ``generation``,
the number of the state of the databases after the operation; ``warnings``, if there, is for the operator.

Any request that changes something may have ``reason``, ``author`` (for whom the asking user acts: the history has
both), and ``if_generation``: refuse, unless that is the current one.

Identities are brought in normal form.  get and del also find a key exactly as it was written by other tools.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tlspool_broker.admin import disclose, generations, keys, localid, pins, policies, revocations, trust
from tlspool_broker.admin.fields import Answer, Request, Work, author, bad, listed, number, reason
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.history import By
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError

__all__ = ["COMMANDS", "WRITES", "handle"]

_READS: dict[str, Callable[[Databases, Request], Answer]] = {
    "localid.get": localid.get,
    "localid.list": localid.list_all,
    "disclose.get": disclose.get,
    "disclose.list": disclose.list_all,
    "trust.get": trust.get,
    "trust.list": trust.list_all,
    "trust.pins": pins.list_all,
    "policy.get": policies.get,
    "policy.list": policies.list_all,
    "history": generations.history,
    "history.show": generations.show,
    "diff": generations.diff,
}

_SINGLE: dict[str, Callable[[Request], Work]] = {
    "localid.set": localid.set_records,
    "localid.del": localid.delete,
    "disclose.set": disclose.set_list,
    "disclose.del": disclose.delete,
    "trust.set": trust.set_records,
    "trust.del": trust.delete,
    "trust.pin": pins.pin,
    "trust.unpin": pins.unpin,
    "trust.revoke": revocations.revoke,
    "trust.unrevoke": revocations.unrevoke,
    "policy.set": policies.assign,
    "policy.del": policies.delete,
}
"""What may be in a batch."""


def _batch(request: Request) -> Work:
    operations = listed(request, "operations")
    if not operations:
        raise bad("operations is empty")
    if len(operations) > limits.BATCH:
        raise bad(f"operations has {len(operations)} items; at most {limits.BATCH} are one change")
    works: list[tuple[str, Work]] = []
    for place, item in enumerate(operations, 1):
        name = item.get("cmd") if isinstance(item, dict) else None
        where = f"operations[{place}] {name}"
        if not isinstance(item, dict) or not isinstance(name, str) or name not in _SINGLE:
            raise bad(f"{where}: none of {', '.join(_SINGLE)}")
        with _placed(where):
            works.append((where, _SINGLE[name](item)))

    def work(edit: Edit) -> Answer:
        answers = []
        for where, one in works:
            with _placed(where):
                answers.append(one(edit))
        return {"answers": answers}

    return work


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Say which operation of a batch is refused."""
    try:
        yield
    except PoolError as error:
        if error.code is Code.DATABASE:
            raise
        raise PoolError(error.code, f"{where}: {error.detail}") from None


WRITES: dict[str, Callable[[Request], Work]] = {**_SINGLE, "batch": _batch, "rollback": generations.rollback}
"""What makes a generation."""

COMMANDS = (*_READS, *WRITES)
"""Every operation of this package; the control handler passes on what is in here."""


def handle(databases: Databases, request: Request) -> Answer:
    """Carry out a request, where no broker is: a change is this user's, and no private key is looked for.

    Raises:
        PoolError: COMMAND_UNKNOWN, FIELD_MALFORMED, IDENTITY_MALFORMED, RECORD_MALFORMED, LOCALID_UNKNOWN,
            NOT_SUPPORTED_YET, GENERATION_OTHER, GENERATION_UNKNOWN, POLICY_UNKNOWN, SIGNATURE_WRONG, PINS_FULL,
            KEY_UNCHECKED, DATABASE.
    """
    name = str(request.get("cmd"))
    if name in _READS:
        return {"generation": databases.generation, **_READS[name](databases, request)}
    if name not in WRITES:
        raise PoolError(Code.COMMAND_UNKNOWN, f"{request.get('cmd')!r}; known: {', '.join(COMMANDS)}")
    work, wanted = prepare(request)
    keys.judge(wanted, {})
    return apply(databases, request, work, uid=os.getuid(), durable=True)


def prepare(request: Request) -> tuple[Work, list[keys.Wanted]]:
    """Find a request to change something in order; return what is left to be done, and the private keys it names.

    Touches nothing, and may be called in any thread.

    Raises:
        PoolError: as ``handle``.
    """
    work = WRITES[str(request.get("cmd"))](request)
    author(request), reason(request), number(request, "if_generation", default=None)
    return work, keys.wanted(request)


def apply(databases: Databases, request: Request, work: Work, *, uid: int, durable: bool) -> Answer:
    """Do what is left of a request, for a user.

    Not ``durable``: the caller will have the databases ``sync`` before it tells anybody.

    Raises:
        PoolError: as ``handle``.
    """
    by = By(uid, str(request.get("cmd")), author(request), reason(request))
    expected = number(request, "if_generation", default=None)
    answer = databases.change(work, by, if_generation=expected, durable=durable)
    return {"generation": databases.generation, **answer}
