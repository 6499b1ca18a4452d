"""Our tunnel beside stunnel, haproxy and hitch as TLS terminators, in one run: ``make bench``."""
