"""What this package calls of libssl and libcrypto, through cryptography's binding.

That is private API, which may change with any version.  So ``check`` looks for every name at start, before a
worker takes a session.
"""

from __future__ import annotations

from OpenSSL._util import ffi, lib

from tlspool_common.errors import Code, PoolError

_NEEDED = (
    "BIO_free",
    "BIO_get_mem_data",
    "BIO_new",
    "BIO_new_mem_buf",
    "BIO_read",
    "BIO_s_mem",
    "BIO_set_mem_eof_return",
    "BIO_write",
    "ERR_clear_error",
    "ERR_get_error",
    "OPENSSL_free",
    "OPENSSL_malloc",
    "SSL_CIPHER_find",
    "SSL_CIPHER_get_name",
    "SSL_CTX_clear_mode",
    "SSL_CTX_set_cert_store",
    "SSL_CTX_set_alpn_select_cb",
    "SSL_CTX_set_cert_cb",
    "SSL_CTX_set_mode",
    "SSL_CTX_set_tlsext_status_cb",
    "SSL_CTX_set_verify",
    "SSL_do_handshake",
    "SSL_export_keying_material",
    "SSL_get0_group_name",
    "SSL_get_certificate",
    "SSL_get_client_CA_list",
    "SSL_get_current_cipher",
    "SSL_get_error",
    "SSL_get_ex_data_X509_STORE_CTX_idx",
    "SSL_get_extms_support",
    "SSL_get_finished",
    "SSL_get_peer_certificate",
    "SSL_get_peer_finished",
    "SSL_get_shutdown",
    "SSL_get_tlsext_status_ocsp_resp",
    "SSL_read",
    "SSL_session_reused",
    "SSL_set_SSL_CTX",
    "SSL_set_bio",
    "SSL_set_info_callback",
    "SSL_set_post_handshake_auth",
    "SSL_set_tlsext_status_ocsp_resp",
    "SSL_set_tlsext_status_type",
    "SSL_set_verify",
    "SSL_shutdown",
    "SSL_state_string_long",
    "SSL_use_PrivateKey",
    "SSL_verify_client_post_handshake",
    "SSL_version",
    "SSL_write",
    "X509_STORE_CTX_free",
    "X509_STORE_CTX_get1_chain",
    "X509_STORE_CTX_get_current_cert",
    "X509_STORE_CTX_get_error",
    "X509_STORE_CTX_get_error_depth",
    "X509_STORE_CTX_get_ex_data",
    "X509_STORE_CTX_init",
    "X509_STORE_CTX_new",
    "X509_STORE_CTX_set_error",
    "X509_STORE_up_ref",
    "X509_free",
    "X509_up_ref",
    "X509_verify_cert",
    "X509_verify_cert_error_string",
    "i2d_X509_NAME",
    "i2d_X509_bio",
    "sk_X509_NAME_num",
    "sk_X509_NAME_value",
    "sk_X509_free",
    "sk_X509_new_null",
    "sk_X509_num",
    "sk_X509_push",
    "sk_X509_value",
    "SSL_ERROR_WANT_X509_LOOKUP",
    "SSL_MODE_RELEASE_BUFFERS",
    "SSL_OP_NO_RENEGOTIATION",
)


def check() -> None:
    """Refuse a version of cryptography that lacks what this module calls.

    Raises:
        PoolError: PROVIDER_ABSENT, naming what is missing.
    """
    missing = [name for name in _NEEDED if not hasattr(lib, name)]
    if missing:
        raise PoolError(Code.PROVIDER_ABSENT, f"this version of cryptography lacks {', '.join(missing)}")


def der_of(certificate: object) -> bytes:
    """Return one of OpenSSL's certificates in DER; b'' for a null pointer."""
    if certificate == ffi.NULL:
        return b""
    bio = ffi.gc(lib.BIO_new(lib.BIO_s_mem()), lib.BIO_free)
    lib.i2d_X509_bio(bio, certificate)
    pointer = ffi.new("char **")
    size_b = lib.BIO_get_mem_data(bio, pointer)
    return bytes(ffi.buffer(pointer[0], size_b))
