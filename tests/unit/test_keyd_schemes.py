"""The table of schemes."""

from tlspool_keyd.schemes import BY_NUMBER, TABLE, Form, Scheme


def test_each_scheme_has_one_row():
    assert sorted(row.scheme for row in TABLE) == sorted(Scheme)
    assert len(BY_NUMBER) == len(TABLE)


def test_numbers_say_what_rows_say():
    """RFC 8446 section 4.2.3; below 0x0800 the first octet is the hash and the second the algorithm of TLS 1.2."""
    hashes = {4: "sha256", 5: "sha384", 6: "sha512"}
    forms = {1: Form.PKCS1, 3: Form.ECDSA}
    for row in TABLE:
        high, low = divmod(row.scheme, 256)
        if high == 8 and low <= 6:
            assert (row.form, row.hash_name) == (Form.PSS, hashes[low])
        elif high == 8:
            assert (row.form, row.hash_name) == (Form.EDDSA, "")
        else:
            assert (row.form, row.hash_name) == (forms[low], hashes[high])


def test_tls13_has_neither_pkcs1_nor_a_curve_we_have_no_keys_for():
    assert {row.scheme for row in TABLE if not row.in_tls13} == {
        Scheme.RSA_PKCS1_SHA256,
        Scheme.RSA_PKCS1_SHA384,
        Scheme.RSA_PKCS1_SHA512,
        Scheme.ECDSA_SECP521R1_SHA512,
    }


def test_nothing_weak():
    for number in (0x0101, 0x0201, 0x0202, 0x0203, 0x0301, 0x0303, 0x0402, 0x0809, 0x080A, 0x080B, 0x0000):
        assert number not in BY_NUMBER
