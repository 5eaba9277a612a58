"""Reads one session out of the ledger and the lake into a SessionReport.

P&L is worked out again from the fills, not copied from the account: where the two differ the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from resources import report
from resources.ledger import tables as t
from resources.ledger.actions import position_adjustments
from resources.ledger.store import Ledger
from resources.report_health import latency_of, quality_of, score_note
from resources.report_model import ChainRow, FillRow, OrderRow, PnlRow, QualityRow, SessionReport, SignalRow, TradeRow
from resources.report_sources import Sources, charts_of
from trading.bars import Bars
from trading.orders import OrderState, OrderType, Side
from trading.portfolio import Position, apply_fill
from trading.timeframes import US_PER_DAY, session_number

Row = Mapping[str, Any]

_WORKING = frozenset({OrderState.ACCEPTED, OrderState.SUBMITTED, OrderState.PARTIALLY_FILLED, OrderState.TRIGGERED,
                      OrderState.PENDING_UPDATE, OrderState.SENDING, OrderState.EMULATED})  # fmt: skip


def collect(ledger: Ledger, session: date, sources: Sources) -> SessionReport:
    """The report of `session`. Raises sqlalchemy's OperationalError while the ledger is away."""
    return _Collector(ledger, session, sources).collect()


def _after_split(position: Position, split: Row, multiplier: float) -> Position:
    """`position` with the split's units; the fraction that was paid out in cash is realised."""
    paid_for = split["quantity_before"] * split["average_before"] - split["quantity_after"] * split["average_after"]
    realised = position.realized_pnl + split["cash_in_lieu"] - paid_for * multiplier
    average = split["average_after"] if split["quantity_after"] else 0.0
    return Position(split["quantity_after"], average, realised, position.commission)


class _Collector:
    """One report in the making: the session's rows, read once."""

    def __init__(self, ledger: Ledger, session: date, sources: Sources) -> None:
        self.ledger, self.session, self.src = ledger, session, sources
        self.key = session.isoformat()
        self.attention: list[str] = []
        self.notes: list[str] = []
        self.all_fills = [f for f in ledger.fills() if f["session"] <= self.key]
        self.fills = [f for f in self.all_fills if f["session"] == self.key]
        self.splits = [a for a in position_adjustments(ledger.engine) if a["session"] <= self.key]
        self.orders = ledger.orders(self.key)
        self.intents = ledger.intents(self.key)
        self.signals = ledger.signals(session=self.key)
        self.decisions = ledger.decisions(session=self.key)
        self.account = ledger.account(self.key)
        self.closes = ledger.closes(session=self.key)
        self.open_session = next((s for s in ledger.sessions() if s["session"] == self.key), None)
        self._bars: dict[str, Bars] = {}
        self._load_parents()
        self._add_earlier_orders()

    def _add_earlier_orders(self) -> None:
        """Orders made in an earlier session that filled in this one or are still working."""
        known, filled = {o["id"] for o in self.orders}, {f["order_id"] for f in self.fills}
        for identifier, order in self.order.items():
            intent = self.intent[identifier]
            if identifier in known or intent["session"] >= self.key:
                continue
            if identifier in filled or OrderState(order["state"]) in _WORKING:
                names = ("strategy", "leg", "trade_id", "parent", "session")
                self.orders.append({**order, **{name: intent[name] for name in names}})
        self.orders.sort(key=lambda o: (o["created_time"], o["id"]))

    def _load_parents(self) -> None:
        """Orders, intents, decisions and signals of trades that began in an earlier session."""
        trades = {i["trade_id"] for i in self.intents} | {f["trade_id"] for f in self.fills}
        trades |= {p["trade_id"] for p in self.ledger.positions(open_only=True)}
        trades.discard("")
        rows = self.ledger.rows
        known = rows(t.intents, [t.intents.c.id], trade_id=sorted(trades)) if trades else []
        self.intent = {i["id"]: i for i in [*known, *self.intents]}
        ids = sorted(self.intent)
        self.order = {o["id"]: o for o in (rows(t.orders, [t.orders.c.id], id=ids) if ids else [])}
        parents = {i["parent"] for i in self.intent.values()}
        found = rows(t.decisions, [t.decisions.c.id], id=sorted(parents)) if parents else []
        self.decision = {d["id"]: d for d in [*found, *self.decisions]}
        wanted = {d["signal_id"] for d in self.decision.values()}
        found = rows(t.signals, [t.signals.c.id], id=sorted(wanted)) if wanted else []
        self.signal = {s["id"]: s for s in [*found, *self.signals]}

    def collect(self) -> SessionReport:
        pnl = self._pnl()
        signals = self._signals()
        quality, failures = quality_of(self.ledger.session_verdicts(self.key), self.src.partitions, self.src.error_checks)
        trades = self._trades()
        charts, traded = charts_of(self.session, self.src.instruments, self._history, self.all_fills, pnl)
        if len(traded) > len(charts):
            self.notes.append(f"Charts of {len(charts)} of {len(traded)} traded instruments.")
        start, end = self._equity_bounds()
        last = self.account[-1] if self.account else None
        problems = tuple(p["message"] for p in self.ledger.config_problems())
        self._judge(pnl, quality, problems)
        if note := score_note(self.ledger.engine, self.key):
            self.notes.append(note)
        made = SessionReport(
            session=self.session, state=self.open_session["state"] if self.open_session else "not traded",
            mode=self.src.mode.upper(), simulated=self.src.simulated, universe=self.src.universe,
            universe_revision=self.src.universe_revision, code_revision=self.src.code_revision, currency=self.src.currency,
            generated_wall=self.src.generated_wall, start_equity=start, end_equity=end,
            cash=last["cash"] if last else None, gross_exposure=last["gross_exposure"] if last else None,
            equity_times=tuple(a["close_time"] for a in self.account), equity=tuple(a["equity"] for a in self.account),
            pnl=tuple(pnl), trades=tuple(trades), orders=tuple(self._orders()), fills=tuple(self._fills()),
            signals=tuple(signals), quality=tuple(quality), quality_failures=tuple(failures), closes=len(self.closes),
            stages=tuple(latency_of(self.closes)), replayed=_replayed(self.closes),
            chain=tuple(self._chain()), charts=tuple(charts), config_problems=problems, notes=tuple(self.notes),
        )  # fmt: skip
        unexplained = made.unexplained
        if unexplained is not None and abs(unexplained) > max(0.05, 1e-6 * abs(end or 0.0)):
            self.attention.append(
                f"Equity changed by {report.money(made.equity_change, True)} {made.currency}, fills and prices explain "
                f"{report.money(made.net, True)}: {report.money(unexplained, True)} is unexplained. Compare with the broker."
            )
        return replace(made, attention=tuple(self.attention))

    # -- prices ---------------------------------------------------------------------------------------------------------

    def _history(self, symbol: str) -> Bars:
        if symbol not in self._bars:
            self._bars[symbol] = self.src.bars(symbol)
        return self._bars[symbol]

    def _prices(self, symbol: str) -> tuple[float | None, float | None]:
        """(last close before the session, last close up to its end); None where there is no bar."""
        bars, number = self._history(symbol), session_number(self.session)
        before, upto = bars.close[bars.session < number], bars.close[bars.session <= number]
        return (float(before[-1]) if len(before) else None), (float(upto[-1]) if len(upto) else None)

    def _digits(self, symbol: str) -> int:
        instrument = self.src.instruments.get(symbol)
        return instrument.price_scale if instrument else 4

    # -- money ----------------------------------------------------------------------------------------------------------

    def _equity_bounds(self) -> tuple[float | None, float | None]:
        row = self.open_session or {}
        start, end = row.get("start_equity"), row.get("end_equity")
        if start is None:
            earlier = [a for a in self.ledger.account() if a["session"] < self.key]
            start = earlier[-1]["equity"] if earlier else None
        if end is None and self.account:
            end = self.account[-1]["equity"]
        return start, end

    def _pnl(self) -> list[PnlRow]:
        before: dict[tuple[str, str], Position] = {}
        after: dict[tuple[str, str], Position] = {}
        opened: dict[tuple[str, str], int] = {}
        # A split changes quantity and average between two fills; replayed in the order things happened.
        happened = [(f["fill_time"], f) for f in self.all_fills] + [(a["adjusted_time"], a) for a in self.splits]
        for _, fill in sorted(happened, key=lambda e: e[0]):
            key = (fill["strategy"], fill["symbol"])
            instrument = self.src.instruments.get(fill["symbol"])
            if instrument is None:
                continue
            if "factor" in fill:
                after[key] = _after_split(after.get(key, Position()), fill, float(instrument.multiplier))
                if fill["session"] < self.key:
                    before[key] = after[key]
                continue
            position = apply_fill(
                after.get(key, Position()), Side(fill["side"]), fill["quantity"], fill["price"], fill["commission"],
                float(instrument.multiplier),
            )  # fmt: skip
            if position.quantity and not after.get(key, Position()).quantity:
                opened[key] = fill["fill_time"]
            after[key] = position
            if fill["session"] < self.key:
                before[key] = position
        for symbol in sorted({f["symbol"] for f in self.fills} - set(self.src.instruments)):
            self.attention.append(f"{symbol} has fills but is not in the universe: its P&L is not in this report.")
        touched = {(f["strategy"], f["symbol"]) for f in self.fills}
        rows = []
        for key, position in sorted(after.items()):
            earlier = before.get(key, Position())
            if key not in touched and not position.quantity:
                continue
            rows.append(self._pnl_row(key, earlier, position, opened.get(key)))
        return rows

    def _pnl_row(self, key: tuple[str, str], earlier: Position, now: Position, opened: int | None) -> PnlRow:
        strategy, symbol = key
        multiplier = float(self.src.instruments[symbol].multiplier)
        previous, last = self._prices(symbol)

        def open_profit(position: Position, at: float | None) -> float:
            return position.quantity * (at - position.average_price) * multiplier if position.quantity and at is not None else 0.0

        if now.quantity and last is None:
            self.attention.append(f"{symbol}: no price up to the end of the session, its open position is not valued.")
        stop, target = self._working_levels(strategy, symbol) if now.quantity else (None, None)
        return PnlRow(
            strategy, symbol, now.realized_pnl - earlier.realized_pnl, open_profit(now, last) - open_profit(earlier, previous),
            now.commission - earlier.commission, now.quantity, now.average_price, last, open_profit(now, last), stop, target,
            opened if now.quantity else None, self._digits(symbol),
        )  # fmt: skip

    def _working_levels(self, strategy: str, symbol: str) -> tuple[float | None, float | None]:
        """(stop, target) of the reducing orders that are working for the position."""
        stop = target = None
        for identifier, order in self.order.items():
            intent = self.intent[identifier]
            ours = intent["strategy"] == strategy and intent["symbol"] == symbol and intent["content"].get("reduce_only")
            if not ours or OrderState(order["state"]) not in _WORKING:
                continue
            if order["order_type"] in (OrderType.STOP.value, OrderType.STOP_LIMIT.value, OrderType.TRAILING_STOP.value):
                stop = order["stop_price"]
            elif order["order_type"] == OrderType.LIMIT.value:
                target = order["limit_price"]
        return stop, target

    def _trades(self) -> list[TradeRow]:
        by_trade: dict[str, list[Row]] = {}
        for fill in self.all_fills:
            by_trade.setdefault(fill["trade_id"], []).append(fill)
        rows = []
        for trade, fills in by_trade.items():
            entry_side = fills[0]["side"]
            entries = [f for f in fills if f["side"] == entry_side]
            exits = [f for f in fills if f["side"] != entry_side]
            splits = [a for a in self.splits if a["trade_id"] == trade]
            bought, size = (math.fsum(f["quantity"] for f in part) for part in (entries, exits))
            changed = math.fsum(a["quantity_after"] - a["quantity_before"] for a in splits) * Side(entry_side).sign
            closed = exits and math.isclose(bought + changed, size, rel_tol=1e-9)
            instrument = self.src.instruments.get(fills[0]["symbol"])
            if not closed or exits[-1]["session"] != self.key or instrument is None:
                continue
            cost, proceeds = (math.fsum(f["quantity"] * f["price"] for f in part) for part in (entries, exits))
            leave = proceeds / size
            # In units of after the splits, so that entry, exit and quantity of one line speak of the same units.
            entry = cost / bought / math.prod(a["factor"] for a in splits)
            multiplier = float(instrument.multiplier)
            pnl = (proceeds - cost) * Side(entry_side).sign * multiplier - math.fsum(f["commission"] for f in fills)
            pnl += math.fsum(a["cash_in_lieu"] for a in splits)
            stop = self._first_stop(trade)
            risk = abs(cost / bought - stop) * bought * multiplier if stop is not None else 0.0
            rows.append(
                TradeRow(
                    trade, fills[0]["strategy"], fills[0]["symbol"], "long" if entry_side == "buy" else "short", size,
                    entries[0]["fill_time"], entry, exits[-1]["fill_time"], leave, self._leg(exits[-1]["order_id"]), pnl,
                    pnl / risk if risk > 0 else None, self._digits(fills[0]["symbol"]),
                )
            )  # fmt: skip
        return sorted(rows, key=lambda r: (r.exit_time, r.trade_id))

    def _first_stop(self, trade: str) -> float | None:
        signal = self._signal_of(trade)
        return signal["content"].get("stop_price") if signal else None

    def _leg(self, order_id: str) -> str:
        """``stop``, ``target``, ``exit:max_bars`` ... without the time that makes an exit's leg unique."""
        leg = str(self.intent[order_id]["leg"]) if order_id in self.intent else "unknown"
        parts = leg.split(":")
        return ":".join(parts[:2]) if len(parts) > 2 and parts[-1].isdigit() else leg

    # -- orders and signals ---------------------------------------------------------------------------------------------

    def _orders(self) -> list[OrderRow]:
        rows = []
        for o in self.orders:
            at = o["stop_price"] if o["stop_price"] is not None else o["limit_price"]
            rows.append(
                OrderRow(
                    o["id"], o["broker_order_id"], o["created_time"], o["strategy"], o["symbol"], self._leg(o["id"]), o["side"],
                    o["quantity"], o["order_type"], at, o["state"], o["filled_quantity"], o["average_price"], o["text"],
                    self._digits(o["symbol"]),
                )
            )  # fmt: skip
        for i in self.intents:
            if i["id"] in self.order:
                continue
            content = i["content"]
            at = content.get("stop_price") if content.get("stop_price") is not None else content.get("limit_price")
            state = "denied" if i["refusal"] else "not sent"
            rows.append(
                OrderRow(
                    i["id"], "", i["created_time"], i["strategy"], i["symbol"], self._leg(i["id"]), content["side"],
                    content["quantity"], content["order_type"], at, state, 0.0, None, i["refusal"], self._digits(i["symbol"]),
                )
            )  # fmt: skip
        return sorted(rows, key=lambda r: (r.created_time, r.id))

    def _fills(self) -> list[FillRow]:
        rows = []
        for f in self.fills:
            intent = self.intent.get(f["order_id"])
            instrument = self.src.instruments.get(f["symbol"])
            reference = intent["content"].get("reference_price") if intent else None
            cost = None
            if reference is not None and instrument is not None:
                cost = (f["price"] - reference) * Side(f["side"]).sign * f["quantity"] * float(instrument.multiplier)
            rows.append(
                FillRow(
                    f["fill_time"], f["strategy"], f["symbol"], self._leg(f["order_id"]), f["side"], f["quantity"], f["price"],
                    f["commission"], cost, f["order_id"], self._digits(f["symbol"]),
                )
            )  # fmt: skip
        return rows

    def _signals(self) -> list[SignalRow]:
        by_signal = {d["signal_id"]: d for d in self.decisions}
        entries: dict[str, list[Row]] = {}
        for intent in self.intents:
            entries.setdefault(intent["parent"], []).append(intent)
        rows = []
        for s in self.signals:
            content, decision = s["content"], by_signal.get(s["id"])
            outcome, refusal = "pending", "no decision yet"
            if decision is not None and not decision["approved"]:
                outcome, refusal = "refused by gate", decision["refusal"]
            elif decision is not None:
                intents = entries.get(decision["id"], [])
                denied = next((i["refusal"] for i in intents if i["refusal"]), "")
                outcome, refusal = ("refused by risk", denied) if denied else ("sent", "")
                if not intents:
                    outcome, refusal = "pending", "approved, not at the desk"
            rows.append(
                SignalRow(
                    s["id"], s["close_time"], s["strategy"], s["symbol"], s["timeframe"], s["action"],
                    content["reference_price"], content["stop_price"], content.get("target_price"), outcome, refusal,
                    self._digits(s["symbol"]),
                )
            )  # fmt: skip
        late = [r for r in rows if r.refusal == "approved, not at the desk"]
        if late:
            self.attention.append(
                f"{len(late)} approved {'decision has' if len(late) == 1 else 'decisions have'} no order at the desk: "
                + ", ".join(f"{r.strategy} {r.symbol} {report.clock(r.close_time)}" for r in late[:5])
                + ". Start the trade run of the close again: nothing is sent twice, what is late expires."
            )
        return rows

    def _signal_of(self, intent_id: str) -> Row | None:
        """The signal behind an order: over its decision, or for exits over the trade's entry."""
        intent = self.intent.get(intent_id)
        for _ in range(3):
            if intent is None:
                return None
            decision = self.decision.get(intent["parent"])
            if decision is not None:
                return self.signal.get(decision["signal_id"])
            intent = self.intent.get(intent["trade_id"])
        return None

    def _chain(self) -> list[ChainRow]:
        rows = []
        for o in self.orders:
            signal = self._signal_of(o["id"])
            entry = self.intent.get(o["trade_id"])
            decision = self.decision.get(entry["parent"]) if entry else None
            partitions = signal["content"]["partitions"] if signal else []
            rows.append(
                ChainRow(
                    o["id"], o["broker_order_id"], o["symbol"], self._leg(o["id"]), o["trade_id"],
                    decision["id"] if decision else "", signal["id"] if signal else "",
                    signal["strategy_revision"] if signal else "",
                    tuple(f"{p['dataset']}/{p['session']}/{p['symbol']}@{p['content_hash']}" for p in partitions),
                    decision["run_id"] if decision else "",
                )
            )  # fmt: skip
            if not signal or not decision:
                self.attention.append(f"Order {o['id']} has no complete chain back to its bars: run `tapeline trace {o['id']}`.")
        return rows

    # -- what needs a person -------------------------------------------------------------------------------------------

    def _judge(self, pnl: Sequence[PnlRow], quality: Sequence[QualityRow], problems: Sequence[str]) -> None:
        """What a person should look at, worst first."""
        urgent = [
            f"Order {o['id']} ({o['side']} {report.quantity(o['quantity'])} {o['symbol']}) is in an unknown state: "
            "no new risk on the instrument until the broker's evidence is in."
            for o in self.orders
            if o["state"] == OrderState.UNKNOWN.value
        ]
        urgent += [
            f"{r.strategy} holds {report.quantity(r.position)} {r.symbol} without a working stop order."
            for r in pnl
            if r.position and r.stop is None
        ]
        anomalous = self.ledger.rows(t.order_events, [t.order_events.c.seq], order_id=sorted(self.order) or [""], anomalous=True)
        urgent += [
            f"Order {e['order_id']}: event {e['event']} in state {e['state_before']} cannot be true and was not applied"
            + (f" ({e['text']})." if e["text"] else ".")
            for e in anomalous
        ]
        self.attention[:0] = urgent
        for q in quality:
            if q.failed_errors:
                checks = "1 check" if q.failed_errors == 1 else f"{q.failed_errors} checks"
                self.attention.append(f"{q.dataset}: {checks} failed; decisions that need the partition are refused.")
            if q.missing or q.stale:
                names = ", ".join(q.missing + q.stale)
                self.attention.append(f"{q.dataset}: bars without a complete verdict on what is in the lake: {names}.")
        # A close at which no strategy has a bar needs no run, and is none that is missing.
        unfinished = [c for c in self.closes if c["outcome"] not in ("done", "no_strategy")]
        if unfinished:
            listed = ", ".join(f"{report.clock(c['close_time'])} ({c['outcome'] or 'no answer'})" for c in unfinished[:6])
            self.attention.append(f"{len(unfinished)} of {len(self.closes)} bar closes had no finished trade run: {listed}.")
        self.attention += [f"Configuration: {p}" for p in problems]


def _replayed(closes: Sequence[Row]) -> bool:
    """Were the session's bars emitted more than a day after they closed? Then it was played back, not lived."""
    return any(close["emitted_wall"] - close["close_time"] > US_PER_DAY for close in closes)
