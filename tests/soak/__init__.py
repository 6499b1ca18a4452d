"""A whole pool under mixed load, whose processes are killed, stopped and slowed: no wrong answer, no leak, no delay.

    python -m tests.soak --minutes 30 [--seed N] [--out FILE] [--broker-restarts lose|keep]

Rounds of three windows follow each other.  In the *quiet* one applications have sessions and nothing happens to the
pool.  In the *slow* one some remotes read slowly, 1000 handshakes are half-open, and a second token takes a second for
each signature.  In the *rough* one processes are killed, asked to end, or stopped for a moment.  Behind each round all
sessions end, and what is left is counted.

    world.py    the pool, its neighbours, and starting again what was killed
    app.py      an application: a process that has sessions of all kinds, and says what came of each
    trouble.py  what is done to the pool
    watch.py    descriptors, memory, children, files and locks
    verdict.py  whether each outcome is explained by what was done meanwhile; figures
"""
