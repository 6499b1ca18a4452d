"""The helper that asks the network whether certificates are revoked, so that the broker need not have one.

It has no key, no database and no word in a decision: it tells what signed lists and responders say, and the broker
decides.  It must never be asked by anybody else.
"""
