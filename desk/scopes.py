"""What a person may name in a halt or a flatten. A mistyped name would halt nothing, and look as if it had."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from desk import breakers, external, risk_state, store
from trading.config_text import nearest
from trading.orders import MAY_BE_AT_BROKER

if TYPE_CHECKING:
    from desk.live import LiveDesk

_SHOWN = 20


def scope_problem(live: LiveDesk, scope: str) -> str:
    """Why a halt cannot be of `scope` (``desk``, a strategy or plan, ``instrument:SYMBOL``); "" when it can."""
    if scope == risk_state.DESK:
        return ""
    if scope.startswith(breakers.INSTRUMENT):
        return symbol_problem(live, scope.removeprefix(breakers.INSTRUMENT))
    problem = strategy_problem(live, scope)
    if not problem:
        return ""
    if scope in _symbols(live):
        return f"{problem}; the instrument is {breakers.INSTRUMENT}{scope}"
    return f"{problem}; {risk_state.DESK} is everything, {breakers.INSTRUMENT}SYMBOL one instrument"


def strategy_problem(live: LiveDesk, name: str) -> str:
    """ "" when a file, the mode book, a halt, a position or a working order knows `name`."""
    with live.ledger.engine.connect() as connection:
        halted = [s for s in risk_state.read_halt(connection).strategies if not s.startswith(breakers.INSTRUMENT)]
        open_ = [p.strategy for p in store.find_positions(connection)]
        working = [o.strategy for o in store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER))]
    named = {f.name for f in live.config().files if f.kind in ("strategies", "plans", "plugins") and f.name}
    known = {*named, *live.config.evaluables, *live.mode_book.known, *halted, *open_, *working, external.STRATEGY}
    return _unknown("no strategy or plan", name, known)


def symbol_problem(live: LiveDesk, symbol: str) -> str:
    """ "" when the universe, a position or a working order knows `symbol`."""
    return _unknown("no instrument", symbol, _symbols(live))


def _symbols(live: LiveDesk) -> set[str]:
    with live.ledger.engine.connect() as connection:
        held = [p.symbol for p in store.find_positions(connection)]
        working = [o.symbol for o in store.find_orders(connection, store.in_states(*MAY_BE_AT_BROKER))]
    return {*live.config().universe.instruments, *held, *working}


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    if name in known:
        return ""
    near = nearest(name, known)
    listed = sorted(known)
    more = ", ..." if len(listed) > _SHOWN else ""
    return f"{what} {name!r}; there are: {', '.join(listed[:_SHOWN])}{more}" + (f"; did you mean {near!r}?" if near else "")
