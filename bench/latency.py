"""Latency of the live path, read from what the ledger recorded of the bar closes of this installation.

Needs a ledger with replayed or live closes (``make run`` once). Milliseconds; reference is the goal, ratio value / goal. An exit
counts from the moment the feed gave the close to the desk (waiting for the worker included) until the broker's answer on the
order was back; ``wanted`` is when the wish to exit was written down, the moment before its trade's other orders are cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.core import Row

GOAL_BAR_TO_ORDER_MS = 1000.0
GOAL_BAR_TO_EXIT_MS = 50.0
_JOINTS = (
    ("emitted_wall", "stored_wall", "desk_store_ms"),
    ("stored_wall", "sensed_wall", "sensor_ms"),
    ("sensed_wall", "run_started_wall", "run_start_ms"),
    ("run_started_wall", "signals_wall", "signals_ms"),
    ("signals_wall", "decisions_wall", "decisions_ms"),
    ("decisions_wall", "done_wall", "orders_ms"),
)


def run(quick: bool) -> Iterator[Row]:
    """Median and p95 from the stored bar to the decisions at the desk, and where the time goes."""
    from resources.ledger.store import Ledger
    from resources.settings import settings

    ledger = Ledger.at(settings().ledger_url())
    recorded = ledger.closes()
    if not [c for c in recorded if c["outcome"] == "done" and c["sensed_wall"]]:
        raise SystemExit("latency: the ledger has no finished bar closes; start the desk with `make run` first")
    yield from rows_of(recorded, ledger.orders())


def rows_of(recorded: Sequence[Mapping[str, Any]], orders: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """The figures of these closes and of the orders made at them."""
    closes = [c for c in recorded if c["outcome"] == "done" and c["sensed_wall"]]
    yield Row("closes", float(len(closes)), "closes")
    if not closes:
        return
    total = np.array([(c["done_wall"] - c["stored_wall"]) / 1000 for c in closes])
    median, p95 = float(np.median(total)), float(np.percentile(total, 95))
    yield Row("dagster_bar_to_order_median_ms", median, "ms", GOAL_BAR_TO_ORDER_MS, median / GOAL_BAR_TO_ORDER_MS)
    yield Row("dagster_bar_to_order_p95_ms", p95, "ms", 2 * GOAL_BAR_TO_ORDER_MS, p95 / (2 * GOAL_BAR_TO_ORDER_MS))
    emitted = {c["close_time"]: c["emitted_wall"] for c in recorded}
    exits = [o for o in orders if o["leg"].startswith("exit") and o["created_time"] in emitted and o["acked_wall"] is not None]
    if exits:
        wanted = [(o["created_wall"] - emitted[o["created_time"]]) / 1000 for o in exits]
        yield Row("desk_bar_to_exit_wanted_median_ms", float(np.median(wanted)), "ms")
        yield Row("desk_bar_to_exit_wanted_p99_ms", float(np.percentile(wanted, 99)), "ms")
        spent = [(o["acked_wall"] - emitted[o["created_time"]]) / 1000 for o in exits]
        p99 = float(np.percentile(spent, 99))
        yield Row("desk_exits", float(len(exits)), "orders")
        yield Row("desk_bar_to_exit_median_ms", float(np.median(spent)), "ms")
        yield Row("desk_bar_to_exit_p90_ms", float(np.percentile(spent, 90)), "ms")
        yield Row("desk_bar_to_exit_p99_ms", p99, "ms", GOAL_BAR_TO_EXIT_MS, p99 / GOAL_BAR_TO_EXIT_MS)
    for start, end, name in _JOINTS:
        spent = [(c[end] - c[start]) / 1000 for c in closes if c[end] is not None and c[start] is not None]
        if spent:
            yield Row(f"{name}_median", float(np.median(spent)), "ms", None, None)
            yield Row(f"{name}_p95", float(np.percentile(spent, 95)), "ms", None, None)
