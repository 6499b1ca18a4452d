"""The standard library's servers and clients, with TLS of the pool: each is a subclass that looks as it always did.

| module | what |
|---|---|
| ``servers`` | TlsPoolMixIn for socketserver, HTTPSServer |
| ``https`` | HTTPSConnection, HTTPSHandler and build_opener for urllib |
| ``smtp``, ``imap``, ``pop3``, ``ftp`` | SMTP, IMAP4, POP3, FTP_TLS: STARTTLS and implicit TLS |
| ``smtpd`` | STARTTLS for aiosmtpd |
| ``scheme`` | tell WSGI and ASGI applications that it is https, and who the client is |

Where the standard library takes an SSLContext, these take the options of ``libstub.starttls_client`` or
``libstub.starttls_server``.  Errors of TLS are ``libstub.PoolError``.  Clients expect the server to be the host that
they connect to, unless ``remoteid`` says otherwise.
"""
