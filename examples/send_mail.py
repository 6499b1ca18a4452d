"""smtplib over the pool: examples/send_mail.py localhost 587 starttls|tls FROM TO."""

import email.message
import sys

from libstub.adapters.smtp import SMTP, SMTP_SSL

host, port, how, sender, recipient = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]

message = email.message.EmailMessage()
message["From"], message["To"], message["Subject"] = sender, recipient, "over the pool"
message.set_content("This went through TLS of the pool.\n")

if how == "tls":
    with SMTP_SSL(host, port) as smtp:
        smtp.send_message(message)
else:
    with SMTP(host, port) as smtp:
        smtp.starttls()
        smtp.send_message(message)
print(f"sent to {smtp.tls.remoteid}, {smtp.tls.version}, {smtp.tls.cipher}")
