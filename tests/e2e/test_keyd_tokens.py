"""Tokens, modules and PINs that give trouble, under a real key daemon."""

import contextlib
import os
import pty
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.fixtures import slowtoken
from tests.fixtures.keyd_world import (
    PIN,
    WAIT_S,
    KeydWorld,
    await_code,
    sign,
    tls13_content,
)
from tlspool_common.errors import Code
from tlspool_common.messages import Side

P256, SERVER = 0x0403, tls13_content(Side.SERVER)


# --- tokens and modules that fail ---------------------------------------------------------------------


def test_a_token_removed_and_inserted_again(make_keyd):
    world = make_keyd({"t1": "ec", "t2": "ec"})
    worker = world.join(1)
    assert sign(world, worker).code == Code.OK
    away = world.directory / "away"
    shutil.move(world.token_directory, away)
    world.token_directory.mkdir()
    assert await_code(world, worker, Code.TOKEN_GONE).signature == b""
    shutil.rmtree(world.token_directory)
    shutil.move(away, world.token_directory)
    await_code(world, worker, Code.OK)
    assert sign(world, worker, "t2").code == Code.OK
    assert world.process.poll() is None


def test_a_token_that_comes_later(make_keyd):
    world = make_keyd({"t1": "ec"}, lines=[f"pkcs11_path {slowtoken.SOFTHSM}", "pkcs11_token pkcs11:token=late"])
    worker = world.join(1)
    assert world.control("status")["modules"][0]["state"] == "TOKEN_GONE"
    world.make_token("late", "ec")
    deadline = time.monotonic() + WAIT_S
    while (code := sign(world, worker, "late").code) != Code.OK:
        assert code == Code.TOKEN_GONE
        assert time.monotonic() < deadline


def test_a_token_process_that_is_killed(make_keyd, slow_module):
    world = make_keyd(module=slow_module, environment=slowtoken.environment(200))
    worker = world.join(1)
    waiting = worker.ask(world.grant(world.key("t1")), P256, SERVER)
    (pid,) = world.token_pids
    os.kill(pid, signal.SIGKILL)
    assert waiting.result().code == Code.TOKEN_FAILED
    assert "signal SIGKILL" in world.await_log(r"event=token\.died[^\n]*")
    assert await_code(world, worker, Code.OK).signature
    assert world.token_pids != [pid]


def test_a_module_that_crashes(make_keyd, slow_module, tmp_path):
    order = tmp_path / "order"
    world = make_keyd(module=slow_module, environment=slowtoken.environment(0, order))
    worker = world.join(1)
    order.write_text("crash")
    assert sign(world, worker).code == Code.TOKEN_FAILED
    assert "SIGSEGV" in world.await_log(r"event=token\.died[^\n]*")
    order.unlink()
    await_code(world, worker, Code.OK)


def test_a_module_that_hangs(make_keyd, slow_module, tmp_path):
    order = tmp_path / "order"
    world = make_keyd(
        module=slow_module, environment=slowtoken.environment(0, order), settings=["pkcs11_timeout_s 0.3"]
    )
    worker = world.join(1)
    order.write_text("hang")
    (pid,) = world.token_pids
    waiting = [worker.ask(world.grant(world.key("t1")), P256, SERVER) for _ in range(3)]
    assert [one.result().code for one in waiting] == [Code.TOKEN_SLOW] * 3
    order.unlink()
    await_code(world, worker, Code.OK)
    assert world.token_pids != [pid]


def test_a_value_of_the_module_is_named(make_keyd, slow_module, tmp_path):
    order = tmp_path / "order"
    world = make_keyd(module=slow_module, environment=slowtoken.environment(0, order))
    worker = world.join(1)
    order.write_text("0x30")
    assert sign(world, worker).code == Code.TOKEN_FAILED
    assert "C_Sign: CKR_DEVICE_ERROR" in world.await_log(r"event=sign\.refused[^\n]*")
    order.write_text("0x32")  # CKR_DEVICE_REMOVED
    await_code(world, worker, Code.TOKEN_GONE)
    order.unlink()
    await_code(world, worker, Code.OK)


def test_a_slow_token_delays_nobody_else(make_keyd, slow_module, tmp_path):
    """Sixteen signatures are in the token at once, or none would end; and keyd answers all else meanwhile."""
    order = tmp_path / "order"
    world = make_keyd(
        {"t1": "ec", "t2": "ec"},
        lines=[
            f"pkcs11_path {slow_module}",
            "pkcs11_token pkcs11:token=t1",
            f"pkcs11_path {slowtoken.SOFTHSM}",
            "pkcs11_token pkcs11:token=t2",
        ],
        environment=slowtoken.environment(0, order),
        settings=["pkcs11_timeout_s 60"],
    )
    order.write_text("gather 16")
    worker, other = world.join(1), world.join(2)
    waiting = [worker.ask(world.grant(world.key("t1")), P256, SERVER) for _ in range(15)]
    for _ in range(20):
        assert sign(world, other, "t2", worker_id=2).code == Code.OK
        assert other.sign(b"no grant", P256, SERVER).code == Code.GRANT_REFUSED
        assert world.control("status")
    assert not select.select([one.channel for one in waiting], [], [], 0)[0]
    waiting.append(worker.ask(world.grant(world.key("t1")), P256, SERVER))
    assert [one.result().code for one in waiting] == [Code.OK] * 16


# --- the PIN ------------------------------------------------------------------------------------------


def test_a_wrong_pin_is_tried_once_and_a_right_one_is_noticed(make_keyd):
    world = make_keyd(pin="canary-wrong")
    worker = world.join(1)
    for _ in range(5):
        assert sign(world, worker).code == Code.PIN_WRONG
    assert world.log.count("CKR_PIN_INCORRECT") == 1
    world.process.send_signal(signal.SIGHUP)
    os.utime(world.pin_path)  # the file is another, the PIN is not
    assert sign(world, worker).code == Code.PIN_WRONG
    assert world.log.count("CKR_PIN_INCORRECT") == 1
    world.write_pin(PIN)
    await_code(world, worker, Code.OK)
    assert "event=pin.changed" in world.log
    for pid in (world.process.pid, *world.token_pids):
        assert b"canary" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        with contextlib.suppress(PermissionError):  # only root may look, as both are not dumpable
            assert b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    world.stop()
    assert "canary" not in world.log


def test_a_pin_written_before_sighup_is_taken_at_once(make_keyd):
    world = make_keyd(pin="canary-wrong")
    world.write_pin(PIN)
    start = len(world.log)
    world.process.send_signal(signal.SIGHUP)
    world.await_log(r"event=token\.opened[^\n]*code=0", start)  # without any request
    assert sign(world, world.join(1)).code == Code.OK


def test_no_pin(make_keyd):
    world = make_keyd(pin_setting=False)
    assert sign(world, world.join(1)).code == Code.PIN_MISSING
    assert world.control("status")["pin"] == "none"
    assert world.question(world.key("t1").uri).code == Code.PIN_MISSING


def test_a_locked_pin(make_keyd, slow_module):
    world = make_keyd(module=slow_module, environment={**slowtoken.environment(), "SLOWTOKEN_LOGIN": "0xa4"})
    assert sign(world, world.join(1)).code == Code.PIN_LOCKED
    assert "C_Login: CKR_PIN_LOCKED" in world.log


def test_a_systemd_credential_comes_first(make_keyd, tmp_path):
    (tmp_path / "pkcs11-pin").write_text(PIN)
    (tmp_path / "pkcs11-pin").chmod(0o400)
    world = make_keyd(pin="canary-wrong", environment={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert sign(world, world.join(1)).code == Code.OK
    assert world.control("status")["pin"] == "systemd credential"


def test_a_pin_asked_for_at_the_terminal(tmp_path):
    world = KeydWorld(tmp_path, {"t1": "ec"}, pin_setting=False)
    command = [sys.executable, "-m", "tlspool_keyd", "--config", str(world.config), "--foreground"]
    pid, terminal_fd = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, world.child_environment())
    seen = b""

    def read_until(wanted):
        nonlocal seen
        deadline = time.monotonic() + WAIT_S
        while wanted not in seen:
            assert select.select([terminal_fd], [], [], deadline - time.monotonic())[0], seen
            seen += os.read(terminal_fd, 4096)

    try:
        read_until(b"PIN of the PKCS #11 tokens")
        os.write(terminal_fd, PIN.encode() + b"\n")
        read_until(b"event=keyd.ready modules=1 open=1")
        assert world.control("status")["pin"] == "terminal"
        os.write(terminal_fd, b"\x03")
        read_until(b"event=keyd.stopped")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal_fd)
    assert PIN.encode() not in seen
