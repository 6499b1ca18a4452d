"""Invariants of what operators, their programs and their terminals say to daemons, and of what scrapers ask for.

One exception type each; what was read reads the same when it is written again; what means everything is said on
purpose only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import zlib
from functools import cache
from types import SimpleNamespace

import h11
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.fuzz.target import Target, octets, text
from tests.playbook.broker import FakeRecords, kept_of
from tlspool_admin.top.terminal import keys_untrusted
from tlspool_broker import closing, door, kept, scrape, views
from tlspool_broker.session import Session, State
from tlspool_broker.workers import Worker, WorkerNumber
from tlspool_common import openmetrics, quota, settings
from tlspool_common.appwire import FRAME_B, Cmd, ErrorReply, Frame, Starttls, frame_untrusted
from tlspool_common.errors import Code, PoolError, com_err
from tlspool_common.log import Log
from tlspool_common.metric_table import BY_NAME
from tlspool_common.metrics import Metrics
from tlspool_keyd import locks, pkcs11uri


def _refused(error, *codes):
    assert error.code in codes, error
    assert 0 < len(str(error)) < 1500


def _fields_of(data):
    try:
        fields = json.loads(text(data))
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


# --- sessions that are meant ----------------------------------------------------------------------------

_KNOWN = ("limit", "after")


@cache
def _session() -> Session:
    worker = Worker(WorkerNumber(1), 7, 815, None, 0, 0)
    return kept.session_of(kept_of(5, 7), worker, FakeRecords())


def _check_filter(data):
    fields = _fields_of(data)
    if fields is None:
        return False
    try:
        picked, words = views.filter_untrusted(fields, _KNOWN)
    except PoolError as error:
        _refused(error, Code.FIELD_MALFORMED)
        return False
    assert words.keys() <= {*views.WORDS, *_KNOWN} and all(0 < len(value) <= 1000 for value in words.values())
    assert bool(picked) == bool(words.keys() & set(views.WORDS))
    meant = {word: value for word in views.WORDS if (value := getattr(picked, word))}
    assert views.filter_untrusted(meant) == (picked, meant)
    assert views.filter_untrusted({"args": [f"{word}={value}" for word, value in meant.items()]}) == (picked, meant)
    assert not picked.state or picked.state in [state.name.lower() for state in State]
    taken = picked.takes(_session())
    assert taken == all(views.Filter(**{word: value}).takes(_session()) for word, value in meant.items())
    for value in words.values():
        _check_number(octets(value))
    return True


def _check_number(data):
    given = text(data)
    try:
        found = views.number_untrusted(given, "a number, please")
    except PoolError as error:
        _refused(error, Code.FIELD_MALFORMED)
        return False
    assert re.fullmatch("[0-9]{1,19}", given) and 0 <= found < 10**19
    assert str(found) == (given.lstrip("0") or "0")
    return True


# --- locks of tokens ------------------------------------------------------------------------------------

_PLACE = "pkcs11:model=m;manufacturer=f;serial=1;token=t1"


def _check_lock(data):
    """A text; and as JSON of an operator, if it is that."""
    given = text(data)
    fields = _fields_of(data)
    taken, meant = False, []
    for request in ({"token": given}, {"args": [given]}, fields):
        if request is None:
            continue
        try:
            uri = locks.asked_untrusted(request)
        except PoolError as error:
            _refused(error, Code.FIELD_MALFORMED, Code.KEY_URI_MALFORMED)
            continue
        if uri in meant:
            continue  # it was said in another way already
        meant.append(uri)
        assert locks.uri_untrusted(uri) == uri == locks.asked_untrusted({"token": uri})
        parsed = pkcs11uri.parse_untrusted(uri)
        assert parsed.attributes.keys() <= set(pkcs11uri.PLACE_ATTRIBUTES) and not parsed.vendor
        assert parsed.attributes or request is fields or given in ("", locks.ALL)  # all of them by no slip of the pen
        made = locks.Locks()
        try:
            made.add(uri, [_PLACE])
        except PoolError as error:
            _refused(error, Code.TOKEN_GONE)
            assert not made.covers(_PLACE)
            continue
        taken = True
        assert made.covers(_PLACE) and made.covers(f"{_PLACE};object=a") and made.names == [uri]
        assert made.mark([f"{_PLACE} ready"]) == (f"{_PLACE} TOKEN_LOCKED",) and made.of([f"{_PLACE} x"]) == (_PLACE,)
        made.remove(uri)
        assert not made.covers(_PLACE) and not made
    return taken


# --- rules of limits ------------------------------------------------------------------------------------

_AMOUNTS = ("sessions", "handshakes", "connections", "burst")
_RATES = ("rate", "requests")
_WHO = {"socket": "sockets", "user": "uids", "group": "gids", "unit": "units", "exe": "exes"}


def _number(given):
    """Look up a user or a group, where there are none with names."""
    if not re.fullmatch("[0-9]{1,9}", given):
        raise ValueError("names nobody")
    return int(given)


def _check_limit(data):
    given = text(data)
    try:
        rule = quota.parse_limit(given, _number, _number)
    except ValueError as error:
        assert str(error)
        return False
    assert quota.parse_limit(f"{rule.name} {rule}", _number, _number) == rule
    said = dict(word.split("=", 1) for word in given.split()[1:])  # a second reader
    assert len(said) == len(given.split()) - 1
    for name in _AMOUNTS:
        assert getattr(rule, name) == (int(said[name]) if name in said else None)
    for name in _RATES:
        number, _, unit = said.get(name, "").partition("/")
        assert getattr(rule, name) == (int(number) / {"s": 1, "m": 60}[unit] if name in said else None)
    for name in (*_AMOUNTS, *_RATES):
        assert getattr(rule, name) is None or 0 <= getattr(rule, name) <= quota.MOST
    assert rule.burst != 0
    for word, name in _WHO.items():
        assert {str(value) for value in getattr(rule, name)} == {
            str(int(value)) if word in ("user", "group") else value for value in said.get(word, "").split(",") if value
        }
    assert any(name in said for name in (*_AMOUNTS, *_RATES)) and said.keys() <= {*_AMOUNTS, *_RATES, *_WHO}
    if "\n" not in given and "user" not in said and "group" not in said and given.isprintable():
        (found,) = settings.parse_untrusted(f"limit {given}\n").quotas  # as it stands in a file
        assert found == rule
    return True


# --- metrics --------------------------------------------------------------------------------------------


def _series(samples):
    return {(one.name, tuple(sorted(one.labels.items()))) for family in samples.values() for one in family}


@cache
def _ours():
    """Return samples of a broker, which are the same for all inputs."""
    return Metrics("B").samples()


def _beside(families, data):
    """Return those of our families that others are of, too, and two more; all of them for few inputs.

    What stands in one family means nothing for another, and to read them all takes a hundred times longer.
    """
    ours = _ours()
    if zlib.crc32(data) % 64 == 0:
        return ours
    few = {*families, *list(ours)[:: len(ours) - 1]}
    return {name: samples for name, samples in ours.items() if name in few}


def _check_metrics(data):
    """Another daemon's text among ours: scrapers can read all of it, or it is left out."""
    given = text(data)
    try:
        found = openmetrics.read_untrusted(given)
    except openmetrics.BadText as error:
        assert 0 < len(str(error)) < 200
        return False
    for name, samples in found.items():
        metric = BY_NAME[name]
        assert all(sample.labels.keys() - {"le"} <= set(metric.labels) for sample in samples)
    written = openmetrics.write(found)
    again = openmetrics.read_untrusted(written)
    assert again == found and openmetrics.write(again) == written
    ours = _beside(found.keys(), data)
    merged = openmetrics.merge([ours, found])
    assert _series(merged) == _series(ours) | _series(found)
    lines = openmetrics.write(merged).split("\n")
    assert sum(not line.startswith("#") for line in lines) == len(_series(merged)) + 1
    try:
        theirs = list(text_string_to_metric_families("\n".join(lines)))
    except ValueError as error:
        # XXX It knows more of numbers than scrapers do: that buckets rise, and that counts are whole.
        assert re.search(_OF_NUMBERS, str(error)), error
    else:
        assert {family.name for family in theirs} == merged.keys()
        assert {
            (one.name, tuple(sorted(one.labels.items()))) for family in theirs for one in family.samples
        } == _series(merged)
    return True


_OF_NUMBERS = "ucket|[Cc]ount|[Hh]istogram|negative|NaN|Info|le |sum"


def _metrics_seeds():
    yield octets("# TYPE tlspool_up gauge\n# HELP tlspool_up x\n" + 'tlspool_up{daemon="keyd"} 1\n# EOF\n')
    for letter in "WK":
        metrics = Metrics(letter)
        metrics.read("sign.done", {"scheme": "ed25519", "token": 'pkcs11:token="\\\n', "queue_ms": 0.5, "token_ms": 1})
        found = openmetrics.read_untrusted(metrics.text())
        names = [name for name in found if name != "tlspool_memory_bytes" and "sign" in name] or list(found)[:2]
        few = {name: found[name] for name in names}  # numbers of this process are others in the next
        yield octets(openmetrics.write(few))
    yield octets(openmetrics.write({"tlspool_up": [openmetrics.Sample("tlspool_up", {"daemon": "worker"}, 1e40)]}))


# --- scrapers -------------------------------------------------------------------------------------------


def _read_by_h11(head):
    """Return (method, target, values of Host), as a server that is used everywhere reads it; None: it is no request."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(head + b"\r\n\r\n")
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    return event.method, event.target, [value for name, value in event.headers if name == b"host"]


def _check_scrape(data):
    """A head, up to its first blank line."""
    head = data.partition(b"\r\n\r\n")[0]
    theirs = _read_by_h11(head)
    try:
        scrape.request_untrusted(head)
    except scrape.BadRequest as error:
        assert re.fullmatch("40[0345] [A-Za-z ]+", error.status)
        answer = scrape.response(error.status, "x\n")
        assert (b"\r\nAllow: GET\r\n" in answer) == (error.status[:3] == "405")
        assert answer.endswith(b"\r\n\r\nx\n")
        return False
    assert head.startswith(b"GET /metrics")
    if theirs is not None:
        method, target, hosts = theirs
        assert method == b"GET" and target.partition(b"?")[0] == b"/metrics" and len(hosts) <= 1
        for host in hosts:
            name = re.sub(r":[0-9]*$", "", host.decode("ascii"))
            assert name.lower() == "localhost" or (
                ipaddress.ip_address(name.strip("[]")).is_loopback and re.fullmatch(r"[0-9.]+|[\[\]0-9a-fA-F:.]+", name)
            )
    return True


# --- those at the door ----------------------------------------------------------------------------------

_TURNED_AWAY = PoolError(Code.TOO_MANY_SESSIONS, "max_connections_per_caller is 1, user 7")


class _Waiting:
    """Stands for a loop: knows who waits for what."""

    def __init__(self):
        self.readers, self.timers = {}, set()

    def add_reader(self, sock, call, *args):
        self.readers[sock.fileno()] = (call, args)

    def remove_reader(self, sock):
        del self.readers[sock.fileno()]

    def call_later(self, _, *call):
        self.timers.add(call)
        return SimpleNamespace(cancel=lambda: self.timers.remove(call))


@cache
def _door():
    """Return a door for all inputs, where nobody is, and what it waits by."""

    async def made():
        return door.Door(Log("broker"), closing.Closer(Log("broker")))

    turned, waiting = asyncio.run(made()), _Waiting()
    turned._loop = waiting
    return turned, waiting


def _at_the_door(pieces):
    """Say pieces to a broker that has no room; return what it answers, and whether it has hung up."""
    turned, waiting = _door()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        ours.setblocking(False)
        theirs.setblocking(False)
        turned.turn_away(theirs, 7, _TURNED_AWAY)
        (guest,) = turned._guests
        try:
            for piece in pieces:
                if not len(turned):
                    break
                if piece:
                    ours.send(piece)
                else:
                    ours.shutdown(socket.SHUT_WR)
                call, args = waiting.readers[theirs.fileno()]
                call(*args)
                assert len(guest.frame) <= FRAME_B
            hung_up = not len(turned)
        finally:
            turned.close()
        assert not (len(turned) or turned._by_uid or waiting.readers or waiting.timers)
        answer = b""
        try:
            while more := ours.recv(4 * FRAME_B):
                answer += more
        except ConnectionResetError:
            pass  # there was more behind the frame, which nobody reads
        assert theirs.fileno() == -1
        return answer, hung_up


_PIECES = 12


def _check_door(data):
    """The first octet is the size of the first pieces, behind which the rest comes at once; 0: all, then the end."""
    if not data:
        return False
    size, said = data[0] * 3, data[1:]
    few = range(0, min(len(said), _PIECES * size), size) if size else ()
    pieces = [*(said[at : at + size] for at in few), said[_PIECES * size :]] if size else [said, b""]
    if size and not pieces[-1]:
        pieces.pop()
    heard, count_b = [], 0
    for piece in pieces:
        if count_b < FRAME_B:
            heard.append(piece)
            count_b += len(piece)
    answer, hung_up = _at_the_door(heard)
    if count_b < FRAME_B:
        assert not answer
        assert hung_up == (b"" in heard)
        return False
    assert hung_up and len(answer) == FRAME_B
    frame, asked = frame_untrusted(answer), frame_untrusted(said[:FRAME_B])
    assert (frame.reqid, frame.cbid, frame.cmd) == (asked.reqid, 0, Cmd.ERROR)
    reply = ErrorReply.from_payload_untrusted(frame.payload)
    assert reply.tlserrno == com_err(_TURNED_AWAY.code) and reply.message.startswith(f"[{int(_TURNED_AWAY.code)}] ")
    return True


def _door_seeds():
    for size in (0, 40, 255):
        yield bytes((size,)) + Frame(7, 9, Cmd.PING).to_bytes()
    yield bytes((130,)) + Frame(0xFFFF, 0, Cmd.STARTTLS, Starttls().to_payload()).to_bytes() + b"more"


# --- keys -----------------------------------------------------------------------------------------------

_ARROWS = {"A": "up", "B": "down", "C": "right", "D": "left"}
_ALONE = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape", "\3": "q", "\4": "q"}


def _check_keys(data):
    """A second reader goes from one character to the next."""
    typed = data.decode("utf-8", "replace")
    found = keys_untrusted(typed)
    told = []
    at = 0
    while at < len(typed):
        if typed[at] != "\x1b" or typed[at + 1 : at + 2] not in ("[", "O"):
            told.append(_ALONE.get(typed[at], typed[at] if typed[at].isprintable() else ""))
            at += 1
            continue
        begin = at = at + 2
        while at < len(typed) and not "@" <= typed[at] <= "~":
            at += 1
        told.append(_ARROWS.get(typed[begin : at + 1], ""))
        at += 1
    assert found == [key for key in told if key]
    assert len(found) <= len(typed) and all(key.isprintable() for key in found)
    return bool(found)


TARGETS = (
    Target(
        "sessions-meant",
        "FIELD_MALFORMED, or a filter that reads the same from fields and from words; it is everybody only if nobody "
        "is named; and a session is meant if each word means it.",
        _check_filter,
        lambda: (
            b'{"caller": "postfix", "uid": 1000, "state": "RELAYING", "limit": 5, "after": "17"}',
            b'{"args": ["side=server", "local=.example.com", "remote=@b.example", "worker=7", "service=smtp"]}',
            b'{"cmd": "sessions", "args": []}',
        ),
        (b'"args": [', b'"state": "over"', b'"uid": ', b"=", b"null", b"true", b'"\\u0131"', b"1e9", b"{", b"}"),
    ),
    Target(
        "number",
        "FIELD_MALFORMED, or the number that stands there in ASCII digits.",
        _check_number,
        lambda: (b"17", b"0009", b"9999999999999999999"),
        (b"-", b"+", b"_", b" ", b"\n", *map(octets, "٣²")),
        64,
    ),
    Target(
        "token-lock",
        "FIELD_MALFORMED or KEY_URI_MALFORMED, or a URI of tokens that reads the same; all tokens are meant only if "
        "nothing, or pkcs11: alone, was said; and what is locked is covered until it is unlocked.",
        _check_lock,
        lambda: (
            b"",
            b"tlspool-dev",
            octets("My tökén"),
            b"pkcs11:serial=1;token=t1",
            b"pkcs11:token=t1?v-x=1",
            b'{"cmd": "lock", "args": ["t1"]}',
            b'{"token": "pkcs11:model=m"}',
        ),
        (b"pkcs11:", b"token=", b"object=", b"v-x=", b"?", b";", b"%", b"slot-id=", b'{"token": ', b"null"),
        600,
    ),
    Target(
        "limit-rule",
        "ValueError, or a rule that reads the same from what is shown of it, as a second reader has it.",
        _check_limit,
        lambda: (
            b"mail socket=/run/a.sock user=0,7 group=8 unit=postfix@.service exe=/usr/bin/x sessions=5 handshakes=0",
            b"all rate=90/m burst=9 requests=10/s connections=1000000",
        ),
        (b" ", b"=", b",", b"/s", b"/m", b"rate=", b"burst=", b"user=", b"unit=", *map(octets, "٣\u2003\x1c\x85")),
        300,
    ),
    Target(
        "metrics-text",
        "BadText, or samples of the table that read the same when they are written; and with ours before them they are "
        "a text that another parser reads, too.",
        _check_metrics,
        _metrics_seeds,
        (b"# TYPE ", b"# EOF\n", b"\n", b'daemon="', b"{", b"} ", b",", b"_total", b"_bucket", b'le="', b"1e999", b"-"),
        limit_b=openmetrics.TEXT_B,
    ),
    Target(
        "scrape-request",
        "BadRequest with a status, or a GET of /metrics; what h11 reads of that is the same, and from a loopback name.",
        _check_scrape,
        lambda: (
            b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9109\r\nUser-Agent: x\r\n\r\n",
            b"GET /metrics?x=1 HTTP/1.0\r\nhost: [::1]:9109",
            b"GET /metrics HTTP/1.1\r\nHost: localhost",
        ),
        (
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"Host:",
            b"\r\nHost: a.example",
            b"::1",
            b"%",
            b":80",
            b"GET ",
            b"\r\n\r\n",
        ),
        limit_b=scrape.HEAD_B,
    ),
    Target(
        "at-the-door",
        "Nothing is said before there is a frame; then the one answer is an error that has its number; nothing "
        "behind it is read, and the socket is closed.",
        _check_door,
        _door_seeds,
        (),
        800,
    ),
    Target(
        "keys",
        "Names of keys and printable characters, as a second reader has them; sequences that nobody knows are nothing.",
        _check_keys,
        lambda: (b"q\x1b[A\x1bOB\x1b[5~x", octets("/é\r\x7f\x1b"), b"\x1b[1;5C\x03"),
        (b"\x1b", b"[", b"O", b"~", b"\x1b[A"),
        limit_b=4096,
    ),
)
