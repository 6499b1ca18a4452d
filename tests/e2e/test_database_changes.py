"""Operators change the databases of a real pool: keys that exist and do not, several tools at once, nobody held up."""

import base64
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests.fixtures import certs
from tests.fixtures.lone_broker import LoneBroker
from tlspool_admin.client import Refused, ask
from tlspool_common.errors import Code


def test_keys_are_looked_for_on_the_token(pool):
    control = pool.run_dir / "broker.sock"
    found = ask(control, {"cmd": "localid.get", "id": "localhost"})
    [record] = found["records"]
    chain = [one["der"] for one in record["chain"]]
    before = found["generation"]

    def set_it(uri, chain, strict):
        fields = {"id": "keys.example", "flags": "x509,server", "records": [{"uri": uri, "chain": chain}]}
        return ask(control, {"cmd": "localid.set", "strict": strict, **fields})

    right = set_it(record["uri"], chain, True)
    assert all("does not name" in warning for warning in right.get("warnings", []))
    foreign = [base64.b64encode(certs.leaf("keys.example").der).decode()]
    with pytest.raises(Refused) as caught:
        set_it(record["uri"], foreign, False)
    assert caught.value.code is Code.KEY_UNFIT
    absent = record["uri"] + ";object=no-such-key" if "object=" not in record["uri"] else "pkcs11:object=no-such-key"
    with pytest.raises(Refused) as caught:
        set_it(absent, foreign, True)
    assert caught.value.code is Code.KEY_NOT_FOUND
    answer = set_it(absent, foreign, False)
    assert any(f"[{int(Code.KEY_NOT_FOUND)}]" in warning for warning in answer["warnings"])
    assert answer["generation"] == before + 2
    ask(control, {"cmd": "localid.del", "id": "keys.example"})


TOOL = """
import json, socket, sys, time
path, name, count, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
answers = sock.makefile("rb")
slowest = 0.0
start = time.monotonic()
for number in range(count):
    time.sleep(max(0.0, start + number / rate - time.monotonic()))
    records = [{"uri": "T" if number % 2 else "R"}]
    request = {"cmd": "localid.set", "id": f"{name}.example", "flags": "valexp,server", "records": records}
    began = time.monotonic()
    sock.sendall(json.dumps(request).encode() + b"\\n")
    answer = json.loads(answers.readline())
    slowest = max(slowest, time.monotonic() - began)
    assert answer["ok"], answer
print(slowest, time.monotonic() - start)
"""


def changes_and_readers(seconds, tools=3, rate=34.0):
    """Have tools change things; return how long an application waited at most, and what the tools say."""
    with LoneBroker() as broker:
        broker.fill()
        count = int(seconds * rate)
        before = broker.ask("status")["generation"]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", TOOL, str(broker.control), f"tool{number}", str(count), str(rate)],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(tools)
        ]
        app, waits = broker.app(), []
        over = threading.Event()

        def ping():
            while not over.is_set():
                began = time.monotonic()
                assert app.ping()
                waits.append(time.monotonic() - began)
                over.wait(0.002)

        reader = threading.Thread(target=ping)
        reader.start()
        said = [process.communicate(timeout=120)[0].split() for process in processes]
        over.set()
        reader.join()
        assert all(process.returncode == 0 for process in processes)
        assert broker.ask("status")["generation"] == before + tools * count
        newest = broker.ask("history", number=tools * count)["history"]
        assert [row["generation"] for row in newest[:-1]] == [row["generation"] + 1 for row in newest[1:]]
        return waits, [(float(slowest), float(took)) for slowest, took in said]


def test_a_hundred_changes_a_second_hold_nobody_up():
    waits, tools = changes_and_readers(3)
    waits.sort()
    assert len(waits) > 100
    # Half of the applications' questions are answered at once, and none waits for a disk.
    assert waits[len(waits) // 2] < 0.05
    assert all(took < 30 for _, took in tools)


def test_a_bundle_of_anchors_is_one_change(no_leaks):
    data = [base64.b64encode(certs.make(f"Root {number}", ca=True, pad_b=900).der).decode() for number in range(700)]
    with LoneBroker() as broker, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(broker.control))
        operations = [{"cmd": "trust.set", "flags": "x509,client", "valexp": "1", "data": data}]
        request = json.dumps({"cmd": "batch", "operations": operations}).encode() + b"\n"
        assert len(request) > 1024 * 1024, "more than other control sockets take"
        sock.sendall(request)
        answer = json.loads(sock.makefile("rb").readline())
        assert answer["ok"], answer
        assert answer["generation"] == 2
        assert broker.ask("rollback", to=1)["generation"] == 3


if __name__ == "__main__":
    found, tools_said = changes_and_readers(20)
    found.sort()
    print(
        f"{len(found)} pings: median {found[len(found) // 2] * 1e3:.2f} ms,"
        f" 99 % {found[len(found) * 99 // 100] * 1e3:.2f} ms, slowest {found[-1] * 1e3:.1f} ms; slowest changes:",
        ", ".join(f"{slowest * 1e3:.0f} ms ({took:.1f} s)" for slowest, took in tools_said),
    )
