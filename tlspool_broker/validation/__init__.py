"""Validation expressions: what must be true of a remote before a session is allowed.

Functions of their arguments only: no socket, clock, file, certificate or database is touched here.

    expression    the grammar, and three-valued evaluation
    facts         what is known of a remote and its session
    predicates    from facts to the letters; pinning, revocation, levels and usages have their parts
    judgement     several expressions and the facts: accepted, refused, or not decided yet, and why
"""
