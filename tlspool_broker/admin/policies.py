"""``policy.*``: which crypto policy is for whom."""

from __future__ import annotations

from tlspool_broker import records
from tlspool_broker.admin import shown
from tlspool_broker.admin.fields import Answer, Request, Work, text, warned
from tlspool_broker.databases import Databases
from tlspool_broker.edit import Edit
from tlspool_broker.entries import Name, shown_key
from tlspool_common.errors import Code, PoolError
from tlspool_common.identity import parse_untrusted
from tlspool_common.policies import POLICIES

_LOCALID = "localid:"


def assign(request: Request) -> Work:
    """Assign a policy."""
    key, name = _key(request), text(request, "policy", 1)
    if name not in POLICIES:
        raise PoolError(Code.POLICY_UNKNOWN, f"{name[:64]}; there are {', '.join(POLICIES)}")

    def work(edit: Edit) -> Answer:
        edit.policy_set(key, name)
        identity = key.removeprefix(_LOCALID)
        unknown = identity != key and not edit.localid_entry(parse_untrusted(identity)).good
        warnings = [f"{identity} is no local identity yet"] if unknown else []
        return warned({"key": key, "policy": name}, warnings)

    return work


def delete(request: Request) -> Work:
    """Take an assignment away."""
    key = _key(request)

    def work(edit: Edit) -> Answer:
        removed = int(bool(edit.policy_get(key)))
        edit.policy_set(key, "")
        return warned({"key": key, "removed": removed}, [] if removed else ["nothing was there to be removed"])

    return work


def get(databases: Databases, request: Request) -> Answer:
    """Show the policy that is assigned to somebody; '' for none."""
    key = _key(request)
    names = [entry.good for entry in databases.policy_list() if entry.key == key.encode()]
    return {"key": key, "policy": names[0][0] if names and names[0] else ""}


def list_all(databases: Databases, _request: Request) -> Answer:
    """Show all assignments."""
    return {
        "policies": [
            {
                "key": shown_key(Name.POLICY, entry.key),
                "policy": entry.good[0] if entry.good else "",
                "malformed": shown.details(entry),
            }
            for entry in databases.policy_list()
        ]
    }


def _key(request: Request) -> str:
    key = text(request, "key", 0)
    if key.startswith(_LOCALID):
        key = f"{_LOCALID}{parse_untrusted(key.removeprefix(_LOCALID))}"
    records.check_policy_key(key)
    return key
