"""Client of the desk's control API: what assets, sensors and the command line use to talk to the desk.

Every call is safe to repeat: decisions, closes and the replay start are idempotent at the desk, and the client repeats
them itself when the connection breaks, because a lost answer says nothing about what the desk did.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from trading.signals import Decision

MAX_PAUSE_SECONDS = 2.0


class DeskError(Exception):
    """The desk did not do what was asked."""


class DeskUnavailable(DeskError):
    """The desk cannot be reached, or takes no new risk right now (it says why). Asking again later is right."""


class DeskRefused(DeskError):
    """The desk answered and refused the request itself (bad token, malformed request). Asking again is useless."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"desk refused ({status}): {message}")
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class DecisionReceipt:
    """What the desk did with one decision: accepted with its intents, or refused with ``CODE: key=value``."""

    decision_id: str
    accepted: bool
    refusal: str
    intent_ids: tuple[str, ...]


class DeskClient:
    """Synchronous client. url: ``http://127.0.0.1:8600``; token: content of the desk's token file.

    attempts: how often a request is tried when the connection fails or the desk answers 503, with pauses that double from
    pause_seconds up to 2 s; timeout: seconds a try.
    Every method raises DeskUnavailable or DeskRefused.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 30.0, attempts: int = 3, pause_seconds: float = 0.2) -> None:
        # Reading the certificate authorities takes longer than a request: only where there is a certificate to check.
        secured = not url.startswith("http://")
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False, verify=secured
        )
        self._url = url
        self._timeout = timeout
        self._attempts = max(1, attempts)
        self._pause = pause_seconds

    def __enter__(self) -> DeskClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def health(self) -> dict[str, Any]:
        """``{"status": "ok" | "starting" | "degraded", "mode": ...}``; asks once."""
        return self._call("GET", "/v1/health", attempts=1)

    def status(self) -> dict[str, Any]:
        """Mode, market time, halts, ledger, replay, positions count, config problems."""
        return self._call("GET", "/v1/status")

    def submit_decision(self, decision: Decision | Mapping[str, Any], close_time: int | None = None) -> DecisionReceipt:
        """Hand over one decision. close_time: UTC us of the bar close of the trade run; default the signal's own."""
        body = dict(decision.to_dict() if isinstance(decision, Decision) else decision)
        body["close_time"] = close_time if close_time is not None else body["signal"]["close_time"]
        answer = self._call("POST", "/v1/decisions", json=body)
        return DecisionReceipt(answer["decision_id"], answer["accepted"], answer["refusal"], tuple(answer["intents"]))

    def close_done(self, close_time: int, run_id: str, outcome: str = "done") -> dict[str, Any]:
        """The trade run of the bar close at `close_time` (UTC us) has handed over everything (``done`` or ``failed``)."""
        return self._call("POST", f"/v1/closes/{close_time}/done", json={"run_id": run_id, "outcome": outcome})

    def halt(self, level: str, reason: str, who: str, scope: str = "desk") -> dict[str, Any]:
        """level: reduce_only, halted or flatten; scope: ``desk`` or a strategy's name."""
        return self._call("POST", "/v1/halt", json={"level": level, "scope": scope, "reason": reason, "who": who})

    def resume(self, reason: str, who: str, scope: str = "desk") -> dict[str, Any]:
        return self._call("POST", "/v1/resume", json={"scope": scope, "reason": reason, "who": who})

    def flatten(self, reason: str, who: str, strategy: str | None = None, symbol: str | None = None) -> dict[str, Any]:
        """Cancel working entries and close positions (of one strategy or symbol, or all)."""
        return self._call("POST", "/v1/flatten", json={"reason": reason, "who": who, "strategy": strategy, "symbol": symbol})

    def cancel(self, order_id: str, reason: str, who: str, *, force: bool = False) -> dict[str, Any]:
        """force: also when the order guards a trade, which is then left unprotected."""
        return self._call("POST", f"/v1/orders/{order_id}/cancel", json={"reason": reason, "who": who, "force": force})

    def algos(self, state: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Entries worked in slices, newest first. state: running, working, ending, ended."""
        return list(self._call("GET", "/v1/algos", params=_given(state=state, limit=limit))["algos"])

    def cancel_algo(self, algo_id: str, reason: str, who: str) -> dict[str, Any]:
        """Send no more slices of an entry and take back what works; what is bought stays."""
        return self._call("POST", f"/v1/algos/{quote(algo_id, safe='')}/cancel", json={"reason": reason, "who": who})

    def reduce(
        self, strategy: str, symbol: str, reason: str, who: str, *, quantity: float | None = None, share: float | None = None
    ) -> dict[str, Any]:
        """Close `quantity` units or a `share` of a position. ``{"trade_id", "quantity", "left", "order_id", "state"}``."""
        body = _given(quantity=quantity, share=share, reason=reason, who=who, request=uuid.uuid4().hex)
        return self._call("POST", f"/v1/positions/{quote(strategy, safe='')}/{quote(symbol, safe='')}/reduce", json=body)

    def reverse(
        self, strategy: str, symbol: str, reason: str, who: str, *, stop: float, target: float | None = None,
        quantity: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Close a position and enter the other side. ``{"trade_id", "state": closing | entered | refused, ...}``."""
        body = _given(stop=stop, target=target, quantity=quantity, reason=reason, who=who, request=uuid.uuid4().hex)
        return self._call("POST", f"/v1/positions/{quote(strategy, safe='')}/{quote(symbol, safe='')}/reverse", json=body)

    def reconcile(self) -> dict[str, Any]:
        """Compare ledger and broker now; what differs, by symbol (``*``: the account)."""
        return dict(self._call("POST", "/v1/reconcile")["mismatches"])

    def clear_mismatch(self, symbol: str, reason: str, who: str) -> dict[str, Any]:
        """A person has looked at the difference of `symbol`. stands_again: the comparison made at once found it again."""
        return self._call("POST", f"/v1/mismatches/{quote(symbol, safe='')}/clear", json={"reason": reason, "who": who})

    def orders(self, session: str | None = None, state: str | None = None) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/orders", params=_given(session=session, state=state))["orders"])

    def modify(
        self,
        order_id: str,
        reason: str,
        who: str,
        *,
        quantity: float | None = None,
        limit_price: float | None = None,
        stop_price: float | None = None,
    ) -> dict[str, Any]:
        """Change a resting order; what is None stays. ``{"state", "accepted", "refusal"}``: a change never adds risk."""
        change = _given(quantity=quantity, limit_price=limit_price, stop_price=stop_price)
        return self._call("POST", f"/v1/orders/{quote(order_id, safe='')}/modify", json={"reason": reason, "who": who, **change})

    def close_position(self, strategy: str, symbol: str, reason: str, who: str) -> dict[str, Any]:
        """Close one position now. ``{"trade_id", "accepted", "refusal", "intents"}``."""
        path = f"/v1/positions/{quote(strategy, safe='')}/{quote(symbol, safe='')}/close"
        return self._call("POST", path, json={"reason": reason, "who": who})

    def auto_trade(self) -> dict[str, Any]:
        """``{"state": "running" | "paused" | "stopped", "reason", "who", "since_time", "halt", "no_new_risk"}``."""
        return self._call("GET", "/v1/auto-trade")

    def set_auto_trade(self, word: str, reason: str, who: str) -> dict[str, Any]:
        """word: start, pause or stop."""
        return self._call("POST", f"/v1/auto-trade/{word}", json={"reason": reason, "who": who})

    def strategies(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/strategies")["strategies"])

    def plans(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/plans")["plans"])

    def command(self, kind: str, name: str, word: str, reason: str, who: str) -> dict[str, Any]:
        """kind: strategies or plans; word: activate, deactivate, emergency-stop, and cancel of plans."""
        return self._call("POST", f"/v1/{kind}/{quote(name, safe='')}/{word}", json={"reason": reason, "who": who})

    def modes(self) -> list[dict[str, Any]]:
        """Name, mode, effective mode, what the file states, since_wall, who, reason."""
        return list(self._call("GET", "/v1/modes")["modes"])

    def set_mode(self, name: str, mode: str, reason: str, who: str, *, force: bool = False) -> dict[str, Any]:
        """``{"before", "mode", "effective", "still_open"}``. force skips steps of a promotion."""
        body = {"mode": mode, "reason": reason, "who": who, "force": force}
        return self._call("POST", f"/v1/modes/{quote(name, safe='')}", json=body)

    def signals(self, **chosen: Any) -> list[dict[str, Any]]:
        """Newest first. chosen: session, strategy, symbol, limit."""
        return list(self._call("GET", "/v1/signals", params=_given(**chosen))["signals"])

    def decisions(self, **chosen: Any) -> list[dict[str, Any]]:
        """Newest first. chosen: session, strategy, symbol, approved, limit."""
        return list(self._call("GET", "/v1/decisions", params=_given(**chosen))["decisions"])

    def order(self, order_id: str) -> dict[str, Any]:
        """One order with its intent, events and fills."""
        return self._call("GET", f"/v1/orders/{quote(order_id, safe='')}")

    def performance(self, session: str | None = None) -> dict[str, Any]:
        """Profit and loss by position and strategy, the account's equity over a session."""
        return self._call("GET", "/v1/positions/performance", params=_given(session=session))

    def limits(self) -> dict[str, Any]:
        return self._call("GET", "/v1/limits")

    def audit(self, **chosen: Any) -> list[dict[str, Any]]:
        """chosen: after, before, start_time, end_time, actor, action, newest_first, limit."""
        return list(self._call("GET", "/v1/audit", params=_given(**chosen))["records"])

    def positions(self) -> list[dict[str, Any]]:
        return list(self._call("GET", "/v1/positions")["positions"])

    def closes(self, after: int = 0, wait_seconds: float = 0.0) -> list[dict[str, Any]]:
        """Bar closes with close_time > `after`; waits up to `wait_seconds` for the first one."""
        params = {"after": after, "wait_seconds": wait_seconds}
        return list(self._call("GET", "/v1/closes", params=params, timeout=self._timeout + wait_seconds)["closes"])

    def start_replay(self, sessions: int | None = None) -> dict[str, Any]:
        """Start the live day; a running or finished one is left as it is and returned."""
        return self._call("POST", "/v1/replay/start", json=_given(sessions=sessions))

    def replay(self) -> dict[str, Any]:
        return self._call("GET", "/v1/replay")

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
    ) -> dict[str, Any]:
        attempts = attempts or self._attempts
        for attempt in range(1, attempts + 1):
            told = 0.0
            try:
                response = self._http.request(method, path, json=json, params=params, timeout=timeout or self._timeout)
            except httpx.HTTPError as error:
                problem = DeskUnavailable(f"no answer from the desk at {self._url} ({type(error).__name__}): is it running?")
            else:
                if response.status_code not in (429, 503):
                    return _answer(response)
                problem = DeskUnavailable(_message(response))
                told = _retry_after(response) if response.status_code == 429 else 0.0
            if attempt < attempts:
                time.sleep(min(max(told, self._pause * 2 ** (attempt - 1)), MAX_PAUSE_SECONDS))
        raise problem


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _retry_after(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code} without a reason"


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_success:
        body = response.json()
        if isinstance(body, dict):
            return body
        raise DeskRefused(response.status_code, "the answer is not a JSON object: is another server on the desk's port?")
    if response.status_code >= 500:
        raise DeskUnavailable(_message(response))
    raise DeskRefused(response.status_code, _message(response))
