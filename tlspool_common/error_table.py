"""What is said of each code of an error: the protocol's own number, what happened, and what to do about it."""

from __future__ import annotations

from tlspool_common.error_codes import Code, ComErr
from tlspool_common.error_entry import Entry as Entry
from tlspool_common.error_radius import RADIUS

_C = ComErr
TABLE: dict[Code, Entry] = {
    Code.FIELD_MALFORMED: Entry(
        _C.COMMAND_NOTIMPL,
        "a value is missing or malformed",
        "correct what is named",
    ),
    Code.COMMAND_UNKNOWN: Entry(
        _C.COMMAND_UNKNOWN,
        "the command is not known",
        "send a request of protocol V2, or answer an open callback of this connection",
    ),
    Code.NOT_SUPPORTED_YET: Entry(
        _C.COMMAND_NOTIMPL, "not supported yet by this pool", "see docs/protocol.md for what this version answers"
    ),
    Code.CIPHER_FD_MISSING: Entry(
        _C.CIPHER_SOCKET_NEEDED,
        "no descriptor came with STARTTLS",
        "attach the connected socket with SCM_RIGHTS, in the same sendmsg as the request",
    ),
    Code.CIPHER_FD_UNFIT: Entry(
        _C.CIPHER_SOCKET_NEEDED, "the descriptor is no connected stream socket", "pass a connected SOCK_STREAM socket"
    ),
    Code.SUPERFLUOUS_FD: Entry(
        _C.SUPERFLUOUS_SOCKET, "a descriptor came where none belongs", "send this command without a descriptor"
    ),
    Code.PLAIN_FD_MISSING: Entry(
        _C.PLAIN_SOCKET_NEEDED,
        "no plaintext descriptor came with the answer",
        "attach the plaintext socket to the PLAINTEXT_CONNECT answer",
    ),
    Code.PLAIN_FD_UNFIT: Entry(
        _C.PLAIN_SOCKET_NEEDED,
        "the plaintext descriptor is no connected socket",
        "pass a connected stream or seqpacket socket",
    ),
    Code.BAD_CALLBACK_ANSWER: Entry(
        _C.COMMAND_BAD_CALLBACK_RESPONSE,
        "the callback was refused or answered with another command",
        "answer PLAINTEXT_CONNECT with PLAINTEXT_CONNECT",
    ),
    Code.ROLE_IMPOSSIBLE: Entry(
        _C.COMMAND_NOTIMPL,
        "the role flags leave neither client nor server",
        "set LOCALROLE_CLIENT|REMOTEROLE_SERVER or LOCALROLE_SERVER|REMOTEROLE_CLIENT",
    ),
    Code.LOCALID_MISSING: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "a server needs a local identity",
        "set localid to an identity that tlspool localid list shows",
    ),
    Code.REMOTEID_MISSING: Entry(
        _C.CONNECTION_DRIVER_SETUP, "a client needs a remote identity", "set remoteid to the name of the server"
    ),
    Code.IDENTITY_MALFORMED: Entry(
        _C.CONNECTION_DRIVER_SETUP, "the text is no identity", "use domain or user@domain, at most 127 bytes"
    ),
    Code.CTLKEY_IN_USE: Entry(
        _C.CTLKEY_REGISTRATION_FAILED,
        "the control key names a live session",
        "make 16 fresh random bytes for each session",
    ),
    Code.CTLKEY_UNKNOWN: Entry(
        _C.CTLKEY_NOT_FOUND,
        "the control key names no session of this connection",
        "use the key of a live session that this connection controls",
    ),
    Code.REQID_IN_USE: Entry(
        _C.COMMAND_NOTIMPL,
        "the request id is in use on this connection",
        "use another pio_reqid until the final reply has come",
    ),
    Code.CALLBACK_TIMEOUT: Entry(
        _C.COMMAND_BAD_CALLBACK_RESPONSE,
        "the callback was not answered in time",
        "answer callbacks within the STARTTLS timeout",
    ),
    Code.RECORD_MALFORMED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "a database record, or what was to be one, is malformed",
        "correct what is named; a stored record is replaced by setting it again",
    ),
    Code.SESSION_UNKNOWN: Entry(_C.CTLKEY_NOT_FOUND, "there is no such session", "list them: tlspool sessions"),
    Code.CTLKEY_DETACHED: Entry(
        _C.CTLKEY_DETACHED, "the session is detached already", "nothing is left to do; CONTROL_REATTACH takes it back"
    ),
    Code.CTLKEY_ATTACHED: Entry(
        _C.CTLKEY_ATTACHED,
        "the session is controlled by a connection already",
        "let that connection detach it first, or end",
    ),
    Code.CTLKEY_NOT_YOURS: Entry(
        _C.CTLKEY_NOT_YOURS,
        "another connection controls the session",
        "detach it over the connection that controls it",
    ),
    Code.REMOTEID_NOT_GENERAL: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote identity in the answer does not generalise the one of the request",
        "send it back as it came, or a selector that matches it",
    ),
    Code.EXPORT_UNAVAILABLE: Entry(
        _C.PRNG_UNAVAILABLE,
        "no keying material for this label, context or length",
        "use a registered label or EXPERIMENTAL-..., and lengths that fit the buffer",
    ),
    Code.INFOKIND_UNKNOWN: Entry(
        _C.INFOKIND_UNKNOWN, "this kind of information is not known", "docs/protocol.md lists the kinds"
    ),
    Code.INFO_NOT_FOUND: Entry(
        _C.INFO_NOT_FOUND,
        "the session has no such information, or it is another",
        "see docs/protocol.md for what each kind needs",
    ),
    Code.REAUTH_NOT_FOUND: Entry(
        _C.RENOGIATE_NOT_FOUND,
        "the control key names no session of this connection",
        "use the key of a live session that this connection controls",
    ),
    Code.REAUTH_BUSY: Entry(
        _C.RENOGIATE_NOT_INTERRUPTABLE,
        "the session cannot be interrupted now",
        "wait for the answer that is under way; a session that one side has closed cannot be asked",
    ),
    Code.REAUTH_INSECURE: Entry(
        _C.RENOGIATE_WOULD_BE_INSECURE,
        "the remote cannot be asked again over this session",
        "only a server can, over TLS 1.3, a client that offered post_handshake_auth",
    ),
    Code.SERVICE_SHARED: Entry(
        _C.COMMAND_NOTIMPL,
        "a PIN service needs a connection of its own",
        "register over a connection that carries nothing else",
    ),
    Code.GENERATION_OTHER: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the databases have changed since that generation",
        "look at what changed, then ask again: tlspool history",
    ),
    Code.GENERATION_UNKNOWN: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "there is no such generation, or the history does not reach back to it",
        "see what there is: tlspool history",
    ),
    Code.KEY_UNFIT: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the private key does not belong to the certificate",
        "name the key that the certificate was made for: tlspool keys lists them",
    ),
    Code.SIGNATURE_WRONG: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the revocation list is not signed by that issuer",
        "give the list of the issuer named, or trust the issuer first: tlspool trust set",
    ),
    Code.LOCALID_UNKNOWN: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "there is no usable credential for this local identity and role",
        "add one: tlspool localid set ID x509,server URI CERTIFICATE",
    ),
    Code.LOCALID_NOT_DISCLOSED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "policy does not disclose this local identity to that remote",
        "allow it: tlspool disclose set SELECTOR ID, or leave localid empty",
    ),
    Code.SNI_MISMATCH: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the client asked for another server name than the local identity",
        "let the client connect by the right name, or serve that name too",
    ),
    Code.TOO_MANY_SESSIONS: Entry(
        _C.OUT_OF_MEMORY,
        "the pool has as many sessions as it may",
        "wait for some to end, or raise the limit that is named",
    ),
    Code.TOO_MANY_REQUESTS: Entry(
        _C.OUT_OF_MEMORY, "the connection has as many open requests as it may", "wait for replies before sending more"
    ),
    Code.FACILITY_DENIED: Entry(
        _C.FACILITY_STARTTLS, "the facility is denied by configuration", "change allow_facilities or deny_facilities"
    ),
    Code.CALLER_GONE: Entry(
        _C.CLIENT_DISCONNECT,
        "the application closed its connection",
        "keep the connection to the pool open while a session is set up",
    ),
    Code.SESSION_KILLED: Entry(
        _C.STIRRED_NOT_SHAKEN, "an operator of the pool ended the session", "ask the operator; trying again is harmless"
    ),
    Code.LOCALID_REFUSED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the application accepted none of the local identities that were proposed",
        "answer STARTTLS_LOCALID with an identity, or send STARTTLS without LOCALID_CHECK",
    ),
    Code.ACCESS_DENIED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "this program may not use that identity, role or service here",
        "ask the operator for an `access` line that allows it",
    ),
    Code.CTLKEY_FOREIGN: Entry(
        _C.CTLKEY_NOT_YOURS,
        "the session was made by another user",
        "reattach as the user that made it, or set `reattach anybody`",
    ),
    Code.TOO_MANY_HANDSHAKES: Entry(
        _C.OUT_OF_MEMORY,
        "too many handshakes are under way",
        "wait for some to end, or raise the limit that is named",
    ),
    Code.TOO_FAST: Entry(
        _C.OUT_OF_MEMORY, "requests come faster than is allowed", "wait a second, or raise the limit that is named"
    ),
    Code.HANDSHAKE_YIELDED: Entry(
        _C.OUT_OF_MEMORY,
        "the remote took its time, and a newer handshake needed the place",
        "look who connects and says nothing; or raise the limit that is named",
    ),
    Code.TOO_MANY_CONNECTIONS: Entry(
        _C.OUT_OF_MEMORY,
        "there are too many connections to the pool",
        "use one for each program, or raise the limit that is named",
    ),
    Code.PINENTRY_TAKEN: Entry(
        _C.PINENTRY_NOT_VACANT,
        "another program is the PIN service, or this one is registered already",
        "end that one first; tlspool status --all names it",
    ),
    Code.LIDENTRY_TAKEN: Entry(
        _C.LIDENTRY_NOT_VACANT,
        "another program of this user chooses identities, or this one is registered already",
        "end that one first; tlspool status --all names it",
    ),
    Code.SERVICE_DENIED: Entry(
        _C.FACILITY_STARTTLS, "this user may not serve PINs", "name the user in pin_services, then: tlspool reload"
    ),
    Code.CHOICE_REFUSED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the program that chooses identities chose none that can be used",
        "try again, and choose another",
    ),
    Code.CHOICE_TIMEOUT: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the program that chooses identities did not answer in time",
        "answer sooner, or register with a longer timeout",
    ),
    Code.REMOTE_NOT_TLS: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote does not speak TLS", "check that the remote starts TLS on this port"
    ),
    Code.REMOTE_ALERT: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote refused the handshake with an alert", "look at the log of the remote"
    ),
    Code.REMOTE_CLOSED: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote closed the connection during the handshake", "look at the log of the remote"
    ),
    Code.REMOTE_RESET: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote reset the connection during the handshake", "look at the log of the remote"
    ),
    Code.REMOTE_PROTOCOL: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote broke the TLS protocol", "look at the detail in the log"
    ),
    Code.NOTHING_SHARED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "no version, cipher, group or signature scheme is shared",
        "compare both ends' TLS policy",
    ),
    Code.HANDSHAKE_TIMEOUT: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the handshake was not finished in time",
        "raise the timeout of the request, or find out why the remote is slow",
    ),
    Code.CERTIFICATE_MISSING: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote showed no certificate and one is required",
        "give the remote a certificate, or set REQUEST_REMOTEID or IGNORE_REMOTEID",
    ),
    Code.CHAIN_UNTRUSTED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate does not lead to a trusted anchor",
        "add its issuer: tlspool trust set x509,client,server 1 CERTIFICATE",
    ),
    Code.SELF_SIGNED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate is self-signed and not trusted",
        "trust it explicitly, or have it issued by a trusted authority",
    ),
    Code.EXPIRED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "a certificate of the remote has expired",
        "let the remote renew it; check this host's clock",
    ),
    Code.NOT_YET_VALID: Entry(
        _C.STIRRED_NOT_SHAKEN, "a certificate of the remote is not valid yet", "check both clocks"
    ),
    Code.NAME_MISMATCH: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate is for another name",
        "connect by a name in the certificate, or get one for this name",
    ),
    Code.WRONG_PURPOSE: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate is not for this role",
        "use a certificate whose extended key usage has serverAuth or clientAuth as needed",
    ),
    Code.CHAIN_INVALID: Entry(
        _C.STIRRED_NOT_SHAKEN, "the remote's certificate chain is invalid", "look at the detail in the log"
    ),
    Code.REVOKED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate, or an issuer's, is revoked",
        "its owner needs another certificate; what revokes it: tlspool explain",
    ),
    Code.PIN_UNMATCHED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the remote's certificate is not the one that is pinned for it",
        "ask its owner; if it was changed for a good reason: tlspool trust pin",
    ),
    Code.VALIDATION_FAILED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "a validation expression refuses the remote",
        "see which part of it: tlspool explain",
    ),
    Code.VALIDATION_UNDECIDED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "a validation expression could not be decided in time",
        "see what was not known: tlspool explain; or allow for it in the expression",
    ),
    Code.KEY_WEAK: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "a key or a signature in the remote's chain is too weak",
        "its owner needs a stronger certificate, or policy a lower security level",
    ),
    Code.REVOCATION_UNKNOWN: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "whether the remote's certificate is revoked cannot be found out, and policy wants to know",
        "make its CRL or OCSP responder reachable, import a list, or use the lower-case predicate",
    ),
    Code.NOT_POST_QUANTUM: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the session is not protected against quantum computers, and policy wants that",
        "the remote has to offer X25519MLKEM768 over TLS 1.3",
    ),
    Code.KEY_NOT_FOUND: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the private key is not on any token",
        "compare the URI with p11tool --list-all, and check that the token is there",
    ),
    Code.KEY_AMBIGUOUS: Entry(
        _C.CONNECTION_DRIVER_SETUP, "the URI matches more than one private key", "add id= or serial= to the URI"
    ),
    Code.KEY_MISMATCH: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the private key on the token is not the certificate's",
        "pair the right URI and certificate with tlspool localid set",
    ),
    Code.KEY_URI_MALFORMED: Entry(
        _C.CONNECTION_DRIVER_SETUP, "the key's PKCS #11 URI is malformed", "write it as in RFC 7512; p11tool prints it"
    ),
    Code.PIN_MISSING: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the token needs a PIN and none is known",
        "set pkcs11_pin_file, give keyd a systemd credential, or run: tlspool pin",
    ),
    Code.PIN_WRONG: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the token refused the PIN; it is not tried again",
        "correct it in its file, then: tlspool reload; a credential: restart keyd; a typed one: tlspool pin --again",
    ),
    Code.PIN_LOCKED: Entry(
        _C.STIRRED_NOT_SHAKEN, "the token's PIN is locked", "unlock it with the security officer's PIN"
    ),
    Code.PIN_LAST_TRY: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "one more wrong PIN would lock the token; it is not tried",
        "log in to the token once by hand, with p11tool --login",
    ),
    Code.TOKEN_LOCKED: Entry(
        _C.STIRRED_NOT_SHAKEN, "an operator has locked the token", "when its keys are safe: tlspool keys unlock"
    ),
    Code.TOKEN_GONE: Entry(
        _C.STIRRED_NOT_SHAKEN, "the token is not present", "insert it again; later sessions will use it without restart"
    ),
    Code.TOKEN_FAILED: Entry(_C.STIRRED_NOT_SHAKEN, "the token failed", "look up the CKR_ name in keyd's log"),
    Code.TOKEN_SLOW: Entry(_C.STIRRED_NOT_SHAKEN, "the token did not answer in time", "check the token and its load"),
    Code.CONTENT_REFUSED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "keyd does not recognise the content to be signed",
        "if a TLS handshake did this, report it as a bug",
    ),
    Code.GRANT_REFUSED: Entry(
        _C.STIRRED_NOT_SHAKEN, "the grant is not valid here", "if a TLS handshake did this, report it as a bug"
    ),
    Code.GRANT_USED: Entry(
        _C.STIRRED_NOT_SHAKEN, "the grant was used before", "if a TLS handshake did this, report it as a bug"
    ),
    Code.GRANT_EXPIRED: Entry(_C.STIRRED_NOT_SHAKEN, "the grant has expired", "find out why the handshake is slow"),
    Code.SCHEME_REFUSED: Entry(
        _C.STIRRED_NOT_SHAKEN, "the signature scheme does not fit key or policy", "look at the detail in keyd's log"
    ),
    Code.KEYD_UNREACHABLE: Entry(
        _C.STIRRED_NOT_SHAKEN, "the key daemon went away during the handshake", "check that tlspool-keyd runs"
    ),
    Code.NO_KEYD: Entry(
        _C.CONNECTION_DRIVER_SETUP, "the key daemon is not connected", "start tlspool-keyd and look at its log"
    ),
    Code.NO_WORKER: Entry(_C.ENTANGLED_THREADS, "no worker is available", "start tlspool-worker and look at its log"),
    Code.WORKER_DIED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "the worker died with this session",
        "look for its exit code in the log of tlspool-worker",
    ),
    Code.STOPPING: Entry(_C.CLIENT_DISCONNECT, "the pool is stopping", "try again when it has been started"),
    Code.DRAINING: Entry(
        _C.CLIENT_DISCONNECT,
        "the pool takes no new sessions",
        "wait until it takes them again, or tell it to: tlspool resume",
    ),
    Code.DATABASE: Entry(_C.CONNECTION_DRIVER_SETUP, "a database could not be read", "look at the broker's log"),
    Code.WORKER_SLOW: Entry(
        _C.ENTANGLED_THREADS, "the worker did not answer in time", "look at its load, and at the log of tlspool-worker"
    ),
    Code.DATABASES_IN_USE: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "another process has the databases open",
        "end that process; if it is the broker, have run_dir name the directory of its control socket",
    ),
    Code.KEY_UNCHECKED: Entry(
        _C.STIRRED_NOT_SHAKEN,
        "whether the private key exists could not be found out",
        "look at the key daemon's log, or do without strict",
    ),
    Code.PINS_FULL: Entry(
        _C.CONNECTION_DRIVER_SETUP, "there are too many pins", "remove those of no use: tlspool trust unpin"
    ),
    Code.AUDIT_LOST: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the audit trail cannot be written, and nothing may happen unrecorded",
        "look for audit.lost in the daemon's log: make room, or mend audit_dir; it recovers by itself",
    ),
    Code.AUDIT_BROKEN: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the audit trail was changed, or records are missing from it",
        "keep the files as they are, and find out who could write them; docs/audit.md",
    ),
    Code.SETTING_INVALID: Entry(_C.CONNECTION_DRIVER_SETUP, "a setting is invalid", "correct the named setting"),
    Code.PROVIDER_ABSENT: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the OpenSSL provider is not in effect",
        "install the pool again; from its source tree: pip install .",
    ),
    Code.PIN_FILE_EXPOSED: Entry(
        _C.CONNECTION_DRIVER_SETUP, "the PIN file can be read by others", "give it mode 0600 and keyd's user"
    ),
    Code.POLICY_UNKNOWN: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "there is no crypto policy of that name",
        "assign one that tlspool policy list shows",
    ),
    Code.POLICY_EMPTY: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the crypto policy has no protocol version that the configuration allows",
        "assign another one, or change tls_min_version and tls_max_version",
    ),
    Code.RELOAD_REFUSED: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the configuration is wrong; the settings that were in force stay so",
        "correct the named settings and reload again",
    ),
    Code.SANDBOX_MISSING: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "a layer of the sandbox cannot be had on this machine",
        "use a kernel with Landlock and seccomp, and libseccomp2; or write sandbox warn, and do without it",
    ),
    Code.UNITS_UNFIT: Entry(
        _C.CONNECTION_DRIVER_SETUP,
        "the units cannot be installed, or would not work",
        "remove what is named; an environment is best made in /opt or /usr/local, with the system's Python",
    ),
    **RADIUS,
    Code.INTERNAL: Entry(_C.STIRRED_NOT_SHAKEN, "an internal error", "report it with the session id and the log"),
}
