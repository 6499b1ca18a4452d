"""What all tests share: nothing leaks from a test into the next."""

import contextlib
import gc
import os
from pathlib import Path

import hypothesis
import pytest

from tlspool_common.fd import open_fds

pytest_plugins = ["tests.conformance.covered", "tests.report"]

# How long an example takes says more about the machine than about the code.  With CI set, hypothesis has a profile of
# its own, which does the same and draws the same examples every time.
hypothesis.settings.register_profile("pool", deadline=None)
if "CI" not in os.environ:
    hypothesis.settings.load_profile("pool")


def children():
    """Return the processes that this one has to wait for."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def pytest_collection_finish():
    """Leave what the collection has made out of all later garbage collections: it is most of the heap, and stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def no_leaks():
    """Fail a test that leaves descriptors or children behind."""
    gc.collect()
    fds, pids = open_fds(), children()
    yield
    gc.collect()
    left = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds() - fds}
    assert not left, f"descriptors left open: {left}"
    assert not children() - pids, "children left behind"
