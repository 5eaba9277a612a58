"""The trade lane without Dagster: bars at a close -> signals -> decisions -> the desk. Called by assets/trading.py.

Pure steps over what lake, ledger and config say; every row it writes is keyed by content, so that repeating a close
changes nothing.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from assets.gate_measures import GateMarket, risk_of, with_more
from assets.known_bars import KnownBars, Series, needed_partitions, series_of, window
from assets.model_policy import ModelPolicies
from assets.verdict_book import VerdictBook
from resources.desk_client import DecisionReceipt, DeskClient, DeskError
from resources.ledger import modes as ledger_modes
from resources.ledger.actions import in_todays_units
from resources.ledger.base import now_us
from resources.ledger.plans import entered
from resources.ledger.store import DecisionRow, Ledger
from resources.ledger.tables import intents
from resources.price_view import native_bars
from trading import decisions as kernel
from trading.calendars import calendar
from trading.conflict_policy import Verdict, resolve
from trading.features import FEATURES_VERSION
from trading.freshness import freshness_of
from trading.gates.settings import gates_of
from trading.instruments import Instrument, Mode
from trading.models import champion_of, in_shadow_only
from trading.plugins import PluginError
from trading.signals import Decision, Signal
from trading.strategy import Evaluable, legs_of, signal_at

NO_ENTRY = "no entry condition met"


@dataclass
class Evaluated:
    """Outcome of evaluating one close: the signals, and why other evaluables were silent (name/symbol -> reason)."""

    signals: list[Signal] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


def evaluables(config: Any) -> list[Evaluable]:
    """Strategies and plans, by name."""
    return [item for _, item in sorted({**config.strategies, **config.plans}.items())]


def evaluate_close(close_time: int, session: str, config: Any, lake: Any, ledger: Ledger, highest_mode: str) -> Evaluated:
    """Signals of every active strategy and plan whose primary timeframe closed a bar at `close_time` (UTC us)."""
    outcome = Evaluated()
    day = date.fromisoformat(session)
    bars = KnownBars(lake, day, close_time)
    with ledger.engine.connect() as connection:
        kept = ledger_modes.read(connection)
        known = in_todays_units({e.name: e for e in evaluables(config)}, connection, native_bars(lake, config.universe))
        gone = entered(connection, [e.name for e in known.values() if e.once])
    asked: list[tuple[Evaluable, Mode]] = []
    for evaluable in known.values():
        if evaluable.status != "active":
            outcome.silent[evaluable.name] = f"status {evaluable.status}"
            continue
        mode = ledger_modes.mode_of(kept, evaluable.name, evaluable.mode, Mode(highest_mode))
        if mode is Mode.BACKTEST:
            outcome.silent[evaluable.name] = "mode backtest: for research only"
            continue
        if evaluable.name in gone:
            outcome.silent[evaluable.name] = "the plan has entered already"
            continue
        asked.append((evaluable, mode))
    _read_together([evaluable for evaluable, _ in asked], config, bars, day, close_time)
    for evaluable, mode in asked:
        _ask_together(evaluable, config, bars, day, close_time)
        for symbol in evaluable.symbols:
            try:
                said = _signal_of(evaluable, config.universe.instruments[symbol], bars, day, close_time, mode)
            except PluginError as error:  # its author's mistake; what we compute ourselves must fail the run
                said = f"error: {error}"
            if isinstance(said, Signal):
                outcome.signals.append(said)
            elif said:
                outcome.silent[f"{evaluable.name}/{symbol}"] = said
    return outcome


def _read_together(asked: list[Evaluable], config: Any, bars: KnownBars, day: date, close_time: int) -> None:
    """Read what they will ask for in few scans: first their own timeframe, then the rest of those whose bar closed now."""
    own: dict[Series, list[Series]] = {}
    for evaluable in asked:
        for symbol in evaluable.symbols:
            with contextlib.suppress(PluginError):  # said where it is asked alone
                series = series_of(evaluable, config.universe.instruments[symbol], day)
                own.setdefault(series[evaluable.timeframe], []).extend(series.values())
    bars.read_ahead(own)
    for first, rest in own.items():
        primary = bars.bars(*first)
        if not len(primary) or int(primary.close_time[-1]) != close_time:
            rest.clear()
    bars.read_ahead([series for rest in own.values() for series in rest])


def _ask_together(evaluable: Evaluable, config: Any, bars: KnownBars, day: date, close_time: int) -> None:
    """Let a model answer for all its instruments at once; the answers wait in the cache of `bars`."""
    ask = getattr(evaluable, "ask_together", None)
    if ask is None:
        return
    instruments = [config.universe.instruments[symbol] for symbol in evaluable.symbols]
    read = [(window(None, evaluable, instrument, day, close_time, bars), instrument) for instrument in instruments]
    closed = [(w, i) for w, i in read if len(w[evaluable.timeframe]) and w[evaluable.timeframe].close_time[-1] == close_time]
    if closed:
        with contextlib.suppress(PluginError):  # said where each is asked alone
            ask(closed)


def _signal_of(
    evaluable: Evaluable, instrument: Instrument, bars: KnownBars, day: date, close_time: int, mode: Mode
) -> Signal | str:
    """The signal of one instrument at the close, or why there is none; empty when no bar of it closed."""
    primary = bars.bars(*series_of(evaluable, instrument, day)[evaluable.timeframe])
    if len(primary) == 0 or int(primary.close_time[-1]) != close_time:
        return ""
    windows = window(None, evaluable, instrument, day, close_time, bars)
    refused = getattr(evaluable, "refused", None)  # a model strategy without a model that may answer
    if refused is not None and (why := refused(instrument.symbol)):
        return str(why)
    evaluation = evaluable.evaluate(windows, instrument)
    row = len(primary) - 1
    if not evaluation.ready[row]:
        return f"warm-up: {len(primary)} bars of {evaluable.timeframe}"
    if not (evaluation.enter_long[row] or evaluation.enter_short[row]):
        return NO_ENTRY  # most of them: their partitions need not be hashed
    signal = signal_at(
        evaluable, evaluation, row, primary, instrument,
        features_version=FEATURES_VERSION,
        partitions=needed_partitions(windows, evaluable.quality_sessions, bars),
        mode=str(mode),
    )  # fmt: skip
    return signal if signal is not None else NO_ENTRY


def close_times_of(session: str, ledger: Ledger, lake: Any, config: Any) -> list[int]:
    """Every bar close of `session` at which some strategy or plan has a primary bar, ascending."""
    recorded = [int(row["close_time"]) for row in ledger.closes(session=session)]
    if recorded:
        return recorded
    day = date.fromisoformat(session)
    found: set[int] = set()
    for evaluable in evaluables(config):
        for symbol in evaluable.symbols:
            bars = lake.read_bars(f"bars_{evaluable.timeframe}", symbol, day, day)
            found.update(int(t) for t in bars.close_time)
    return sorted(found)


def decide(
    signals: Iterable[Signal], config: Any, ledger: Ledger, now_time: int, lake: Any = None
) -> list[DecisionRow]:  # fmt: skip
    """Decisions with the snapshots they were taken on. The snapshot is all that decide() reads, so that it replays.

    A signal whose strategy or instrument is no longer in the configuration is judged without a reward-to-risk limit,
    which the gate refuses as missing; without its instrument it gets no decision at all, hence no order. lake: what the
    optional gates are measured on; without it those that need bars refuse. Signals are decided in their order: what was
    accepted before at the same close counts towards the budget of the next.
    """
    by_name = {e.name: e for e in evaluables(config)}
    # A backtest decides the instruments of a strategy in the order of its file: so does this, for the budget's sake.
    signals = sorted(signals, key=lambda s: (s.close_time, s.strategy, _place(by_name.get(s.strategy), s.symbol), s.id))
    peers = _peers(signals, ledger)
    conflicts = _conflicts(peers, config.universe.conflicts, _held(ledger))
    now_wall = now_us()
    finer = native_bars(lake, config.universe) if lake is not None else None
    market = GateMarket(lake, ledger, getattr(config, "news", None), now_time, finer)
    accepted = _Accepted(ledger, {s.close_time for s in signals})
    policies = ModelPolicies(ledger)
    verdicts = VerdictBook(ledger, signals)

    def judged(signal: Signal, legs: dict[str, str] | None, beside: Iterable[float | None] = ()) -> DecisionRow | None:
        evaluable = by_name.get(signal.strategy)
        instrument = config.universe.instruments.get(signal.symbol)
        if instrument is None:
            return None
        taken = accepted.at(signal.close_time, without=signal.id, beside=beside)
        measured, refs = market.measured(evaluable, signal, instrument, taken)
        required = with_more(signal.partitions, refs)
        snapshot = kernel.build_snapshot(
            signal,
            instrument=instrument,
            mode=signal.mode,
            verdicts=verdicts.of(required),
            required=required,
            warm=True,
            now_time=now_time,
            session_open=_closes_in_session(calendar(instrument.calendar), signal.close_time),
            min_reward_to_risk=evaluable.min_reward_to_risk if evaluable is not None else math.nan,
            freshness=freshness_of(required, config.universe),
            now_wall=now_wall,
            conflict=conflicts[signal.id].plain(),
            legs=legs,
            gates={**gates_of(evaluable).switched_on, **policies.gates(evaluable, signal)} if evaluable is not None else None,
            measured={**measured, **policies.measured(signal)},
            sizing=market.sizing(signal),
        )
        outcome = kernel.decide(snapshot)
        return DecisionRow(kernel.decision_of(snapshot, outcome), snapshot, outcome)

    made: list[DecisionRow] = []
    for signal in signals:
        evaluable = by_name.get(signal.strategy)
        others = [leg for leg in legs_of(evaluable) if leg != signal.symbol] if evaluable is not None else []
        partners = {leg: next((s for s in peers if _is_partner(s, signal, leg)), None) for leg in others}
        # Legs are entered together: each is held against the budget with what the others risk.
        alone = {s.symbol: judged(s, None) for s in (signal, *partners.values()) if s is not None} if others else {}
        risks = {symbol: risk_of(row.decision.size) for symbol, row in alone.items() if row is not None}
        taken = {leg for leg, partner in partners.items() if partner is not None and accepted.has(partner.id)}
        legs: dict[str, str] = {}
        for leg, partner in partners.items():
            beside = [risk for symbol, risk in risks.items() if symbol != leg and symbol not in taken]
            row = judged(partner, None, beside) if partner is not None else None
            legs[leg] = "missing" if row is None else "approved" if row.decision.approved else row.decision.refusal
        row = judged(signal, legs or None, [r for leg, r in risks.items() if leg != signal.symbol and leg not in taken])
        if row is not None:
            made.append(row)
            accepted.note(row.decision)
    return made


def _conflicts(peers: list[Signal], rule: Any, held: dict[str, dict[str, float]]) -> dict[str, Verdict]:
    """What became of every signal. A challenger is judged as if it stood in its champion's place, and nobody sees it."""
    seen = [s for s in peers if not in_shadow_only(s)]
    found = resolve(seen, rule, held)
    for signal in peers:
        if not in_shadow_only(signal):
            continue
        champion = champion_of(signal)
        others = [s for s in seen if s.strategy != champion]
        without = {symbol: {n: q for n, q in its.items() if n != champion} for symbol, its in held.items()}
        found[signal.id] = resolve([*others, signal], rule, without)[signal.id]
    return found


def _place(evaluable: Evaluable | None, symbol: str) -> int:
    symbols = evaluable.symbols if evaluable is not None else ()
    return symbols.index(symbol) if symbol in symbols else len(symbols)


class _Accepted:
    """Risk of the decisions accepted at a close that are no orders yet, those of a run before this one included."""

    def __init__(self, ledger: Ledger, closes: Iterable[int]) -> None:
        self._risks: dict[int, dict[str, float | None]] = {}
        for close_time in closes:
            rows = [row for row in ledger.decisions(close_time=close_time) if row["approved"]]
            ids = [row["id"] for row in rows]
            ordered = {row["parent"] for row in ledger.rows(intents, [intents.c.id], parent=ids)} if ids else set()
            for row in rows:
                if row["id"] not in ordered:
                    self.note(kernel.decision_of(bytes(row["snapshot"]), bytes(row["outcome"])))

    def note(self, decision: Decision) -> None:
        """Count it, when it becomes an order: what is approved in shadow or alert risks nothing."""
        if decision.approved and decision.signal.mode in (Mode.PAPER.value, Mode.LIVE.value):
            self._risks.setdefault(decision.signal.close_time, {})[decision.signal.id] = risk_of(decision.size)

    def has(self, signal_id: str) -> bool:
        return any(signal_id in risks for risks in self._risks.values())

    def at(self, close_time: int, without: str, beside: Iterable[float | None] = ()) -> float | None:
        """Their sum and that of `beside`, the signal `without` left out; None when the risk of one is not known."""
        total = 0.0
        for risk in (*(r for s, r in self._risks.get(close_time, {}).items() if s != without), *beside):
            if risk is None:
                return None
            total += risk
        return total


def _is_partner(other: Signal, signal: Signal, leg: str) -> bool:
    same = (other.strategy, other.strategy_revision, other.close_time, other.timeframe, other.symbol)
    return same == (signal.strategy, signal.strategy_revision, signal.close_time, signal.timeframe, leg)


def _peers(signals: Iterable[Signal], ledger: Ledger) -> list[Signal]:
    """Every signal of the same closes, those that were decided before included: what conflicts and legs are looked for in."""
    found = {signal.id: signal for signal in signals}
    for close_time in sorted({signal.close_time for signal in found.values()}):
        for row in ledger.signals(close_time=close_time):
            found.setdefault(row["id"], Signal.from_dict(row["content"]))
    return list(found.values())


def _held(ledger: Ledger) -> dict[str, dict[str, float]]:
    """Open positions: symbol -> strategy -> signed quantity."""
    held: dict[str, dict[str, float]] = {}
    for row in ledger.positions(open_only=True):
        held.setdefault(row["symbol"], {})[row["strategy"]] = float(row["quantity"])
    return held


def _closes_in_session(venue: Any, close_time: int) -> bool:
    """Does the bar close inside (or at the end of) a session? Its order then works from the next open."""
    import numpy as np

    return int(venue.session_of(np.array([close_time], np.int64))[0]) >= 0


def post(
    decisions: Iterable[Decision], desk: DeskClient, close_time: int, together: Mapping[str, tuple[str, ...]] | None = None
) -> list[DecisionReceipt]:
    """Hand approved decisions to the desk. Raises what the client raises: an unreachable desk fails the run, clearly.

    together: symbols entered together or not at all, by strategy (`legs`). When the desk refuses one of them, what it took
    of the others is cancelled at once; a leg filled meanwhile is closed by the desk at the next bar close (desk/exits.py).
    """
    receipts: list[DecisionReceipt] = []
    taken: dict[str, list[tuple[Decision, DecisionReceipt]]] = {}
    for decision in decisions:
        if not decision.approved or in_shadow_only(decision.signal):
            continue
        receipt = desk.submit_decision(decision, close_time)
        receipts.append(receipt)
        if decision.signal.strategy in (together or {}):
            taken.setdefault(decision.signal.strategy, []).append((decision, receipt))
    for strategy, pairs in taken.items():
        wanted = set((together or {})[strategy])
        if all(r.accepted for _, r in pairs) and {d.signal.symbol for d, _ in pairs} == wanted:
            continue
        for decision, receipt in pairs:
            if receipt.accepted:
                _take_back(decision, receipt, desk)
    return receipts


def legs(config: Any) -> dict[str, tuple[str, ...]]:
    """Symbols that a strategy enters together or not at all, by strategy."""
    return {e.name: legs_of(e) for e in evaluables(config) if legs_of(e)}


def _take_back(decision: Decision, receipt: DecisionReceipt, desk: DeskClient) -> None:
    """Cancel the entry of a leg whose partner was not taken. Its protective orders go with it; when it cannot be cancelled
    any more the desk closes the position at the next bar close."""
    log = logging.getLogger(__name__)
    reason = f"the other leg of {decision.signal.strategy} was not taken"
    try:
        desk.cancel(receipt.intent_ids[0], reason, "pairs")
        log.warning("%s: %s cancelled: %s", decision.signal.strategy, decision.signal.symbol, reason)
    except (DeskError, IndexError) as error:
        log.error("%s: %s could not be cancelled (%s): %s", decision.signal.strategy, decision.signal.symbol, reason, error)


def undecided(ledger: Ledger, close_time: int) -> list[Signal]:
    """Signals of a close that have no decision yet."""
    decided = {row["signal_id"] for row in ledger.decisions(close_time=close_time)}
    return [Signal.from_dict(row["content"]) for row in ledger.signals(close_time=close_time) if row["id"] not in decided]


def decisions_of(ledger: Ledger, *, close_time: int | None = None, session: str | None = None) -> list[Decision]:
    """Decisions of a close or a session, rebuilt from their stored snapshots and outcomes."""
    rows = ledger.decisions(close_time=close_time, session=session)
    return [kernel.decision_of(bytes(row["snapshot"]), bytes(row["outcome"])) for row in rows]
