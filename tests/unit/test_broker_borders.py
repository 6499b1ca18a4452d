"""Helpers that borders.py starts, and what they may not do although they are of the broker's user."""

import asyncio
import json
import subprocess
import sys

import pytest

from tlspool_broker import borders
from tlspool_broker.borders import Borders
from tlspool_broker.events import HelperKind, HelperNumber
from tlspool_common import control
from tlspool_common.log import Log
from tlspool_common.messages import Party
from tlspool_common.settings import parse_untrusted

OPERATES = """
import socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[1])
try:
    line.sendall(b'{"cmd": "trust.set"}\\n')
    if sys.argv[2] == "stays":
        print(line.recv(1000))
except ConnectionError:
    print(b"")
"""
"""What somebody has a helper do who has taken it over.  One that ends at once is no child of the broker's any more when
the broker looks at what it has said.
"""


@pytest.mark.parametrize("manner", ["stays", "ends"])
def test_a_helper_is_no_operator(tmp_path, monkeypatch, manner):
    path, heard = tmp_path / "broker.sock", []
    started = []

    def spawn(channel_fd, _settings):
        channel_fd.close()
        started.append(
            subprocess.Popen([sys.executable, "-c", OPERATES, str(path), manner], stdout=subprocess.PIPE, text=True)
        )
        started[0].returncode = 0  # it is reaped by those who are tested
        return started[0].pid

    def handler(request):
        heard.append(request["cmd"])
        return {"done": True}

    async def operator():
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"cmd": "status"}\n')
        answer = json.loads(await reader.readline())
        writer.close()
        return answer

    async def run():
        number = HelperNumber(HelperKind.ONLINE, 1)
        ours = Borders(lambda _event: None, parse_untrusted(""), Log("broker"))
        try:
            monkeypatch.setitem(borders._HELPERS, HelperKind.ONLINE, (Party.ONLINE, spawn))
            server = await control.serve(path, handler, stranger_pids=ours.helper_pids)
            ours.start_helper(number)
            with started[0].stdout as told:
                said = await asyncio.to_thread(told.read)  # until it has ended
            answer = await operator()  # comes behind it, and is of the same user
            server.close()
            await server.wait_closed()
            return said, answer
        finally:
            ours.close()

    said, answer = asyncio.run(run())
    assert said.strip() in ("b''", "" if manner == "ends" else "b''")
    assert answer["done"]
    assert heard == ["status"]
