"""The helper that speaks RADIUS, so that the broker knows neither shared secrets nor UDP.

It asks servers what the broker wants to know, keeps what is to be accounted for until a server has taken it, and
takes requests to end sessions or to change them.  It has no database, no key and no word in a decision.
"""
