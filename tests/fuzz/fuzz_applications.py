"""Run the two fuzzers of the application protocol for longer: `make fuzz`, or

    python -m tests.fuzz.fuzz_applications --minutes 10

One third of the time is for the broker's core against its model, the rest for a whole pool.  Each round has a seed,
which is printed when it fails; ``--seed`` plays one round again (a pool may do things in another order then).
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from hypothesis import seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.fuzz import test_fuzz_applications as whole
from tests.fuzz import test_fuzz_broker_model as core
from tests.fuzz.play import HEARD, await_fds
from tlspool_admin.devpool import DevPool

_ROUND = 40


def play_round(
    machine: type[RuleBasedStateMachine], chosen: settings, walk: Callable[[int], None], number: int
) -> None:
    """Play one round, half of it hypothesis', half of it by chance; what fails is raised with its seed."""
    plays = settings(chosen, max_examples=_ROUND // 2, derandomize=False)
    try:
        run_state_machine_as_test(seed(number)(machine), settings=plays)
        for step in range(_ROUND // 2):
            walk(number + step)
    except BaseException:
        print(f"failed: --seed {number}", flush=True)
        raise


def rounds(minutes: float, only: int | None) -> Iterator[int]:
    """Yield seeds until the time is over."""
    end = time.monotonic() + minutes * 60
    while time.monotonic() < end:
        yield secrets.randbits(32) if only is None else only
        if only is not None:
            return


def fuzz_core(minutes: float, only: int | None) -> None:
    """The core and the model."""
    played = 0
    for number in rounds(minutes, only):
        play_round(core.BrokerAndModel, core.SETTINGS, core.walk, number)
        played += _ROUND
    said = ", ".join(
        f"{getattr(what, 'name', what)} {count}" for what, count in core.BrokerAndModel.reached.most_common()
    )
    print(f"core and model: {played} plays of up to 60 moves; said: {said}", flush=True)


def fuzz_pool(minutes: float, only: int | None, isolation: str) -> None:
    """A whole pool.  Where workers come and go, descriptors cannot be counted."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        pool = DevPool(Path(directory) / "p")
        pool.up("ec", ["log_level debug", f"isolation {isolation}", "workers 2"])
        try:
            machine, canary = whole.machine_for(pool)
            whole.walk(machine, secrets.randbits(32))  # everything is warm then
            before = await_fds(pool)
            for number in rounds(minutes, only):
                play_round(machine, whole.SETTINGS, partial(whole.walk, machine), number)
                if isolation == "pool":
                    left = await_fds(pool, before)
                    assert left == before, f"descriptors: {before} became {left}"
            canary.close()
            print(f"pool: {machine.plays} plays, {machine.moves} messages; descriptors: {before}")
            print("heard: " + ", ".join(f"{what} {count}" for what, count in sorted(HEARD.items(), key=_by_count)))
        except BaseException:
            for name in ("broker", "keyd", "worker"):
                lines = (pool.directory / "log" / f"{name}.log").read_text(errors="replace").splitlines()
                told = [line for line in lines if "border.message" not in line]
                print(f"--- {name}.log", *told[-25:], sep="\n", flush=True)
            raise
        finally:
            pool.down()


def _by_count(item: tuple[str, int]) -> int:
    return -item[1]


def main() -> int:
    """Parse the options and play."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="play one round with this seed")
    parser.add_argument("--only", choices=("core", "pool"))
    parser.add_argument("--isolation", choices=("pool", "application", "connection"), default="pool")
    options = parser.parse_args()
    share = 1.0 if options.only else 1 / 3
    if options.only != "pool":
        fuzz_core(options.minutes * share, options.seed)
    if options.only != "core":
        fuzz_pool(options.minutes * (1.0 if options.only else 2 / 3), options.seed, options.isolation)
    return 0


if __name__ == "__main__":
    sys.exit(main())
