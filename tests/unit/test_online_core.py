"""The helper's mind: questions, downloads and what is kept, by events and effects alone."""

import time

import pytest

from tests.fixtures.authority import DAY, HOUR, Authority
from tlspool_common import limits
from tlspool_common.messages import (
    PROTOCOL,
    AskRevocation,
    AskStaple,
    Finding,
    OnlineHello,
    StapleTold,
)
from tlspool_online import bounds
from tlspool_online import events as e
from tlspool_online.core import OnlineCore, Options
from tlspool_online.lists import BadList, read_file_untrusted, read_untrusted

GOOD, REVOKED, UNKNOWN = Finding.GOOD, Finding.REVOKED, Finding.UNKNOWN
BAD, NONE, ABSENT = Finding.BAD, Finding.NONE, Finding.ABSENT
LISTS, OCSP = 1, 2

ROOT = Authority("Root")
CA = ROOT.authority("CA")
CRL, RESPONDER = "http://a.example/ca.crl", "http://o.example"
LEAF = CA.leaf("leaf", crl=CRL, ocsp=RESPONDER)
OTHER = CA.leaf("other", crl=CRL, ocsp=RESPONDER)
BARE = CA.leaf("bare")
TWO = CA.leaf(
    "two", crl=("http://a.example/1", "http://b.example/2"), ocsp=("http://o.example/1", "http://p.example/2")
)


class Play:
    """A core, two clocks, and what it wanted."""

    def __init__(self, online=True, ports=(80,)):
        self.core = OnlineCore(Options(online, ports), 4711)
        self.ms, self.wall_s = 0.0, time.time()
        self.effects = self.core.begin()
        self.exchange = 0

    def __call__(self, event):
        self.effects = self.core.handle(event, e.Now(self.ms, self.wall_s))
        return self.effects

    def later(self, seconds):
        self.ms += seconds * 1000
        self.wall_s += seconds

    def of(self, kind):
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def only(self, kind):
        (found,) = self.of(kind)
        return found

    def ask(self, one=LEAF, wants=LISTS | OCSP, deadline_ms=5000, crl_urls=(), ocsp_urls=(), chain=None, full=False):
        self.exchange += 1
        self(
            e.BrokerAsked(
                AskRevocation(
                    wants=wants,
                    chain=chain or (one.chain if full else one.chain[:2]),
                    crl_urls=crl_urls,
                    ocsp_urls=ocsp_urls,
                    deadline_ms=deadline_ms,
                ),
                self.exchange,
            )
        )
        return self.exchange

    def ask_staple(self, one=LEAF, chain=None):
        self.exchange += 1
        self(e.BrokerAsked(AskStaple(chain=chain or one.chain, deadline_ms=5000), self.exchange))
        return self.exchange

    def told(self, exchange=None):
        sent = self.only(e.Send)
        assert sent.exchange == (exchange or self.exchange)
        assert len(sent.message.detail.encode()) <= limits.PROSE_B
        return sent.message

    def findings(self, exchange=None):
        told = self.told(exchange)
        return told.crl, told.ocsp

    def fetch(self, kind=None):
        found = [fetch for fetch in self.of(e.Fetch) if kind in (None, fetch.kind)]
        assert len(found) == 1, self.effects
        return found[0]

    def give(self, fetch, body):
        """Let a download bring this."""
        self(e.Fetched(fetch.number, body))
        if fetch.kind is e.Kind.LIST:
            read = self.only(e.ReadList)
            try:
                found = read_untrusted(read.body)
                if why := found.refusal(read.issuer, read.issuer_id):
                    raise BadList(why)
            except BadList as error:
                self(e.ListRefused(read.number, str(error)))
            else:
                self(e.ListRead(read.number, found))

    def fail(self, fetch, status=0):
        self(e.FetchFailed(fetch.number, "does not answer", status))

    def fire(self, clock):
        timer = next(arm.timer for arm in self.of(e.Arm) if arm.timer.clock is clock)
        self(e.TimerFired(timer))


def test_hello():
    play = Play()
    assert play.only(e.Send) == e.Send(OnlineHello(protocol=PROTOCOL, pid=4711))
    assert play.only(e.Arm).timer.clock is e.Clock.SWEEP


# --- lists ------------------------------------------------------------------------------------------------


def test_a_list_is_downloaded_once_and_tells_of_all():
    play = Play()
    play.ask(wants=LISTS)
    assert play.only(e.Arm).delay_ms == 5000
    fetch = play.fetch()
    assert (fetch.kind, fetch.url, fetch.post) == (e.Kind.LIST, CRL, b"")
    play.ask(OTHER, wants=LISTS)  # the same list, under way already
    assert not play.of(e.Fetch) and not play.of(e.Send)
    play.give(fetch, CA.crl({OTHER: "superseded"}))
    told = {sent.exchange: sent.message for sent in play.of(e.Send)}
    assert (told[1].crl, told[1].ocsp) == (GOOD, NONE)
    assert told[2].crl is REVOKED and "superseded" in told[2].detail and CRL in told[2].detail
    play.ask(OTHER, wants=LISTS)
    assert play.effects == [e.Send(told[2], 3)]  # known now
    assert play.core.counters.row() | {"downloaded_b": 0} == {
        "questions": 3, "staples": 0, "at_once": 1, "late": 0, "turned_away": 0, "downloads": 1, "failures": 0,
        "downloaded_b": 0, "revoked": 2,
    }  # fmt: skip


def test_nobody_names_a_place():
    play = Play()
    play.ask(BARE)
    assert play.findings() == (ABSENT, ABSENT)


def test_the_brokers_places_come_before_the_certificates():
    play = Play()
    play.ask(BARE, crl_urls=("http://x.example/l",), ocsp_urls=("http://x.example/o",))
    urls = [fetch.url for fetch in play.of(e.Fetch)]
    assert urls[0] == "http://x.example/l" and urls[1].startswith("http://x.example/o/")


def test_an_issuer_that_is_revoked_counts():
    ca = ROOT.authority("CA", crl="http://r.example/r.crl")
    leaf = ca.leaf("leaf", crl=CRL)
    play = Play()
    play.ask(leaf, wants=LISTS, full=True)
    first, second = play.of(e.Fetch)
    play.give(first, ca.crl())
    assert not play.of(e.Send)
    play.give(second, ROOT.crl({ca: "ca_compromise"}))
    told = play.told()
    assert told.crl is REVOKED
    assert "certificate 1: http://r.example/r.crl: revoked" in told.detail


def test_an_issuer_without_a_list_leaves_a_chain_without_proof():
    play = Play()
    play.ask(wants=LISTS | OCSP, full=True)
    play.give(play.fetch(e.Kind.LIST), CA.crl())
    assert not play.of(e.Send)
    play(e.TimerFired(e.Timer(e.Clock.QUESTION, 1)))
    told = play.told()
    assert told.crl is ABSENT and "certificate 1: it names no place" in told.detail


def test_revoked_is_told_without_waiting_for_anything_else():
    play = Play()
    play.ask()
    play.give(play.fetch(e.Kind.LIST), CA.crl({LEAF: "key_compromise"}))
    told = play.told()
    assert (told.crl, told.ocsp) == (REVOKED, NONE)
    assert told.detail.startswith("lists: REVOKED: certificate 0:")


def test_the_next_place_is_asked_when_one_fails():
    play = Play()
    play.ask(TWO, wants=LISTS)
    first = play.fetch()
    assert first.url == "http://a.example/1"
    play.fail(first)
    assert play.fetch().url == "http://b.example/2"
    play.give(play.fetch(), CA.crl())
    assert play.findings() == (GOOD, NONE)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (lambda: b"<html>", "cannot be read"),
        (lambda: CA.crl(key=ROOT.key), "signature does not verify"),
        (ROOT.crl, "another issuer"),
        (lambda: CA.crl(since=-3 * DAY, until=-2 * HOUR), "out of date"),
        (lambda: CA.crl(since=2 * HOUR, until=3 * HOUR), "of the future"),
    ],
)
def test_a_list_that_does_not_count(body, why):
    play = Play()
    play.ask(wants=LISTS)
    play.give(play.fetch(), body())
    told = play.told()
    assert told.crl is BAD and why in told.detail
    assert play.only(e.Note).level == "warning"
    play.ask(wants=LISTS)  # it is not asked for again at once
    assert play.findings() == (BAD, NONE) and not play.of(e.Fetch)


def test_what_fails_is_left_alone_for_longer_each_time():
    play = Play()
    for pause_ms in (*bounds.RETRY_MS, bounds.RETRY_MS[-1]):
        play.ask(wants=LISTS)
        play.fail(play.fetch())
        assert play.findings() == (NONE, NONE)
        play.later(pause_ms / 1000 - 0.1)
        play.ask(wants=LISTS)
        assert play.findings() == (NONE, NONE) and "does not answer" in play.told().detail
        play.later(0.2)
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl())
    assert play.findings() == (GOOD, NONE)


def test_a_list_is_refreshed_before_its_end_and_counts_meanwhile():
    play = Play()
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl(until=HOUR))
    play.later(1700)
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE) and not play.of(e.Fetch)
    play.later(200)
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE)
    refresh = play.fetch()
    play.ask(wants=LISTS)
    assert not play.of(e.Fetch)  # one at a time
    play.fail(refresh)
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE) and not play.of(e.Fetch)
    play.later(5)
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl({LEAF: ""}))
    play.ask(wants=LISTS)
    assert play.findings() == (REVOKED, NONE)


def test_a_list_that_lives_long_is_refreshed_daily():
    play = Play()
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl(until=300 * DAY))
    play.later(bounds.LIST_REFRESH_S + 1)
    play.ask(wants=LISTS)
    assert play.fetch()


def test_a_list_that_has_ended_does_not_count():
    play = Play()
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl(until=HOUR))
    play.later(3700)
    play.ask(wants=LISTS)
    assert play.fetch() and not play.of(e.Send)
    play.fail(play.fetch())
    assert play.findings() == (NONE, NONE)


def test_the_same_place_for_two_authorities_is_asked_for_each():
    other_ca = ROOT.authority("Other CA")
    leaf = other_ca.leaf("leaf", crl=CRL)
    play = Play()
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl())
    play.ask(leaf, wants=LISTS)
    play.give(play.fetch(), CA.crl())
    assert play.findings() == (BAD, NONE)
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE)


@pytest.mark.parametrize("url", ["https://a.example/", "http://a.example:22/", "http://u@a.example/", "http://a b/"])
def test_places_that_are_never_asked(url):
    play = Play()
    play.ask(BARE, crl_urls=(url,), ocsp_urls=(url,))
    told = play.told()
    assert (told.crl, told.ocsp) == (NONE, NONE) and not play.of(e.Fetch)
    assert "not asked" in told.detail


# --- files ------------------------------------------------------------------------------------------------


def test_the_operators_own_list_comes_first():
    play = Play()
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl({OTHER: ""}))))
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE) and not play.of(e.Fetch)
    play.ask(OTHER, wants=LISTS)
    told = play.told()
    assert told.crl is REVOKED and "/x.pem: revoked" in told.detail
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl({LEAF: ""}))))
    play.ask(wants=LISTS)
    assert play.findings() == (REVOKED, NONE)


def test_a_file_that_breaks_leaves_what_was_there():
    play = Play()
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl({LEAF: ""}))))
    play(e.FileFailed("/x.pem", "no such file"))
    assert play.only(e.Note).level == "error"
    play.ask(wants=LISTS)
    assert play.findings() == (REVOKED, NONE)


def test_a_file_that_does_not_count_leaves_it_to_others():
    play = Play()
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl({LEAF: ""}, key=ROOT.key))))
    play.ask(BARE, wants=LISTS)
    told = play.told()
    assert told.crl is BAD and "/x.pem: its signature does not verify" in told.detail
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl())
    assert play.findings() == (GOOD, NONE)


def test_files_for_certificates_that_name_no_place():
    play = Play()
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl())))
    play(e.FileRead("/y.pem", read_file_untrusted(CA.crl({BARE: ""}))))  # any that says revoked
    play.ask(BARE, wants=LISTS)
    assert play.findings() == (REVOKED, NONE)


def test_without_a_network():
    play = Play(online=False)
    play.ask()
    told = play.told()
    assert (told.crl, told.ocsp) == (NONE, NONE) and "setting online" in told.detail
    play.ask_staple()
    assert play.told().response == b""
    play(e.FileRead("/x.pem", read_file_untrusted(CA.crl())))
    play.ask()
    assert play.findings() == (GOOD, NONE)


# --- OCSP -------------------------------------------------------------------------------------------------


def test_a_responder_is_asked_once():
    play = Play()
    play.ask(wants=OCSP)
    fetch = play.fetch()
    assert fetch.kind is e.Kind.RESPONSE and fetch.url.startswith("http://o.example/M") and fetch.post == b""
    play.give(fetch, CA.response(LEAF))
    assert play.findings() == (NONE, GOOD)
    play.ask(wants=OCSP)
    assert play.findings() == (NONE, GOOD) and not play.of(e.Fetch)
    play.ask(OTHER, wants=OCSP)
    play.give(play.fetch(), CA.response(OTHER, "revoked"))
    told = play.told()
    assert told.ocsp is REVOKED and "keyCompromise" in told.detail
    play.later(86400)
    play.ask(wants=OCSP)
    assert play.fetch() and not play.of(e.Send)


def test_a_delegated_responder():
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), CA.response(LEAF, signer=CA.responder()))
    assert play.findings() == (NONE, GOOD)


def test_a_responder_that_does_not_like_get():
    play = Play()
    play.ask(wants=OCSP)
    play.fail(play.fetch(), status=405)
    fetch = play.fetch()
    assert fetch.url == RESPONDER and fetch.post and not play.of(e.Send)
    play.give(fetch, CA.response(LEAF))
    assert play.findings() == (NONE, GOOD)
    play.later(50_000)
    play.ask(wants=OCSP)
    assert play.fetch().post  # from now on at once


def test_an_answer_to_get_that_is_none_is_asked_for_with_post():
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), bytes.fromhex("30030a0101"))  # malformedRequest
    play.give(play.fetch(), bytes.fromhex("30030a0106"))  # unauthorized
    assert play.findings() == (NONE, NONE)
    assert "unauthorized" in play.told().detail


def test_a_long_request_is_a_post():
    ca = ROOT.authority("CA", serial=1 << 158)
    leaf = ca.leaf("x", ocsp="http://o.example/" + "x" * 400, serial=1 << 158)
    play = Play()
    play.ask(leaf, wants=OCSP)
    assert len(play.fetch().url) < limits.URL_B + 260


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (lambda: b"<html>", "cannot be read"),
        (lambda: CA.response(OTHER), "another certificate"),
        (lambda: CA.response(LEAF)[:-1] + b"\0", "does not verify"),
        (lambda: CA.response(LEAF, signer=ROOT.responder()), "not issued by the issuer"),
        (lambda: CA.response(LEAF, signer=OTHER), "not for signing OCSP"),
        (lambda: CA.response(LEAF, since=-3 * DAY, until=-HOUR), "out of date"),
    ],
)
def test_answers_that_do_not_count(response, why):
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), response())
    play.give(play.fetch(), response())  # by POST
    told = play.told()
    assert told.ocsp is BAD and why in told.detail


def test_another_responder_may_know():
    play = Play()
    play.ask(TWO, wants=OCSP)
    play.give(play.fetch(), CA.response(TWO, "unknown"))
    assert play.fetch().url.startswith("http://p.example/2/")
    play.give(play.fetch(), CA.response(TWO))
    assert play.findings() == (NONE, GOOD)


def test_that_nobody_knows_is_not_kept_for_long():
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), CA.response(LEAF, "unknown"))
    assert play.findings() == (NONE, UNKNOWN)
    play.ask(wants=OCSP)
    assert play.findings() == (NONE, UNKNOWN)
    play.later(bounds.UNKNOWN_S + 1)
    play.ask(wants=OCSP)
    assert play.fetch()


def test_an_answer_within_the_grace_for_clocks_is_used_by_who_waits():
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), CA.response(LEAF, since=-HOUR, until=-HOUR / 30))
    assert play.findings() == (NONE, GOOD)


# --- time is up -------------------------------------------------------------------------------------------


def test_time_is_up():
    play = Play()
    play.ask()
    fetches = play.of(e.Fetch)
    play.fire(e.Clock.QUESTION)
    told = play.told()
    assert (told.crl, told.ocsp) == (NONE, NONE) and "no answer in time" in told.detail
    play.give(fetches[0], CA.crl())  # comes late, and is of use to the next one
    assert not play.of(e.Send)
    play.ask(wants=LISTS)
    assert play.findings() == (GOOD, NONE)
    assert play.core.counters.late == 1


def test_what_is_known_is_told_when_time_is_up():
    play = Play()
    play.ask()
    armed = play.effects
    play.give(play.fetch(e.Kind.LIST), CA.crl())
    assert not play.of(e.Send)
    play.effects = armed
    play.fire(e.Clock.QUESTION)
    assert play.findings() == (GOOD, NONE)


def test_a_timer_of_a_question_that_was_answered():
    play = Play()
    play.ask(wants=LISTS)
    armed = play.effects
    play.give(play.fetch(), CA.crl())
    play.effects = armed
    play.fire(e.Clock.QUESTION)
    assert play.effects == []


def test_deadlines_are_bounded():
    play = Play()
    play.ask(deadline_ms=0xFFFFFFFF)
    assert play.only(e.Arm).delay_ms == bounds.QUESTION_MS


# --- strange questions ------------------------------------------------------------------------------------


def test_no_certificates():
    play = Play()
    play.ask(chain=(b"x", b"y"))
    assert play.findings() == (BAD, BAD)
    play.ask(chain=LEAF.chain[:1])
    assert play.findings() == (NONE, NONE)
    play.ask(chain=(LEAF.der, ROOT.der))
    told = play.told()
    assert (told.crl, told.ocsp) == (BAD, BAD) and "not issued by the next" in told.detail
    play.ask(wants=0)
    assert play.findings() == (NONE, NONE)
    assert not play.of(e.Fetch)


# --- too much ---------------------------------------------------------------------------------------------


def many(count, host="h{}.example"):
    return [CA.leaf(f"x{n}", crl=f"http://{host.format(n)}/{n}").chain[:2] for n in range(count)]


def test_downloads_are_bounded_and_wait_in_order(monkeypatch):
    monkeypatch.setattr(bounds, "AT_ONCE", 3)
    monkeypatch.setattr(bounds, "WAITING", 2)
    play = Play()
    running = []
    for chain in many(5):
        play.ask(chain=chain, wants=LISTS)
        running += play.of(e.Fetch)
    assert [fetch.url for fetch in running] == [f"http://h{n}.example/{n}" for n in range(3)]
    play.ask(chain=many(6)[5], wants=LISTS)
    assert play.findings() == (NONE, NONE) and "too many downloads" in play.told().detail
    play.fail(running[1])
    assert play.fetch().url == "http://h3.example/3"


def test_a_slow_host_leaves_room_for_others(monkeypatch):
    monkeypatch.setattr(bounds, "AT_ONCE_OF_HOST", 2)
    play = Play()
    slow = []
    for chain in many(5, "slow.example"):
        play.ask(chain=chain, wants=LISTS)
        slow += play.of(e.Fetch)
    assert len(slow) == 2
    play.ask(wants=LISTS)
    play.give(play.fetch(), CA.crl())  # another host's
    assert play.findings(6) == (GOOD, NONE)
    play.fail(slow[0])
    assert play.fetch().url == "http://slow.example/2"


def test_questions_are_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "QUESTIONS", 2)
    play = Play()
    for _ in range(2):
        play.ask()
    play.ask()
    assert play.findings() == (NONE, NONE)
    play.ask_staple()
    assert play.told().response == b""
    assert play.core.counters.turned_away == 2


def test_lists_are_bounded_in_number_and_size(monkeypatch):
    monkeypatch.setattr(bounds, "LISTS", 3)
    monkeypatch.setattr(bounds, "SERIALS", 10)
    play = Play()
    chains = many(6)
    for chain in chains:
        play.ask(chain=chain, wants=LISTS)
        play.give(play.fetch(), CA.crl({5: "", 6: ""}))
        assert play.findings() == (GOOD, NONE)
    assert (play.core.state()["lists"], play.core.state()["serials"]) == (3, 6)
    play.ask(chain=chains[5], wants=LISTS)
    assert not play.of(e.Fetch)
    play.ask(chain=chains[0], wants=LISTS)
    play.give(play.fetch(), CA.crl(dict.fromkeys(range(1, 10), "")))
    assert play.findings() == (GOOD, NONE)
    assert (play.core.state()["lists"], play.core.state()["serials"]) == (1, 9)
    play.ask(chain=chains[1], wants=LISTS)
    play.give(play.fetch(), CA.crl(dict.fromkeys(range(1, 30), "")))  # alone too heavy: kept for who waits
    assert play.findings() == (GOOD, NONE)


def test_failures_in_the_log_are_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "NOTES_A_MINUTE", 2)
    play = Play()
    noted = 0
    for chain in many(5):
        play.ask(chain=chain, wants=LISTS)
        play.fail(play.fetch())
        noted += len(play.of(e.Note))
    assert noted == 2


def test_counters_are_logged_when_they_have_changed():
    play = Play()
    play.fire(e.Clock.SWEEP)
    assert play.only(e.Arm).delay_ms == bounds.SWEEP_MS
    play.ask(BARE)
    play(e.TimerFired(e.Timer(e.Clock.SWEEP)))
    assert play.only(e.Note).fields["questions"] == 1
    play.fire(e.Clock.SWEEP)
    assert not play.of(e.Note)


def test_title():
    play = Play()
    assert play.core.title == "0 lists, 0 answers"
    play.ask()
    assert play.core.title == "1 question, 2 downloads"


# --- staples ----------------------------------------------------------------------------------------------


def test_a_staple_is_fetched_and_kept():
    play = Play()
    play.ask_staple()
    response = CA.response(LEAF)
    play.give(play.fetch(), response)
    told = play.told()
    assert isinstance(told, StapleTold)
    assert told.response == response and abs(told.until_s - play.wall_s - 86400) < 10
    play.ask_staple()
    assert play.told().response == response and not play.of(e.Fetch)


def test_a_staple_is_refreshed_when_half_its_life_is_over():
    play = Play()
    play.ask_staple()
    play.give(play.fetch(), CA.response(LEAF))
    play.later(43_000)
    play(e.TimerFired(e.Timer(e.Clock.SWEEP)))
    assert not play.of(e.Fetch)
    play.later(400)
    play(e.TimerFired(e.Timer(e.Clock.SWEEP)))
    newer = CA.response(LEAF, until=3 * DAY)
    play.give(play.fetch(), newer)
    play.ask_staple()
    assert play.told().response == newer


def test_a_staple_that_nobody_wants_is_not_refreshed():
    play = Play()
    play.ask_staple()
    play.give(play.fetch(), CA.response(LEAF, until=10 * DAY))
    play.later(bounds.STAPLE_UNUSED_S + 400_000)
    play(e.TimerFired(e.Timer(e.Clock.SWEEP)))
    assert not play.of(e.Fetch)


@pytest.mark.parametrize("status", ["revoked", "unknown"])
def test_only_good_is_stapled(status):
    play = Play()
    play.ask_staple()
    play.give(play.fetch(), CA.response(LEAF, status))
    told = play.told()
    assert (told.response, told.until_s) == (b"", 0) and told.detail


def test_no_staple():
    play = Play()
    for one, chain in ((BARE, None), (LEAF, LEAF.chain[:1]), (LEAF, (LEAF.der, ROOT.der)), (LEAF, (b"x", b"y"))):
        play.ask_staple(one, chain)
        told = play.told()
        assert (told.response, told.until_s) == (b"", 0) and told.detail
    play.ask_staple()
    play.fail(play.fetch())
    assert play.told().response == b""


def test_what_was_asked_for_a_decision_is_asked_again_for_a_staple():
    play = Play()
    play.ask(wants=OCSP)
    play.give(play.fetch(), CA.response(LEAF))
    play.ask_staple()
    response = CA.response(LEAF)
    play.give(play.fetch(), response)
    assert play.told().response == response
    play.ask(wants=OCSP)
    assert play.findings() == (NONE, GOOD)


def test_staples_are_bounded(monkeypatch):
    monkeypatch.setattr(bounds, "STAPLES", 2)
    play = Play()
    for n in range(4):
        play.ask_staple(CA.leaf(f"s{n}", ocsp=RESPONDER))
        assert play.fetch()
    assert isinstance(play.core.state()["responses"], int)
