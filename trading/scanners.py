"""Scanners: one rule over many instruments, of which only the best few at a bar close are entered.

A scan says when an instrument is a candidate on each side and by what candidates are ranked; ranked are those whose bars
close at the same moment. Four are ready-made, `rules` takes conditions of the strategy grammar.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from trading import conditions
from trading.bars import Bars
from trading.conditions import Bools, Condition, Floats, Frame, OperandSpec
from trading.config_text import ConfigModel, Number, Positive, Whole, custom_error
from trading.evaluable import assemble, check_bars, in_windows, readiness
from trading.evaluation import Evaluation
from trading.frame import BarWindow
from trading.instruments import Instrument
from trading.operands import Operand
from trading.signals import Action
from trading.strategy_base import Strategy, common, needs_of
from trading.strategy_schema import Filed, Sides
from trading.timeframes import Timeframe

Period = Annotated[Whole, Field(ge=2, le=1000)]


@dataclass(frozen=True, slots=True)
class ScanRules:
    """What a scan looks for. rank: candidates of a side with the highest value come first."""

    long: Condition
    short: Condition
    rank_long: Operand
    rank_short: Operand


def _condition(rule: Mapping[str, Any]) -> Condition:
    return Condition.model_validate(rule)


def _negative(operand: Mapping[str, Any]) -> Operand:
    return Operand.model_validate({**operand, "times": -1.0})


class MomentumBreakout(ConfigModel):
    """The close leaves the range of the last bars, and the move over `momentum` bars is at least `minimum` percent."""

    kind: Literal["momentum_breakout"]
    period: Period = Field(20, description="bars of the range, the current one not included")
    momentum: Period = Field(20, description="bars of the rate of change candidates are ranked by")
    minimum: Number = Field(0.0, ge=0, description="least rate of change, percent")

    def rules(self) -> ScanRules:
        rate = {"indicator": "roc", "params": {"period": self.momentum}}
        top = {"price": "high", "highest": self.period, "lookback": 1}
        bottom = {"price": "low", "lowest": self.period, "lookback": 1}
        return ScanRules(
            _condition({"all": [{">": ["close", top]}, {">=": [rate, self.minimum]}]}),
            _condition({"all": [{"<": ["close", bottom]}, {"<=": [rate, -self.minimum]}]}),
            Operand.model_validate(rate), _negative(rate),
        )  # fmt: skip


class VolumeBreakout(ConfigModel):
    """Volume of `multiple` times its mean while the close leaves the range of the last bars."""

    kind: Literal["volume_breakout"]
    period: Period = Field(20, description="bars of range and mean volume, the current one not included")
    multiple: Positive = Field(2.0, description="least volume over its mean")

    def rules(self) -> ScanRules:
        mean = {"price": "volume", "mean": self.period, "lookback": 1, "times": self.multiple}
        busy = {">=": ["volume", mean]}
        top = {"price": "high", "highest": self.period, "lookback": 1}
        bottom = {"price": "low", "lowest": self.period, "lookback": 1}
        rank = Operand.model_validate({"indicator": "relative_volume", "params": {"period": self.period}})
        return ScanRules(
            _condition({"all": [busy, {">": ["close", top]}]}), _condition({"all": [busy, {"<": ["close", bottom]}]}), rank, rank
        )


class RsiReversion(ConfigModel):
    """The RSI comes back from its extreme; the farthest beyond it one bar before is first."""

    kind: Literal["rsi_reversion"]
    period: Period = 14
    oversold: Number = Field(30.0, gt=0, lt=50)
    overbought: Number = Field(70.0, gt=50, lt=100)

    def rules(self) -> ScanRules:
        rsi = {"indicator": "rsi", "params": {"period": self.period}}
        before = {**rsi, "lookback": 1}
        return ScanRules(
            _condition({"cross_above": [rsi, self.oversold]}), _condition({"cross_below": [rsi, self.overbought]}),
            _negative(before), Operand.model_validate(before),
        )  # fmt: skip


class BollingerReversion(ConfigModel):
    """The close comes back inside its Bollinger band; the farthest outside one bar before is first."""

    kind: Literal["bollinger_reversion"]
    period: Period = 20
    deviations: Positive = Field(2.0, ge=0.1, le=20)

    def rules(self) -> ScanRules:
        band = {
            "indicator": "bollinger",
            "params": {"period": self.period, "deviations_up": self.deviations, "deviations_down": self.deviations},
        }
        distance = {"indicator": "zscore", "params": {"period": self.period}, "lookback": 1}
        return ScanRules(
            _condition({"cross_above": ["close", {**band, "output": "lower"}]}),
            _condition({"cross_below": ["close", {**band, "output": "upper"}]}),
            _negative(distance), Operand.model_validate(distance),
        )  # fmt: skip


class RulesScan(ConfigModel):
    """Conditions and ranks of the writer's own. rank: the highest first; rank_short: default minus rank."""

    kind: Literal["rules"]
    when: Sides
    rank: OperandSpec
    rank_short: OperandSpec | None = None

    @model_validator(mode="after")
    def _ranks(self) -> RulesScan:
        if self.rank.number is not None:
            raise custom_error("a number ranks nothing", "a price or an indicator")
        return self

    def rules(self) -> ScanRules:
        never = _condition({"<": ["close", 0.0]})
        turned = -1.0 if self.rank.times is None else -self.rank.times
        short = self.rank_short or self.rank.model_copy(update={"times": turned})
        return ScanRules(self.when.long or never, self.when.short or never, self.rank, short)


Scan = Annotated[MomentumBreakout | VolumeBreakout | RsiReversion | BollingerReversion | RulesScan, Field(discriminator="kind")]


class ScannerFile(Filed):
    """A scanner: the best few of many instruments."""

    kind: Literal["scanner"]
    scan: Scan
    direction: Literal["long", "short", "both"] = "both"
    top: Whole = Field(1, ge=1, le=500, description="candidates of each side entered at one close")
    least_members: Whole = Field(2, ge=1, le=5000, description="instruments that must have a bar at the close, else nobody ranks")

    @model_validator(mode="after")
    def _several(self) -> ScannerFile:
        if len(self.symbols) < 2:
            raise custom_error("a scanner of one instrument has nobody to rank it against", "several symbols")
        if self.least_members > len(self.symbols):
            raise custom_error(
                f"least_members {self.least_members} is more than its {len(self.symbols)} symbols: it could never enter",
                f"at most {len(self.symbols)}",
            )
        return self


@dataclass(frozen=True, slots=True)
class _Member:
    """What one instrument brings into the ranking, rows of its own primary bars."""

    ready: Bools
    long: Bools
    short: Bools
    rank_long: Floats
    rank_short: Floats


@dataclass(frozen=True, slots=True)
class Scanner(Strategy):
    """A compiled scanner. An entry is a candidate among the best `top` of its side; strength falls with the rank."""

    def evaluate(self, bars: Mapping[Any, Bars], instrument: Instrument) -> Evaluation:
        """What it says of `instrument`, ranked against every other symbol given under (symbol, timeframe)."""
        check_bars(self, bars, instrument)
        rules: ScannerFile = self.rules
        frame = Frame(bars, self.timeframe)
        primary = bars[self.timeframe]
        own = self._member(frame)
        better = {side: np.zeros(len(frame), np.int64) for side in ("long", "short")}
        present = own.ready.astype(np.int64)
        foreign = {key: b for key, b in bars.items() if not isinstance(key, Timeframe)}
        foreign |= {(instrument.symbol, t): bars[t] for t in self.timeframes}
        for place, symbol in enumerate(self.symbols):
            if symbol == instrument.symbol:
                continue
            other = {t: bars[symbol, t] for t in self.timeframes}
            if not len(other[self.timeframe]):
                continue
            member = self._member(Frame(BarWindow({**foreign, **other}, frame.cache), self.timeframe))
            at = np.searchsorted(other[self.timeframe].close_time, primary.close_time)
            at = np.minimum(at, len(other[self.timeframe]) - 1)
            same = other[self.timeframe].close_time[at] == primary.close_time
            present += same & member.ready[at]
            first = place < self.symbols.index(instrument.symbol)  # of equal ranks the one named first
            for side in ("long", "short"):
                theirs, ours = getattr(member, f"rank_{side}")[at], getattr(own, f"rank_{side}")
                with np.errstate(invalid="ignore"):
                    ahead = (theirs > ours) | (theirs == ours) if first else theirs > ours
                better[side] += same & getattr(member, side)[at] & ahead
        enough = present >= rules.least_members
        allowed = own.ready & enough & in_windows(primary, rules.windows, instrument)
        chosen = {side: allowed & getattr(own, side) & (better[side] < rules.top) for side in ("long", "short")}
        strength = np.where(chosen["long"], 1.0 - better["long"] / rules.top, 1.0 - better["short"] / rules.top)
        exits = rules.exits.rules
        return assemble(
            frame, instrument, own.ready, self.max_bars, enter_long=chosen["long"], enter_short=chosen["short"],
            exit_long=own.ready & conditions.evaluate(exits.long if exits else None, frame),
            exit_short=own.ready & conditions.evaluate(exits.short if exits else None, frame),
            stop=rules.exits.stop, target=rules.exits.target, session_end=rules.exits.session_end, strength=strength,
            parts={f"{side}/rank": (better[side] + 1).astype(np.float64) for side in ("long", "short")},
        )  # fmt: skip

    def _member(self, frame: Frame) -> _Member:
        rules: ScannerFile = self.rules
        others = tuple(id(frame.bars[t]) for t in self.timeframes)

        def make() -> _Member:
            scan = rules.scan.rules()
            ready = readiness(frame, self.warm_up)
            ranks = {"long": conditions.value_of(scan.rank_long, frame), "short": conditions.value_of(scan.rank_short, frame)}
            found = {}
            for side, condition in (("long", scan.long), ("short", scan.short)):
                wanted = rules.direction in (side, "both")
                holds = conditions.evaluate(condition, frame) if wanted else np.zeros(len(frame), bool)
                found[side] = holds & ready & np.isfinite(ranks[side])
            return _Member(ready, found["long"], found["short"], ranks["long"], ranks["short"])

        result: _Member = frame.cache.get(("scan", self.revision, others), frame.bars[self.timeframe], make, frame.bars)
        return result

    def reason(self, action: Action) -> str:
        """The scan's condition of that side."""
        scan = self.rules.scan.rules()
        rule = scan.long if action is Action.ENTER_LONG else scan.short
        return f"{self.rules.scan.kind}, among the best {self.rules.top}: {rule.label}"


def build(parsed: ScannerFile, text: str) -> Scanner:
    """The scanner of its file."""
    scan = parsed.scan.rules()
    more: dict[Any, int] = {}
    for rank in (scan.rank_long, scan.rank_short):
        for part in rank.with_parts():
            conditions.merge_warm_up(more, conditions.operand_warm_up(part, False, parsed.timeframe))
    warm_up, context = needs_of(parsed, (scan.long, scan.short), more)
    fields = common(parsed, text, warm_up, context)
    members = {(symbol, t): 1 for symbol in parsed.symbols for t in fields["timeframes"]}
    return Scanner(**{**fields, "context": {**members, **context}})
