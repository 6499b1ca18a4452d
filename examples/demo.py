"""The demo of ``make demo``: a pool in a scratch directory, shown at work with real peers.

1. start a pool (SoftHSM2 token with fresh keys, a small CA, three daemons)
2. a libstub server and a libstub client over TCP
3. ``openssl s_client`` and ``curl`` against a plain HTTP server behind ``tlspool tunnel server``
4. who signed, which processes there are, and what each may touch
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tlspool_admin.devpool import DevPool

HERE = Path(__file__).resolve().parent
COMMANDS = Path(sys.executable).parent


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def started(command: list[str], environment: dict[str, str], pattern: str) -> tuple[subprocess.Popen[str], str]:
    """Start a program and return it with what ``pattern`` matched in its output."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if found := re.search(pattern, line):
            return process, found.group(1)
    raise SystemExit(f"{command[0]} did not start:\n{''.join(seen)}")


def finish(process: subprocess.Popen[str]) -> str:
    """Ask a program to end and return the rest of its output."""
    process.send_signal(signal.SIGTERM)
    try:
        output, _ = process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    return output


def libstub_pair(environment: dict[str, str]) -> None:
    """Run the two example programs against each other."""
    say("A libstub server and a libstub client, TLS between them over TCP")
    server, port = started(
        [sys.executable, "-u", str(HERE / "echo_server.py"), "--listen", "127.0.0.1:0", "--once"]
        + ["--localid", "testsrv@tlspool.arpa2.lab"],
        environment,
        r"127\.0\.0\.1:(\d+)",
    )
    client = subprocess.run(
        [sys.executable, str(HERE / "echo_client.py"), "--connect", f"127.0.0.1:{port}"]
        + ["--remoteid", "testsrv@tlspool.arpa2.lab"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    output, _ = server.communicate(timeout=30)
    for name, text in (("server", output), ("client", client.stdout + client.stderr)):
        for line in text.strip().splitlines():
            print(f"  {name}: {line}")
    if client.returncode or server.returncode:
        raise SystemExit("the example programs failed")


class Hello(http.server.BaseHTTPRequestHandler):
    """A web page without any TLS."""

    def do_GET(self) -> None:
        """Answer every request alike."""
        body = b"hello from a server that has never heard of TLS\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Keep quiet."""


def known_programs(pool: DevPool, environment: dict[str, str]) -> None:
    """Let openssl and curl talk to an HTTP server behind a tunnel."""
    say("openssl s_client and curl, to a plain HTTP server behind `tlspool tunnel server`")
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    tunnel, port = started(
        [str(COMMANDS / "tlspool"), "tunnel", "server", "--listen", "127.0.0.1:0", "--client-auth", "ignore"]
        + ["--connect", f"127.0.0.1:{web.server_port}", "--localid", "localhost"],
        environment,
        r"ready on 127\.0\.0\.1:(\d+)",
    )
    ca = str(pool.directory / "ca.pem")
    try:
        seen = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-CAfile", ca]
            + ["-verify_return_error", "-brief"],
            input="",
            capture_output=True,
            text=True,
            timeout=30,
        )
        for line in (seen.stdout + seen.stderr).splitlines():
            if re.match(r"Protocol|Ciphersuite|Peer certificate|Verification|Server Temp|Negotiated", line):
                print(f"  openssl: {line}")
        page = subprocess.run(
            ["curl", "--silent", "--show-error", "--cacert", ca, "--resolve", f"localhost:{port}:127.0.0.1"]
            + [
                "--write-out",
                "%{http_code} over TLS, verify result %{ssl_verify_result}\n",
                f"https://localhost:{port}/",
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
        for line in (page.stdout + page.stderr).splitlines():
            print(f"  curl: {line}")
        if seen.returncode or page.returncode:
            raise SystemExit("openssl or curl failed")
    finally:
        finish(tunnel)
        web.shutdown()


def ask(path: Path, command: str) -> dict[str, object]:
    """Ask a control socket, as an operator would with socat."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(f'{{"cmd": "{command}"}}\n'.encode())
        with sock.makefile() as answers:
            answer: dict[str, object] = json.loads(answers.readline())
            return answer


def who_did_what(pool: DevPool) -> None:
    """Show the signatures, and the processes with the files that tell what they can touch."""
    say("Who signed")
    for line in (pool.directory / "log" / "keyd.log").read_text().splitlines():
        if "event=sign.done" in line:
            print("  keyd:", line.partition("event=")[2])

    say("The processes, and what each has loaded")
    wanted = {"PKCS #11 module": "libsofthsm2", "TLS provider": "tlspool_provider", "databases": "libdb-"}
    pids = list(pool.running().values())
    for pid in pids:
        pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    print(f"  {'pid':>7}  {'process':<42} " + "  ".join(wanted))
    closed = False
    for pid in sorted(set(pids)):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue  # it has ended
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
            marks = ["yes" if mark in maps else "-" for mark in wanted.values()]
        except PermissionError:
            marks, closed = ["?"] * len(wanted), True
        except OSError:
            continue
        columns = "  ".join(f"{mark:<{len(name)}}" for name, mark in zip(wanted, marks, strict=True))
        print(f"  {pid:>7}  {title[:42]:<42} {columns}".rstrip())
    if closed:
        print("  ? is closed to all but root, even to its own user; as root, make demo shows what it has loaded")
    print("  The PIN is read by keyd only; keys were made on the token and cannot be extracted.")


def main() -> int:
    """Run the demo."""
    directory = Path(tempfile.mkdtemp(prefix="tlspool-demo-"))
    pool = DevPool(directory, report=lambda text: print(f"  {text} ...", flush=True))
    begun = time.monotonic()
    try:
        say(f"Starting a pool in {directory}")
        pool.up()
        print(f"  up after {time.monotonic() - begun:.1f} s")
        environment = {**os.environ, **pool.environment}
        libstub_pair(environment)
        known_programs(pool, environment)
        who_did_what(pool)
    finally:
        pool.down()
        shutil.rmtree(directory, ignore_errors=True)
    say(f"Done in {time.monotonic() - begun:.1f} s; the pool is stopped and its directory removed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
