"""Titles of processes: up to date, but not at every change."""

import asyncio
import time

import setproctitle

from tlspool_common import title


async def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_it_says_what_there_is_and_not_too_often(monkeypatch):
    written, looks = [], 0
    monkeypatch.setattr(setproctitle, "setproctitle", written.append)
    monkeypatch.setattr(title, "_REST_S", 0.02)
    number = 0

    def text():
        nonlocal looks
        looks += 1
        return title.count(number, "session")

    async def live():
        nonlocal number
        made = title.Title("tlspool-broker", text)
        made.changed()
        for _ in range(1000):
            number += 1
            made.changed()
        assert looks == 1
        await until(lambda: len(written) == 2)
        number = 1
        made.changed()
        await until(lambda: len(written) == 3)
        made.changed()
        made.close()

    asyncio.run(live())
    assert written == ["tlspool-broker: 0 sessions", "tlspool-broker: 1000 sessions", "tlspool-broker: 1 session"]
