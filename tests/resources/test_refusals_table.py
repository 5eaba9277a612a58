"""The documented refusals are the refusals."""

from __future__ import annotations

import ast

from resources.refusals_table import PAGE, page
from tests.paths import ROOT
from trading.refusals import REASONS, RefusalCode, refuse


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m resources.refusals_table"


def test_a_refusal_prints_its_code_and_its_values_in_order() -> None:
    refusal = refuse(RefusalCode.DATA_QUALITY, partition="bars_1h/2017-12-28/EURUSD", check="jump")
    assert str(refusal) == "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=jump"


def test_every_reason_that_a_gate_or_the_desk_can_give_is_explained() -> None:
    """Constants of ``reason=`` in the code, and codes that exist."""
    given: set[str] = set()
    folders = [*(ROOT / "trading" / "gates").glob("*.py"), *(ROOT / "trading" / "risk_rules").glob("*.py")]
    for path in (*folders, ROOT / "trading" / "decisions.py", ROOT / "trading" / "risk.py", ROOT / "desk" / "planning.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "reason":
                given |= {n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    assert {"expired", "stale", "failed", "missing"} <= _refused_reasons()
    explained = {reason for _, reason in REASONS}
    assert given | _refused_reasons() <= explained
    assert {code for code, _ in REASONS if code.isupper()} <= {code.name for code in RefusalCode}


def _refused_reasons() -> set[str]:
    """The third word of ``_refused(partition, check, reason)`` of the data quality gate."""
    tree = ast.parse((ROOT / "trading" / "gates" / "data_quality.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "_refused"]
    return {a.value for c in calls for a in c.args[2:] if isinstance(a, ast.Constant)}
