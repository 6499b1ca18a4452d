"""libstub's exceptions: one for each meaning, from the code in the text or from the number of protocol V2."""

import errno
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import libstub
from libstub import errors
from libstub.errors import from_reply_untrusted
from tlspool_common.appwire import ErrorReply
from tlspool_common.errors import TABLE, Code, ComErr, app_text, com_err

FAMILIES = {
    1: libstub.Misuse,
    2: libstub.Refused,
    3: libstub.HandshakeFailed,
    4: libstub.RemoteUnverified,
    5: libstub.KeyTrouble,
    6: libstub.PoolUnavailable,
    7: libstub.PoolMisconfigured,
    8: libstub.PoolUnavailable,
    9: libstub.PoolInternal,
}


SPECIAL = {
    307: errors.Timeout,
    **dict.fromkeys((115, 120, 121, 122, 127, 211), errors.NotInControl),
    **dict.fromkeys((124, 125, 126, 128, 129, 805), errors.NotAvailable),
    801: errors.AccessRejected,
    804: errors.RemoteUnverified,
    807: errors.Refused,
    **dict.fromkeys((808, 809), errors.Misuse),
}


@pytest.mark.parametrize("code", [code for code in Code if code], ids=lambda code: code.name)
def test_each_code_of_the_pool_has_its_class(code):
    error = from_reply_untrusted(ErrorReply(com_err(code), app_text(code, "a detail")))
    expected = SPECIAL.get(code, FAMILIES[code // 100])
    assert type(error) is expected
    assert error.code == code
    assert error.tlserrno == com_err(code)
    assert error.remedy == TABLE[code].remedy
    assert TABLE[code].remedy in str(error)
    assert str(error).count(TABLE[code].remedy) == 1


@pytest.mark.parametrize("number", ComErr, ids=lambda number: number.name)
def test_pools_that_write_no_code(number):
    error = from_reply_untrusted(ErrorReply(number.number, ""))
    assert isinstance(error, libstub.PoolError)
    assert not isinstance(error, libstub.PoolInternal)
    assert number.name in str(error)
    assert (error.code, error.remedy) == (0, "")


def test_numbers_nobody_knows():
    assert type(from_reply_untrusted(ErrorReply(4711, ""))) is libstub.PoolInternal
    assert type(from_reply_untrusted(ErrorReply(errno.ETIMEDOUT, "too late"))) is libstub.Timeout
    assert type(from_reply_untrusted(ErrorReply(4711, "[099] of a later version"))) is libstub.PoolInternal
    assert from_reply_untrusted(ErrorReply(4711, "[499] of a later version")).code == 499


@given(st.integers(-(2**31), 2**31 - 1), st.text(max_size=130))
def test_any_reply_gives_one_exception(number, text):
    reply = ErrorReply.from_payload_untrusted(ErrorReply(number, text).to_payload())
    error = from_reply_untrusted(reply)
    assert isinstance(error, libstub.PoolError)
    assert str(error).isprintable()


def test_the_root_is_abstract():
    with pytest.raises(TypeError):
        libstub.PoolError("x")


def test_they_survive_pickling():
    error = pickle.loads(pickle.dumps(libstub.Refused("x", 202, 5)))
    assert (type(error), error.text, error.code, error.tlserrno) == (libstub.Refused, "x", 202, 5)


def test_the_tree_in_the_docstring_is_complete():
    drawn = set(re.findall(r"\+-- (\w+)", errors.__doc__))
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, libstub.PoolError)
    }
    assert drawn == classes - {"PoolError"}
    assert classes <= set(libstub.__all__)
