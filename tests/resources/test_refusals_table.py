"""The documented refusals are the refusals."""

from __future__ import annotations

from resources.refusals_table import PAGE, page
from trading.refusals import RefusalCode, refuse


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m resources.refusals_table"


def test_a_refusal_prints_its_code_and_its_values_in_order() -> None:
    refusal = refuse(RefusalCode.DATA_QUALITY, partition="bars_1h/2017-12-28/EURUSD", check="jump")
    assert str(refusal) == "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=jump"
