"""What only single bars show of entries in slices in the backtest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.desk.kit import CASH, INSTRUMENTS, LIMITS, bar, hour
from tests.desk.test_managed_parity import arrays
from trading.backtest import backtest
from trading.evaluation import Evaluation
from trading.execution.spec import parse
from trading.limits import OrderRate
from trading.order_rules import OrderRules
from trading.timeframes import Timeframe, iso


def test_of_a_part_filled_inside_a_bar_the_target_waits_for_a_later_bar() -> None:
    bars = arrays(
        [
            bar("EURUSD", 0, 1.2, 1.2, 1.2, 1.2),
            bar("EURUSD", 1, 1.201, 1.202, 1.1995, 1.201),  # the first part at its limit
            bar("EURUSD", 2, 1.205, 1.2105, 1.1999, 1.204),  # the second part, and the target of the first
            bar("EURUSD", 3, 1.204, 1.2045, 1.2035, 1.204),
            bar("EURUSD", 4, 1.204, 1.215, 1.2035, 1.214),  # the target of the second
        ]
    )
    never, nothing = np.zeros(5, bool), np.full(5, np.nan)
    evaluation = Evaluation(
        "EURUSD", Timeframe.H1, bars.close_time, ~never, bars.close_time == hour(0), never, never, never, np.full(5, 1.19),
        nothing, np.full(5, 1.21), nothing, np.ones(5),
    )  # fmt: skip
    rules = OrderRules(execution=parse({"algo": "iceberg", "minutes": 240, "visible": 400}))
    result = backtest(
        evaluation, bars, INSTRUMENTS["EURUSD"], cash=CASH, sizing={"kind": "fixed", "quantity": 1200}, orders=rules
    )
    told = [(r["leg"], r["quantity"], round(r["price"], 4), r["time"]) for r in result.fill_rows()]
    assert told == [
        ("entry", 400.0, 1.2, iso(hour(1))), ("entry", 400.0, 1.2, iso(hour(2))), ("target", 400.0, 1.21, iso(hour(2))),
        ("target", 400.0, 1.21, iso(hour(4))),
    ]  # fmt: skip


def test_every_slice_counts_as_an_entry_within_the_time() -> None:
    quiet = arrays([bar("EURUSD", n, 1.2, 1.2, 1.2, 1.2) for n in range(6)])
    bars = {s: replace(quiet, symbol=s) for s in ("EURUSD", "GBPUSD")}

    def wish(symbol: str, at: int) -> Evaluation:
        b, never, nothing = bars[symbol], np.zeros(6, bool), np.full(6, np.nan)
        return Evaluation(
            symbol, Timeframe.H1, b.close_time, ~never, b.close_time == hour(at), never, never, never, np.full(6, 1.19), nothing,
            nothing, nothing, np.ones(6),
        )  # fmt: skip

    def refusals(orders: int) -> dict[str, int]:
        sliced = OrderRules(execution=parse({"algo": "twap", "minutes": 180, "slices": 3}))
        limits = LIMITS.model_copy(update={"order_rate": OrderRate(orders=orders, seconds=4 * 3600)})
        return backtest(
            [wish("EURUSD", 0), wish("GBPUSD", 2)], [bars["EURUSD"], bars["GBPUSD"]],
            [INSTRUMENTS["EURUSD"], INSTRUMENTS["GBPUSD"]], cash=CASH, sizing={"kind": "fixed", "quantity": 1200},
            orders=[sliced, OrderRules()], strategy=["a", "b"], limits=limits,
        ).refusals  # fmt: skip

    assert refusals(4) == {}
    assert refusals(3) == {"ORDER_RATE": 1}, "slices at the closes 0, 1 and 2, in the order of decisions before the other"
