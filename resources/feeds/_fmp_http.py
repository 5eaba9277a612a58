"""Asking Financial Modeling Prep: within the plan's budget, again where that helps, and the key seen by nobody else.

The key travels in the query, as the provider has it. httpx writes every URL it asks for to its log and keeps the request
in its exceptions: the log is masked, and no exception of httpx is ever part of ours, not even as its context.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote_plus

from pydantic import SecretStr
from sqlalchemy.exc import SQLAlchemyError

from resources.feeds.budget import Budget
from resources.feeds.protocol import AccessDenied, FeedError, MalformedData, RateLimited, SourceMissing

ATTEMPTS = 3
_SILENCE_SECONDS = 60.0
"""After a 429 that does not say how long."""
_LONGEST_SILENCE_SECONDS = 86_400.0
_PLAN = re.compile(r"(?i)subscription|premium|exclusive|upgrade|plan|legacy")
_LIMIT = re.compile(r"(?i)limit reach|too many requests")
_KEY_IN_URL = re.compile(r"(?i)(apikey=)[^&\s\"']+")


class _Masked(logging.Filter):
    """Takes the key out of what httpx and httpcore log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "apikey" in (text := record.getMessage()).lower():
            record.msg, record.args = _KEY_IN_URL.sub(r"\1***", text), ()
        return True


_masked = _Masked()


class _Transient(Exception):
    """Asking again may help. Carries words only."""


class FmpClient:
    """GET requests that give JSON. budget: None for an account without limits. sleep: replaced by tests."""

    def __init__(
        self,
        url: str,
        key: SecretStr | None,
        budget: Callable[[], Budget | None],
        *,
        timeout_seconds: float,
        max_wait_seconds: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/") + "/"
        self._key = key
        self._budget = budget
        self._timeout, self._max_wait, self._sleep = timeout_seconds, max_wait_seconds, sleep
        self._client: Any = None
        self._lock = threading.Lock()

    def get(self, path: str, **query: str) -> Any:
        """The JSON at `path`. Raises AccessDenied, RateLimited, MalformedData, SourceMissing, FeedError."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

        if self._key is None or not self._key.get_secret_value():
            raise AccessDenied("feed fmp: no key; set TAPELINE_FMP_API_KEY to the key of your account")
        where = self.where(path, query)
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS), wait=wait_exponential_jitter(0.5, 8.0, jitter=0.5),
            retry=retry_if_exception_type(_Transient), sleep=self._sleep, reraise=True,
        )  # fmt: skip
        failed = ""
        try:
            return retrying(self._once, path, query, where)
        except _Transient as error:
            failed = str(error)
        # Raised outside of the handler: an exception of httpx below it would carry the URL.
        if "JSON" in failed:
            raise MalformedData(f"{where}: {failed}; asked {ATTEMPTS} times")
        raise SourceMissing(f"{where}: {failed}; asked {ATTEMPTS} times. Is {self._url} reachable?")

    def where(self, path: str, query: Mapping[str, str]) -> str:
        """The request as errors name it: without the key."""
        return f"fmp {path}?" + "&".join(f"{name}={value}" for name, value in query.items())

    def _once(self, path: str, query: Mapping[str, str], where: str) -> Any:
        budget = self._counted(where)
        status, text, retry_after, trouble = self._ask(path, query)
        if trouble:
            raise _Transient(trouble)
        said = _message(text)
        if status == 429 or (status == 200 and said and _LIMIT.search(said)):
            raise self._silenced(where, retry_after, said, budget)
        if status in (401, 402, 403) or (status == 200 and said):
            self._refused(where, status, said or text.strip())  # a plan's limit is told in plain text
        if status >= 500 or status == 408:
            raise _Transient(f"HTTP {status} {self._safe(text)[:120]!r}")
        if status != 200:
            raise SourceMissing(f"{where}: HTTP {status} {self._safe(said or text)[:120]!r}, expected 200")
        if text.lstrip()[:1] == "<":
            raise MalformedData(f"{where}: an HTML page {self._safe(text)[:80]!r}, expected JSON; is TAPELINE_FMP_URL right?")
        trouble = ""
        try:
            return json.loads(text, parse_constant=_no_constant)
        except ValueError as error:
            trouble = f"not whole JSON ({error}), {len(text)} characters, ending {self._safe(text)[-40:]!r}"
        raise _Transient(trouble)

    def _counted(self, where: str) -> Budget | None:
        """Count one request; what cannot be counted is not sent."""
        away = ""
        try:
            budget = self._budget()
            if budget is not None:
                budget.acquire(max_wait_seconds=self._max_wait, sleep=self._sleep)
            return budget
        except SQLAlchemyError as error:
            away = type(error).__name__
        raise FeedError(f"{where}: not asked, because the ledger that counts requests does not answer ({away})")

    def _ask(self, path: str, query: Mapping[str, str]) -> tuple[int, str, str, str]:
        """(status, body, Retry-After, trouble). Nothing of httpx leaves this method."""
        import httpx

        key = self._key.get_secret_value() if self._key is not None else ""
        try:
            answer = self._http().get(self._url + path, params={**query, "apikey": key})
            return answer.status_code, answer.text, answer.headers.get("Retry-After", ""), ""
        except httpx.TimeoutException as error:
            return 0, "", "", f"no answer in {self._timeout:g} s ({type(error).__name__})"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return 0, "", "", f"{type(error).__name__}: {self._safe(str(error))}"

    def _http(self) -> Any:
        import httpx

        with self._lock:
            if self._client is None:
                for name in ("httpx", "httpcore", "httpcore.http11", "httpcore.connection"):
                    logging.getLogger(name).addFilter(_masked)
                # A redirect would hand the key to whatever it points to. Reading the certificate authorities takes longer than a
                # request: only where there is a certificate to check.
                secured = not self._url.startswith("http://")
                self._client = httpx.Client(timeout=self._timeout, follow_redirects=False, verify=secured)
            return self._client

    def _silenced(self, where: str, retry_after: str, said: str, budget: Budget | None) -> Exception:
        """What a 429 becomes: asked again when the silence is short, else RateLimited. Every process keeps the silence."""
        seconds = min(_seconds(retry_after), _LONGEST_SILENCE_SECONDS)
        if budget is not None:
            budget.hold(seconds, f"429 {self._safe(said)[:200]}")
            if seconds <= self._max_wait:
                return _Transient(f"HTTP 429, silence of {seconds:g} s")
        until = time.time_ns() // 1000 + int(seconds * 1e6)
        return RateLimited(f"{where}: HTTP 429 {self._safe(said)[:120]!r}", until)

    def _refused(self, where: str, status: int, said: str) -> None:
        said = self._safe(said)[:200] or "no reason given"
        if status == 402 or (status in (200, 403) and _PLAN.search(said)):
            raise AccessDenied(f"{where}: your plan does not cover this (HTTP {status}: {said!r})")
        if status in (401, 403) or re.search(r"(?i)api ?key", said):
            raise AccessDenied(f"{where}: the key is refused (HTTP {status}: {said!r}); check TAPELINE_FMP_API_KEY")
        raise FeedError(f"{where}: the provider says {said!r}")

    def _safe(self, text: str) -> str:
        """`text` without the key, in whatever form it is there."""
        key = self._key.get_secret_value() if self._key is not None else ""
        for form in {key, quote_plus(key)} - {""}:
            text = text.replace(form, "***")
        return _KEY_IN_URL.sub(r"\1***", text)

    def __repr__(self) -> str:
        return f"FmpClient({self._url!r}, key={'set' if self._key else 'none'})"


def _message(text: str) -> str:
    """The provider's error text of a body; empty when the body is none."""
    try:
        body = json.loads(text)
    except ValueError:
        return ""
    if isinstance(body, dict):
        for name in ("Error Message", "error", "message"):
            if isinstance(body.get(name), str):
                return str(body[name])
    return ""


def _seconds(retry_after: str) -> float:
    """Seconds of a Retry-After header: a number or an HTTP date; a minute when it says neither."""
    if re.fullmatch(r"\d+(\.\d+)?", retry_after.strip()):
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, IndexError):
        return _SILENCE_SECONDS


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
