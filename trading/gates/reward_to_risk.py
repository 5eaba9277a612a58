"""The way to the target is long enough for the way to the stop."""

from __future__ import annotations

from trading.gates.base import GATES, Missing, Snapshot, look, number, passed, present, refused
from trading.gates.stop_required import direction
from trading.refusals import RefusalCode
from trading.signals import GateVerdict


@GATES.register("reward_to_risk", 70)
class RewardToRisk:
    """Refuses when |target - price| / |price - stop| is below the strategy's minimum.

    Without a target (exits by rule) the ratio has no value: a minimum of 0 passes, any other refuses. A target on the
    wrong side of the price refuses at any minimum.
    """

    code = RefusalCode.REWARD_TO_RISK

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        minimum = number(snapshot, "min_reward_to_risk")
        side = direction(snapshot)
        reference = number(snapshot, "signal.reference_price")
        risk = (reference - number(snapshot, "signal.stop_price")) * side
        if not present(snapshot, "signal.target_price"):
            raise Missing("signal.target_price")
        if look(snapshot, "signal", dict)["target_price"] is None:
            if minimum > 0:
                return refused("reward_to_risk", "no target", f"{minimum:g}", self.code, ratio="none", minimum=f"{minimum:g}")
            return passed("reward_to_risk", "no target", f"{minimum:g}")
        reward = (number(snapshot, "signal.target_price") - reference) * side
        if risk <= 0 or reward <= 0:
            return refused("reward_to_risk", "wrong side", f"{minimum:g}", self.code, reward=f"{reward:.6g}", risk=f"{risk:.6g}")
        ratio = reward / risk
        # Levels on the tick grid cannot hit a ratio exactly: float noise of 1e-9 is not below.
        if ratio < minimum * (1 - 1e-9):
            return refused(
                "reward_to_risk", f"{ratio:.4g}", f"{minimum:g}", self.code, ratio=f"{ratio:.4g}", minimum=f"{minimum:g}"
            )
        return passed("reward_to_risk", f"{ratio:.4g}", f"{minimum:g}")
