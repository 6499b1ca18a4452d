"""Which of the words that there are was meant, when somebody mistypes one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import compress
from operator import ge

_CUTOFF = 0.6
"""The same as difflib's: of two words that are less alike nobody would take one for the other."""


class Words:
    """Words to choose from, none of them empty.

    ``nearest`` finds what ``difflib.get_close_matches(word, words, 1)`` does, which takes milliseconds for a hundred
    words.  Words cannot be more alike than their letters in any order: so these are compared first, each word as a
    number with a bit for every letter it has, and one more for its second, and so on.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [*words]
        self._sizes = [len(word) for word in self._words]
        self._bits: dict[tuple[str, int], int] = {}
        for word in self._words:
            for letter, count in Counter(word).items():
                for number in range(count):
                    self._bits.setdefault((letter, number), 1 << len(self._bits))
        self._letters = [self._letters_of(word) for word in self._words]
        longest = max(self._sizes, default=0)
        self._most = int(longest * (2 - _CUTOFF) / _CUTOFF) + 1
        # By the size of two words together: how many letters they must have in common at least, or one less.
        self._least = [math.floor(_CUTOFF * size / 2) for size in range(self._most + longest + 1)]

    def nearest(self, word: str) -> str | None:
        """Return the word that is most like this one; None if none is."""
        if len(word) > self._most:
            return None
        common = [*map(int.bit_count, map(self._letters_of(word).__and__, self._letters))]
        least = map(self._least[len(word) :].__getitem__, self._sizes)
        alike = compress(zip(common, self._sizes, self._words, strict=True), map(ge, common, least))
        bounds = [(2.0 * number / (len(word) + size), other) for number, size, other in alike]
        if not bounds:
            return None
        matcher = SequenceMatcher(b=word)
        best = (_CUTOFF, "")
        for bound, other in sorted(bounds, reverse=True):
            if bound < best[0]:
                break
            matcher.set_seq1(other)
            best = max(best, (matcher.ratio(), other))
        return best[1] or None

    def _letters_of(self, word: str) -> int:
        bits = self._bits
        return sum(bits.get((letter, number), 0) for letter, count in Counter(word).items() for number in range(count))
