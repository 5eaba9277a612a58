"""The daily report says what the ledger says, adds nothing up wrongly, and hides nothing."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resources.ledger import action_tables
from resources.ledger import tables as t
from resources.ledger.store import Ledger
from resources.report import chain_markdown, money, quantity, render_html, render_markdown, write_html
from resources.report_data import collect
from resources.report_health import latency_of
from resources.report_model import SessionReport
from tests.resources import report_session as rs
from trading.bars import Bars
from trading.orders import OrderType, Side
from trading.timeframes import Timeframe


@pytest.fixture
def made(ledger: Ledger) -> SessionReport:
    rs.fill_ledger(ledger)
    return collect(ledger, rs.SESSION, rs.sources())


class Page(HTMLParser):
    """Text, ids in tool tips and every address of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.titles, self.addresses, self.tags = "", [], [], []
        self._skip = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._skip = tag == "style"
        self.titles += [v for k, v in attrs if k == "title" and v]
        self.addresses += [v for k, v in attrs if k in ("src", "href") and v]

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data


def without_pictures(made: SessionReport, **changed: Any) -> SessionReport:
    """The same report without what is drawn: quicker to render."""
    return replace(made, **{"charts": (), "equity": (), "equity_times": (), "pnl": (), "stages": (), **changed})


# -- what it says ---------------------------------------------------------------------------------------------------------


def test_money_is_worked_out_from_fills_and_prices_and_explains_the_equity(made: SessionReport) -> None:
    eur, spx = made.pnl
    assert (eur.strategy, eur.symbol, eur.position) == ("ema_trend", "EURUSD", 0)
    # Bought 20,000 at 1.18905 the day before, sold at 1.19400: 99.00 over both days, less what was gained before.
    before = 20_000 * (float(rs.bars_of("EURUSD").close[47]) - 1.18905)
    assert eur.realized == pytest.approx(20_000 * (1.19400 - 1.18905) - 1.25)
    assert eur.unrealized_change == pytest.approx(-before)
    assert (spx.position, spx.average_price, spx.stop, spx.target) == (9, 2683.40, 2660.10, 2727.66)
    assert spx.unrealized == pytest.approx(9 * (2687.54 - 2683.40))
    assert made.equity_change == pytest.approx(made.net)
    assert made.unexplained == pytest.approx(0, abs=1e-6)


def test_a_trade_that_ended_in_the_session_is_told_from_entry_to_exit(made: SessionReport) -> None:
    (trade,) = made.trades
    assert (trade.symbol, trade.side, trade.quantity, trade.exit_reason) == ("EURUSD", "long", 20_000, "target")
    assert trade.pnl == pytest.approx(20_000 * (1.19400 - 1.18905) - 2.50)
    assert trade.r_multiple == pytest.approx(trade.pnl / (20_000 * (1.18905 - 1.1865)))


def test_every_refused_signal_says_why_in_the_words_of_gate_or_risk(made: SessionReport) -> None:
    why = {(s.strategy, s.symbol): (s.outcome, s.refusal) for s in made.signals}
    assert why["ema_trend", "EURUSD"] == (
        "refused by gate", "DATA_QUALITY: partition=bars_1h/2017-12-28/EURUSD check=ohlc_consistent reason=failed",
    )  # fmt: skip
    assert why["ema_trend", "COMP"] == ("refused by risk", "MAX_NOTIONAL: symbol=COMP limit=100000 would_be=277573.6")
    assert why["rsi_reversion", "SPX"] == ("sent", "")
    assert made.refusals == [("DATA_QUALITY", 1), ("MAX_NOTIONAL", 1), ("REWARD_TO_RISK", 1)]


def test_orders_of_the_session_include_denied_ones_and_earlier_ones_that_filled(made: SessionReport) -> None:
    states = {(o.symbol, o.leg): o.state for o in made.orders}
    assert states == {
        ("EURUSD", "target"): "filled", ("SPX", "entry"): "filled", ("COMP", "entry"): "denied",
        ("SPX", "stop"): "accepted", ("SPX", "target"): "accepted",
    }  # fmt: skip


def test_slippage_is_what_was_lost_against_the_price_decided_at(made: SessionReport) -> None:
    by_leg = {(f.symbol, f.leg): f.slippage for f in made.fills}
    assert by_leg["SPX", "entry"] == pytest.approx(9 * (2683.40 - 2682.62))
    assert by_leg["EURUSD", "target"] is None


def test_the_chain_of_every_order_leads_to_bars_with_their_hash(made: SessionReport) -> None:
    assert len(made.chain) == 4
    for link in made.chain:
        assert link.signal_id.startswith("sig-")
        assert link.decision_id.startswith("dec-")
        assert link.bars[0].endswith("@" + ("aa" if link.symbol == "EURUSD" else "bb") * 32)
    text = chain_markdown(made)
    assert all(f"tapeline trace {link.order_id}" in text for link in made.chain)


def test_latency_is_measured_between_stamps_and_unfinished_closes_are_named(made: SessionReport) -> None:
    total = made.stages[-1]
    assert (made.closes, total.stage, total.closes) == (24, "bar emitted → handed over", 23)
    assert total.median_ms <= total.p95_ms <= total.worst_ms
    assert any("1 of 24 bar closes had no finished trade run: 28 Dec 11:00 (skipped)" in a for a in made.attention)
    close = {"emitted_wall": 1_000, "stored_wall": 3_500, "sensed_wall": None, "run_started_wall": None, "signals_wall": None,
             "decisions_wall": None, "done_wall": None}  # fmt: skip
    assert [(s.stage, s.median_ms) for s in latency_of([close])] == [("bar emitted → stored", 2.5)]


def test_quality_names_failed_missing_and_stale_verdicts(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    changed = [replace(p, content_hash="ee" * 32) if p.symbol == "SPX" else p for p in rs.PARTITIONS]
    made = collect(ledger, rs.SESSION, rs.sources(partitions=changed))
    hourly, daily = made.quality
    assert (hourly.dataset, hourly.failed_errors, hourly.missing) == ("bars_1h", 1, ())
    assert (daily.failed_errors, daily.failed_warnings, daily.missing, daily.stale) == (0, 1, ("COMP",), ("SPX",))
    failure = made.quality_failures[0]
    assert (failure.partition, failure.check) == ("bars_1h/2017-12-28/EURUSD", "ohlc_consistent")
    assert "high=1.1929" in failure.example


# -- what needs a person ----------------------------------------------------------------------------------------------------


def test_equity_that_fills_do_not_explain_is_said(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    with ledger.engine.begin() as c:
        c.execute(t.sessions.update().where(t.sessions.c.session == "2017-12-28").values(end_equity=99_000.0))
    made = collect(ledger, rs.SESSION, rs.sources())
    assert any("is unexplained" in a for a in made.attention)


def test_an_unknown_order_and_a_position_without_a_stop_come_first(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    stop = next(o for o in ledger.orders("2017-12-28") if o["leg"] == "stop")
    with ledger.engine.begin() as c:
        c.execute(t.orders.update().where(t.orders.c.id == stop["id"]).values(state="unknown"))
    close = int(rs.bars_of("EURUSD").close_time[70])
    lost = rs.signal("ema_trend", "EURUSD", Timeframe.H1, close, rs.Action.ENTER_LONG, 1.194, 1.19, None)
    rs.Writer(ledger).decide(lost)
    made = collect(ledger, rs.SESSION, rs.sources())
    assert "is in an unknown state" in made.attention[0]
    assert made.attention[1] == "rsi_reversion holds 9 SPX without a working stop order."
    assert "has no order at the desk" in made.attention[2]


def test_an_approved_decision_that_never_reached_the_desk_is_said(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    close = int(rs.bars_of("EURUSD").close_time[70])
    lost = rs.signal("ema_trend", "EURUSD", Timeframe.H1, close, rs.Action.ENTER_LONG, 1.194, 1.19, None)
    rs.Writer(ledger).decide(lost)
    made = collect(ledger, rs.SESSION, rs.sources())
    assert [s.outcome for s in made.signals if s.id == lost.id] == ["pending"]
    assert any(
        a.startswith("1 approved decision has no order at the desk: ema_trend EURUSD 28 Dec 21:00") for a in made.attention
    )


def test_a_short_that_lost_reads_as_one(ledger: Ledger) -> None:
    w, hours = rs.Writer(ledger), rs.bars_of("EURUSD").close_time
    short = rs.signal("ema_trend", "EURUSD", Timeframe.H1, int(hours[50]), rs.Action.ENTER_SHORT, 1.19, 1.195, None)
    entry = w.order(w.decide(short).id, "entry", "ema_trend", "EURUSD", Side.SELL, 1000, OrderType.MARKET, int(hours[50]),
                    state="filled", filled_at=1.19)  # fmt: skip
    w.order(entry.id, "stop", "ema_trend", "EURUSD", Side.BUY, 1000, OrderType.STOP, int(hours[52]), trade=entry.id, price=1.195,
            state="filled", filled_at=1.196)  # fmt: skip
    (trade,) = collect(ledger, rs.SESSION, rs.sources()).trades
    assert (trade.side, trade.exit_reason) == ("short", "stop")
    assert trade.pnl == pytest.approx(-1000 * 0.006 - 2.5)
    assert trade.r_multiple == pytest.approx(trade.pnl / 5.0)


def test_an_instrument_without_bars_or_outside_the_universe_is_said_not_guessed(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    unpriced = collect(ledger, rs.SESSION, rs.sources(bars=lambda symbol: Bars.empty(symbol, Timeframe.D1)))
    assert any("SPX: no price up to the end of the session" in a for a in unpriced.attention)
    assert unpriced.charts == ()
    gone = {s: i for s, i in rs.INSTRUMENTS.items() if s != "SPX"}
    made = collect(ledger, rs.SESSION, rs.sources(instruments=gone))
    assert any("SPX has fills but is not in the universe" in a for a in made.attention)


def test_a_session_in_which_nothing_happened_is_a_report_too(ledger: Ledger) -> None:
    quiet = collect(ledger, rs.SESSION + timedelta(days=1), rs.sources(partitions=[]))
    assert quiet.headline == "no trade closed; flat at the end; 0 signals: 0 sent, 0 refused."
    assert quiet.attention == ()
    page = Page(render_html(quiet))
    assert "Nothing needs attention." in page.text
    assert "No strategy wanted anything" in page.text
    assert "not known" in page.text  # equity is not guessed
    assert "No signal in this session." in render_markdown(quiet)


def test_yesterdays_report_does_not_know_today(ledger: Ledger) -> None:
    rs.fill_ledger(ledger)
    before = collect(ledger, rs.BEFORE, rs.sources(partitions=[]))
    (eur,) = before.pnl
    assert (eur.symbol, eur.position) == ("EURUSD", 20_000)
    assert before.trades == ()
    assert before.net == pytest.approx(20_000 * (float(rs.bars_of("EURUSD").close[47]) - 1.18905) - 1.25)


# -- how it is written ------------------------------------------------------------------------------------------------------


def test_the_page_is_stamped_and_needs_nothing_from_elsewhere(made: SessionReport, tmp_path: Path) -> None:
    path = write_html(made, tmp_path / "reports")
    assert path == tmp_path / "reports" / "2017-12-28.html"
    assert [p.name for p in path.parent.iterdir()] == ["2017-12-28.html"]
    page = Page(path.read_text(encoding="utf-8"))
    assert "Thursday, 28 December 2017" in page.text
    assert "PAPER" in page.text
    assert "SIMULATED DATA" in page.text
    assert all(a.startswith("data:image/svg+xml;base64,") for a in page.addresses)
    assert len(page.addresses) == 5  # equity, P&L, two instruments, latency
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert {c.order_id for c in made.chain} <= set(page.titles)
    assert "SIMULATED DATA" not in Page(render_html(without_pictures(made, simulated=False))).text


def test_text_of_brokers_and_files_cannot_become_markup(made: SessionReport) -> None:
    evil = without_pictures(made, attention=("<script>alert(1)</script>",))
    assert "<script>" not in render_html(evil)


def test_the_same_session_is_the_same_page(made: SessionReport) -> None:
    once = without_pictures(made, pnl=made.pnl, equity=made.equity, equity_times=made.equity_times)
    assert render_html(once) == render_html(once)


def test_markdown_fits_the_ui_and_carries_the_stamp_and_the_picture(made: SessionReport) -> None:
    text = render_markdown(made)
    assert text.startswith("**PAPER** · **SIMULATED DATA**")
    assert len(text) < 60_000
    assert "![equity through the session](data:image/png;base64," in text
    assert "DATA_QUALITY × 1" in text
    lines = render_markdown(made, picture=False).splitlines()
    widths = [(a.count("|"), b.count("|")) for a, b in itertools.pairwise(lines) if a.startswith("|") and b.startswith("|")]
    assert len(widths) > 20
    assert all(a == b for a, b in widths)


def test_many_signals_are_cut_in_the_ui_and_whole_on_the_page(made: SessionReport) -> None:
    many = replace(made, signals=made.signals * 20)
    assert "… and 68 more in the HTML report." in render_markdown(many, picture=False)
    assert Page(render_html(without_pictures(many))).text.count("refused by gate") == 40


@pytest.mark.parametrize(
    ("value", "text"), [(1234.5, "+1,234.50"), (-0.001, "0.00"), (0.0, "0.00"), (-3.456, "-3.46"), (None, "not known")]
)
def test_money_has_a_sign_unless_it_is_nothing(value: float | None, text: str) -> None:
    assert money(value, True) == text


def test_quantities_have_no_empty_digits() -> None:
    assert [quantity(q) for q in (20_000, 0.5, -3.0, 0)] == ["20,000", "0.5", "-3", "0"]


def test_the_report_says_how_good_the_session_s_data_was(ledger: Ledger) -> None:
    from resources.ledger.scores import put_scores
    from resources.report_health import score_note
    from trading.scorecard import Counts, score

    assert score_note(ledger.engine, "2017-12-29") == ""
    cards = {
        ("2017-12-29", "EURUSD", "a"): score(Counts(24, 24)),
        ("2017-12-29", "SPX", "b"): score(Counts(24, 18, missing=6)),
    }
    put_scores(ledger.engine, "bars_1h", cards, run_id="r")
    assert score_note(ledger.engine, "2017-12-29") == (
        "Data: 12.500% of the bars of 2 partitions missing or wrong, most in bars_1h SPX (25.00%)."
    )


def test_a_trade_held_across_a_split_is_counted_in_one_kind_of_units(ledger: Ledger) -> None:
    """9 SPX bought at 2683.40 before a 7:2 split leave 31.5: 31 are held, half a unit is paid out at 770, 31 sold at 780."""
    rs.fill_ledger(ledger)
    w = rs.Writer(ledger, 5000)
    bought = next(f for f in ledger.fills() if f["symbol"] == "SPX")
    trade, at = bought["trade_id"], int(bought["fill_time"])
    w.put(
        action_tables.position_adjustments, action_id="act-1", strategy="rsi_reversion", symbol="SPX", trade_id=trade,
        broker="paper", session=rs.SESSION.isoformat(), factor=3.5, quantity_before=9.0, quantity_after=31.0,
        average_before=2683.40, average_after=2683.40 / 3.5, cash_in_lieu=385.0, adjusted_time=at + 1, recorded_wall=rs.WALL,
    )  # fmt: skip
    w.order(trade, "exit", "rsi_reversion", "SPX", Side.SELL, 31, OrderType.MARKET, at + 2, trade=trade, state="filled",
            filled_at=780.0, fill_time=at + 3)  # fmt: skip
    made = collect(ledger, rs.SESSION, rs.sources())
    (told,) = [row for row in made.trades if row.symbol == "SPX"]
    expected = 31 * 780 + 385 - 9 * 2683.40 - 2 * 1.25
    assert (told.quantity, told.entry_price) == (31, pytest.approx(2683.40 / 3.5))
    assert told.pnl == pytest.approx(expected)
    (row,) = [row for row in made.pnl if row.symbol == "SPX"]
    assert (row.position, row.realized) == (0, pytest.approx(expected))
