"""Exits of one bar close: what is open is judged, what must leave leaves, what guards the rest is moved.

First come the trades that no price of the bar can have touched at the broker, whose exits wait for nothing; after the broker
was heard, everything else. What is open is known from the end of the close before, and taken as it was read while nothing has
happened since: the audit's newest record says so (desk/trades.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Engine

from desk import exit_series, store, trades
from desk.config_watch import ConfigWatch
from desk.corporate_actions import CorporateActions
from desk.exits import ExitCheck, check_exits, windows
from desk.hot_bars import BarCache
from desk.managing import Judged, TradeManager
from desk.plan_book import PlanBook
from desk.router import Router
from desk.store import DeskStore, PositionRecord
from desk.trades import OpenTrades
from desk.untouched import is_untouched
from resources.feeds.protocol import BarClose
from resources.lake import Partition
from resources.ledger import plans as ledger_plans
from resources.ledger import tables as t
from resources.ledger.actions import APPLIED, splits_of
from resources.ledger.algo_tables import is_entry
from resources.ledger.base import Gather, reading
from trading.bars import Bars
from trading.orders import MAY_BE_AT_BROKER
from trading.strategy import Evaluable
from trading.timeframes import Timeframe, iso

log = structlog.get_logger("desk.engine")

_NOW: dict[str, Any] = {
    "head": trades.HEAD, "plans": PlanBook.OF_OPEN, "splits": APPLIED, "actions": CorporateActions.AT_A_GLANCE
}  # fmt: skip
_OF_NOW = Gather(**_NOW)
_OF_NOW_AND_OPEN = Gather(**_NOW, **trades.selects())
"""What exits are judged on, of one moment: without and with what is open."""

Look = Mapping[str, Sequence[Any]]
"""Rows of `_OF_NOW`."""


@dataclass(slots=True)
class CloseResult:
    """What a bar close did. closed: the new bars, by symbol and timeframe. derived: whose higher timeframes are made."""

    close_time: int
    closed: dict[str, dict[Timeframe, Bars]] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)
    partitions: list[Partition] = field(default_factory=list)
    exits: list[ExitCheck] = field(default_factory=list)
    fills: int = 0
    ended_sessions: list[str] = field(default_factory=list)
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a close says of what is open: positions by (strategy, symbol), and why each of those leaving does."""

    positions: Mapping[tuple[str, str], PositionRecord]
    book: OpenTrades
    evaluables: Mapping[str, Evaluable]
    checks: Sequence[ExitCheck]
    managed: Sequence[Judged]
    leaving: Mapping[tuple[str, str], str]


class CloseExits:
    """Used by the desk's one worker thread.

    take_bars, derive_of: put bars, and the higher timeframes that they complete, where exits are decided on them.
    """

    def __init__(
        self,
        engine: Engine,
        router: Router,
        manager: TradeManager,
        plans: PlanBook,
        actions: CorporateActions,
        config: ConfigWatch,
        cache: BarCache,
        take_bars: Callable[[Sequence[BarClose], CloseResult], None],
        derive_of: Callable[[Collection[str], CloseResult], None],
    ) -> None:
        self._engine = engine
        self._store = DeskStore(engine)
        self._router = router
        self._manager = manager
        self._plans = plans
        self._actions = actions
        self._config = config
        self._cache = cache
        self._take_bars = take_bars
        self._derive_of = derive_of
        self._known: OpenTrades | None = None
        self.unmanaged: dict[str, str] = {}
        """Open positions whose exit could not be judged at their last close: ``strategy/symbol`` -> why."""

    def look(self) -> Look:
        """What is true now of plans and actions; what is open is read with it unless it is known."""
        with reading(self._engine) as connection:
            if self._known is None:
                found = _OF_NOW_AND_OPEN.read(connection, {})
                self._known = trades.of_rows(connection, found)
                return found
            found = _OF_NOW.read(connection, {})
        if trades.head_of(found) != self._known.head:
            self._known = None
            return self.look()
        return found

    def forget(self) -> None:
        """What is open is read again at the next look."""
        self._known = None

    def read_ahead(self, close_time: int) -> None:
        """After a close: what the next one's exits are decided on, so that nobody waits for the ledger or the lake then."""
        with reading(self._engine) as connection:
            self._known = trades.read(connection)
            entering = store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER), is_entry(t.intents.c.leg))
        instruments = self._config().universe.instruments
        for order in entering:
            evaluable, instrument = self._config.evaluables.get(order.strategy), instruments.get(order.symbol)
            if evaluable is None or instrument is None:
                continue
            try:
                windows(evaluable, instrument, self._cache, close_time)
            except Exception as error:  # noqa: BLE001 - the close that needs them says what is wrong
                log.warning("not_read_ahead", symbol=order.symbol, error=f"{type(error).__name__}: {error}")

    def of_untouched(
        self, result: CloseResult, bars: Sequence[BarClose], known: Mapping[str, Evaluable], now: Look
    ) -> frozenset[tuple[str, str]]:
        """Exits of trades that no price of these bars can have changed at the broker: sent before anything is matched. Gives
        the (strategy, symbol) whose exits are under way. Nothing of the broker's is unheard. now: of `look`."""
        seen = self._judge(result, bars, known, now)
        of_symbol: dict[str, list[BarClose]] = {}
        for bar in bars:
            of_symbol.setdefault(bar.symbol, []).append(bar)
        chosen = [
            (*key, reason)
            for key, reason in seen.leaving.items()
            if is_untouched(seen.positions[key], seen.book, seen.evaluables.get(key[0]), of_symbol.get(key[1], ()))
        ]
        if not chosen:
            return frozenset()
        answers = self._router.exit_positions(chosen, result.close_time, seen=seen.book)
        self._known = None
        return frozenset(
            (s, i) for (s, i, _), answer in zip(chosen, answers, strict=True) if answer.accepted and answer.intent_ids
        )

    def of_all(
        self, result: CloseResult, bars: Sequence[BarClose], known: Mapping[str, Evaluable], sent: Set[tuple[str, str]]
    ) -> dict[str, Evaluable]:
        """Close, move and part what the strategies and plans ask for; gives these as they are in force, in today's units.

        sent: (strategy, symbol) whose exits were sent at this close already.
        """
        seen = self._judge(result, bars, known, self.look())
        positions, held = seen.positions, self._actions.held
        result.exits = list(seen.checks)
        for check in seen.checks:
            if check.trouble:
                close, why = iso(result.close_time), check.trouble
                log.error("exit_not_judged", strategy=check.strategy, symbol=check.symbol, close=close, why=why)
        # Its prices are of another unit, or may be: an exit decided on them would be a guess.
        result.exits += [ExitCheck(p.strategy, p.symbol, trouble=held[p.symbol]) for p in positions.values() if p.symbol in held]
        self.unmanaged = {k: why for k, why in self.unmanaged.items() if tuple(k.split("/", 1)) in positions}
        for check in result.exits:
            if check.trouble:
                self.unmanaged[f"{check.strategy}/{check.symbol}"] = check.trouble
            else:
                self.unmanaged.pop(f"{check.strategy}/{check.symbol}", None)
        leaving = [(*key, reason) for key, reason in seen.leaving.items() if key not in sent]
        self._router.exit_positions(leaving, result.close_time, seen=seen.book)
        for done in self._manager.align(seen.managed, result.close_time):
            if done.trouble:
                self.unmanaged[f"{done.strategy}/{done.symbol}"] = done.trouble
        self._known = None  # the bars held are in no record of the audit
        self._store.set_bars_held({
            (c.strategy, c.symbol): c.bars_held
            for c in result.exits
            if not c.trouble and c.bars_held != positions[c.strategy, c.symbol].bars_held
        })  # fmt: skip
        return dict(seen.evaluables)

    def _judge(self, result: CloseResult, bars: Sequence[BarClose], known: Mapping[str, Evaluable], now: Look) -> Judgement:
        """What is open now, and which of it the strategies and plans want closed or otherwise guarded."""
        book = self._known
        assert book is not None
        positions = {(p.strategy, p.symbol): p for p in book.positions}
        universe = self._config().universe
        instruments = universe.instruments
        held = self._actions.held
        in_force = self._plans.in_force(known, universe, ledger_plans.of_rows(now["plans"]))
        evaluables = self._actions.evaluables(in_force, splits_of(now["splits"]))
        read = exit_series.symbols(positions.values(), evaluables) - result.closed.keys()
        self._take_bars([bar for bar in bars if bar.symbol in read], result)
        self._derive_of(exit_series.of_higher(positions.values(), evaluables, instruments), result)
        judged = [p for p in positions.values() if p.symbol not in held]
        checks = check_exits(judged, evaluables, instruments, self._cache, result.closed, result.close_time, positions.keys())
        leaving = {(check.strategy, check.symbol): check.reason for check in checks if check.reason}
        stay = [p for p in judged if (p.strategy, p.symbol) not in leaving]
        managed = self._manager.judge(stay, evaluables, instruments, self._cache, result.closed, result.close_time, book.orders)
        leaving |= {(m.position.strategy, m.position.symbol): m.wanted.leave for m in managed if m.wanted and m.wanted.leave}
        return Judgement(positions, book, evaluables, checks, managed, leaving)
