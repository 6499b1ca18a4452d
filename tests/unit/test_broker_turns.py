"""Whose turn it is to get a worker."""

from types import SimpleNamespace

from tlspool_broker.turns import Turns


def session(number, uid):
    return SimpleNamespace(session_id=number, caller=SimpleNamespace(uid=uid))


def test_users_take_turns_and_sessions_queue():
    turns = Turns()
    waiting = [session(number, uid) for number, uid in enumerate([1, 1, 1, 2, 3])]
    for one in waiting:
        turns.add(one)
    assert turns.users() == [1, 2, 3]
    assert turns.take(1) == (waiting[0], True)
    assert turns.users() == [2, 3, 1]
    assert turns.take(2) == (waiting[3], False)
    assert turns.users() == [3, 1]
    assert turns.take(3) == (waiting[4], False)
    assert turns.take(1) == (waiting[1], True)
    assert turns.take(1) == (waiting[2], False)
    assert turns.users() == []


def test_a_session_may_leave():
    turns = Turns()
    first, second = session(1, 1), session(2, 1)
    turns.add(first)
    turns.add(second)
    assert turns.remove(first)
    assert not turns.remove(first)
    assert turns.take(1) == (second, False)
    assert not turns.remove(second)
    assert not turns.remove(session(3, 9))
