"""``python -m tests.soak.month``: a month of paper trading replayed at high speed by a real desk process.

Months of 22 sessions: EURUSD by the hour and five instruments by the day on the sample, the same on the shared market data
(LEAN), and one-minute EURUSD for eleven sessions (``--minutes``). A desk (its own process, real ledger, lake and paper
broker) is driven through its API as the trade runs drive it. At the end ledger and broker must tell the same story, the
fills must be the backtest's trade for trade, and the desk's memory must not have grown with the closes. Prints a table;
exits 1 when something differs. TAPELINE_TORTURE_POSTGRES_URL names a server to use; otherwise one is started.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sqlalchemy import text

from assets import trade_lane
from desk.replay import replay_sessions
from resources.config import Config, load_config
from resources.desk_client import DeskClient
from resources.ledger.migrate import create_databases, upgrade
from tests.desk.running import STRATEGY, Installation
from tests.faults import checks
from tests.faults.torture import _server
from tests.paths import lean_data
from trading.backtest import backtest
from trading.costs import Costs
from trading.timeframes import Timeframe, session_number

SESSIONS = 22
HEADER = "month        sessions  closes closes/s  trades  fills  refused  broker  backtest MiB from      to MiB/1000cl   growth"
FLAT_SHARE = 0.05
"""The desk's memory may have grown by so much between the second and the last fifth of the closes: its allocator breathes."""
MEASURE_EVERY = 8

_HEAD = """\
name: sample
history_start: {start}
history_end: {end}
simulated: true
conflicts: {{policy: allow}}
quality: {{max_gap_share: 0.9, max_gap_bars: 5000, jump_minimum: 0.5, stale_repeats: 500, volume_ratio: 100000}}
instruments:
"""
_FOREX = """\
  EURUSD: {{asset_class: forex, calendar: FX, tick_size: 0.00001, lot_size: 1000, currency: USD, feed: {feed}{symbol},
           native_timeframe: {timeframe}, tradable_in: [backtest, paper], has_volume: false}}
"""
_DAILY = """\
  {name}: {{asset_class: {kind}, calendar: XNYS, tick_size: 0.01, currency: USD, feed: {feed}, native_timeframe: 1d,
           tradable_in: [backtest, paper]}}
"""
_SLOW = STRATEGY.replace("name: often", "name: slow").replace("period: 3}", "period: 5}").replace("max_bars: 3", "max_bars: 9")
_DAYS = """\
name: days_{lower}
description: In above the average of three days, out after two.
status: active
mode: paper
symbols: [{name}]
timeframe: 1d
entry: {{long: {{">": [{{price: close}}, {{indicator: sma, params: {{period: 3}}}}]}}}}
exits:
  stop: {{kind: atr, period: 14, multiple: 3.0}}
  target: {{kind: reward, ratio: 2.0}}
  max_bars: 2
sizing: {{kind: fixed, quantity: {quantity}}}
gates: {{min_reward_to_risk: 1.0, quality_sessions: 1, valid_bars: 1}}
costs: {{commission_kind: per_share, rate: 0.005, minimum: 1.0, slippage_kind: fixed, value: 1}}
"""


@dataclass(frozen=True)
class Month:
    """What is replayed. stocks: daily instruments by name, with the quantity traded."""

    name: str
    start: date
    end: date
    sessions: int
    forex: str
    feed: str
    symbol: str = ""
    timeframe: str = "1h"
    kind: str = "equity"
    stocks: dict[str, int] = field(default_factory=dict)
    lean: bool = False

    def universe(self) -> str:
        own = f", feed_symbol: {self.symbol}" if self.symbol else ""
        made = _HEAD.format(start=self.start, end=self.end)
        made += _FOREX.format(feed=self.forex, symbol=own, timeframe=self.timeframe)
        return made + "".join(_DAILY.format(name=name, kind=self.kind, feed=self.feed) for name in self.stocks)

    def strategies(self) -> dict[str, str]:
        days = {
            f"days_{name.lower()}": _DAYS.format(name=name, lower=name.lower(), quantity=quantity)
            for name, quantity in self.stocks.items()
        }
        return {"often": STRATEGY, "slow": _SLOW, **days}


SAMPLE = Month(
    "sample", date(2017, 10, 2), date(2017, 12, 29), SESSIONS, "sample_forex", "sample_indices", kind="index",
    stocks={"SPX": 2, "COMP": 1},
)  # fmt: skip
MARKET = Month(
    "market data", date(2012, 1, 3), date(2012, 3, 30), SESSIONS, "lean", "lean", "forex/fxcm/eurusd",
    stocks={"AIG": 100, "BAC": 300, "IBM": 20, "AAPL": 5}, lean=True,
)  # fmt: skip
MINUTES = Month(
    "minutes", date(2014, 5, 1), date(2014, 5, 15), 10, "lean", "lean", "forex/fxcm/eurusd", "1m", lean=True,
)  # fmt: skip


@dataclass
class Outcome:
    """What a month came to. rss: (closes so far, the desk's resident bytes)."""

    month: str
    sessions: int = 0
    closes: int = 0
    seconds: float = 0.0
    trades: int = 0
    fills: int = 0
    refused: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)
    rss: list[tuple[int, int]] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Share by which the median memory of the last fifth is above that of the second fifth."""
        fifth = max(1, len(self.rss) // 5)
        sizes = [size for _, size in self.rss]
        return float(np.median(sizes[-fifth:]) / np.median(sizes[fifth : 2 * fifth] or sizes)) - 1

    @property
    def slope_mib(self) -> float:
        """MiB a thousand closes, least squares over all but the first fifth."""
        later = self.rss[len(self.rss) // 5 :]
        if len({n for n, _ in later}) < 2:
            return 0.0
        n, size = np.array(later, float).T
        return float(np.polyfit(n, size, 1)[0] * 1000 / 2**20)

    @property
    def good(self) -> bool:
        return not any(self.wrong.values()) and not self.different and self.growth <= FLAT_SHARE and self.trades > 0


def replay(month: Month, server: str, room: Path, say: object = None) -> Outcome:
    """Replay `month` on a server of databases, in the new folder `room`. Never raises for what the comparison finds."""
    name = f"month_{room.name}".replace("-", "_").lower()
    create_databases(f"{server}/postgres", [name])
    upgrade(f"{server}/{name}")
    overrides = {"TAPELINE_REPLAY_SESSIONS": str(month.sessions), "TAPELINE_REPLAY_BARRIER_SECONDS": "120"}
    overrides["MALLOC_ARENA_MAX"] = "2"  # as the supervisor sets it
    if month.lean:
        overrides["TAPELINE_LEAN_DATA"] = str(lean_data())
    installation = Installation(room / "at", server, f"{server}/{name}", None, overrides, month.strategies())
    (installation.config_dir / "universe" / "sample.yaml").write_text(month.universe())
    outcome = Outcome(month.name)
    try:
        installation.ingest_history()
        _trade(installation, outcome, say)
        outcome.wrong = checks.compare(installation.ledger.engine)
        _compare(installation, outcome)
    finally:
        installation.stop()
    return outcome


def _trade(installation: Installation, outcome: Outcome, say: object) -> None:
    """Drive the desk to the end of the replay, its memory measured on the way."""
    process = installation.start(interpreter=True)
    desk = psutil.Process(process.pid)
    config = load_config(installation.settings)
    begun = said = time.monotonic()
    client = installation.client(attempts=60, pause_seconds=0.1)
    client.start_replay()
    while True:
        for row in installation.ledger.closes(pending=True):
            _decide(installation, config, client, row)
        state = installation.ledger.get_state("replay")
        closes = int(state["closes"]) if state else 0
        if closes // MEASURE_EVERY > (outcome.rss[-1][0] // MEASURE_EVERY if outcome.rss else -1):
            outcome.rss.append((closes, desk.memory_info().rss))
        if time.monotonic() - said > 15 and callable(say):
            said = time.monotonic()
            say(f"{outcome.month}: {closes} of {state['total'] if state else '?'} closes, {outcome.rss[-1][1] / 2**20:.0f} MiB")
        if state and state["state"] == "finished":
            break
        if process.poll() is not None:
            raise AssertionError(f"the desk ended with {process.returncode}:\n{installation.log()}")
        time.sleep(0.005)
    client.close()
    outcome.closes, outcome.seconds = closes, time.monotonic() - begun
    outcome.sessions = len(state["sessions"])


def _decide(installation: Installation, config: Config, desk: DeskClient, row: Mapping[str, Any]) -> None:
    """What the trade run does at one bar close: the trade lane's own functions, the files read once."""
    close_time, session = int(row["close_time"]), str(row["session"])
    ledger, own = installation.ledger, installation.settings
    found = trade_lane.evaluate_close(close_time, session, config, installation.lake, ledger, own.mode)
    ledger.insert_signals(found.signals, session=session, code_revision="soak", run_id="soak")
    made = trade_lane.decide(found.signals, config, ledger, close_time)
    ledger.insert_decisions(made, session=session, code_revision="soak", run_id="soak")
    trade_lane.post([item.decision for item in made if item.decision.approved], desk, close_time)
    desk.close_done(close_time, "soak")


_TRADES = text("""
SELECT f.strategy, f.symbol, f.side, f.quantity, f.price, f.trade_id, f.fill_time, f.order_id = f.trade_id AS entry
  FROM fills f ORDER BY f.fill_time, f.id
""")


def _compare(installation: Installation, outcome: Outcome) -> None:
    """Every trade of the ledger is one of the backtest and the other way round, open ones included."""
    config = load_config(installation.settings)
    live = replay_sessions(config.universe, installation.settings.replay_sessions)
    evaluables = sorted(config.strategies.values(), key=lambda s: s.name)
    first, last = session_number(live[0]), session_number(live[-1])
    series: dict[str, dict[Timeframe, object]] = {}
    for symbol, instrument in config.universe.instruments.items():
        for timeframe in Timeframe:
            if timeframe.minutes >= instrument.native_timeframe.minutes:
                bars = installation.lake.read_bars(f"bars_{timeframe}", symbol, config.universe.history_start, live[-1])
                series.setdefault(symbol, {})[timeframe] = bars
    told: list[tuple[str, str, str, float, float, float | None]] = []
    for evaluable in evaluables:
        for symbol in evaluable.symbols:
            own = series[symbol][Timeframe(evaluable.timeframe)]
            started = (own.session >= first) & (own.session <= last)  # type: ignore[attr-defined]
            result = backtest(
                evaluable, {symbol: series[symbol]}, config.universe.instruments, cash=installation.settings.paper_cash,
                costs=Costs.from_dict(evaluable.costs) if evaluable.costs else None, limits=config.limits, require_stop=True,
                gates={"live": started},
            )  # fmt: skip
            t = result.trades
            told += [
                (evaluable.name, symbol, "buy" if t.quantity[i] > 0 else "sell", abs(float(t.quantity[i])),
                 round(float(t.entry_price[i]), 6), round(float(t.exit_price[i]), 6) if t.closed[i] else None)
                for i in range(len(t.quantity))
            ]  # fmt: skip
    made = _trades_of(installation)
    outcome.trades, outcome.fills = len(made), len(installation.ledger.fills())
    outcome.refused = sum(bool(i["refusal"]) for i in installation.ledger.intents())
    ledger, expected = sorted(made, key=str), sorted(told, key=str)
    outcome.different = [f"only in the ledger: {t}" for t in _less(ledger, expected)]
    outcome.different += [f"only in the backtest: {t}" for t in _less(expected, ledger)]


def _trades_of(installation: Installation) -> list[tuple[str, str, str, float, float, float | None]]:
    trades: dict[str, list[object]] = {}
    with installation.ledger.engine.connect() as connection:
        for row in connection.execute(_TRADES):
            trades.setdefault(row.trade_id, []).append(row)
    found = []
    for rows in trades.values():
        entry = next(r for r in rows if r.entry)  # type: ignore[attr-defined]
        exits = [r for r in rows if not r.entry]  # type: ignore[attr-defined]
        price = round(exits[-1].price, 6) if exits else None  # type: ignore[attr-defined]
        found.append((entry.strategy, entry.symbol, entry.side, entry.quantity, round(entry.price, 6), price))  # type: ignore[attr-defined]
    return found


def _less(rows: Sequence[tuple[object, ...]], others: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    left = list(others)
    return [row for row in rows if not (row in left and (left.remove(row) or True))]  # type: ignore[func-returns-value]


def _row(o: Outcome) -> str:
    first, last = (o.rss[0][1] / 2**20, o.rss[-1][1] / 2**20) if o.rss else (0.0, 0.0)
    books = "agree" if not any(o.wrong.values()) else str({k: v for k, v in o.wrong.items() if v})
    same = "equal" if not o.different else f"{len(o.different)} differ"
    return (
        f"{o.month:<12} {o.sessions:>8} {o.closes:>7} {o.closes / max(o.seconds, 1e-9):>8.1f} {o.trades:>7} {o.fills:>6} "
        f"{o.refused:>8} {books:>7} {same:>9} {first:>7.0f} {last:>7.0f} {o.slope_mib:>+10.2f} {o.growth:>+8.1%}  "
        f"{'good' if o.good else 'WRONG'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay a month of paper trading; compare ledger, broker and backtest.")
    parser.add_argument("--minutes", action="store_true", help="one-minute bars of eleven sessions as well: some 15,000 closes")
    parser.add_argument("--only", choices=["sample", "market", "minutes"], help="only this month")
    parser.add_argument("--sessions", type=int, default=0, help="at most so many sessions of each month; 0: all of them")
    chosen = parser.parse_args()
    months = {"sample": SAMPLE, "market": MARKET, "minutes": MINUTES}
    if chosen.sessions:
        months = {k: replace(m, sessions=min(m.sessions, chosen.sessions)) for k, m in months.items()}
    wanted = [chosen.only] if chosen.only else ["sample", "market", *(["minutes"] if chosen.minutes else [])]
    room = Path(tempfile.mkdtemp(prefix="tapeline-month-"))
    outcomes = []
    try:
        with _server() as server:
            for name in wanted:
                if months[name].lean and not (Path(__file__).parents[3] / "shared" / "market-data").is_dir():
                    print(f"{name}: no shared market data here, left out")
                    continue
                (room / name).mkdir()
                outcomes.append(replay(months[name], server, room / name, print))
                print(f"{HEADER}\n{_row(outcomes[-1])}")
                for line in (*outcomes[-1].different[:10], *outcomes[-1].different[-10:]):
                    print(f"  {line}", flush=True)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return 0 if outcomes and all(o.good for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
