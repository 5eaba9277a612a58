# ruff: noqa: F811, F401 - fixtures are imported by name
"""The chain behind anything, from any id in it: bars and hashes, signal, decision, orders, fills, position, report."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from sqlalchemy import text

from desk.clock import wall
from desk.live import LiveDesk
from resources.ledger.store import DecisionRow
from resources.trace import Trace, TraceError, trace
from tests.desk.kit import decision as made_decision
from tests.desk.running import Installation, MakeInstallation, history, install
from trading.timeframes import iso


class Morning:
    """An installation after its first closes: one trade opened and closed, one decision denied."""

    def __init__(self, at: Installation) -> None:
        self.at = at
        live = LiveDesk(at.settings)
        live.take_over()
        groups, _ = live.replay_groups(live.start_replay(None))
        for group in groups[:6]:
            live.clock.advance(group.close_time)
            live.engine.process_close(group, wall())
            for made in at.decide({"close_time": group.close_time, "session": "2017-12-29"}):
                live.router.submit_decision(made)
        refused = made_decision(0, strategy="other", approved=False)
        at.ledger.insert_signals([refused.signal], session="2017-12-27", code_revision="c", run_id="r")
        at.ledger.insert_decisions([DecisionRow(refused, b"{}", b"{}")], session="2017-12-27", code_revision="c", run_id="r")
        self.refused = refused
        live.close()
        self.fills = at.ledger.fills()
        self.orders = {o["id"]: o for o in at.ledger.orders()}
        self.entry = self.orders[self.fills[0]["order_id"]]

    def trace(self, any_id: str) -> Trace:
        return trace(self.at.ledger.engine, self.at.lake, any_id)


@pytest.fixture(scope="module")
def morning(install: MakeInstallation) -> Morning:
    return Morning(install())


def test_every_id_of_a_trade_leads_to_the_same_whole_chain(morning: Morning) -> None:
    whole = morning.trace(morning.entry["id"])
    (chain,) = whole.chains
    assert chain.decision is not None
    assert [i["leg"].split(":")[0] for i in chain.intents] == ["entry", "stop", "target", "exit"]
    assert len(chain.fills) == 2
    ids = [
        chain.signal["id"], chain.decision["id"], *(i["id"] for i in chain.intents), *(f["id"] for f in chain.fills),
        *(o["broker_order_id"] for o in chain.orders if o["broker_order_id"]),
        chain.signal["id"][4:16], morning.entry["id"][4:14],
    ]  # fmt: skip
    for any_id in ids:
        assert morning.trace(any_id).chains == whole.chains, any_id
    assert [morning.trace(i).kind for i in (ids[0], ids[1], ids[2], chain.fills[0]["id"])] == [
        "signal",
        "decision",
        "order",
        "fill",
    ]


def test_the_bars_are_those_that_were_traded_on(morning: Morning) -> None:
    found = morning.trace(morning.entry["id"])
    (chain,) = found.chains
    assert {p.dataset for p in chain.partitions} == {"bars_1h", "bars_4h"}
    assert {p.state for p in chain.partitions} == {"same"}  # although the session has gone on since
    assert found.sound
    newest = next(p for p in chain.partitions if p.name == "bars_1h/2017-12-29/EURUSD")
    assert newest.checks >= 9
    assert newest.failed == ()


def test_from_a_partition_to_everything_computed_from_it(morning: Morning) -> None:
    found = morning.trace("bars_1h/2017-12-29/EURUSD")
    assert found.kind == "partition"
    signals = [s["id"] for s in morning.at.ledger.signals() if s["strategy"] == "often"]
    assert [c.signal["id"] for c in found.chains] == signals
    assert {i["id"] for c in found.chains for i in c.intents} == set(morning.orders)


def test_a_refused_decision_shows_its_gate(morning: Morning) -> None:
    (chain,) = morning.trace(morning.refused.id).chains
    assert chain.decision is not None
    assert (chain.intents, chain.orders, chain.fills) == ((), (), ())
    assert {p.state for p in chain.partitions} == {"differs"}
    text = "\n".join(morning.trace(morning.refused.id).lines())
    assert "REWARD_TO_RISK: ratio=0.5 minimum=1" in text
    assert "today: differs" in text


def test_a_denied_order_is_part_of_its_chain(morning: Morning) -> None:
    denied = next(o for o in morning.orders.values() if o["state"] == "denied")
    lines = "\n".join(morning.trace(denied["id"]).lines())
    assert "POSITION_OPEN" in lines
    assert "(not sent)" in lines


def test_the_text_names_every_link(morning: Morning) -> None:
    found = morning.trace(morning.entry["id"])
    for shown in ("\n".join(found.lines()), found.to_markdown()):
        for link in (
            morning.entry["id"], morning.entry["broker_order_id"], found.chains[0].signal["id"], "bars_1h/2017-12-29/EURUSD",
            "data_quality", "PAPER", "daily_report/2017-12-29 (open)", morning.fills[0]["id"], "closed",
            iso(found.chains[0].signal["close_time"]), found.chains[0].signal["features_version"],
        ):  # fmt: skip
            assert link in shown, link


def test_bars_that_changed_since_are_found(morning: Morning, monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed:
        def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Any:
            bars = morning.at.lake.read_bars(dataset, symbol, start, end)
            bars.close[-1] += 0.001
            return bars

    class Torn:
        def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Any:
            raise OSError("torn")

    changed = trace(morning.at.ledger.engine, Changed(), morning.entry["id"])
    assert "differs" in {p.state for p in changed.chains[0].partitions}
    assert not changed.sound
    torn = trace(morning.at.ledger.engine, Torn(), morning.entry["id"])
    assert {p.state for p in torn.chains[0].partitions} == {"missing"}
    assert "OSError" in torn.chains[0].partitions[0].failed


def test_a_chain_is_found_from_its_position_run_strategy_and_audit_records(morning: Morning) -> None:
    whole = morning.trace(morning.entry["id"])
    signal = whole.chains[0].signal
    for name, kind in (
        (f"{signal['strategy']}/{signal['symbol']}", "position"),
        (signal["run_id"], "run"),
        (signal["strategy"], "strategy"),
        (f"{signal['strategy']}@{signal['strategy_revision']}", "strategy"),
        (f"bars_1h/{signal['session']}/*", "partition"),
    ):
        found = morning.trace(name)
        assert found.kind == kind
        assert signal["id"] in {c.signal["id"] for c in found.chains}, name
        assert morning.entry["id"] in {o["order"] for o in found.orders()}
    with morning.at.ledger.engine.connect() as c:
        told = c.execute(
            text("SELECT seq FROM audit WHERE action IN ('order_event', 'fill') AND convert_from(content, 'UTF8') LIKE :id"),
            {"id": f"%{morning.entry['id']}%"},
        ).scalars()  # fmt: skip
        for seq in list(told):
            assert morning.trace(f"audit-{seq}").chains[0].signal["id"] == signal["id"]
    with pytest.raises(TraceError, match="no audit record 99999999"):
        morning.trace("audit-99999999")


@pytest.mark.parametrize("any_id", ["", "  ", "int-000000000000000000000000", "bars_1h/1990-01-01/EURUSD", "100%"])
def test_an_id_that_leads_nowhere_says_so(morning: Morning, any_id: str) -> None:
    with pytest.raises(TraceError, match=r"expected|no signal"):
        morning.trace(any_id)


def test_a_part_of_several_ids_names_them(morning: Morning) -> None:
    with pytest.raises(TraceError, match="fits several ids: sig-"):
        morning.trace("sig-")


def test_bars_replaced_since_can_still_be_read_as_they_were(morning: Morning) -> None:
    """Last in this file: it changes the lake."""
    (chain,) = morning.trace(morning.entry["id"]).chains
    for part in chain.partitions:
        day = date.fromisoformat(part.session)
        bars = morning.at.lake.read_bars(part.dataset, part.symbol, day, day)
        final = replace(bars, volume=bars.volume + 1)
        morning.at.lake.write_bars(part.dataset, {part.symbol: final}, start=day, end=day, source="vendor", instruments={})
    found = morning.trace(morning.entry["id"])
    assert {(p.state, p.then) for p in found.chains[0].partitions} == {("differs", "readable")}
    assert "then: readable  today: differs" in "\n".join(found.lines())
    for part in found.chains[0].partitions:
        then = morning.at.lake.read_version(part.dataset, part.symbol, date.fromisoformat(part.session), part.content_hash)
        assert then.content_hash() == part.content_hash
