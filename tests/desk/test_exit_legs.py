"""A leg of a pair that stands alone at a bar close is closed; other strategies are not touched by that rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from desk.exits import LEG, check_exits
from desk.hot_bars import BarCache
from resources.config import load_config
from resources.settings import Settings
from tests.desk.test_exits import Held
from tests.trading.samples import spx
from tests.trading.strategies import tied
from trading.bars import Bars
from trading.timeframes import Timeframe

CONFIG = load_config(Settings(_env_file=None))  # type: ignore[call-arg]


@dataclass
class Lake:
    """Daily bars of the two legs."""

    bars: dict[str, Bars]

    def read_bars(self, dataset: str, symbol: str, start: Any = None, end: Any = None) -> Bars:
        return self.bars[symbol]


def check(*held: Held, open_now: Any = None) -> dict[str, str]:
    a, b = tied()
    closed = {s: {Timeframe.D1: bars.rows(slice(-1, None))} for s, bars in (("SPX", a), ("COMP", b))}
    found = check_exits(
        held, CONFIG.evaluables(), CONFIG.universe.instruments, BarCache(Lake({"SPX": a, "COMP": b})), closed,
        int(a.close_time[-1]), open_now,
    )  # fmt: skip
    assert not [f.trouble for f in found if f.trouble], found
    return {f.symbol: f.reason for f in found}


SPX = Held("index_pair", 10.0, symbol="SPX")
COMP = Held("index_pair", -10.0, symbol="COMP")


def test_a_leg_alone_is_closed() -> None:
    assert check(SPX) == {"SPX": LEG}
    assert check(COMP) == {"COMP": LEG}


def test_two_legs_are_judged_by_their_spread() -> None:
    found = check(replace(SPX, opened_time=int(spx().close_time[-1]) * 2), replace(COMP, opened_time=2**62))
    assert LEG not in found.values()


def test_a_leg_whose_partner_is_held_but_not_judged_now_is_not_alone() -> None:
    assert LEG not in check(SPX, open_now={("index_pair", "SPX"), ("index_pair", "COMP")}).values()


def test_a_strategy_without_legs_may_hold_one_instrument() -> None:
    assert LEG not in check(Held("rsi_reversion", 10.0, symbol="SPX")).values()
