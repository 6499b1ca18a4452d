"""A certificate sends the helper that asks the network where it should not go, or hosts keep it busy."""

import asyncio

import pytest

from tests.fixtures.authority import Authority, Web
from tests.fixtures.loops import on_loop
from tests.fixtures.online_process import Helper
from tests.unit.test_online_fetch import OK, Host, fails
from tlspool_common.messages import Finding
from tlspool_online import locator
from tlspool_online.events import Fetch, Kind
from tlspool_online.fetch import Fetcher, FetchError
from tlspool_online.shell import _addresses

NO_NAMES = ["a..b.example", f"{'a' * 64}.example", ".", "..", "a" * 250, f"{'.'.join(['a' * 60] * 5)}.example"]
"""What Python's resolver answers with an exception that is no OSError."""


def chunks(text: bytes) -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + text


@pytest.mark.parametrize("host", NO_NAMES)
def test_a_name_that_cannot_be_one_is_not_looked_up(host):
    with pytest.raises(locator.BadLocator):
        locator.parse_untrusted(f"http://{host}/a.crl", (80,))


@pytest.mark.parametrize("host", ["_a.example", "a_.example", "A-b.example.", "a" * 63, "192.0.2.1", "0x7f.1", "a"])
def test_names_that_are_used_are_looked_up(host):
    assert locator.parse_untrusted(f"http://{host}/", (80,)).host == host.lower()


@on_loop
async def test_a_resolver_that_takes_exception():
    """Whatever it is for: a download fails, and no more."""

    async def resolve(_name, port):
        return await asyncio.get_running_loop().run_in_executor(None, _addresses, NO_NAMES[0], port)

    with pytest.raises(FetchError, match="no name of a host"):
        await Fetcher((80,), True, resolve).fetch(Fetch(1, Kind.LIST, "http://a.example/", b""))


def test_no_url_ends_the_helper():
    """It is one process for all sessions: whoever can end it keeps everybody's questions from being answered."""
    root = Authority("Root")
    with Web() as web:
        web.answers["/good"] = root.crl()
        good = root.leaf("good", crl=(f"{web.url}/good",)).chain
        with Helper(online_ports=(80, web.port)) as helper:
            for host in [*NO_NAMES, "[::", "[fe80::1%25lo]", "%00", "a\x7fb"]:
                url = f"http://{host}:{web.port}/x"
                told = helper.ask(root.leaf("odd").chain, wants=3, crl_urls=(url,), ocsp_urls=(url,), deadline_ms=5000)
                assert told.crl is not Finding.GOOD
                assert told.ocsp is not Finding.GOOD
            assert helper.ask(good, wants=1).crl is Finding.GOOD


@on_loop
async def test_chunks_of_a_byte_are_not_gone_through():
    async with Host(chunks(b"1\r\na\r\n" * 200_000)) as host:
        await fails(host, "too small pieces")
    async with Host(chunks(b"".join(b"40\r\n%b\r\n" % (b"a" * 64) for _ in range(20_000)) + b"0\r\n\r\n")) as host:
        fetcher = host.fetcher()
        assert len(await fetcher.fetch(host.order())) == 64 * 20_000


@on_loop
async def test_answers_before_the_answer():
    async with Host(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000) as host:
        await fails(host, "too small pieces")


@on_loop
async def test_what_stands_around_an_answer_is_bounded():
    extension = b"1;" + b"x" * 8000 + b"\r\na\r\n"
    async with Host(chunks(extension * 3000)) as host:
        await fails(host, "around an answer", kind=Kind.RESPONSE)


@pytest.mark.parametrize("address", ["64:ff9b:1::7f00:1", "64:ff9b:1::a00:1", "64:ff9b::7f00:1", "::ffff:127.0.0.1"])
def test_translated_addresses_are_private(address):
    """RFC 8215: what a gateway of the site makes of it is the site's own."""
    assert locator.refusal(address, False)
