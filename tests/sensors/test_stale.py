"""One run recomputes what is stale, is not asked for twice, and comes again for what is new or could not be made."""

from __future__ import annotations

from resources.ledger import changes
from resources.ledger.changes import StaleMark
from resources.ledger.store import Ledger
from sensors.stale import RETRY_SECONDS, wanted

NOW = 1_700_000_000_000_000


def mark(ledger: Ledger, session: str = "2017-12-28", dataset: str = "bars_4h") -> None:
    with ledger.transaction() as c:
        changes.mark_stale(c, [StaleMark(dataset, session, "EURUSD", "h", "bars_1h/2017-12-28/EURUSD changed: late")])


def ask(ledger: Ledger, cursor: dict[str, str] | None, now: int = NOW) -> tuple[bool, dict[str, str]]:
    import json

    key, after = wanted(ledger, json.dumps(cursor) if cursor is not None else None, now)
    return key is not None, after


def test_nothing_stale_asks_for_nothing(ledger: Ledger) -> None:
    assert ask(ledger, None)[0] is False


def test_a_mark_asks_for_one_run_and_the_same_mark_for_no_other(ledger: Ledger) -> None:
    mark(ledger)
    run, cursor = ask(ledger, None)
    assert run
    assert ask(ledger, cursor)[0] is False
    mark(ledger, "2017-12-27")
    run, cursor = ask(ledger, cursor)
    assert run, "another partition is another run"
    mark(ledger, "2017-12-27")
    assert ask(ledger, cursor)[0], "and so is another reason for the same one"


def test_what_stays_stale_is_tried_again_after_a_while(ledger: Ledger) -> None:
    mark(ledger)
    _, cursor = ask(ledger, None)
    assert ask(ledger, cursor, NOW + RETRY_SECONDS * 1_000_000)[0]


def test_sessions_open_at_the_desk_are_the_desks(ledger: Ledger) -> None:
    ledger.open_session("2017-12-28", opened_time=1, start_equity=1.0)
    mark(ledger)
    run, cursor = ask(ledger, None)
    assert not run
    ledger.end_session("2017-12-28", ended_time=2, end_equity=1.0)
    assert ask(ledger, cursor)[0]


def test_a_write_that_was_announced_and_never_noted_asks_for_a_run(ledger: Ledger) -> None:
    with ledger.transaction() as c:
        changes.announce(c, {("bars_1h", "2017-12-28", "EURUSD"): "old"}, reason="final bars", run_id="died")
    assert ask(ledger, None, 0)[0] is False, "its writer may still be at it"
    assert ask(ledger, None, 2**60)[0]


def test_the_cursor_tells_when_what_the_ui_shows_has_changed(ledger: Ledger) -> None:
    _, before = ask(ledger, None)
    mark(ledger)
    _, stale = ask(ledger, before)
    assert stale["told"] != before["told"]
    with ledger.transaction() as c:
        changes.clear_stale(c, [("bars_4h", "2017-12-28", "EURUSD")], before=changes.database_now(ledger.engine) + 1)
    assert ask(ledger, stale)[1]["told"] == before["told"]
