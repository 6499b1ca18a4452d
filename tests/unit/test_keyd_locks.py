"""Locks of tokens: what an operator may write, and what is behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.errors import Code, PoolError
from tlspool_keyd import locks
from tlspool_keyd.locks import ALL, Locks, asked_untrusted, uri_untrusted

T1 = "pkcs11:model=m;manufacturer=f;serial=1;token=t1"


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("", ALL),
        ("pkcs11:", ALL),
        ("tlspool-dev", "pkcs11:token=tlspool-dev"),
        ("My token", "pkcs11:token=My%20token"),
        ("pkcs11:serial=1;token=t1", "pkcs11:serial=1;token=t1"),
    ],
)
def test_names(text, uri):
    assert uri_untrusted(text) == asked_untrusted({"token": text}) == asked_untrusted({"args": [text]}) == uri


@pytest.mark.parametrize(
    "request_", [{"token": 5}, {"token": "x" * 600}, {"token": "pkcs11:object=web"}, {"token": "pkcs11:colour=red;x"}]
)
def test_what_is_no_token(request_):
    with pytest.raises(PoolError):
        asked_untrusted(request_)


@given(st.one_of(st.text(), st.binary().map(lambda data: "pkcs11:" + data.decode("latin-1"))))
def test_any_text_is_a_lock_or_refused(text):
    try:
        uri = asked_untrusted({"token": text})
    except PoolError as error:
        assert error.code in (Code.FIELD_MALFORMED, Code.KEY_URI_MALFORMED)
    else:
        assert uri_untrusted(uri) == uri


def test_what_is_covered():
    made = Locks()
    assert not made.covers(T1)
    made.add("pkcs11:token=t1", [T1])
    assert made.covers(T1)
    assert made.covers("pkcs11:token=t1;object=web")
    assert made.covers("pkcs11:object=web")
    assert not made.covers("pkcs11:token=t2;object=web")
    assert made.mark([f"{T1} ready", "pkcs11:token=t2 ready", "garbage ready"]) == (
        f"{T1} TOKEN_LOCKED",
        "pkcs11:token=t2 ready",
        "garbage TOKEN_LOCKED",
    )
    made.remove(ALL)
    assert made.mark([f"{T1} ready"]) == (f"{T1} ready",)


def test_there_is_room_for_a_few(monkeypatch):
    monkeypatch.setattr(locks, "LOCKS", 1)
    made = Locks()
    made.add(ALL, [])
    made.add(ALL, [])
    with pytest.raises(PoolError, match="lock all"):
        made.add("pkcs11:token=t1", [T1])
