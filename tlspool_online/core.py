"""The helper's mind: events in, effects out.  No socket, clock, file or thread here or in what it is made of.

    BrokerAsked -> chains -> for each certificate:  files, then sources ---all known---> Send(RevocationTold)
                                                               |
                                     Fetch <--- downloads <----+ not known: the question waits
                                       |                       |
                    Fetched -> ReadList -> ListRead -----------+ looked at again, until known or too late

    chains.py    whose certificate, where to ask      sources.py    what is known from where, until when
    lists.py     revocation lists                     downloads.py  what runs at once, what waits
    files.py     the operator's own lists             responder.py  what is asked of OCSP responders
    verdicts.py  several findings made one            locator.py    where nobody may send us
    counters.py  for the log                          events.py     both vocabularies

A question is looked at from its beginning each time something arrives for it: there is no state of a question but what
it waits for, and what is known is known to all questions.  One whose time is up is answered with what is known then.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import assert_never

from tlspool_common.log import Value
from tlspool_common.messages import (
    PROTOCOL,
    AskRevocation,
    AskStaple,
    Finding,
    OnlineHello,
    RevocationTold,
    StapleTold,
    prose,
)
from tlspool_common.record import record
from tlspool_common.title import count
from tlspool_online import bounds, locator, responder
from tlspool_online.chains import BadChain, Chains, Link
from tlspool_online.counters import Counters
from tlspool_online.downloads import Downloads
from tlspool_online.events import (
    Arm,
    BrokerAsked,
    Clock,
    Effect,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    FileFailed,
    FileRead,
    Kind,
    ListRead,
    ListRefused,
    Note,
    Now,
    ReadList,
    Send,
    Timer,
    TimerFired,
)
from tlspool_online.files import Files
from tlspool_online.lists import RevocationList, Told, judge
from tlspool_online.sources import Answer, Key, Source, Sources
from tlspool_online.unreadable import UNREADABLE
from tlspool_online.verdicts import one_of, together
from tlspool_worker import ocsp

LISTS, RESPONSES = 1, 2
"""Bits of AskRevocation.wants."""


_TELLS = (Finding.GOOD, Finding.REVOKED)


@record
class Options:
    """What the settings allow."""

    online: bool = True
    ports: tuple[int, ...] = (80,)


@dataclass(slots=True, eq=False)
class _Question:
    message: AskRevocation | AskStaple
    exchange: int
    links: tuple[Link, ...]


def _weight_of_list(source: Source) -> int:
    return len(source.found.revoked) if isinstance(source.found, RevocationList) else 0


class OnlineCore:
    """All of the helper but its sockets, files and threads."""

    def __init__(self, options: Options, pid: int) -> None:
        self._options = options
        self._pid = pid
        self._chains = Chains()
        self._files = Files()
        self._sources = {
            Kind.LIST: Sources(bounds.LISTS, bounds.SERIALS, _weight_of_list),
            Kind.RESPONSE: Sources(bounds.RESPONSES, 1, lambda _: 0),
        }
        self._downloads = {kind: Downloads(kind) for kind in Kind}
        self._kinds: dict[int, Kind] = {}  # by download
        self._questions: dict[int, _Question] = {}
        self._staples: OrderedDict[Key, Source] = OrderedDict()
        self._last_question = 0
        self._last_download = 0
        self._out: list[Effect] = []
        self._notes = 0
        self._counted: dict[str, int] = {}
        self.counters = Counters()

    # --- what an operator sees --------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The state in a few words, for the list of processes."""
        if self._questions:
            downloads = sum(map(len, self._downloads.values()))
            return f"{count(len(self._questions), 'question')}, {count(downloads, 'download')}"
        lists, answers = len(self._sources[Kind.LIST]) + len(self._files), len(self._sources[Kind.RESPONSE])
        return f"{count(lists, 'list')}, {count(answers, 'answer')}"

    def state(self) -> dict[str, Value]:
        """Return the counters, and how much is kept."""
        return {
            **self.counters.row(),
            "lists": len(self._sources[Kind.LIST]),
            "serials": self._sources[Kind.LIST].weight,
            "file_lists": len(self._files),
            "file_serials": self._files.serials,
            "responses": len(self._sources[Kind.RESPONSE]),
        }

    # --- in and out -------------------------------------------------------------------------------------

    def begin(self) -> list[Effect]:
        """Introduce ourselves.  Files that there are have been read by now."""
        return [Send(OnlineHello(protocol=PROTOCOL, pid=self._pid)), Arm(Timer(Clock.SWEEP), bounds.SWEEP_MS)]

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take an event; return what is to be done, in this order."""
        self._out = []
        match event:
            case BrokerAsked(message, exchange):
                self._asked(message, exchange, now)
            case Fetched(number, body):
                self._fetched(number, body, now)
            case FetchFailed(number, detail, status):
                self._fetch_failed(number, detail, status, now)
            case ListRead(number, found):
                self._list_read(number, found, now)
            case ListRefused(number, detail):
                self._failed(number, Finding.BAD, f"the list does not count: {detail}", now)
            case FileRead(path, lists):
                self._files.read(path, lists)
                self._note("info", "online.file_read", path=path, lists=len(lists))
            case FileFailed(path, detail):
                # What it held before is still signed, and counts as long as it says.
                self._note("error", "online.file_unusable", path=path, detail=detail)
            case TimerFired(timer):
                self._timer_fired(timer, now)
            case _:
                assert_never(event)
        return self._out

    def _timer_fired(self, timer: Timer, now: Now) -> None:
        match timer.clock:
            case Clock.QUESTION:
                if timer.number in self._questions:
                    self.counters.late += 1
                    self._look(timer.number, now, final=True)
            case Clock.SWEEP:
                self._sweep(now)
            case _:
                assert_never(timer.clock)

    def _note(self, level: str, event: str, **fields: Value) -> None:
        self._out.append(Note(level, event, fields))

    # --- questions --------------------------------------------------------------------------------------

    def _asked(self, message: AskRevocation | AskStaple, exchange: int, now: Now) -> None:
        self.counters.questions += 1
        self.counters.staples += isinstance(message, AskStaple)
        try:
            links = self._chains.links_untrusted(message.chain)
        except BadChain as error:
            self._answer(message, exchange, (Finding.BAD, str(error)), (Finding.BAD, str(error)), None)
            return
        if len(self._questions) >= bounds.QUESTIONS:
            self.counters.turned_away += 1
            busy = (Finding.NONE, f"{bounds.QUESTIONS} questions wait already")
            self._answer(message, exchange, busy, busy, None)
            return
        self._last_question += 1
        number = self._last_question
        self._questions[number] = _Question(message, exchange, links)
        if self._look(number, now):
            self.counters.at_once += 1
        else:
            self._out.append(Arm(Timer(Clock.QUESTION, number), min(message.deadline_ms, bounds.QUESTION_MS)))

    def _look(self, number: int, now: Now, *, final: bool = False) -> bool:
        """Look at a question; answer it if all of it is known, or if this is the last look.  Whether it is over."""
        question = self._questions[number]
        waits: list[Source] = []
        lists: list[Told] = []
        responses: list[Told] = []
        staple: Answer | None = None
        if isinstance(question.message, AskStaple):
            if question.links:
                told, staple = self._staple(question.links[0], now, waits)
                responses.append(told)
        else:
            message = question.message
            for place, link in enumerate(question.links):
                if message.wants & LISTS:
                    urls = (message.crl_urls if place == 0 else ()) or link.list_urls
                    lists.append(self._of_lists(link, urls, now, waits))
                if message.wants & RESPONSES:
                    urls = (message.ocsp_urls if place == 0 else ()) or link.responder_urls
                    responses.append(self._of_responders(link, urls, now, waits))
        revoked = any(told[0] is Finding.REVOKED for told in (*lists, *responses))
        if waits and not final and not revoked:
            for source in waits:
                source.waiting.add(number)
            return False
        del self._questions[number]
        self.counters.revoked += revoked
        of_lists, of_responders = together(lists, each=True), together(responses, each=False)
        self._answer(question.message, question.exchange, of_lists, of_responders, staple)
        return True

    def _answer(
        self,
        message: AskRevocation | AskStaple,
        exchange: int,
        lists: tuple[Finding, str],
        responses: tuple[Finding, str],
        staple: Answer | None,
    ) -> None:
        if isinstance(message, AskStaple):
            response, until_s = (staple.response, staple.told[2]) if staple else (b"", 0)
            self._out.append(Send(StapleTold(response=response, until_s=until_s, detail=prose(responses[1])), exchange))
            return
        parts = []
        if message.wants & LISTS:
            parts.append(f"lists: {lists[0].name}: {lists[1]}")
        if message.wants & RESPONSES:
            parts.append(f"OCSP: {responses[0].name}: {responses[1]}")
        # What is revoked comes first, as the text may be cut.
        parts.sort(key=lambda part: Finding.REVOKED.name not in part)
        self._out.append(
            Send(
                RevocationTold(
                    crl=lists[0] if message.wants & LISTS else Finding.NONE,
                    ocsp=responses[0] if message.wants & RESPONSES else Finding.NONE,
                    detail=prose(" | ".join(parts)),
                ),
                exchange,
            )
        )

    def _of_lists(self, link: Link, urls: tuple[str, ...], now: Now, waits: list[Source]) -> Told:
        if link.fault:
            return Finding.BAD, link.fault, 0
        own = self._files.look(link, now.wall_s)
        if own is not None and own[0] in _TELLS:
            return own
        if not urls and own is None:
            if link.elsewhere:
                return Finding.NONE, "its lists are at places that are not asked", 0
            return Finding.ABSENT, "it names no place for lists, and there is no file of its issuer", 0
        return self._of_sources(Kind.LIST, link, urls, now, waits, [own] if own else [])

    def _of_responders(self, link: Link, urls: tuple[str, ...], now: Now, waits: list[Source]) -> Told:
        if link.fault:
            return Finding.BAD, link.fault, 0
        if not urls:
            return Finding.ABSENT, "it names no OCSP responder", 0
        return self._of_sources(Kind.RESPONSE, link, urls, now, waits, [])

    def _of_sources(
        self, kind: Kind, link: Link, urls: tuple[str, ...], now: Now, waits: list[Source], told: list[Told]
    ) -> Told:
        """Ask one place after the other until one of them tells."""
        if not self._options.online:
            return one_of([*told, (Finding.NONE, "the network is not asked (setting online)", 0)])
        serial = link.serial if kind is Kind.RESPONSE else b""
        for url in urls:
            source = self._sources[kind].get((kind, url, link.issuer_id, serial), link)
            one = self._of_source(source, link, now)
            if one is None:
                waits.append(source)
                return one_of([*told, (Finding.NONE, f"{url}: no answer in time", 0)])
            if one[0] in _TELLS:
                return one
            told.append(one)
        return one_of(told)

    def _of_source(self, source: Source, link: Link, now: Now) -> Told | None:
        """Return what a source says; None: it is being asked."""
        if source.counts(now.wall_s):
            if source.wants_refresh(now.wall_s) and source.may_ask(now.ms):
                self._start(source, now)
            if isinstance(source.found, RevocationList):
                told = judge(source.found, link.serial, link.is_authority, link.points, now.wall_s)
            else:
                assert source.found is not None  # noqa: S101 - counts() says so
                told = source.found.told
            return told[0], f"{source.url}: {told[1]}", told[2]
        if source.fetching or (source.may_ask(now.ms) and self._start(source, now)):
            return None
        return source.finding, f"{source.url}: {source.detail}", 0

    # --- staples ----------------------------------------------------------------------------------------

    def _staple(self, link: Link, now: Now, waits: list[Source]) -> tuple[Told, Answer | None]:
        """Return what the responders say of a certificate of ours, and the response if it can be stapled."""
        if link.fault:
            return (Finding.BAD, link.fault, 0), None
        if not link.responder_urls:
            return (Finding.ABSENT, "it names no OCSP responder", 0), None
        for url in link.responder_urls if self._options.online else ():
            source = self._sources[Kind.RESPONSE].get((Kind.RESPONSE, url, link.issuer_id, link.serial), link)
            source.staples, source.wanted_s = True, now.wall_s
            self._staples[source.key] = source
            self._staples.move_to_end(source.key)
            if len(self._staples) > bounds.STAPLES:
                self._staples.popitem(last=False)[1].staples = False
            found = source.found
            if isinstance(found, Answer) and not found.response:
                source.refresh_s = source.until_s = 0.0  # it was asked for a decision, and its bytes were not kept
        told = self._of_responders(link, link.responder_urls, now, waits)
        if told[0] is Finding.GOOD:
            for url in link.responder_urls:
                kept = self._staples.get((Kind.RESPONSE, url, link.issuer_id, link.serial))
                answer = kept.found if kept is not None and kept.counts(now.wall_s) else None
                if isinstance(answer, Answer) and answer.told[0] is Finding.GOOD and answer.response:
                    return told, answer
        return told, None

    def _sweep(self, now: Now) -> None:
        for source in list(self._staples.values()):
            if now.wall_s - source.wanted_s > bounds.STAPLE_UNUSED_S:
                source.staples = False
                del self._staples[source.key]
            elif source.wants_refresh(now.wall_s) and source.may_ask(now.ms):
                self._start(source, now)
        self._notes = 0
        if self.counters.row() != self._counted:
            self._counted = self.counters.row()
            self._note("info", "online.counters", **self.state())
        self._out.append(Arm(Timer(Clock.SWEEP), bounds.SWEEP_MS))

    # --- downloads --------------------------------------------------------------------------------------

    def _start(self, source: Source, now: Now) -> bool:
        """Download, now or soon; whether that is possible."""
        downloads = self._downloads[source.kind]
        if downloads.full:
            self.counters.turned_away += 1
            source.detail = "too many downloads wait already"
            return False
        url, post = source.url, b""
        try:
            host = locator.parse_untrusted(url, self._options.ports).host
            if source.kind is Kind.RESPONSE:
                post = responder.request(source.link)
                if not source.posts and (get := responder.get_url(url, post)):
                    url, post = get, b""
        except UNREADABLE as error:  # BadLocator is a ValueError
            self._unusable(source, Finding.NONE, f"not asked: {error}", now)
            return False
        self._last_download += 1
        self.counters.downloads += 1
        source.fetching = True
        self._kinds[self._last_download] = source.kind
        self._out += downloads.start(source, host, Fetch(self._last_download, source.kind, url, post))
        return True

    def _source_of(self, number: int) -> Source:
        return self._downloads[self._kinds[number]].source(number)

    def _fetched(self, number: int, body: bytes, now: Now) -> None:
        source = self._source_of(number)
        self.counters.downloaded_b += len(body)
        if source.kind is Kind.LIST:
            self._out.append(ReadList(number, body, source.link.issuer, source.link.issuer_id))
            return
        told = ocsp.check_untrusted(body, source.link.certificate, source.link.issuer, now.wall_s)
        if told[0] not in (*_TELLS, Finding.UNKNOWN):
            if not self._repeat(number, now):
                self._failed(number, told[0], told[1], now)
            return
        until_s = min(told[2], now.wall_s + bounds.UNKNOWN_S) if told[0] is Finding.UNKNOWN else told[2]
        answer = Answer(told, body if source.staples else b"")
        self._succeeded(number, answer, until_s, now)

    def _fetch_failed(self, number: int, detail: str, status: int, now: Now) -> None:
        self.counters.failures += 1
        if not status or not self._repeat(number, now):
            self._failed(number, Finding.NONE, detail, now)

    def _repeat(self, number: int, now: Now) -> bool:
        """Ask a responder with POST that did not like GET; whether that is being done."""
        source = self._source_of(number)
        if source.kind is not Kind.RESPONSE or source.posts:
            return False
        source.posts = True
        self._over(number)
        return self._start(source, now)

    def _list_read(self, number: int, found: RevocationList, now: Now) -> None:
        if found.next_update_s < now.wall_s - bounds.SKEW_S or found.this_update_s > now.wall_s + bounds.SKEW_S:
            told = judge(found, b"", False, (), now.wall_s)
            self._failed(number, Finding.BAD, told[1], now)
            return
        self._succeeded(number, found, found.next_update_s, now)

    def _succeeded(self, number: int, found: RevocationList | Answer, until_s: float, now: Now) -> None:
        source = self._source_of(number)
        sources = self._sources[source.kind]
        before = _weight_of_list(source)
        # At half of what is left: one that is old already is not asked for at every question.
        wait_s = max(bounds.REFRESH_S, (until_s - now.wall_s) / 2)
        if source.kind is Kind.LIST:
            wait_s = min(wait_s, bounds.LIST_REFRESH_S)
        # It is of use to those who wait for it, even where it counts only by the grace for clocks.
        source.succeeded(found, max(until_s, now.wall_s + bounds.HOLD_S), now.wall_s + wait_s)
        sources.changed(before, source)
        self._over(number)
        self._tell(source, now)

    def _failed(self, number: int, finding: Finding, detail: str, now: Now) -> None:
        source = self._source_of(number)
        self._over(number)
        self._unusable(source, finding, detail, now)
        self._tell(source, now)

    def _unusable(self, source: Source, finding: Finding, detail: str, now: Now) -> None:
        source.failed(finding, detail, now.ms)
        self._notes += 1
        if self._notes <= bounds.NOTES_A_MINUTE:
            level = "warning" if finding is Finding.BAD else "info"
            self._note(level, "online.failed", kind=source.kind.value, url=source.url, detail=detail)

    def _over(self, number: int) -> None:
        """A download has come to its end."""
        source, started = self._downloads[self._kinds.pop(number)].ended(number)
        source.fetching = False
        self._out += started

    def _tell(self, source: Source, now: Now) -> None:
        """Look again at the questions that wait for a source."""
        waiting, source.waiting = source.waiting, set()
        for number in sorted(waiting):
            if number in self._questions:
                self._look(number, now)
