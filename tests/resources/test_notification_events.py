"""What is told, to whom, and in how many messages: events, routes, splitting, batching, masking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.notifications import routing
from resources.notifications.channels._base import retry_after, spent
from resources.notifications.channels.discord import DiscordTransport
from resources.notifications.compose import Item, compose, split, utf16
from resources.notifications.events import KINDS, Context, Event, Record, Severity, event_of
from resources.notifications.scrub import Scrubber
from resources.settings import ROOT

FILE = """\
channels:
  ops:
    kind: discord
    url_secret: ops
  phone:
    kind: telegram
    token_secret: bot
    chat_id: "-100"
routes:
  - events: ["order.*", position.closed]
    channels: [ops]
  - events: ["*"]
    at_least: critical
    channels: [ops, phone]
"""


def event(kind: str = "order.filled", severity: Severity = Severity.INFO, **about: str) -> Event:
    return Event(kind, severity, "t", "b", 1, 1, **about)


def item(number: int, title: str, body: str = "", parts_sent: int = 0) -> Item:
    return Item(number, f"audit-{number}", "halt", "info", title, body, 1_700_000_000_000_000, parts_sent)


SAMPLES = {
    "signal": {"row": {"action": "enter_long", "symbol": "SPX", "strategy": "a", "content": {"mode": "paper"}, "close_time": 1}},
    "halt": {"level": "HALTED", "scope": "desk", "reason": "x"},
    "position": {"op": "insert", "row": {"quantity": 1.0, "symbol": "SPX", "strategy": "a"}},
    "fill": {"row": {"side": "buy", "quantity": 1.0, "symbol": "SPX", "price": 1.0, "strategy": "a"}},
    "mode_set": {"strategy": "a", "before": "shadow", "mode": "alert"},
    "reduce_wanted": {"strategy": "a", "symbol": "SPX", "quantity": 1.0},
    "kill_broker_only": {"run": "kill-1"},
}


def test_everything_that_is_told_says_in_which_mode() -> None:
    told = [event_of(Record(1, 1, "tapeline:ann", action, content), Context("paper")) for action, content in SAMPLES.items()]
    assert [e.title.split()[0] for e in told if e is not None] == ["PAPER"] * len(SAMPLES)


class TestRoutes:
    def test_what_a_shadow_strategy_would_do_is_told_only_where_the_route_names_the_mode(self) -> None:
        everything = FILE + '  - {events: ["*"], channels: [phone]}\n'
        settings = routing.parse(everything, "f").settings
        named = routing.parse(
            everything.replace('["*"], channels: [phone]', '["*"], channels: [phone], modes: [shadow]'), "f"
        ).settings
        assert settings is not None
        assert named is not None
        for kind in ("signal", "order.shadow"):
            assert settings.channels_for(event(kind, mode="shadow")) == []
            assert named.channels_for(event(kind, mode="shadow")) == ["phone"]
        assert settings.channels_for(event("alert.entry", mode="alert")) == ["phone"]
        assert settings.channels_for(event("halt", Severity.CRITICAL, mode="shadow")) == ["ops", "phone"]

    def test_an_event_goes_once_to_every_channel_that_a_route_names(self) -> None:
        settings = routing.parse(FILE, "f").settings
        assert settings is not None
        assert settings.channels_for(event()) == ["ops"]
        assert settings.channels_for(event("order.unknown", Severity.CRITICAL)) == ["ops", "phone"]
        assert settings.channels_for(event("signal")) == []
        assert settings.channels_for(event("failure.notification", Severity.CRITICAL), about="ops") == ["phone"]

    def test_a_route_can_ask_for_strategies_symbols_and_modes(self) -> None:
        more = '  - {events: ["*"], channels: [phone], strategies: [trend], symbols: [SPX], modes: [live]}\n'
        settings = routing.parse(FILE + more, "f").settings
        assert settings is not None
        assert settings.channels_for(event("signal", strategy="trend", symbol="SPX", mode="live")) == ["phone"]
        for other in ({"strategy": "x"}, {"symbol": "x"}, {"mode": "paper"}):
            assert settings.channels_for(event("signal", **{"strategy": "trend", "symbol": "SPX", "mode": "live", **other})) == []

    @pytest.mark.parametrize(
        ("old", "new", "line", "says"),
        [
            ("channels: [ops]", "channels: [opps]", 11, "did you mean 'ops'"),
            ("position.closed", "position.close", 10, "no event 'position.close'"),
            ("kind: discord", "kind: disco", 3, "one of discord"),
            ("url_secret: ops", "url: https://x", 4, "unknown key"),
            ('chat_id: "-100"', "chat_id: -100", 8, "text"),
            ("at_least: critical", "at_least: loud", 13, "unknown value 'loud'"),
            ("chat_id", "api_url: http://example.com\n    chat_id", 5, "https"),
        ],
    )
    def test_a_mistake_is_named_with_its_line(self, old: str, new: str, line: int, says: str) -> None:
        loaded = routing.parse(FILE.replace(old, new), "notifications.yaml")
        assert loaded.settings is None
        assert any(p.line == line and says in str(p) for p in loaded.problems), [str(p) for p in loaded.problems]

    def test_a_channel_no_route_names_is_a_warning(self) -> None:
        loaded = routing.parse(FILE.replace("[ops, phone]", "[ops]"), "f")
        assert loaded.settings is not None
        assert [p.severity for p in loaded.problems] == ["warning"]

    def test_the_example_in_the_delivered_file_is_valid(self) -> None:
        text = (ROOT / "data" / "config" / routing.FILE_NAME).read_text()
        assert routing.parse(text, "f").problems == ()
        lines = text.split("# channels:")[1].split("\nchannels:")[0].splitlines()
        example = "channels:" + "\n".join(line.removeprefix("# ").removeprefix("#") for line in lines)
        loaded = routing.parse(example, "f")
        assert loaded.problems == ()
        assert loaded.settings is not None
        assert len(loaded.settings.channels) == 5
        assert len(loaded.settings.routes) == 3

    def test_a_password_does_not_travel_in_the_clear(self) -> None:
        mail = "{kind: email, host: mail.example.com, security: none, user: u, password_secret: p, from: a@b.c, to: [a@b.c]}"
        assert "unencrypted" in str(routing.parse(f"channels: {{m: {mail}}}", "f").problems[0])


class TestEvents:
    def test_every_kind_an_event_has_is_one_that_routes_can_name(self) -> None:
        rows = {
            "signal": {"action": "enter_long", "content": {}, "close_time": 0},
            "decision": {"approved": False, "refusal": "WARM_UP: bars=3"},
            "fill": {"side": "buy", "quantity": 1.0, "price": 2.0},
            "position": {"quantity": 0.0},
            "session": {"state": "ended", "session": "2026-03-02"},
            "quality": {"passed": False},
        }
        for action, row in rows.items():
            told = event_of(Record(1, 1, "desk", action, {"row": row}), Context("paper", {}, lambda s: f"sum of {s}"))
            assert told is not None
            assert told.kind in KINDS
            assert told.title.startswith("PAPER ")
        for action in ("halt", "resume", "run_failed", "check_failed", "exit_wanted", "flatten", "desk_silent", "plan_armed"):
            told = event_of(Record(1, 1, "ana", action, {}), Context("paper"))
            assert told is not None
            assert told.kind in KINDS

    def test_of_an_entry_in_slices_start_and_end_are_told_and_no_slice(self) -> None:
        order = {"side": "buy", "quantity": 5.0, "symbol": "SPX", "strategy": "trend", "leg": "entry.2", "algo": "alg-1"}
        about = Context("paper", {"int-1": order})
        row = {"order_id": "int-1", "state_before": "a", "state_after": "b", "trade_id": "int-1", "quantity": 5.0}
        row["opened_time"] = 1
        for action, more in (("order_event", {"event": "accept"}), ("fill", {"side": "buy"}), ("position", {})):
            assert event_of(Record(1, 1, "desk", action, {"op": "update", "row": {**row, **more}}), about) is None
        told = event_of(Record(1, 1, "desk", "order_event", {"row": {**row, "event": "lost"}}), about)
        assert told is not None
        for action in ("algo_started", "algo_ended"):
            told = event_of(Record(1, 1, "desk", action, {"algo": "twap", "symbol": "SPX"}), about)
            assert told is not None
            assert told.kind == "execution"
        assert event_of(Record(1, 1, "desk", "slice_sending", {}), about) is None

    @pytest.mark.parametrize(
        ("event", "kind"),
        [("deny", "order.denied"), ("lost", "order.unknown"), ("reject", "order.rejected"), ("canceled", "order.canceled")],
    )
    def test_an_order_event_says_what_the_order_is(self, event: str, kind: str) -> None:
        order = {"side": "buy", "quantity": 5.0, "symbol": "SPX", "order_type": "limit", "limit_price": 7.5, "strategy": "trend",
                 "mode": "live", "leg": "entry"}  # fmt: skip
        row = {"order_id": "int-1", "event": event, "state_before": "a", "state_after": "b", "text": "MAX: a=1"}
        told = event_of(Record(9, 1, "desk", "order_event", {"row": row}), Context("paper", {"int-1": order}))
        assert told is not None
        assert (told.kind, told.strategy, told.symbol, told.mode, told.dedupe_id) == (kind, "trend", "SPX", "live", "audit-9")
        assert "BUY 5 SPX limit 7.5 (trend)" in told.title
        assert told.title.startswith("LIVE ")
        assert "MAX: a=1" in told.body

    def test_an_alert_says_all_a_person_needs_to_trade_it_by_hand(self) -> None:
        row = {"order_id": "int-1", "event": "deny", "text": "MODE: mode=alert"}
        order = {"mode": "alert", "side": "buy", "quantity": 5.0, "symbol": "SPX", "order_type": "market", "strategy": "trend",
                 "reference_price": 100.25, "meta": {"stop_price": 99.5, "target_price": None}}  # fmt: skip
        told = event_of(Record(9, 1, "desk", "order_event", {"row": row}), Context("paper", {"int-1": order}))
        assert told is not None
        assert (told.kind, told.title) == ("alert.entry", "ALERT it would enter now: BUY 5 SPX market (trend)")
        assert told.body == "nothing was sent: the strategy is in mode alert\nreference 100.25, stop 99.5\norder int-1"

    def test_an_act_nobody_foresaw_is_told_too(self) -> None:
        told = event_of(Record(9, 1, "desk", "reactor_breach", {"a": 1}), Context("paper"))
        assert told is not None
        assert (told.kind, told.severity) == ("audit.reactor_breach", Severity.WARNING)
        by_person = event_of(Record(9, 1, "tapeline:ana", "reactor_off", {}), Context("paper"))
        assert by_person is not None
        assert by_person.kind == "command"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=600)


class TestMessages:
    @given(TEXT, st.integers(20, 200))
    def test_pieces_fit_and_lose_nothing_but_the_cuts(self, text: str, limit: int) -> None:
        pieces = split(text, limit)
        assert all(utf16(p) <= limit for p in pieces)
        assert "".join(pieces).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")

    @given(st.lists(TEXT, min_size=1, max_size=8), st.integers(120, 400))
    def test_every_event_is_sent_once_and_in_order(self, titles: list[str], limit: int) -> None:
        waiting = [item(n, f"{n}|{title}") for n, title in enumerate(titles)]
        told: list[int] = []
        transport = DiscordTransport("x", routing.Discord(kind="discord", url_secret="x"), lambda _: "")
        for _ in range(2000):
            if not waiting:
                break
            message = compose(waiting, limit, transport.size)
            assert transport.size(message.text) <= limit
            if message.completes:
                told += [i.id for i in message.items]
                waiting = waiting[len(message.items) :]
            else:
                first = waiting[0]
                waiting[0] = item(first.id, first.title, first.body, message.part)
        assert told == list(range(len(titles)))

    def test_a_long_text_comes_in_numbered_parts_of_at_most_2000_characters(self) -> None:
        long = item(1, "title", "\n".join(f"line {n} of a long body" for n in range(300)))
        message = compose([long, item(2, "next")], 2000)
        assert message.parts > 3
        assert message.text.startswith(f"(1/{message.parts}) title")
        assert message.items == (long,)
        assert message.dedupe_id == f"audit-1-1of{message.parts}"

    def test_short_ones_that_wait_together_go_together(self) -> None:
        message = compose([item(n, f"fill {n}") for n in range(80)], 2000)
        assert len(message.items) > 30
        assert message.text.count("audit-") == len(message.items)


class TestWaits:
    def test_the_longer_of_header_and_body_counts(self) -> None:
        assert retry_after({"retry-after": "3"}, {"retry_after": 7.5}) == 7.5
        assert retry_after({"retry-after": "30"}, {"retry_after": 7.5}) == 30
        assert retry_after({}, {"parameters": {"retry_after": 11}}) == 11
        assert retry_after({}, "rate_limited") > 0
        assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, "") == 0
        assert retry_after({"retry-after": "nan"}, {"retry_after": "soon"}) > 0

    def test_a_bucket_that_is_empty_is_waited_for(self) -> None:
        assert spent({"x-ratelimit-remaining": "0", "x-ratelimit-reset-after": "1.5"}) == 1.5
        assert spent({"x-ratelimit-remaining": "2", "x-ratelimit-reset-after": "1.5"}) == 0


class TestSecrets:
    def test_no_secret_leaves_in_a_text(self, tmp_path: Path) -> None:
        folder = tmp_path / "secrets"
        folder.mkdir()
        (folder / "hook").write_text("https://chat.example.com/api/webhooks/77/very-long-secret-path-of-hook\n")
        (folder / "desk_token").write_text("tok-abcdefgh-1234\n")
        scrub = Scrubber(folder)
        text = scrub(
            "at https://chat.example.com/api/webhooks/77/very-long-secret-path-of-hook with tok-abcdefgh-1234, "
            "very-long-secret-path-of-hook, postgresql://u:pass@h/db, Bearer abcdefghijkl, password=hunter2"
        )
        for secret in ("very-long-secret", "tok-abcdefgh", ":pass@", "abcdefghijkl", "hunter2"):
            assert secret not in text
        (folder / "new").write_text("another-secret-value\n")
        assert "another-secret" not in scrub("another-secret-value")

    def test_facts_of_a_record_are_json_a_person_reads(self) -> None:
        told = event_of(Record(1, 1, "x", "odd", json.loads('{"a": {"b": [1, 2]}, "c": null, "d": 1.5}')), Context("paper"))
        assert told is not None
        assert told.body == "a: {'b': [1, 2]}\nd: 1.5\nwho: x"
