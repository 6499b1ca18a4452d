"""``tlspool top``: a live view of a pool.

sample.py    asks the daemons, and compares with the time before
board.py     what is shown and what keys do: events in, lines and wishes out; no terminal, no socket
terminal.py  the terminal: raw mode, size, keys
"""
