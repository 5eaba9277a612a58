"""What a model's file wants done about drift, and the last verdict on the version that made a signal, for its decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resources.ledger.model_verdicts import DriftVerdict, verdict_at
from resources.ledger.store import Ledger
from resources.model_files import ModelFiles, read_model_files
from resources.settings import settings
from trading.gates.model_drift import GATE
from trading.signals import Signal

if TYPE_CHECKING:
    from trading.strategy import Evaluable


class ModelPolicies:
    """Read once for the signals of a run, and only when a model made one of them. What cannot be read is left out, which the
    gate refuses."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._files: ModelFiles | None = None
        self._verdicts: dict[tuple[str, str, int], DriftVerdict | None] = {}

    def gates(self, evaluable: Evaluable | None, signal: Signal) -> dict[str, Any]:
        """The policy of the model file that the strategy names now, as settings of the gate; {} when no model made the signal."""
        rule = getattr(getattr(evaluable, "rules", None), "model", None)
        if not signal.model or rule is None:
            return {}
        if self._files is None:
            self._files = read_model_files(settings().config / "models")
        file = self._files.trainings.get(rule.name)
        return {} if file is None else {GATE: {"then": file.drift.then, "max_age_days": float(file.drift.max_age_days)}}

    def measured(self, signal: Signal) -> dict[str, Any]:
        """The last verdict on the version that made the signal which saw no bar after its close; {} when there is none."""
        name = signal.model.get("name", "")
        if not name:
            return {}
        key = name, signal.model.get("version", ""), signal.close_time
        if key not in self._verdicts:
            self._verdicts[key] = verdict_at(self._ledger, *key)
        found = self._verdicts[key]
        return {} if found is None else {GATE: found.measured()}
