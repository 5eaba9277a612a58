"""Discord, Telegram, Slack and a generic webhook on loopback: their request shapes, their answers, their limits and faults.

Each service has a path of its own: /api/webhooks/1/<token>, /bot<token>/sendMessage, /services/T0/B0/<token>, /hook. A
request that the real service would refuse is refused the same way. Faults are taken one a request, in order, by service.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "s3cr3t-t0ken-of-the-channel-0123456789"
BOT = "123456:AAbbCCddEEffGGhhIIjjKKllMMnnOOppQQ"


@dataclass(frozen=True)
class Fault:
    """An answer instead of the right one. hang: say nothing for so long; drop: close the connection; take: the message
    counts as taken all the same (the answer is what goes wrong)."""

    status: int = 200
    body: Any = ""
    headers: tuple[tuple[str, str], ...] = ()
    hang: float = 0.0
    drop: bool = False
    take: bool = False


def discord_429(seconds: float) -> Fault:
    body = {"message": "You are being rate limited.", "retry_after": seconds, "global": False}
    return Fault(429, body, (("Retry-After", str(max(1, round(seconds)))), ("X-RateLimit-Scope", "shared")))


def telegram_429(seconds: int) -> Fault:
    said = f"Too Many Requests: retry after {seconds}"
    return Fault(429, {"ok": False, "error_code": 429, "description": said, "parameters": {"retry_after": seconds}})


def slack_429(seconds: int) -> Fault:
    return Fault(429, "rate_limited", (("Retry-After", str(seconds)),))


@dataclass(frozen=True)
class Taken:
    """One message a service took. at: monotonic seconds."""

    service: str
    body: dict[str, Any]
    headers: dict[str, str]
    query: dict[str, list[str]]
    at: float


class ChannelServer:
    """The server, in threads. Use as a context manager."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.requests: list[tuple[str, float]] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.dead: set[str] = set()
        self.wrong: list[str] = []
        self._gone = threading.Event()
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._post(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> ChannelServer:
        self._thread.start()
        return self

    def __exit__(self, *arguments: object) -> None:
        self._gone.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def address(self, service: str) -> str:
        """What the secret file of a channel of this service holds."""
        paths = {"discord": f"/api/webhooks/1/{TOKEN}", "slack": f"/services/T0/B0/{TOKEN}", "webhook": "/hook"}
        return self.url + paths[service]

    def of(self, service: str) -> list[Taken]:
        with self._lock:
            return [t for t in self.taken if t.service == service]

    def texts(self, service: str) -> list[str]:
        field = {"discord": "content", "telegram": "text", "slack": "text", "webhook": "text"}[service]
        return [t.body[field] for t in self.of(service)]

    def _post(self, http: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(http.path)
        service = _service(parts.path)
        raw = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        with self._lock:
            self.requests.append((service, time.monotonic()))
            fault = self.faults[service].popleft() if self.faults[service] else None
        if service in self.dead:
            self._gone.wait(60)
            http.close_connection = True
            return
        problem = "" if service else "no such place"
        body: dict[str, Any] = {}
        if service:
            body, problem = _read(service, http, raw)
        if fault is not None:
            self._gone.wait(fault.hang)
            if fault.take:
                self._take(service, body, http, parts.query)
            if fault.drop:
                http.close_connection = True
                http.connection.close()
                return
            _answer(http, fault.status, fault.body, fault.headers)
            return
        if problem:
            self.wrong.append(f"{service}: {problem}")
            _answer(http, 400 if service else 404, problem)
            return
        self._take(service, body, http, parts.query)
        _answer(http, 200, _good(service, body))

    def _take(self, service: str, body: dict[str, Any], http: BaseHTTPRequestHandler, query: str) -> None:
        headers = {k.lower(): v for k, v in http.headers.items()}
        with self._lock:
            self.taken.append(Taken(service, body, headers, parse_qs(query), time.monotonic()))


def _service(path: str) -> str:
    if path == f"/api/webhooks/1/{TOKEN}":
        return "discord"
    if path == f"/bot{BOT}/sendMessage":
        return "telegram"
    if path == f"/services/T0/B0/{TOKEN}":
        return "slack"
    return "webhook" if path == "/hook" else ""


def _read(service: str, http: BaseHTTPRequestHandler, raw: bytes) -> tuple[dict[str, Any], str]:
    """The body, and what the real service would refuse it for."""
    try:
        body = json.loads(raw)
    except ValueError:
        return {}, "invalid JSON"
    if http.headers.get("Content-Type", "").partition(";")[0] != "application/json":
        return body, "content type"
    limits = {"discord": ("content", 2000), "telegram": ("text", 4096), "slack": ("text", 40_000)}
    if service in limits:
        name, limit = limits[service]
        text = body.get(name)
        if not isinstance(text, str) or not text.strip():
            return body, f"{name} is empty"
        if len(text.encode("utf-16-le")) // 2 > limit:
            return body, f"{name} must be {limit} or fewer in length"
    if service == "telegram" and not body.get("chat_id"):
        return body, "Bad Request: chat_id is empty"
    return body, ""


def _good(service: str, body: dict[str, Any]) -> Any:
    if service == "discord":
        return {"id": "1", "content": body["content"]}
    if service == "telegram":
        return {"ok": True, "result": {"message_id": 1, "chat": {"id": body["chat_id"]}, "text": body["text"]}}
    return "ok" if service == "slack" else {}


def _answer(http: BaseHTTPRequestHandler, status: int, body: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    http.send_response(status)
    http.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
    http.send_header("Content-Length", str(len(data)))
    for name, value in headers:
        http.send_header(name, value)
    http.end_headers()
    http.wfile.write(data)
