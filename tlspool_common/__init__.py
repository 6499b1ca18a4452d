"""What the three daemons and the library share: the border table, its codec and channel, errors, limits.

Nothing here knows OpenSSL, PKCS #11, Berkeley DB or policy, and nothing here is outside the standard
library, so that an application which imports ``libstub`` loads no more than it needs.
"""
