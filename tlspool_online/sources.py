"""Where something is got from: a list at a URL for an issuer, or a responder's answer about a certificate.

A source is asked by one download at a time, however many questions wait for it.  It keeps what it got for as long as
that counts, asks again in good time before, and is left alone for a while when it fails: longer each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tlspool_common.messages import Finding
from tlspool_online import bounds
from tlspool_online.chains import Link
from tlspool_online.events import Kind
from tlspool_online.lists import RevocationList, Told

Key = tuple[Kind, str, bytes, bytes]
"""Kind, URL, the issuer's identity, and of responders the serial number."""


@dataclass(slots=True, eq=False)
class Answer:
    """A responder's answer; ``response`` has its bytes when they are for stapling."""

    told: Told
    response: bytes


@dataclass(slots=True, eq=False)
class Source:
    """One place, and what is known from it."""

    key: Key
    link: Link
    staples: bool = False  # the bytes of answers are wanted
    wanted_s: float = 0.0  # when somebody asked last for something to staple
    found: RevocationList | Answer | None = None
    until_s: float = 0.0
    refresh_s: float = 0.0
    finding: Finding = Finding.NONE  # of the last failure
    detail: str = ""
    failures: int = 0
    retry_ms: float = 0.0
    fetching: bool = False
    posts: bool = False  # GET did not work there
    waiting: set[int] = field(default_factory=set)  # questions

    @property
    def kind(self) -> Kind:
        """What is got here."""
        return self.key[0]

    @property
    def url(self) -> str:
        """Where."""
        return self.key[1]

    def counts(self, now_s: float) -> bool:
        """Whether there is something that can be gone by."""
        return self.found is not None and self.until_s > now_s

    def wants_refresh(self, now_s: float) -> bool:
        """Whether it is time to ask again, although what there is still counts."""
        return now_s >= self.refresh_s

    def may_ask(self, now_ms: float) -> bool:
        """Whether it can be asked now."""
        return not self.fetching and now_ms >= self.retry_ms

    def succeeded(self, found: RevocationList | Answer, until_s: float, refresh_s: float) -> None:
        """Keep what was found."""
        self.found, self.until_s, self.refresh_s = found, until_s, refresh_s
        self.failures, self.detail, self.finding = 0, "", Finding.NONE

    def failed(self, finding: Finding, detail: str, now_ms: float) -> None:
        """Remember that it failed, and leave it alone for a while."""
        self.finding, self.detail = finding, detail
        self.retry_ms = now_ms + bounds.RETRY_MS[min(self.failures, len(bounds.RETRY_MS) - 1)]
        self.failures += 1


class Sources:
    """All sources of one kind, the one used longest ago first; bounded in number and in weight."""

    def __init__(self, most: int, heaviest: int, weight: Callable[[Source], int]) -> None:
        self._all: OrderedDict[Key, Source] = OrderedDict()
        self._most = most
        self._heaviest = heaviest
        self._weight = weight
        self.weight = 0

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Source]:
        return iter(list(self._all.values()))

    def get(self, key: Key, link: Link) -> Source:
        """Return the source with a key, made if there is none."""
        source = self._all.get(key)
        if source is None:
            source = self._all[key] = Source(key, link)
            self.trim()
        else:
            self._all.move_to_end(key)
        return source

    def trim(self) -> None:
        """Forget the longest unused ones while there is too much; those that are being asked, and the last, stay."""
        while self._is_too_much():
            last = next(reversed(self._all))
            key = next((key for key, one in self._all.items() if not one.fetching and key != last), None)
            if key is None:
                return
            self.weight -= self._weight(self._all.pop(key))

    def changed(self, before: int, source: Source) -> None:
        """Count what a source has in place of what it had, which weighed ``before``."""
        if self._all.get(source.key) is source:
            self.weight += self._weight(source) - before
            self._all.move_to_end(source.key)
            self.trim()

    def _is_too_much(self) -> bool:
        return len(self._all) > self._most or self.weight > self._heaviest
