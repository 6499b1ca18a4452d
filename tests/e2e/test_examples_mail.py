"""The mail and file transfer programs of examples/, with Postfix, Dovecot, vsftpd and each other."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from libstub.adapters.smtp import SMTP
from tests.e2e.conftest import connect
from tests.e2e.examples import Running, example, run
from tests.fixtures.ports import free_port
from tests.fixtures.servers_mail import DOMAIN, PASSWORD, USER, Dovecot, Postfix
from tests.fixtures.servers_other import Vsftpd

SENDER = "a@tlspool.arpa2.lab"


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("localhost")


@pytest.fixture
def mail_server(pool, tmp_path):
    server = Running(pool, tmp_path, example("mail_server.py", 0, "localhost"))
    yield server
    server.stop()


@pytest.fixture
def postfix(pool, pair, mail_server):
    """A Postfix that takes mail with STARTTLS, and sends what is not for itself to the mail server of examples/."""
    with tempfile.TemporaryDirectory(prefix="tpca", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        ca = shutil.copy(pool.directory / "ca.pem", directory)
        settings = (
            f"relayhost = [localhost]:{mail_server.port}\n"
            "smtp_host_lookup = native\nsmtp_dns_support_level = disabled\n"
            f"smtp_tls_security_level = verify\nsmtp_tls_verify_cert_match = hostname\nsmtp_tls_CAfile = {ca}\n"
            "smtp_tls_loglevel = 1\nsmtpd_tls_received_header = yes\nsmtpd_tls_ask_ccert = no\n"
        )
        with Postfix(pair, settings) as made:
            yield made


def test_smtplib_delivers_to_postfix(pool, postfix):
    assert run(pool, "send_mail.py", "localhost", postfix.tls, "starttls", SENDER, f"b@{DOMAIN}") == (
        "sent to localhost, TLSv1.3, TLS_AES_256_GCM_SHA384\n"
    )
    (mail,) = postfix.await_mail()
    assert "This went through TLS of the pool." in mail
    assert "(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384" in mail


def test_postfix_speaks_starttls_to_aiosmtpd(pool, postfix, mail_server):
    """Over TLS of the pool twice: smtplib to Postfix, and Postfix to aiosmtpd."""
    run(pool, "send_mail.py", "localhost", postfix.tls, "starttls", SENDER, "c@elsewhere.example")
    mail_server.await_output(r"from a@tlspool\.arpa2\.lab to \['c@elsewhere\.example'\], TLSv1\.3 TLS_AES_256_GCM")
    mail_server.await_output("This went through TLS of the pool")
    postfix.await_output("Verified TLS connection established to localhost")


def test_smtplib_delivers_to_aiosmtpd(pool, mail_server):
    run(pool, "send_mail.py", "localhost", mail_server.port, "starttls", SENDER, "d@x.example")
    mail_server.await_output(r"to \['d@x\.example'\], TLSv1\.3")


def test_smtplib_with_tls_from_the_first_byte(pool, tmp_path):
    """An aiosmtpd that starts with TLS: asyncio's create_server is the pool's."""
    code = (
        "import asyncio, sys, aiosmtpd.handlers, aiosmtpd.smtp, libstub\n"
        "async def main():\n"
        "    factory = lambda: aiosmtpd.smtp.SMTP(aiosmtpd.handlers.Debugging())\n"
        "    server = await libstub.aio.create_server(\n"
        "        factory, '127.0.0.1', 0, localid='localhost', remote_auth='ignore')\n"
        "    print(f'listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}', flush=True)\n"
        "    await server.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "smtps.py"
    path.write_text(code)
    server = Running(pool, tmp_path, [os.sys.executable, "-W", "error", "-u", str(path)])
    try:
        text = run(pool, "send_mail.py", "localhost", server.port, "tls", SENDER, "e@x.example")
        assert text.startswith("sent to localhost, TLSv1.3")
        server.await_output("This went through TLS of the pool")
    finally:
        server.stop()


def test_aiosmtpd_refuses_what_is_glued_to_starttls(pool, mail_server):
    with connect(mail_server.port) as sock:
        sock.sendall(b"EHLO x\r\nSTARTTLS\r\nMAIL FROM:<evil@x.example>\r\n")
        lines = sock.makefile("rb").readlines()
    assert lines[-1] == b"501 Nothing may follow STARTTLS\r\n"
    run(pool, "send_mail.py", "localhost", mail_server.port, "starttls", SENDER, "f@x.example")


def test_aiosmtpd_wants_tls_first(pool, mail_server):
    with SMTP("localhost", mail_server.port) as smtp:
        assert smtp.docmd("EHLO x")[0] == 250
        assert smtp.docmd("MAIL", "FROM:<a@x.example>")[0] == 530
        smtp.starttls(pool=str(pool.socket))
        assert smtp.ehlo_resp is None
        assert smtp.docmd("STARTTLS")[0] in (500, 503)
        smtp.ehlo()
        assert not smtp.has_extn("starttls")
        assert smtp.mail("a@x.example")[0] == 250


def test_aiosmtpd_survives_a_failed_handshake(pool, mail_server):
    with connect(mail_server.port) as sock:
        sock.sendall(b"EHLO x\r\nSTARTTLS\r\n")
        file = sock.makefile("rb")
        while not file.readline().startswith(b"220 Ready"):
            pass
        sock.sendall(b"this is no TLS\r\n" * 10)
        file.read()
    text = run(pool, "send_mail.py", "localhost", mail_server.port, "starttls", SENDER, "g@x.example")
    assert text.startswith("sent")
    assert "Traceback" not in mail_server.output(), mail_server.output()


@pytest.fixture(scope="module")
def dovecot(pair):
    imaps, pop3s = free_port(), free_port()
    settings = (
        f"service imap-login {{\n inet_listener imaps {{\n port = {imaps}\n ssl = yes\n }}\n}}\n"
        f"service pop3-login {{\n inet_listener pop3s {{\n port = {pop3s}\n ssl = yes\n }}\n}}\n"
        "disable_plaintext_auth = yes\nlogin_trusted_networks =\n"
    )
    with Dovecot(pair, settings) as made:
        made.imaps, made.pop3s = imaps, pop3s
        for folder in ("", "cur", "new", "tmp"):
            made.make(f"mail/{USER}/{folder}".rstrip("/"), owner="mail")
        made.write(f"mail/{USER}/new/1.a.b", "From: a@x.example\r\nSubject: a letter\r\n\r\nhello\r\n", owner="mail")
        yield made


@pytest.mark.parametrize("how", ["starttls", "tls"])
def test_imaplib_reads_from_dovecot(pool, dovecot, how):
    port = dovecot.imap if how == "starttls" else dovecot.imaps
    text = run(pool, "read_imap.py", "localhost", port, how, USER, PASSWORD)
    assert text == "localhost, TLSv1.3\nSubject: a letter\n"


@pytest.mark.parametrize("how", ["starttls", "tls"])
def test_poplib_reads_from_dovecot(pool, dovecot, how):
    port = dovecot.pop3 if how == "starttls" else dovecot.pop3s
    text = run(pool, "read_pop3.py", "localhost", port, how, USER, PASSWORD)
    assert text == "localhost, TLSv1.3\nSubject: a letter\n"


def test_ftplib_writes_to_vsftpd(pool, pair):
    settings = (
        "write_enable=YES\nanon_upload_enable=YES\nanon_umask=022\nanon_world_readable_only=NO\n"
        "force_anon_data_ssl=YES\n"
    )
    with Vsftpd(pair, settings) as server:
        (server.directory / "public" / "upload").mkdir()
        server.give(server.directory / "public" / "upload", "ftp", 0o755)
        text = run(pool, "fetch_ftp.py", "localhost", server.port, "anonymous", "me@x.example", "upload")
        assert text == "localhost, TLSv1.3\nwritten.txt\nwritten over TLS\n"
        assert (server.directory / "public" / "upload" / "written.txt").read_text() == "written over TLS\n"
