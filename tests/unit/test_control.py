"""The operator's sockets: words and JSON, people and programs."""

import asyncio
import contextlib
import json
import os
import select
import socket
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlspool_common import control
from tlspool_common.errors import Code, PoolError


def handler(request):
    if request["cmd"] == "refuse":
        raise PoolError(Code.LOCALID_UNKNOWN, "x.example")
    return {"echo": request["cmd"], "args": request.get("args", [])}


def test_words_are_answered_for_people_and_json_for_programs():
    assert control.answer_untrusted(b"status now\n", handler) == (
        b'{\n  "ok": true,\n  "echo": "status",\n  "args": ["now"]\n}\n'
    )
    assert control.answer_untrusted(b'{"cmd": "status"}', handler) == b'{"ok": true, "echo": "status", "args": []}\n'


@pytest.mark.parametrize("line", [b"", b"\xff", b"{", b'{"cmd": 5}', b'{"x": 1}', b"{" * 5000, b"refuse"])
def test_refusals_are_answers(line):
    answer = json.loads(control.answer_untrusted(line, handler))
    assert answer["ok"] is False
    assert answer["code"] in (101, 201)
    assert answer["error"].startswith("[")


def test_people_get_columns_and_the_same_json():
    rows = [{"session": 1, "caller": "postfix.service[1]", "tags": []}, {"session": 20000, "caller": "x", "tags": [1]}]
    answer = {"ok": True, "sessions": rows, "states": {"relaying": 2}, "none": [], "deep": [{"a": {"b": [{}]}}]}
    shown = control.render(answer, for_people=True)
    assert json.loads(shown) == answer
    assert (
        b"""  "sessions": [
    {"session": 1,     "caller": "postfix.service[1]", "tags": []},
    {"session": 20000, "caller": "x",                  "tags": [1]}
  ],
"""
        in shown
    )
    assert b'  "states": {"relaying": 2}' in shown
    assert max(map(len, shown.splitlines())) < 80


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    )
)
def test_people_get_json_whatever_it_is(value):
    for answer in ({"ok": True, "value": value}, {"ok": True, "rows": [{"a": value}, {"a": 1}], "more": {"b": value}}):
        assert json.loads(control.render(answer, for_people=True)) == answer


@given(st.binary(max_size=200))
def test_any_line_gets_one_answer(line):
    assert "ok" in json.loads(control.answer_untrusted(line, handler))


def test_over_asyncio(tmp_path):
    path = tmp_path / "s" / "broker.sock"

    async def slow(request):
        await asyncio.sleep(0)
        return handler(request)

    async def converse():
        server = await control.serve(path, slow, 0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"cmd": "a"}\n{"cmd": "refuse"}\n')
        first, second = json.loads(await reader.readline()), json.loads(await reader.readline())
        writer.write(b"x" * (control.LINE_B + 10))
        text = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return first, second, json.loads(text)

    first, second, third = asyncio.run(converse())
    assert first == {"ok": True, "echo": "a", "args": []}
    assert second["code"] == 201
    assert "at most" in third["error"]


@pytest.mark.parametrize("strangers", [{"strangers": {os.getuid()}}, {"stranger_pids": [os.getpid()]}])
def test_strangers_are_sent_away(tmp_path, no_leaks, strangers):
    async def converse():
        server = await control.serve(tmp_path / "s", handler, **strangers)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"status\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        server.close()
        await server.wait_closed()

    asyncio.run(converse())


def test_line_server(tmp_path):
    path = tmp_path / "worker.sock"
    before = set(os.listdir("/proc/self/fd"))
    server = control.LineServer(path, handler)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.sendall(b'{"cmd"')
    client_sent = [b': "a"}\n{"cmd": "refuse"}\n']
    answers = b""
    client.setblocking(False)
    while answers.count(b"\n") < 2:
        for fd in select.select(server.filenos(), [], [], 5)[0]:
            server.ready(fd)
        if client_sent:
            client.send(client_sent.pop())
        try:
            answers += client.recv(65536)
        except BlockingIOError:
            continue
    assert [json.loads(a)["ok"] for a in answers.splitlines()] == [True, False]
    client.close()
    for fd in select.select(server.filenos(), [], [], 5)[0]:
        server.ready(fd)
    assert len(server.filenos()) == 1
    server.close()
    assert set(os.listdir("/proc/self/fd")) == before


async def served(path, do, handle=handler):
    server = await control.serve(path, handle)
    try:
        await do()
    finally:
        server.close()
        await server.wait_closed()


async def asked(path, reader_writer=None):
    reader, writer = reader_writer or await asyncio.open_unix_connection(str(path))
    writer.write(b'{"cmd": "a"}\n')
    answer = json.loads(await reader.readline())
    if reader_writer is None:
        writer.close()
    return answer["echo"]


def test_a_thousand_idle_connections_keep_nobody_out(tmp_path, no_leaks):
    path = tmp_path / "s"

    async def crowd():
        idle = []
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(1000):
            idle.append(await asyncio.open_unix_connection(str(path)))
            if len(idle) % 100 == 0:
                await asyncio.sleep(0)
        assert await asked(path) == "a"
        assert len(os.listdir("/proc/self/fd")) <= before + 1000 + control.CLIENTS + 4
        # the first ones had to go, the last ones stay
        assert await asyncio.wait_for(idle[0][0].read(), 10) == b""
        assert await asked(path, idle[-1]) == "a"
        for _, writer in idle:
            writer.close()

    asyncio.run(served(path, crowd))


def test_who_does_not_read_holds_up_nobody_and_is_sent_away(tmp_path, no_leaks, monkeypatch):
    monkeypatch.setattr(control, "READ_S", 0.5)
    path = tmp_path / "s"
    answers = 0

    def long(request):
        nonlocal answers
        answers += request["cmd"] == "long"
        return {"echo": request["cmd"], "text": "x" * 5_000_000 * (request["cmd"] == "long")}

    async def slow():
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        sock.sendall(b'{"cmd": "long"}\n' * 100)
        for _ in range(5):
            assert await asked(path) == "a"
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=10_000_000)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.transport.pause_reading()
            await asyncio.sleep(0.6)
            assert answers <= 2
            writer.transport.resume_reading()
            while await reader.read(1_000_000):
                pass
        writer.close()

    asyncio.run(served(path, slow, long))
    assert answers <= 2


def test_when_all_are_busy_a_new_one_is_sent_away(tmp_path, no_leaks, monkeypatch):
    monkeypatch.setattr(control, "CLIENTS", 2)
    path = tmp_path / "s"

    async def busy():
        go_on, entered = asyncio.Event(), asyncio.Semaphore(0)

        async def waits(request):
            entered.release()
            await go_on.wait()
            return {"echo": request["cmd"]}

        async def full():
            first = [asyncio.create_task(asked(path)) for _ in range(2)]
            for _ in first:
                await asyncio.wait_for(entered.acquire(), 10)
            reader, writer = await asyncio.open_unix_connection(str(path))
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            go_on.set()
            assert [await task for task in first] == ["a", "a"]

        await served(path, full, waits)

    asyncio.run(busy())


def test_a_line_server_writes_long_answers_piece_by_piece_and_evicts(tmp_path, no_leaks, monkeypatch):
    monkeypatch.setattr(control, "CLIENTS", 3)
    server = control.LineServer(tmp_path / "s", lambda request: {"text": "x" * 3_000_000, "echo": request["cmd"]})

    def turn():
        poll = select.poll()
        for fd, events in server.interests().items():
            poll.register(fd, events)
        for fd, _ in poll.poll(0):
            server.ready(fd)

    clients = []
    for _ in range(5):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(tmp_path / "s"))
        client.setblocking(False)
        clients.append(client)
        turn()
    assert len(server.filenos()) == 4
    assert clients[0].recv(1) == clients[1].recv(1) == b""
    clients[4].send(b'{"cmd": "a"}\n{"cmd": "b"}\n')
    got = b""
    while got.count(b"\n") < 2:
        turn()
        with contextlib.suppress(BlockingIOError):
            got += clients[4].recv(1_000_000)
    assert [json.loads(line)["echo"] for line in got.splitlines()] == ["a", "b"]
    for client in clients:
        client.close()
    server.close()


def test_a_path_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(PoolError, match="cannot listen at"):
        control.bind(tmp_path / ("x" * 200), 0o600)


def test_a_child_that_is_forked_while_a_command_is_carried_out_has_no_client(tmp_path):
    """A daemon that forks closes its control socket in the child: the one whose command it was, too."""
    here = []
    server = control.LineServer(tmp_path / "s", lambda _request: {"clients": len(server.filenos()) - 1})
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        client.sendall(b'{"cmd": "x"}\n')
        while not here:
            for fd in select.select(server.filenos(), [], [], 5)[0]:
                server.ready(fd)
            with contextlib.suppress(BlockingIOError):
                here.append(json.loads(client.recv(100, socket.MSG_DONTWAIT)))
    assert here[0]["clients"] == 1
    server.close()
