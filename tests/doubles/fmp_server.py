"""Financial Modeling Prep's `stable` API on loopback: its shapes, its limits, and its faults when asked for.

Data comes as rows (dicts as the provider sends them), newest first. Faults are taken one a request, in order.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Row = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """An answer instead of the right one. body: text; truncate: the right answer, cut to so many characters; hang: say
    nothing for so many seconds; drop: close the connection."""

    status: int = 200
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    truncate: int | None = None
    hang: float = 0.0
    drop: bool = False


BAD_KEY = Fault(401, json.dumps({"Error Message": "Invalid API KEY. Feel free to create a Free API Key"}))
NOT_IN_PLAN = Fault(402, json.dumps({"Error Message": "Premium Query Parameter: this value set for 'symbol' is not available"}))
FORBIDDEN = Fault(403, json.dumps({"Error Message": "Exclusive Endpoint : This endpoint is not available under your plan"}))
ERROR_IN_200 = Fault(200, json.dumps({"Error Message": "Invalid API KEY."}))
HTML = Fault(200, "<!DOCTYPE html><html><body>Bad gateway</body></html>")
BROKEN = Fault(502, "<html><h1>502 Bad Gateway</h1></html>")


def too_many(retry_after: str | None = None) -> Fault:
    """A 429, with or without a Retry-After."""
    headers = (("Retry-After", retry_after),) if retry_after is not None else ()
    return Fault(429, json.dumps({"Error Message": "Limit Reach . Please upgrade your plan"}), headers)


class FmpServer:
    """The server, in a thread. Use as a context manager.

    charts: (symbol, "1min") -> rows in any order; ("AAPL", "eod") for daily ones. max_days, max_rows: most days and rows in
    one answer, the newest ones. key: the only one that is let in.
    """

    def __init__(
        self,
        charts: Mapping[tuple[str, str], Iterable[Row]],
        *,
        key: str = "right-key",
        max_days: int | None = None,
        max_rows: int | None = None,
        newest_first: bool = True,
    ) -> None:
        self.charts = {name: list(rows) for name, rows in charts.items()}
        self.key, self.max_days, self.max_rows, self.newest_first = key, max_days, max_rows, newest_first
        self.faults: deque[Fault | None] = deque()
        self.asked: list[str] = []
        """Path and query of each request, without the key."""
        self._released = threading.Event()
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                double._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> FmpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/stable/"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        split = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        path = split.path.removeprefix("/stable/")
        shown = "&".join(f"{k}={v}" for k, v in query.items() if k != "apikey")
        self.asked.append(f"{path}?{shown}")
        fault = self.faults.popleft() if self.faults else None
        if fault is not None and fault.hang:
            self._released.wait(fault.hang)
        if fault is not None and fault.drop:
            handler.close_connection = True
            handler.connection.close()
            return
        if fault is not None and fault.truncate is None and not fault.hang:
            self._send(handler, fault.status, fault.body, fault.headers)
        elif query.get("apikey") != self.key:
            self._send(handler, 401, BAD_KEY.body)
        else:
            body = json.dumps(self._data(path, query))
            self._send(handler, 200, body if fault is None or fault.truncate is None else body[: fault.truncate])

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        data = body.encode()
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _data(self, path: str, query: Mapping[str, str]) -> Any:
        kind, _, rest = path.partition("/")
        if kind == "search-symbol":
            wanted = query["query"].upper()
            symbols = sorted({symbol for symbol, _ in self.charts})
            found = [s for s in symbols if wanted in s]
            return [{"symbol": s, "name": s.title(), "currency": "USD", "exchange": "NASDAQ"} for s in found]
        if kind == "quote":
            return [
                {"symbol": symbol, "price": rows[-1]["close"], "volume": 1, "timestamp": 1738702801}
                for (symbol, _), rows in self.charts.items()
                if symbol == query["symbol"] and rows
            ][:1]
        rows = self.charts.get((query["symbol"], "eod" if kind == "historical-price-eod" else rest), [])
        lo, hi = query["from"], query["to"]
        if self.max_days is not None:
            lo = max(lo, (datetime.fromisoformat(hi) - timedelta(days=self.max_days - 1)).date().isoformat())
        chosen = [row for row in rows if lo <= str(row["date"])[:10] <= hi]
        if self.newest_first:
            chosen = sorted(chosen, key=lambda row: str(row["date"]), reverse=True)
        return chosen[: self.max_rows]
