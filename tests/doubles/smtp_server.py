"""An SMTP server on loopback: takes mails, asks for a password when it has one, and refuses what it is told to refuse."""

from __future__ import annotations

import base64
import socketserver
import threading
from collections import deque
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any


class SmtpServer:
    """The server, in threads. login: (user, password) that is let in; refuse: replies given to the next mails instead."""

    def __init__(self, login: tuple[str, str] | None = None) -> None:
        self.mails: list[EmailMessage] = []
        self.refuse: deque[str] = deque()
        self.login = login
        owner = self

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                owner._talk(self)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Session)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> SmtpServer:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def _talk(self, session: socketserver.StreamRequestHandler) -> None:
        def say(text: str) -> None:
            session.wfile.write(text.encode() + b"\r\n")

        known = self.login is None
        say("220 loopback ESMTP")
        while line := session.rfile.readline().strip().decode():
            word, _, rest = line.partition(" ")
            if word.upper() == "EHLO":
                session.wfile.write(b"250-loopback\r\n" + (b"250-AUTH PLAIN\r\n" if self.login else b"") + b"250 8BITMIME\r\n")
            elif word.upper() == "AUTH":
                known = base64.b64decode(rest.split()[1]).decode().split("\0")[1:] == list(self.login or ())
                say("235 ok" if known else f"535 5.7.8 bad credentials {rest}")
            elif word.upper() in ("MAIL", "RCPT"):
                say("250 ok" if known else "530 5.7.0 authentication required")
            elif word.upper() == "DATA":
                say("354 go on")
                data = self._data(session)
                if self.refuse:
                    say(self.refuse.popleft())
                    continue
                self.mails.append(message_from_bytes(data, policy=policy.default))  # type: ignore[arg-type]
                say("250 taken")
            elif word.upper() == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")

    @staticmethod
    def _data(session: Any) -> bytes:
        lines = []
        while (line := session.rfile.readline()) != b".\r\n":
            lines.append(line[1:] if line.startswith(b"..") else line)
        return b"".join(lines)
