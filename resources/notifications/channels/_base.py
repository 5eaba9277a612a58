"""What every channel shares: the outcome of a sending, and HTTP with waiting times honoured and secrets kept."""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from resources.notifications.compose import Message, utf16
from resources.notifications.routing import usable_url

if TYPE_CHECKING:
    import httpx

SecretReader = Callable[[str], str]
"""Name of a secret file -> its content. Raises SecretError."""

LONGEST_WAIT_SECONDS = 24 * 3600.0
_UNTOLD_WAIT_SECONDS = 5.0
_MOST_BYTES = 65_536


class Said(Enum):
    """What the channel said to a message."""

    TAKEN = "taken"
    WAIT = "wait"  # it asks for time; the message comes again then
    FAILED = "failed"  # no answer, or one about the channel and not about the message; again later
    REFUSED = "refused"  # this message is wrong for the channel, and will be the next time


@dataclass(frozen=True, slots=True)
class Delivery:
    """Outcome of one sending. wait_seconds: nothing more may be sent before. text: why not, free of secrets."""

    said: Said
    text: str = ""
    wait_seconds: float = 0.0


class Transport:
    """One channel's protocol. limit: what `size` of a message's text may be; per_minute, burst: how fast it may come."""

    limit = 2000
    per_minute = 30.0
    burst = 5
    most_items = 50

    def __init__(self, name: str, channel: Any, read_secret: SecretReader) -> None:
        self.name = name
        self.channel = channel
        self._read_secret = read_secret
        if channel.rate_per_minute is not None:
            self.per_minute = channel.rate_per_minute

    def size(self, text: str) -> int:
        """Length of `text` as it goes out."""
        return utf16(self.escape(text))

    def escape(self, text: str) -> str:
        """`text` such that the channel shows just that."""
        return text

    def send(self, message: Message) -> Delivery:
        """Hand `message` over. Never raises what a channel, a network or a secret can cause."""
        raise NotImplementedError

    def close(self) -> None:
        """Drop connections."""


class HttpTransport(Transport):
    """A channel that takes JSON by POST."""

    def __init__(self, name: str, channel: Any, read_secret: SecretReader) -> None:
        super().__init__(name, channel, read_secret)
        self._client: httpx.Client | None = None

    def url(self) -> str:
        """Where to send. Raises SecretError."""
        return self._read_secret(self.channel.url_secret)

    def body(self, message: Message) -> Mapping[str, Any]:
        raise NotImplementedError

    def headers(self, message: Message, content: bytes) -> Mapping[str, str]:
        return {}

    def judge(self, status: int, headers: Mapping[str, str], body: Any) -> Delivery:
        """What an answer means. body: its JSON, or its text."""
        if 200 <= status < 300:
            return Delivery(Said.TAKEN, wait_seconds=spent(headers))
        if status == 429:
            return Delivery(Said.WAIT, "HTTP 429: too many messages", retry_after(headers, body))
        if status in (400, 413, 414, 415, 422):
            return Delivery(Said.REFUSED, f"HTTP {status}: {reason(body)}")
        wait = retry_after(headers, body) if status >= 500 and "retry-after" in headers else 0.0
        return Delivery(Said.FAILED, f"HTTP {status}: {reason(body)}", wait)

    def send(self, message: Message) -> Delivery:
        import json

        import httpx

        from resources.secrets import SecretError

        try:
            url = self.url()
        except SecretError as error:
            return Delivery(Said.FAILED, str(error))
        if not usable_url(url):
            return Delivery(Said.FAILED, "the secret holds no https:// address (http:// is taken on loopback only)")
        content = json.dumps(self.body(message), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "Tapeline", **self.headers(message, content)}
        try:
            with self._http().stream("POST", url, content=content, headers=headers) as response:
                told = _body(response)
            return self.judge(response.status_code, {k.lower(): v for k, v in response.headers.items()}, told)
        except httpx.InvalidURL:
            return Delivery(Said.FAILED, "the secret holds no address that can be used")
        except (httpx.HTTPError, OSError) as error:  # its text may hold the address, which is a secret
            return Delivery(Said.FAILED, f"no answer ({type(error).__name__})")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _http(self) -> httpx.Client:
        if self._client is None:
            import httpx

            # A redirect would take the message, and a secret path, somewhere else.
            self._client = httpx.Client(timeout=self.channel.timeout_seconds, follow_redirects=False)
        return self._client


def _body(response: httpx.Response) -> Any:
    import json

    got = b""
    for chunk in response.iter_bytes():
        got += chunk
        if len(got) > _MOST_BYTES:
            break
    try:
        return json.loads(got)
    except ValueError:
        return got[:500].decode(errors="replace")


def retry_after(headers: Mapping[str, str], body: Any) -> float:
    """Seconds to wait: the longer one of header (seconds or a date) and body (``retry_after``, Telegram's ``parameters``)."""
    told = [_seconds(headers.get("retry-after"))]
    if isinstance(body, Mapping):
        inner = body.get("parameters")
        told += [_seconds(body.get("retry_after")), _seconds(inner.get("retry_after") if isinstance(inner, Mapping) else None)]
    known = [seconds for seconds in told if seconds is not None]
    return min(max(known), LONGEST_WAIT_SECONDS) if known else _UNTOLD_WAIT_SECONDS


def spent(headers: Mapping[str, str]) -> float:
    """Seconds until the channel takes another message, when it says that this was the last for now; else 0."""
    if headers.get("x-ratelimit-remaining") != "0":
        return 0.0
    seconds = _seconds(headers.get("x-ratelimit-reset-after"))
    return min(seconds, LONGEST_WAIT_SECONDS) if seconds is not None else 0.0


def _seconds(value: Any) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        try:
            seconds = email.utils.parsedate_to_datetime(str(value)).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def reason(body: Any) -> str:
    """What the channel gives as its reason, short."""
    if isinstance(body, Mapping):
        for name in ("description", "message", "error", "detail"):
            if isinstance(body.get(name), str):
                return str(body[name])[:200]
        return "no reason given"
    return " ".join(str(body).split())[:200] or "no reason given"
