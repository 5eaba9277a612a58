"""No new risk once the session has lost its limit."""

from __future__ import annotations

import math

from trading.instruments import Instrument
from trading.limit_math import daily_loss_reached
from trading.limits import DailyLoss, Limits
from trading.refusals import RefusalCode, refuse
from trading.risk import RULES, Finding, RiskState, limit_missing, number
from trading.signals import Intent


def _threshold(loss: DailyLoss) -> str:
    parts = [number(loss.amount)] if loss.amount is not None else []
    return " or ".join(parts + ([f"{number(loss.percent)}%"] if loss.percent is not None else []))


@RULES.register("daily_loss", 120)
class DailyLossReached:
    """Refuses once the account, or the strategy with a limit of its own, has lost it since the session's start."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        account = limits.daily_loss
        if account is None or (account.amount is None and account.percent is None):
            return limit_missing("daily_loss")
        pnl = state.equity - state.day_start_equity
        threshold = _threshold(account)
        if daily_loss_reached(pnl, state.day_start_equity, *account.codes):
            return Finding(number(pnl), threshold, refuse(RefusalCode.DAILY_LOSS, pnl=number(pnl), limit=threshold))
        own = limits.of(intent.strategy).daily_loss
        if own is not None:
            mine = float(state.strategy_pnl.get(intent.strategy, math.nan))
            if daily_loss_reached(mine, state.day_start_equity, *own.codes):
                refusal = refuse(RefusalCode.DAILY_LOSS, strategy=intent.strategy, pnl=number(mine), limit=_threshold(own))
                return Finding(number(mine), _threshold(own), refusal)
        return Finding(number(pnl), threshold)
