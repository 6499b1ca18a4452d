"""Words that were mistyped."""

from difflib import get_close_matches

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common.near import Words
from tlspool_common.setting_table import BY_NAME, REPEATED, UNUSED

NAMES = [*BY_NAME, *REPEATED, *UNUSED]
WORDS = Words(NAMES)


def slow(word, words=NAMES):
    return next(iter(get_close_matches(word, words, 1)), None)


@pytest.mark.parametrize("word", ["worker", "runDir", "tls_groop", "", "a", "xyzzy", "socket" * 10, "_" * 400, "é"])
def test_it_is_the_one_that_difflib_takes(word):
    assert WORDS.nearest(word) == slow(word)


@given(st.sampled_from(NAMES), st.integers(0, 30), st.integers(0, 6), st.text("abcdeorst_é", max_size=12))
def test_it_is_so_for_any_slip_of_the_pen(name, at, taken, put):
    word = name[:at] + put + name[at + taken :]
    assert WORDS.nearest(word) == slow(word)


@given(st.lists(st.text("abc", min_size=1, max_size=8), max_size=6), st.text("abcd", max_size=12))
def test_it_is_so_for_any_words(words, word):
    assert Words(words).nearest(word) == slow(word, words)
