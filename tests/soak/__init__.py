"""A whole pool under mixed load, whose processes are killed, stopped and slowed: no wrong answer, no leak, no delay.

    python -m tests.soak --minutes 30 [--seed N] [--out FILE] [--broker-restarts lose|keep]

Rounds of three windows follow each other.  In the *quiet* one applications have sessions and nothing happens to the
pool.  In the *slow* one some remotes read slowly, 1000 handshakes are half-open, and a second token takes a second for
each signature.  In the *rough* one processes are killed, asked to end, or stopped for a moment, and the RADIUS server
is away for a while.  Behind each round all sessions end, and what is left is counted; behind all of them, what was
accounted for is compared with what the applications have told.

    world.py    the pool, its neighbours, and starting again what was killed
    people.py   remotes with identities of their own, for sessions that are accounted for
    app.py      an application: a process that has sessions of all kinds, and says what came of each
    trouble.py  what is done to the pool
    watch.py    descriptors, memory, children, files and locks
    bills.py    whether the RADIUS server was told of each session, once, what it moved
    verdict.py  whether each outcome is explained by what was done meanwhile; figures
"""
