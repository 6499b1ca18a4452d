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
        b'{\n  "ok": true,\n  "echo": "status",\n  "args": [\n    "now"\n  ]\n}\n'
    )
    assert control.answer_untrusted(b'{"cmd": "status"}', handler) == b'{"ok": true, "echo": "status", "args": []}\n'


@pytest.mark.parametrize("line", [b"", b"\xff", b"{", b'{"cmd": 5}', b'{"x": 1}', b"{" * 5000, b"refuse"])
def test_refusals_are_answers(line):
    answer = json.loads(control.answer_untrusted(line, handler))
    assert answer["ok"] is False
    assert answer["code"] in (101, 201)
    assert answer["error"].startswith("[")


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


def test_strangers_are_sent_away(tmp_path, no_leaks):
    async def converse():
        server = await control.serve(tmp_path / "s", handler, strangers={os.getuid()})
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


def test_a_path_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(PoolError, match="cannot listen at"):
        control.bind(tmp_path / ("x" * 200), 0o600)
