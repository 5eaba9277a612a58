"""The needed bars must still be good when the order is about to go."""

from __future__ import annotations

from trading.instruments import Instrument
from trading.limits import Limits
from trading.refusals import Refusal, RefusalCode
from trading.risk import RULES, Finding, RiskState
from trading.signals import Intent


class _Said(Refusal):
    """A refusal that was printed elsewhere: kept word for word, so that ledger, report and log say the same."""

    def __str__(self) -> str:
        return str(self.values["text"])


@RULES.register("data_quality", 30)
class DataQuality:
    """Refuses with the text the state carries (``DATA_QUALITY: partition=... check=...``)."""

    guards_exits = False

    def judge(self, limits: Limits, state: RiskState, intent: Intent, instrument: Instrument) -> Finding:
        if state.quality_ok:
            return Finding("bad", "good", _Said(RefusalCode.DATA_QUALITY, {"text": state.quality_ok}))
        return Finding("good", "good")
