"""Requests of workers that take turns."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tlspool_keyd.shares import Shares


@given(st.lists(st.integers(1, 4), max_size=40))
def test_each_worker_in_turn_and_each_in_its_order(owners):
    shares = Shares()
    jobs = [SimpleNamespace(owner=owner, number=number) for number, owner in enumerate(owners)]
    shares.extend(jobs)
    assert bool(shares) == bool(jobs)
    assert sorted(job.number for job in shares) == list(range(len(jobs)))
    left = {owner: [job.number for job in jobs if job.owner == owner] for owner in set(owners)}
    last = []
    while shares:
        job = shares.popleft()
        assert left[job.owner].pop(0) == job.number
        waiting = {owner for owner, numbers in left.items() if numbers}
        # nobody has a second turn while another one that waits had none
        assert job.owner not in last or not waiting - set(last) - {job.owner}
        last = [*last, job.owner][-len(waiting) :] if waiting else []
    assert not any(left.values())


def test_clear():
    shares = Shares()
    shares.append(SimpleNamespace(owner=1))
    shares.clear()
    assert not shares
    assert not list(shares)
