"""Replay of a session's decisions without Dagster: the stored snapshots decided again, the signals computed again.

A decision is a function of its snapshot, byte for byte; a signal is a function of the strategy's file and the bars. What
differs is named with what it was and what it is. A signal whose bars or whose strategy are no longer there cannot be
computed again: that is counted and said, and no difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from sqlalchemy import func, select

from assets import trade_lane
from assets.kept_revisions import read_revision
from resources.config import Config
from resources.ledger import tables
from resources.ledger.actions import in_todays_units
from resources.ledger.store import Ledger
from resources.model_serving import as_signalled
from resources.price_view import native_bars
from resources.research_store import ResearchStore
from resources.settings import settings
from trading import decisions as kernel
from trading.ids import canonical
from trading.signals import Signal
from trading.strategy import Evaluable, signal_at


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise. what: decision or signal; id: its; where: gate or field; was, now: the values."""

    what: str
    id: str
    strategy: str
    symbol: str
    close_time: int
    where: str
    was: str
    now: str


@dataclass
class Replayed:
    """A session's replay. decisions, signals: computed again. not_computed: why signals were not -> how many."""

    session: str
    decisions: int = 0
    signals: int = 0
    differences: list[Difference] = field(default_factory=list)
    not_computed: dict[str, int] = field(default_factory=dict)

    def skip(self, why: str) -> None:
        self.not_computed[why] = self.not_computed.get(why, 0) + 1


def newest_session(ledger: Ledger) -> str | None:
    """The newest session with decisions, None when there is none."""
    with ledger.engine.connect() as connection:
        found = connection.execute(select(func.max(tables.decisions.c.session))).scalar()
    return None if found is None else str(found)


def replay(session: str, config: Config, lake: Any, ledger: Ledger, store: ResearchStore) -> Replayed:
    """Decide every stored snapshot of `session` again and compute its signals again from the lake."""
    done = Replayed(session)
    for row in ledger.decisions(session=session):
        snapshot, outcome = bytes(row["snapshot"]), bytes(row["outcome"])
        done.decisions += 1
        again = kernel.decide(snapshot)
        if again != outcome:
            done.differences += _outcomes_differ(row, outcome, again)
    with ledger.engine.connect() as connection:
        known = in_todays_units(dict(config.evaluables()), connection, native_bars(lake, config.universe))
    for row in ledger.signals(session=session):
        signal = Signal.from_dict(row["content"])
        evaluable = _evaluable(signal, known, config, store)
        if evaluable is None:
            done.skip("its strategy's revision is not kept")
            continue
        instrument = config.universe.instruments.get(signal.symbol)
        if instrument is None:
            done.skip("its instrument is not in the universe any more")
            continue
        windows = trade_lane.window(lake, evaluable, instrument, date.fromisoformat(session), signal.close_time)
        if trade_lane.needed_partitions(windows, evaluable.quality_sessions) != signal.partitions:
            done.skip("its bars have changed since")
            continue
        done.signals += 1
        primary = windows[evaluable.timeframe]
        evaluation = evaluable.evaluate(windows, instrument)
        made = signal_at(
            evaluable, evaluation, len(primary) - 1, primary, instrument, features_version=signal.features_version,
            partitions=signal.partitions, mode=signal.mode,
        )  # fmt: skip
        done.differences += _signals_differ(signal, made)
    return done


def _evaluable(signal: Signal, known: Mapping[str, Evaluable], config: Config, store: ResearchStore) -> Evaluable | None:
    """The strategy or plan in the revision that made the signal: as it is configured, or as it was kept."""
    now = known.get(signal.strategy)
    if now is not None and now.revision == signal.strategy_revision:
        return now
    if signal.model:  # by the version that made it, whatever serves now
        return as_signalled(signal, config, settings())
    kept = next((r for r in store.revisions(signal.strategy) if r.revision == signal.strategy_revision), None)
    parsed = read_revision(kept, config)[0] if kept is not None else None
    # An ensemble's revision covers its members' files: its own text alone is not what made the signal.
    return parsed if parsed is not None and parsed.revision == signal.strategy_revision else None


def _outcomes_differ(row: Mapping[str, Any], was: bytes, now: bytes) -> list[Difference]:
    """Gates whose verdict differs; where none does, the bytes themselves."""
    old, new = json.loads(was), json.loads(now)
    content = json.loads(bytes(row["snapshot"])).get("signal", {})
    about = (str(row["id"]), str(content.get("strategy", "")), str(content.get("symbol", "")), int(row["close_time"]))
    before = {v["gate"]: v for v in old.get("verdicts", [])}
    after = {v["gate"]: v for v in new.get("verdicts", [])}
    found = [
        Difference("decision", *about, f"gate {gate}", json.dumps(before.get(gate)), json.dumps(after.get(gate)))
        for gate in dict.fromkeys([*before, *after])
        if before.get(gate) != after.get(gate)
    ]
    if old.get("approved") != new.get("approved"):
        found.insert(0, Difference("decision", *about, "approved", str(old.get("approved")), str(new.get("approved"))))
    said = [text[:120].decode(errors="replace") for text in (was, now)]
    return found or [Difference("decision", *about, "bytes", *said)]


def _signals_differ(signal: Signal, made: Signal | None) -> list[Difference]:
    about = ("signal", signal.id, signal.strategy, signal.symbol, signal.close_time)
    if made is None:
        return [Difference(*about, "signal", str(signal.action), "none")]
    was, now = signal.to_dict(), made.to_dict()
    return [
        Difference(*about, key, str(was.get(key)), str(now.get(key)))
        for key in dict.fromkeys([*was, *now])
        if canonical(was.get(key)) != canonical(now.get(key))
    ]
