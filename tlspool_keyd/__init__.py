"""The key daemon: the only process that touches private keys and the PIN.

It signs what it recognises as TLS handshake content, for who holds a grant, and does nothing else: there is
no operation that takes a digest, decrypts, or forwards a PKCS #11 call.  docs/keyd.md tells the story.
"""
