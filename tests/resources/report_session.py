"""A session in the ledger as the desk leaves it: a closed trade, an open position, refusals, a failed check, latency."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np

from resources.ledger import tables as t
from resources.ledger.store import DecisionRow, Ledger, VerdictRow
from resources.report_sources import Sources
from trading.bars import Bars
from trading.calendars import calendar
from trading.instruments import AssetClass, Instrument, Mode
from trading.orders import OrderType, Side
from trading.signals import Action, Decision, GateVerdict, Intent, PartitionRef, Signal
from trading.timeframes import US_PER_HOUR, Timeframe, session_number

SESSION = date(2017, 12, 28)
BEFORE = date(2017, 12, 27)
ERROR_CHECKS = ("columns_and_types", "ohlc_consistent", "jump")
WALL = 1_795_000_000_000_000

INSTRUMENTS = {
    "EURUSD": Instrument(
        "EURUSD", AssetClass.FOREX, "FX", Decimal("0.00001"), "USD", "sample_forex", "EURUSD", Timeframe.H1,
        lot_size=Decimal(1000), tradable_in=frozenset({Mode.PAPER}),
    ),
    "SPX": Instrument(
        "SPX", AssetClass.INDEX, "XNYS", Decimal("0.01"), "USD", "sample_indices", "SP500", Timeframe.D1,
        lot_size=Decimal(1), tradable_in=frozenset({Mode.PAPER}),
    ),
    "COMP": Instrument(
        "COMP", AssetClass.INDEX, "XNYS", Decimal("0.01"), "USD", "sample_indices", "NASDAQ", Timeframe.D1,
        lot_size=Decimal(1), tradable_in=frozenset({Mode.PAPER}),
    ),
}  # fmt: skip


def _walk(symbol: str, timeframe: Timeframe, close_time: np.ndarray, session: np.ndarray, last: float, step: float) -> Bars:
    rng = np.random.default_rng(len(symbol) + len(close_time))
    moves = rng.standard_normal(len(close_time)) * step
    close = last + np.cumsum(moves) - np.sum(moves)
    open_ = np.concatenate([[close[0]], close[:-1]])
    wick = np.abs(rng.standard_normal(len(close))) * step * 0.6
    return Bars(
        symbol, timeframe, close_time, session.astype(np.int32), open_, np.maximum(open_, close) + wick,
        np.minimum(open_, close) - wick, close, np.zeros(len(close)),
    )  # fmt: skip


def bars_of(symbol: str) -> Bars:
    """EURUSD hourly from the 26th on, the indices daily from October on, all up to the session."""
    instrument = INSTRUMENTS[symbol]
    cal = calendar(instrument.calendar)
    if symbol == "EURUSD":
        opens = [cal.bounds(d)[0] for d in (date(2017, 12, 26), BEFORE, SESSION)]
        times = np.concatenate([np.arange(1, 25) * US_PER_HOUR + o for o in opens]).astype(np.int64)
        sessions = np.repeat([session_number(d) for d in (date(2017, 12, 26), BEFORE, SESSION)], 24)
        return _walk(symbol, Timeframe.H1, times, sessions, 1.19440, 0.0007)
    lo, hi = (cal.position(d) for d in (date(2017, 10, 2), SESSION))
    rows = slice(lo, hi + 1)
    return _walk(symbol, Timeframe.D1, cal.close_time[rows], cal.number[rows], {"SPX": 2687.54, "COMP": 6950.16}[symbol], 9.0)


@dataclass(frozen=True)
class StoredPartition:
    dataset: str
    symbol: str
    content_hash: str


PARTITIONS = [
    StoredPartition("bars_1h", "EURUSD", "aa" * 32),
    StoredPartition("bars_1d", "EURUSD", "ab" * 32),
    StoredPartition("bars_1d", "SPX", "bb" * 32),
    StoredPartition("bars_1d", "COMP", "cc" * 32),
]


def sources(**changed: Any) -> Sources:
    values: dict[str, Any] = {
        "instruments": INSTRUMENTS, "bars": bars_of, "partitions": PARTITIONS, "universe": "sample",
        "universe_revision": "5f0c1e2d3b4a", "simulated": True, "currency": "USD", "mode": "paper",
        "code_revision": "0d1c2b3a4f5e", "generated_wall": WALL + 3 * US_PER_HOUR, "error_checks": ERROR_CHECKS,
    }  # fmt: skip
    return Sources(**{**values, **changed})


def signal(strategy: str, symbol: str, timeframe: Timeframe, close_time: int, action: Action, reference: float, stop: float,
           target: float | None) -> Signal:  # fmt: skip
    dataset = f"bars_{timeframe}"
    stored = next(p.content_hash for p in PARTITIONS if (p.dataset, p.symbol) == (dataset, symbol))
    sessions = ((SESSION, stored), (BEFORE, "dd" * 32))
    refs = tuple(PartitionRef(dataset, day.isoformat(), symbol, content) for day, content in sessions)
    return Signal(
        strategy, "9b8c7d6e5f40", symbol, timeframe, close_time, action, 1.0, reference, stop, target,
        close_time + 4 * US_PER_HOUR, {"kind": "risk_percent", "percent": 0.5}, "features-1a2b", refs, "EMA 10 over EMA 30",
    )  # fmt: skip


class Writer:
    """Writes rows into the ledger the way trade run and desk do."""

    def __init__(self, ledger: Ledger, broker_number: int = 1000) -> None:
        self.ledger = ledger
        self._broker = broker_number

    def put(self, table: Any, **row: Any) -> None:
        with self.ledger.engine.begin() as c:
            c.execute(table.insert().values(**row))

    def decide(self, sig: Signal, refusal: str = "", session: date = SESSION) -> Decision:
        gate = GateVerdict("data_quality" if refusal else "reward_to_risk", not refusal, "2.1", "1.5", refusal)
        decision = Decision(sig, not refusal, (gate,), refusal)
        self.ledger.insert_signals([sig], session=session.isoformat(), code_revision="0d1c2b", run_id="run-7c1e")
        self.ledger.insert_decisions(
            [DecisionRow(decision, b"{}", b"{}")], session=session.isoformat(), code_revision="0d1c2b", run_id="run-7c1e"
        )
        return decision

    def order(
        self, parent: str, leg: str, strategy: str, symbol: str, side: Side, quantity: float, kind: OrderType, at: int, *,
        trade: str = "", price: float | None = None, reference: float | None = None, state: str = "accepted",
        filled_at: float | None = None, refusal: str = "", session: date = SESSION, fill_time: int = 0,
        fill_session: date | None = None,
    ) -> Intent:  # fmt: skip
        stop = price if kind is OrderType.STOP else None
        limit = price if kind is OrderType.LIMIT else None
        intent = Intent(
            parent, leg, strategy, symbol, side, quantity, kind, limit_price=limit, stop_price=stop, reference_price=reference,
            reduce_only=bool(trade),
        )  # fmt: skip
        trade = trade or intent.id
        self.put(
            t.intents, id=intent.id, parent=parent, leg=leg, trade_id=trade, strategy=strategy, symbol=symbol,
            session=session.isoformat(), content=intent.to_dict(), sizing={}, risk=[], refusal=refusal, created_time=at,
            created_wall=WALL,
        )  # fmt: skip
        if refusal:
            return intent
        self._broker += 1
        self.put(
            t.orders, id=intent.id, broker="paper", broker_order_id=f"P{self._broker}", mode="paper", symbol=symbol,
            side=str(side), quantity=quantity, order_type=str(kind), limit_price=limit, stop_price=stop, state=state,
            state_since=at, filled_quantity=quantity if filled_at else 0.0, average_price=filled_at, text="", created_time=at,
            created_wall=WALL, acked_wall=WALL + 900,
        )  # fmt: skip
        if filled_at:
            self.put(
                t.fills, id=f"paper/{self._broker}", order_id=intent.id, trade_id=trade, strategy=strategy, symbol=symbol,
                side=str(side), quantity=quantity, price=filled_at, commission=1.25, currency="USD",
                session=(fill_session or session).isoformat(), fill_time=fill_time or at + US_PER_HOUR, recorded_wall=WALL,
            )  # fmt: skip
        return intent


def fill_ledger(ledger: Ledger) -> None:
    """The whole session. EURUSD long from the 27th is stopped into profit, SPX is bought and stays open, two refusals."""
    w = Writer(ledger)
    eur = bars_of("EURUSD").close_time
    spx_close = int(bars_of("SPX").close_time[-2])
    hourly, prices = bars_of("EURUSD"), bars_of("SPX")
    start = 100_000 - 1.25 + 20_000 * (float(hourly.close[47]) - 1.18905)
    w.put(t.sessions, session=BEFORE.isoformat(), state="reported", opened_time=int(eur[24]), ended_time=int(eur[47]),
          start_equity=100_000.0, end_equity=start)  # fmt: skip
    w.put(t.sessions, session=SESSION.isoformat(), state="ended", opened_time=int(eur[48]), ended_time=int(eur[71]),
          start_equity=start, end_equity=None)  # fmt: skip

    first = signal("ema_trend", "EURUSD", Timeframe.H1, int(eur[40]), Action.ENTER_LONG, 1.1890, 1.1865, 1.1940)
    entry = w.order(
        w.decide(first, session=BEFORE).id, "entry", "ema_trend", "EURUSD", Side.BUY, 20_000, OrderType.MARKET, int(eur[40]),
        reference=1.1890, state="filled", filled_at=1.18905, session=BEFORE, fill_time=int(eur[41]),
    )  # fmt: skip
    w.order(entry.id, "stop", "ema_trend", "EURUSD", Side.SELL, 20_000, OrderType.STOP, int(eur[41]), trade=entry.id,
            price=1.1865, state="canceled", session=BEFORE)  # fmt: skip
    w.order(entry.id, "target", "ema_trend", "EURUSD", Side.SELL, 20_000, OrderType.LIMIT, int(eur[41]), trade=entry.id,
            price=1.1940, state="filled", filled_at=1.1940, session=BEFORE, fill_time=int(eur[55]),
            fill_session=SESSION)  # fmt: skip

    second = signal("rsi_reversion", "SPX", Timeframe.D1, spx_close, Action.ENTER_LONG, 2682.62, 2660.10, 2727.66)
    buy = w.order(
        w.decide(second).id, "entry", "rsi_reversion", "SPX", Side.BUY, 9, OrderType.MARKET, spx_close, reference=2682.62,
        state="filled", filled_at=2683.40, fill_time=int(eur[64]),
    )  # fmt: skip
    w.order(buy.id, "stop", "rsi_reversion", "SPX", Side.SELL, 9, OrderType.STOP, int(eur[64]), trade=buy.id, price=2660.10)
    w.order(buy.id, "target", "rsi_reversion", "SPX", Side.SELL, 9, OrderType.LIMIT, int(eur[64]), trade=buy.id, price=2727.66)

    third = signal("ema_trend", "EURUSD", Timeframe.H1, int(eur[58]), Action.ENTER_SHORT, 1.1936, 1.1958, None)
    w.decide(third, "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=ohlc_consistent reason=failed")
    fourth = signal("ema_trend", "COMP", Timeframe.D1, spx_close, Action.ENTER_LONG, 6939.34, 6890.0, 7020.0)
    w.order(w.decide(fourth).id, "entry", "ema_trend", "COMP", Side.BUY, 40, OrderType.MARKET, spx_close,
            refusal="MAX_NOTIONAL: symbol=COMP limit=100000 would_be=277573.6")  # fmt: skip
    fifth = signal("breakout_plan", "EURUSD", Timeframe.H1, int(eur[66]), Action.ENTER_LONG, 1.1948, 1.1930, 1.1954)
    w.decide(fifth, "REWARD_TO_RISK: value=0.33 minimum=1.5")

    rng = np.random.default_rng(5)
    for i, close_time in enumerate(eur[48:72]):
        euro = 97.75 if i >= 7 else 20_000 * (float(hourly.close[48 + i]) - 1.18905) - 1.25
        stock = 9 * (float(prices.close[-1 if i == 23 else -2]) - 2683.40) - 1.25 if i >= 16 else 0.0
        cash = 100_000 + (97.75 if i >= 7 else -1.25) - (9 * 2683.40 + 1.25 if i >= 16 else 0.0)
        w.put(t.account_snapshots, close_time=int(close_time), session=SESSION.isoformat(), cash=cash,
              equity=100_000 + euro + stock - (0 if i < 7 else 1.25), currency="USD",
              gross_exposure=9 * float(prices.close[-1]) if i >= 16 else 20_000 * 1.194 if i < 7 else 0.0)  # fmt: skip
        walls = [WALL + i * 1_000_000]
        for mean in (0.004, 0.06, 0.30, 0.05, 0.03, 0.02):
            walls.append(walls[-1] + int(1e6 * mean * float(rng.lognormal(0, 0.35))))
        ledger.record_close(int(close_time), SESSION.isoformat(), {"1h": ["EURUSD"]}, emitted_wall=walls[0], stored_wall=walls[1])
        if i != 12:
            names = ("sensed_wall", "run_started_wall", "signals_wall", "decisions_wall", "done_wall")
            ledger.stamp_close(int(close_time), run_id=f"run-{i}", outcome="done", **dict(zip(names, walls[2:], strict=True)))
        else:
            ledger.stamp_close(int(close_time), outcome="skipped", sensed_wall=walls[2])
    verdicts = []
    for p in PARTITIONS[:3]:
        for check in ERROR_CHECKS:
            bad = p.dataset == "bars_1h" and check == "ohlc_consistent"
            example = ({"close_time": "2017-12-28T07:00:00Z", "open": 1.1931, "high": 1.1929, "low": 1.1921, "close": 1.1927},)
            shown, key = (example if bad else ()), (p.dataset, SESSION.isoformat(), p.symbol)
            verdicts.append(VerdictRow(*key, check, not bad, "error", p.content_hash, int(bad), shown, "run-q"))
    verdicts.append(VerdictRow("bars_1d", SESSION.isoformat(), "SPX", "volume_sane", False, "warn", "bb" * 32, 1, (), "run-q"))
    ledger.put_verdicts(verdicts)
