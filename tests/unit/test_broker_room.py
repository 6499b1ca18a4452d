"""Room for sessions: in all, of one user, and on one connection."""

import pytest

from tlspool_broker.connections import Connection
from tlspool_broker.events import Caller
from tlspool_broker.room import Room
from tlspool_common.auditor import Nobody
from tlspool_common.errors import Code, PoolError
from tlspool_common.settings import parse_untrusted


def connection(uid):
    return Connection(uid, Caller(uid, uid, 1), 0)


def refused(room, who):
    with pytest.raises(PoolError) as caught:
        room.check(who)
    return caught.value.code, caught.value.detail


def test_in_all_and_of_one_user():
    room = Room(parse_untrusted("max_sessions 3\nmax_sessions_per_caller 2\n"), Nobody())
    one, other = connection(1), connection(2)
    room.check(one)
    room.enter(1)
    room.enter(1)
    assert refused(room, one) == (Code.TOO_MANY_SESSIONS, "2 of user 1")
    room.check(other)
    room.enter(2)
    assert refused(room, other) == (Code.TOO_MANY_SESSIONS, "3")
    room.leave(1)
    room.check(other)
    room.check(one)
    assert room.users() == [1, 2]
    room.leave(1)
    room.leave(2)
    assert room.users() == []


def test_on_one_connection():
    room = Room(parse_untrusted("max_requests_per_connection 1\n"), Nobody())
    one = connection(1)
    room.check(one)
    one.exchanges[1] = object()
    assert refused(room, one) == (Code.TOO_MANY_REQUESTS, "1")
