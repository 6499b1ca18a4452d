"""What may be wrong with an installation: checks as data, each with its remedy.

``host`` looks at files and this host, ``pool`` at what the daemons say, ``credentials`` at certificates, keys, trust
and disclosures, ``radius`` at its servers.  Only ``host`` and ``visit`` touch anything; the others are functions of
what was found.
"""
