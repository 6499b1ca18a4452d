"""Invariant: whatever a remote, an authority or a server sends, the helper answers each question, and raises nothing.

Lists that were changed in any byte are refused or not signed; a response that was changed never says good.
"""

import asyncio
import contextlib
import random
import time

import pytest

from tests.fixtures.authority import DAY, Authority
from tests.fixtures.loops import on_loop
from tlspool_common.codec import encode
from tlspool_common.messages import BY_MESSAGE, AskRevocation, AskStaple, Finding
from tlspool_online import events as e
from tlspool_online.chains import BadChain, identity_of, links_untrusted
from tlspool_online.core import OnlineCore, Options
from tlspool_online.fetch import Fetcher, FetchError
from tlspool_online.lists import BadList, read_file_untrusted, read_untrusted

pytestmark = pytest.mark.filterwarnings(
    "ignore:Parsed a serial number", "ignore:The parsed certificate contains a NULL"
)

ROOT = Authority("Root")
CA = ROOT.authority("CA", crl="http://r.example/r.crl", ocsp="http://r.example/o")
LEAF = CA.leaf("leaf", crl=("http://a.example/1", "http://b.example/2"), ocsp="http://o.example/")


def mutate(chance, data):
    data = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del data[at : at + chance.randint(1, 8)]
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randint(1, 8))
        else:
            data[at : at + 2] = chance.choice([b"\xff\xff", b"\0\0", b"\x30\x80", b"\x30\x84", b"\x02\x01"])
    return bytes(data)


def test_mutated_lists():
    chance = random.Random(5280)
    seeds = [CA.crl(dict.fromkeys(range(1, 9), "key_compromise")), CA.crl(), CA.crl({LEAF.serial: ""}, until=300 * DAY)]
    found = {"refused": 0, "unsigned": 0}
    for _ in range(6000):
        data = mutate(chance, chance.choice(seeds))
        if data in seeds:
            continue
        try:
            read = read_untrusted(data)
        except BadList as error:
            assert 0 < len(str(error)) < 200
            found["refused"] += 1
            continue
        assert all(isinstance(serial, bytes) and value >= 0 for serial, value in read.revoked.items())
        assert read.refusal(CA.certificate, identity_of(CA.certificate)), data.hex()
        found["unsigned"] += 1
    assert min(found.values()) > 500  # the mutations do reach the inside


def test_mutated_files():
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    chance = random.Random(7468)
    pem = b"".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in (CA.crl({5: ""}), ROOT.crl()))
    for _ in range(2000):
        with contextlib.suppress(BadList):
            read_file_untrusted(mutate(chance, pem))


def test_mutated_chains():
    chance = random.Random(509)
    faults = 0
    for _ in range(3000):
        chain = list(LEAF.chain)
        at = chance.randrange(len(chain))
        chain[at] = mutate(chance, chain[at])
        with contextlib.suppress(BadChain):
            links = links_untrusted(chain)
            faults += any(link.fault for link in links)
    assert faults > 100


def test_the_core_answers_every_question():
    chance = random.Random(6960)
    bodies = [CA.crl({9: ""}), ROOT.crl(), CA.response(LEAF), CA.response(LEAF, "revoked"), ROOT.response(CA), b""]
    good = set(bodies)
    for _ in range(40):
        core = OnlineCore(Options(), 1)
        ms, wall_s = 0.0, time.time()
        waiting, todo, timers, asked, answered = set(), [], [], 0, []
        for effect in core.begin():
            if isinstance(effect, e.Arm):
                timers.append(effect.timer)
        for _step in range(60):
            kind = chance.randrange(4)
            if kind == 0 or not todo:
                asked += 1
                chain = list(LEAF.chain)
                if chance.random() < 0.3:
                    chain[chance.randrange(3)] = mutate(chance, chain[chance.randrange(3)])
                chain = tuple(chain[: chance.randint(0, 3)] if chance.random() < 0.1 else chain)
                message = (
                    AskStaple(chain=chain, deadline_ms=100)
                    if chance.random() < 0.3
                    else AskRevocation(
                        wants=chance.randrange(4), chain=chain, crl_urls=(), ocsp_urls=(), deadline_ms=100
                    )
                )
                event = e.BrokerAsked(message, asked)
                waiting.add(asked)
            elif kind == 1:
                event = todo.pop(chance.randrange(len(todo)))
            elif kind == 2:
                event = e.TimerFired(chance.choice(timers))
            else:
                ms += 20_000
                wall_s += chance.choice([1, 20, 3600, 50_000])
                continue
            for effect in core.handle(event, e.Now(ms, wall_s)):
                if isinstance(effect, e.Send):
                    waiting.remove(effect.exchange)  # each is answered once
                    answered.append(effect.message)
                    assert encode(BY_MESSAGE[type(effect.message)].code, 1, effect.message)
                elif isinstance(effect, e.Fetch):
                    body = chance.choice(bodies)
                    if chance.random() < 0.5:
                        body = mutate(chance, body)
                    failed = e.FetchFailed(effect.number, "x", chance.choice([0, 500]))
                    todo.append(chance.choice([e.Fetched(effect.number, body), failed]))
                elif isinstance(effect, e.ReadList):
                    try:
                        read = read_untrusted(effect.body)
                        if why := read.refusal(effect.issuer, effect.issuer_id):
                            raise BadList(why)
                        assert effect.body in good
                        todo.append(e.ListRead(effect.number, read))
                    except BadList as error:
                        todo.append(e.ListRefused(effect.number, str(error)))
                elif isinstance(effect, e.Arm):
                    timers.append(effect.timer)
        for timer in timers:
            for effect in core.handle(e.TimerFired(timer), e.Now(ms, wall_s)):
                if isinstance(effect, e.Send):
                    waiting.remove(effect.exchange)
        assert not waiting  # and each is answered in time
        assert core.counters.questions == asked


def test_mutated_responses_never_say_good():
    chance = random.Random(5019)
    seeds = [CA.response(LEAF), CA.response(LEAF, signer=CA.responder()), CA.response(LEAF, "revoked")]
    for seed in seeds:
        for _ in range(700):
            core = OnlineCore(Options(), 1)
            now = e.Now(0, time.time())
            question = AskRevocation(wants=2, chain=LEAF.chain[:2], crl_urls=(), ocsp_urls=(), deadline_ms=1)
            data = mutate(chance, seed)
            effects = core.handle(e.BrokerAsked(question, 1), now)
            while fetches := [effect for effect in effects if isinstance(effect, e.Fetch)]:
                effects = core.handle(e.Fetched(fetches[0].number, data), now)
            (sent,) = [effect for effect in effects if isinstance(effect, e.Send)]
            if data != seed and sent.message.ocsp in (Finding.GOOD, Finding.REVOKED):
                # Only what nobody has signed may differ: a delegated responder's certificate comes in any wrapping.
                assert len(data) == len(seed), data.hex()


@on_loop
async def test_mutated_http():
    chance = random.Random(9112)
    seeds = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/pkix-crl\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 404 Not Found\r\n\r\nno",
    ]

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(mutate(chance, chance.choice(seeds)))
            await writer.drain()
        writer.close()

    async def resolve(_host, _port):
        return ["127.0.0.1"]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    fetcher = Fetcher((port,), True, resolve)
    got = failed = 0
    for _ in range(600):
        try:
            body = await fetcher.fetch(e.Fetch(1, e.Kind.RESPONSE, f"http://a.example:{port}/", b""))
            fetcher.release(len(body))
            got += 1
        except FetchError:
            failed += 1
        assert fetcher.buffered_b == 0
    server.close()
    assert got > 50 and failed > 50
