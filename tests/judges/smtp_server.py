"""A submission server: takes mail after a login and prints one line of JSON for each.

usage: smtp_server.py [certificate.pem key.pem]; the first line printed is the port.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Printer:
    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "login": session.auth_data,
            "content": envelope.original_content.decode("utf-8"),
        }
        print(json.dumps(mail), flush=True)
        return "250 2.0.0 taken"


def login(server, session, envelope, mechanism, data):
    session.auth_data = f"{data.login.decode()}:{data.password.decode()}"
    return AuthResult(success=data.login == b"ann" and data.password == b"secret", auth_data=session.auth_data)


async def main():
    tls = None
    if len(sys.argv) == 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[1], sys.argv[2])

    def connection():
        return SMTP(
            Printer(),
            hostname="judge.example",
            tls_context=tls,
            require_starttls=tls is not None,
            auth_require_tls=tls is not None,
            auth_required=True,
            authenticator=login,
        )

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
