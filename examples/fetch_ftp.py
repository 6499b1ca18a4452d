"""ftplib over the pool, commands and data: examples/fetch_ftp.py localhost 21 USER PASSWORD DIRECTORY."""

import io
import sys

from libstub.adapters.ftp import FTP_TLS

host, port, user, password, directory = sys.argv[1], int(sys.argv[2]), *sys.argv[3:6]

ftp = FTP_TLS()
ftp.connect(host, port)
ftp.login(user, password)
ftp.prot_p()
print(f"{ftp.tls.remoteid}, {ftp.tls.version}")

ftp.cwd(directory)
ftp.storbinary("STOR written.txt", io.BytesIO(b"written over TLS\n"))
ftp.retrlines("NLST")
ftp.retrlines("RETR written.txt")
ftp.quit()
