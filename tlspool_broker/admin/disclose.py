"""``disclose.*``: whom we tell who we are."""

from __future__ import annotations

from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, bad, listed, raw, text, texts, warned
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.entries import Entry, Name, shown_key
from tlspool_broker.records import Disclosed, conjoined
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import generalise, parse_selector_untrusted, parse_untrusted


def set_list(request: Request) -> Work:
    """Set what a selector discloses."""
    selector = parse_selector_untrusted(text(request, "selector"))
    expression = request.get("expression")
    if expression is not None and not isinstance(expression, str):
        raise bad("expression must be text")
    donais = [parse_untrusted(one) for one in texts(listed(request, "ids", [] if expression else None), "ids")]
    if not donais and not expression:
        raise bad("ids is empty; disclose.del deletes")

    def work(edit: Edit) -> Answer:
        edit.disclose_set(selector, donais, expression)
        return {"selector": str(selector), **_said(edit.disclose_entry(selector))}

    return work


def get(databases: Databases, request: Request) -> Answer:
    """Show the walk from an identity or a selector, and what is disclosed."""
    asked = parse_selector_untrusted(text(request, "selector", 0))
    walk = []
    hit = ""
    malformed: list[str] = []
    said: dict[str, object] = {}
    for selector in generalise(asked):
        entry = databases.disclose_entry(raw(selector))
        present = bool(entry.good or entry.bad)
        walk.append({"selector": selector, "present": present})
        if present:
            hit, malformed, said = selector, shown.details(entry), _said(entry)
            break
    return {
        "asked": str(asked),
        "walk": walk,
        "selector": hit,
        **said,
        "ids": databases.disclosed(asked),
        "malformed": malformed,
    }


def list_all(databases: Databases, _request: Request) -> Answer:
    """Show all selectors."""
    return {
        "selectors": [
            {"selector": shown_key(Name.DISCLOSE, entry.key), **_said(entry), "malformed": shown.details(entry)}
            for entry in databases.disclose_list()
        ]
    }


def delete(request: Request) -> Work:
    """Remove a selector."""
    wanted = text(request, "selector", 0)
    keys = [raw(wanted)]
    try:
        keys.insert(0, parse_selector_untrusted(wanted))
    except PoolError as error:
        if error.code is not Code.IDENTITY_MALFORMED:
            raise

    def work(edit: Edit) -> Answer:
        removed = next((count for key in keys if (count := edit.disclose_del(key))), 0)
        return warned({"selector": wanted, "removed": removed}, [] if removed else [f"there is no selector {wanted}"])

    return work


def _said(entry: Entry[Disclosed]) -> dict[str, object]:
    """Return the identities of a selector, and its expression if there is one."""
    expressions = [one.expression for one in entry.good if one.expression]
    return {
        "ids": [one.identity for one in entry.good if one.identity],
        **({"expression": conjoined(expressions)} if expressions else {}),
    }
