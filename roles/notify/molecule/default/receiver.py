"""Takes messages by HTTP (8080) and by mail (8025), and hands them over: GET / (JSON), which empties the list.

GET /down lets every later message fail until GET /up. With "login" behind its name, mail needs TLS and a login.
"""

import json
import ssl
import sys
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

got = []
state = {"up": True}


class Web(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # no answer at all where it is down
        if state["up"]:
            got.append({"way": "webhook", "path": self.path, "token": self.headers["X-Token"], "body": body})
            self.send_response(200)
            self.end_headers()

    def do_GET(self):
        state["up"] = {"/down": False, "/up": True}.get(self.path, state["up"])
        body = json.dumps(got).encode()
        if self.path == "/":
            got.clear()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Mail:
    async def handle_DATA(self, server, session, envelope):
        if not state["up"]:
            return "451 not now"
        mail = message_from_bytes(envelope.content, policy=policy.default)
        about = {
            "way": "mail",
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "login": bool(session.authenticated),
        }
        got.append(about | {"title": mail["Subject"], "message": "\n".join(mail.get_content().split("\r\n")).strip()})
        return "250 OK"


def login(server, session, envelope, mechanism, data):
    # not handled here: the server answers the client
    return AuthResult(success=(data.login, data.password) == (b"server", b"pa55word"), handled=False)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/certificate.pem", "/srv/key.pem")
options = {"tls_context": context, "authenticator": login}
if "login" in sys.argv:
    options |= {"require_starttls": True, "auth_required": True}
Controller(Mail(), hostname="0.0.0.0", port=8025, **options).start()
ThreadingHTTPServer(("0.0.0.0", 8080), Web).serve_forever()
