"""Strangers try to have themselves pinned: for somebody else, in another role, beside the first, beyond number."""

import pytest

from tests.fixtures.databases import Databases
from tests.playbook.broker import SERVER
from tests.playbook.test_broker_judging import LEAF, begun, demand, shows
from tlspool_broker.history import By
from tlspool_broker.trustdata import Pin
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import EndSession, HandshakeDone, PlainConnected, Side

NOW_S = 1_700_000_000
OURS, THEIRS, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def databases(tmp_path):
    made = Databases(tmp_path / "db", now_s=lambda: NOW_S)
    yield made
    made.close()


def of_side(databases, remote, side):
    return {pin.sha256 for pin in databases.pins(remote) if pin.for_sides & side}


def refuses(databases, *arguments):
    with pytest.raises(PoolError) as caught:
        databases.pin_add(*arguments)
    return caught.value


def test_a_client_of_ours_is_not_pinned_as_a_server(databases):
    """Anybody can connect to a server of ours and claim a name; servers with that name have nothing to do with it."""
    databases.pin_add("bank.example", THEIRS, "", "", Side.SERVER)
    assert of_side(databases, "bank.example", Side.CLIENT) == set()
    databases.pin_add("bank.example", OURS, "", "", Side.CLIENT)
    assert of_side(databases, "bank.example", Side.CLIENT) == {OURS}
    assert of_side(databases, "bank.example", Side.SERVER) == {THEIRS}


def test_what_an_operator_has_pinned_for_one_role_stays_alone_there(databases):
    databases.change(lambda edit: edit.pin(Pin(OURS, remote="bank.example", for_sides=Side.CLIENT)))
    databases.pin_add("bank.example", THEIRS, "", "", Side.SERVER)
    assert of_side(databases, "bank.example", Side.CLIENT) == {OURS}


def test_the_same_certificate_in_both_roles_keeps_its_dates(databases):
    databases.change(lambda edit: edit.pin(Pin(OURS, NOW_S + 9, 0, "bank.example", Side.CLIENT)))
    databases.pin_add("bank.example", OURS, "", "", Side.SERVER)
    assert databases.pins("bank.example") == [Pin(OURS, NOW_S + 9, 0, "bank.example", 3)]


def test_of_two_first_uses_at_a_time_one_is_the_first(databases):
    databases.pin_add("new.example", OURS, "", "", Side.CLIENT)
    error = refuses(databases, "new.example", THEIRS, "", "", Side.CLIENT)
    assert error.code is Code.PIN_UNMATCHED
    assert OURS.hex()[:16] in error.detail
    assert of_side(databases, "new.example", Side.CLIENT) == {OURS}
    databases.pin_add("new.example", OURS, "", "", Side.CLIENT)


def test_a_pin_is_replaced_once(databases):
    databases.change(lambda edit: edit.pin(Pin(OURS, NOW_S + 10, 100, "old.example")))
    databases.pin_add("old.example", THEIRS, "", "", Side.CLIENT)
    assert refuses(databases, "old.example", OTHER, "", "", Side.CLIENT).code is Code.PIN_UNMATCHED
    # nor does it open the other role to anybody
    assert of_side(databases, "old.example", Side.SERVER) == {OURS}


def test_a_pin_that_is_over_is_not_replaced(databases):
    databases.change(lambda edit: edit.pin(Pin(OURS, NOW_S - 1, 100, "old.example")))
    assert refuses(databases, "old.example", THEIRS, "", "", Side.CLIENT).code is Code.PIN_UNMATCHED


def test_strangers_leave_room_for_operators(databases, monkeypatch):
    monkeypatch.setattr(limits, "PINS", 6)
    monkeypatch.setattr(limits, "FIRST_USE_PINS", 4)
    for number in range(4):
        databases.pin_add(f"n{number}.example", bytes([number]) * 32, "", "", Side.CLIENT)
    assert refuses(databases, "n5.example", OTHER, "", "", Side.CLIENT).code is Code.PINS_FULL
    assert databases.pins("n5.example") == []
    generation = databases.generation
    assert generation == 5
    databases.change(lambda edit: edit.pin(Pin(OTHER, remote="n5.example")))
    databases.change(lambda edit: edit.pin(Pin(OTHER, remote="n6.example")))
    databases.change(lambda edit: edit.unpin("n6.example"))
    # what is pinned already can be replaced
    databases.change(lambda edit: edit.pin(Pin(OURS, NOW_S + 10, 100, "n0.example", Side.CLIENT), alone=True))
    databases.pin_add("n0.example", THEIRS, "", "", Side.CLIENT)


def two_first_uses(world):
    """Two sessions, judged while nothing was pinned."""
    demand(world, "p")
    apps, ids, frames = [world.app(), world.app()], [], []
    for app, leaf in zip(apps, (LEAF, THEIRS), strict=True):
        session_id = begun(world, app)
        assert shows(world, session_id, leaf_sha256=leaf).code == 0
        world.say(session_id, HandshakeDone, remote_sha256=leaf)
        frames.append(world.callback(app)[0])
        ids.append(session_id)
    return apps, ids, frames


@pytest.mark.parametrize("code", [Code.PIN_UNMATCHED, Code.PINS_FULL])
def test_a_first_use_that_cannot_be_remembered_is_none(world, code):
    apps, ids, frames = two_first_uses(world)
    world.answer(apps[0], frames[0])
    assert world.state(ids[0]) == "RELAYING"

    def refuse(*_):
        raise PoolError(code, "it is too late")

    world.records.pin_add = refuse
    world.answer(apps[1], frames[1])
    assert world.error(apps[1])[1] == code
    assert world.state(ids[1]) == "EXPECT_END"
    assert not world.to_worker(PlainConnected), "no plaintext may flow"
    assert world.to_worker(EndSession)
    account = world.core.explain.get(ids[1])
    assert (account.accepted, account.code) == (False, code)


def test_a_pin_is_for_our_role(world):
    apps, _, frames = two_first_uses(world)
    sides = []
    world.records.pin_add = lambda *arguments: sides.append(arguments[4])
    world.answer(apps[0], frames[0])
    assert sides == [Side.SERVER]


def test_who_is_expected_is_pinned_and_nobody_who_is_named_beside(world):
    """A certificate with the names A and B, where A is expected, says nothing about B."""
    demand(world, "p")
    app = world.app()
    session_id = begun(world, app, remoteid="john@example.com", flags=SERVER)
    names = ("email:john@example.com", "email:mary@example.com", "dns:bank.example")
    assert shows(world, session_id, names=names).code == 0
    world.say(session_id, HandshakeDone, remote_names=names)
    frame, _ = world.callback(app)
    world.answer(app, frame)
    assert [pinned[0] for pinned in world.records.pinned] == ["john@example.com"]


def test_strangers_do_not_push_operators_out_of_the_history(tmp_path):
    """Each first use is a generation; what an operator has done before can still be seen, and undone."""
    databases = Databases(tmp_path / "db", history_keep=5, now_s=lambda: NOW_S)
    try:
        policy = By(uid=0, command="policy.set", author="alice")
        databases.change(lambda edit: edit.policy_set("host", "modern"), policy)
        for number in range(20):
            databases.pin_add(f"n{number}.example", bytes([number]) * 32, "tlspool-broker", "", Side.SERVER)
        assert databases.history(2, 2)[0].by == policy
        databases.rollback(1)
        assert databases.crypto_policy("", "") == ""
        for number in range(10):
            databases.change(
                lambda edit, number=number: edit.policy_set("host", ["modern", "intermediate"][number % 2]), policy
            )
        assert databases.oldest > 2  # operators themselves do
        assert databases.generation - databases.oldest == 25
    finally:
        databases.close()
