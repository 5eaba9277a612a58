"""Great Expectations suites over bars: what a frame of bars must look like, and one expectation per rule of the kernel.

The kernel judges; its verdicts become a frame with one row per (session, symbol) and one column per rule, true where the
rule is violated. A session without any bar has a row there too, which a frame of bars could not show. The context is
ephemeral and made once per process; Great Expectations is imported only when a suite runs (it takes seconds).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from assets.quality.history import Judged
from trading.bars import PRICE_COLUMNS, Bars
from trading.quality import ALL_CHECKS, ERROR_CHECKS

if TYPE_CHECKING:
    import pandas as pd

BAR_TYPES = {
    "symbol": "str",
    "session": "int32",
    "close_time": "datetime64[us, UTC]",
    **dict.fromkeys((*PRICE_COLUMNS, "volume"), "float64"),
}
"""Columns of a frame of bars and their types."""

RULES = {
    "columns_and_types": "every value is finite and no volume is negative",
    "ohlc_consistent": "low <= open <= high and low <= close <= high",
    "positive_prices": "every price is one the instrument can have: above 0 unless its `prices` says otherwise",
    "monotonic_unique_times": "close times ascend and none comes twice",
    "within_session": "every close is a bar end inside a session of the venue's calendar",
    "no_gaps": "no bar the calendar calls for is missing, beyond what the universe file allows",
    "jump": "no price is further from the last close than the trailing volatility allows",
    "stale_repeat": "prices do not repeat bar after bar",
    "volume_sane": "no volume is far above the trailing median",
    "volume_anomaly": "no volume is unusual for the time of day, measured against the sessions before",
    "volatility_anomaly": "no bar's range is unusual for the time of day, measured against the sessions before",
}
if set(RULES) != set(ALL_CHECKS):
    raise AssertionError(f"suites and kernel differ in {sorted(set(RULES) ^ set(ALL_CHECKS))}")


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """One expectation's outcome. rule: a name of RULES, or "" for the structure; indexes: (session, symbol) that failed."""

    rule: str
    expectation: str
    subject: str
    success: bool
    element_count: int
    unexpected_count: int
    observed: str
    indexes: tuple[tuple[str, str], ...]


def bars_frame(bars: Sequence[Bars]) -> pd.DataFrame:
    """All bars in one frame with the columns of BAR_TYPES."""
    import pandas as pd

    def column(name: str, dtype: Any) -> Any:
        return np.concatenate([getattr(b, name) for b in bars]) if bars else np.empty(0, dtype)

    names = np.repeat([b.symbol for b in bars], [len(b) for b in bars]) if bars else np.empty(0, str)
    return pd.DataFrame(
        {
            "symbol": pd.Series(names, dtype="str"),
            "session": column("session", np.int32),
            "close_time": pd.Series(column("close_time", np.int64).astype("datetime64[us]")).dt.tz_localize("UTC"),
            **{name: column(name, np.float64) for name in (*PRICE_COLUMNS, "volume")},
        }
    )


def verdict_frame(judged: Judged) -> pd.DataFrame:
    """One row per (session, symbol): session, symbol, and one bool column per rule, true where it is violated."""
    import pandas as pd

    rows = judged.partitions
    violated = np.array([[not r.passed for r in p.results] for p in rows], bool).reshape(len(rows), len(ALL_CHECKS))
    frame = pd.DataFrame(violated, columns=list(ALL_CHECKS))
    frame.insert(0, "symbol", pd.Series([p.symbol for p in rows], dtype="str"))
    frame.insert(0, "session", pd.Series([p.session.isoformat() for p in rows], dtype="str"))
    return frame


def check_structure(frame: pd.DataFrame) -> list[ExpectationResult]:
    """Columns, types and missing keys of a frame of bars."""
    return _validate("structure", frame)


def check_rules(frame: pd.DataFrame) -> dict[str, ExpectationResult]:
    """One expectation per rule on a frame of verdicts."""
    return {r.rule: r for r in _validate("rules", frame)}


@lru_cache(maxsize=1)
def _suites(pid: int) -> dict[str, tuple[Any, Any]]:
    """Batch definition and suite by name, in one ephemeral context."""
    # Usage statistics would be sent to a server on the internet.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("lake")
    structure = [
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=list(BAR_TYPES)),
        *(gxe.ExpectColumnValuesToBeOfType(column=name, type_=_type_name(kind)) for name, kind in BAR_TYPES.items()),
        *(gxe.ExpectColumnValuesToNotBeNull(column=name) for name in ("symbol", "session", "close_time")),
    ]
    rules = [
        gxe.ExpectColumnValuesToBeInSet(
            column=name,
            value_set=[False],
            description=text,
            meta={"rule": name, "severity": "error" if name in ERROR_CHECKS else "warn"},
        )
        for name, text in RULES.items()
    ]
    made = {}
    for name, expectations in (("structure", structure), ("rules", rules)):
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        made[name] = (batch, context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations)))
    return made


def _type_name(kind: str) -> str:
    """How Great Expectations calls a pandas type."""
    return {"datetime64[us, UTC]": "Timestamp"}.get(kind, kind)


def _validate(name: str, frame: pd.DataFrame) -> list[ExpectationResult]:
    batch, suite = _suites(os.getpid())[name]
    form: dict[str, Any] = {"result_format": "COMPLETE"}
    if name == "rules":
        form["unexpected_index_column_names"] = ["session", "symbol"]
    outcome = batch.get_batch({"dataframe": frame}).validate(suite, result_format=form)
    return [_result(r) for r in outcome.results]


def _result(outcome: Any) -> ExpectationResult:
    config, result, raised = outcome.expectation_config, outcome.result or {}, outcome.exception_info or {}
    found = result.get("unexpected_index_list") or ()
    observed = result.get("observed_value", "")
    if raised.get("raised_exception"):
        observed = str(raised.get("exception_message"))
    return ExpectationResult(
        rule=str((config.meta or {}).get("rule", "")),
        expectation=str(config.type),
        subject=str(config.kwargs.get("column", "columns")),
        success=bool(outcome.success),
        element_count=int(result.get("element_count") or 0),
        unexpected_count=int(result.get("unexpected_count") or 0),
        observed=str(observed),
        indexes=tuple((str(i["session"]), str(i["symbol"])) for i in found if isinstance(i, dict) and "session" in i),
    )
