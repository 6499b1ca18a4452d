"""Whose a worker is: what it is told, what it shows, and what the master reads of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_admin.tree import _KINDS
from tlspool_broker.briefing import owner_of
from tlspool_broker.events import Caller
from tlspool_broker.session import State
from tlspool_common.messages import WorkerOwner
from tlspool_worker.master_shell import title_untrusted
from tlspool_worker.sessions import Sessions


@pytest.mark.parametrize(
    ("fields", "isolation", "owner"),
    [
        ({"unit": "postfix.service"}, "application", "uid 89 (postfix)"),
        ({"unit": "user@89.service"}, "connection", "uid 89 (user@89)"),
        ({"unit": "postfix.service", "certain": False}, "application", "uid 89"),
        ({"unit": "x" * 200 + ".service"}, "application", "uid 89"),
        ({"command": "mx.example.com"}, "application", "uid 89"),
        ({"unit": "postfix.service"}, "pool", "everybody"),
    ],
)
def test_owners(fields, isolation, owner):
    assert owner_of(Caller(89, 89, 815, **fields), isolation) == owner


def test_titles():
    core = Sessions(3, lambda effect: None)
    assert core.title == "worker 3, 0 sessions"
    core.broker_said(WorkerOwner(owner="uid 1000 (postfix)"))
    assert core.title == "worker 3 of uid 1000 (postfix), 0 sessions"
    assert title_untrusted(f"tlspool-worker: {core.title}\0\0".encode()) == core.title


@given(st.binary(max_size=400))
def test_any_title_is_printable_and_short(data):
    title = title_untrusted(data)
    assert title.isprintable()
    assert len(title) <= 256


def test_completion_knows_all_states():
    assert set(_KINDS["STATE"][1:].split()) == {state.name.lower() for state in State} - {"over"}
