"""The broker: application socket, databases and policy; no keys, and no TLS."""
