"""Codes are stable, complete, and readable within the 127 bytes an application gets."""

import hashlib

from tlspool_common.errors import TABLE, Code, ComErr, PoolError, app_text, code_of, com_err

SNAPSHOT = "7d7d89e866b62c80"
"""Digest of names and numbers.  Codes may be added (then this changes); none may change or vanish."""


def digest():
    return hashlib.sha256(" ".join(f"{code.name}={code.value}" for code in Code).encode()).hexdigest()[:16]


def test_codes_do_not_change_silently():
    assert digest() == SNAPSHOT


def test_every_code_has_an_entry_and_a_category():
    assert set(TABLE) == set(Code) - {Code.OK}
    for code, entry in TABLE.items():
        assert entry.happened
        assert entry.remedy
        assert not entry.happened.endswith(".")
        assert code // 100 in range(1, 10)


def test_numbers_of_the_application_socket():
    assert com_err(Code.INTERNAL) == ComErr.STIRRED_NOT_SHAKEN.number == -1167372264
    assert com_err(Code.COMMAND_UNKNOWN) == -1167372280
    assert all(-(2**31) <= com_err(code) < 0 for code in TABLE)


def test_texts_fit_and_begin_with_the_code():
    for code in TABLE:
        for detail in ("", "d" * 500, "ä" * 200):
            text = app_text(code, detail)
            assert text.startswith(f"[{code.value}] ")
            assert len(text.encode()) <= 127


def test_the_exception_says_what_to_do():
    error = PoolError(Code.PIN_WRONG, "token T: CKR_PIN_INCORRECT")
    assert str(error) == (
        "[506] the token refused the PIN; it is not tried again: token T: CKR_PIN_INCORRECT; "
        "correct it in its file, then: tlspool reload; a credential: restart keyd; a typed one: tlspool pin --again"
    )
    assert error.category == 5


def test_an_unknown_number_is_internal():
    assert code_of(406) is Code.NAME_MISMATCH
    assert code_of(60000) is Code.INTERNAL
