"""The short run of tests.faults.router_machine."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults import router_machine


def test_whatever_happens_in_whatever_order_ledger_and_broker_end_equal(new_ledger_url: Callable[[], str]) -> None:
    router_machine.new_ledger = new_ledger_url
    before = router_machine.counted["transitions"]
    router_machine.machine(lives=12, steps=12, fixed=True)
    assert router_machine.counted["transitions"] > before + 12 * 3
