"""The ledger: a grant is good for the right worker, in time, once."""

import pytest

from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.grants import Grant
from tlspool_common.messages import Side
from tlspool_keyd.grants import Ledger

NOW_MS = 5_000_000.0


def grant(number=1, worker_id=1, expires_ms=NOW_MS + 10_000):
    return Grant(
        grant_id=number.to_bytes(16, "big"),
        worker_id=worker_id,
        session_id=1,
        side=Side.SERVER,
        expires_ms=int(expires_ms),
        spki_sha256=bytes(32),
        key_uri="pkcs11:object=web",
    )


def refusal(ledger, one, now_ms=NOW_MS, worker_id=1):
    with pytest.raises(PoolError) as raised:
        ledger.spend(one, worker_id, now_ms)
    return raised.value.code


def test_once():
    ledger = Ledger()
    ledger.spend(grant(), 1, NOW_MS)
    assert refusal(ledger, grant()) is Code.GRANT_USED
    ledger.spend(grant(2), 1, NOW_MS)
    assert len(ledger) == 2


def test_another_worker_neither_may_nor_spoils():
    ledger = Ledger()
    assert refusal(ledger, grant(), worker_id=2) is Code.GRANT_REFUSED
    ledger.spend(grant(), 1, NOW_MS)


def test_time():
    ledger = Ledger()
    ledger.spend(grant(1), 1, NOW_MS + 9_999)
    assert refusal(ledger, grant(2), NOW_MS + 10_000) is Code.GRANT_EXPIRED
    longest = NOW_MS + limits.GRANT_LIFE_S * 1000 + 1000
    ledger.spend(grant(3, expires_ms=longest), 1, NOW_MS)
    assert refusal(ledger, grant(4, expires_ms=longest + 1)) is Code.GRANT_REFUSED


def test_what_has_expired_is_forgotten_and_nothing_else():
    ledger = Ledger()
    for number in range(100):
        ledger.spend(grant(number, expires_ms=NOW_MS + 1_000 + 100 * number), 1, NOW_MS)
    for passed_ms in range(0, 12_000, 250):
        one = grant(1_000 + passed_ms, expires_ms=NOW_MS + 20_000)
        ledger.spend(one, 1, NOW_MS + passed_ms)
        for number in range(100):  # all along, each is refused: as used, and then as expired
            code = refusal(ledger, grant(number, expires_ms=NOW_MS + 1_000 + 100 * number), NOW_MS + passed_ms)
            assert code is (Code.GRANT_USED if passed_ms < 1_000 + 100 * number else Code.GRANT_EXPIRED)
    assert len(ledger) == 12_000 // 250


def test_a_full_ledger_forgets_nothing():
    ledger = Ledger(remembered=3)
    for number in range(3):
        ledger.spend(grant(number), 1, NOW_MS)
    assert refusal(ledger, grant(3)) is Code.GRANT_REFUSED
    assert refusal(ledger, grant(0)) is Code.GRANT_USED
    ledger.spend(grant(4, expires_ms=NOW_MS + 30_000), 1, NOW_MS + 11_000)
    assert len(ledger) == 1
