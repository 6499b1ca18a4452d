"""Invariant: whatever pool and application do, a ticket ends once, a descriptor is closed once, nothing raises."""

from hypothesis import given, settings
from hypothesis import strategies as st

from libstub.events import (
    Abandoned,
    AskLocalid,
    AskPlain,
    BytesReceived,
    CallbackRefused,
    ConnectionLost,
    DetailsAsked,
    Finish,
    LocalidChosen,
    PingAsked,
    PlainGiven,
    StarttlsAsked,
    Ticket,
    TimePassed,
)
from tests.playbook.test_libstub_core import DETAILS, ESTABLISHED, KEY, REQUEST, Play, some_fd
from tlspool_common.appwire import Cmd, ErrorReply, Frame, Ping

POOL_SAYS = st.tuples(
    st.sampled_from([*Cmd, 0x99]),
    st.integers(0, 8),
    st.integers(0, 3),
    st.sampled_from(
        [
            b"",
            b"\xff" * 380,
            ESTABLISHED.to_payload(),
            DETAILS.to_payload(),
            Ping().to_payload(),
            ErrorReply(5, "[406] x").to_payload(),
        ]
    ),
)
APP_DOES = st.sampled_from(["ping", "starttls", "alpn", "plain", "localid", "refuse", "abandon", "time", "details"])


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(POOL_SAYS, st.tuples(APP_DOES, st.integers(1, 6)), st.binary(max_size=800)), max_size=40))
def test_each_ticket_ends_once_and_each_descriptor_is_closed_once(story):
    play = Play()
    open_tickets, ended, fds = set(), [], []
    last = 0
    for step in [*story, ConnectionLost("over")]:
        if isinstance(step, ConnectionLost):
            event = step
        elif isinstance(step, bytes):
            event = BytesReceived(step)
        elif len(step) == 4:
            cmd, reqid, cbid, payload = step
            event = BytesReceived(Frame(reqid, cbid, cmd, payload).to_bytes())
        else:
            word, ticket = step
            fd = some_fd() if word in ("starttls", "alpn", "plain") else None
            fds += [fd] if fd else []
            if word in ("ping", "starttls", "alpn", "details"):
                last += 1
                ticket = last
                open_tickets.add(ticket)
            event = {
                "ping": lambda t, _: PingAsked(t),
                "starttls": lambda t, fd: StarttlsAsked(t, REQUEST, fd, patience_s=3),
                "alpn": lambda t, fd: StarttlsAsked(t, REQUEST, fd, b"\x01x"),
                "details": lambda t, _: DetailsAsked(t, KEY),
                "plain": PlainGiven,
                "localid": lambda t, _: LocalidChosen(t, "x@example.com"),
                "refuse": lambda t, _: CallbackRefused(t),
                "abandon": lambda t, _: Abandoned(t),
                "time": lambda *_: TimePassed(),
            }[word](Ticket(ticket), fd)
            play.now_s += 4 if word == "time" else 0
            if word == "abandon":
                open_tickets.discard(ticket)
        for effect in play.do(event):
            if isinstance(effect, Finish):
                ended.append(effect.ticket)
                open_tickets.remove(effect.ticket)
            elif isinstance(effect, (AskPlain, AskLocalid)):
                assert effect.ticket in open_tickets
    assert not open_tickets
    assert len(ended) == len(set(ended))
    assert all(fd.closed for fd in fds)
    assert play.core.open_count == 0
