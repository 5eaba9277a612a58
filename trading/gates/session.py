"""The venue can fill an order, and no event of the news calendar is near."""

from __future__ import annotations

from trading.gates.base import GATES, Missing, Snapshot, look, passed, present, refused
from trading.refusals import RefusalCode, refuse
from trading.signals import GateVerdict
from trading.timeframes import US_PER_MINUTE, iso


@GATES.register("session", 40)
class Session:
    """Refuses when the snapshot says that the venue is closed to the order; with ``gates.news`` also inside the window of an
    event, at the bar's close or at the moment of the decision, and when the calendar is missing or knows neither."""

    code = RefusalCode.SESSION_CLOSED

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        if not look(snapshot, "session_open", bool):
            return refused("session", "closed", "open", self.code, symbol=look(snapshot, "signal.symbol", str))
        if not present(snapshot, "gates.news"):
            return passed("session", "open", "open")
        try:
            return _news(snapshot)
        except Missing as error:
            refusal = refuse(RefusalCode.NEWS_WINDOW, reason="missing", field=error.path)
            return GateVerdict("session", False, "", "open, no news", str(refusal))


def _news(snapshot: Snapshot) -> GateVerdict:
    symbol = look(snapshot, "signal.symbol", str)
    moments = sorted({look(snapshot, "signal.close_time", int), look(snapshot, "now_time", int)})
    first, until = (look(snapshot, f"measured.news.{name}", int) for name in ("known_from", "known_until"))
    for moment in moments:
        if not first <= moment < until:
            return refused(
                "session", iso(moment), f"known {iso(first)} to {iso(until)}", RefusalCode.NEWS_WINDOW,
                symbol=symbol, reason="calendar_ends" if moment >= until else "calendar_begins", now=iso(moment),
            )  # fmt: skip
    for event in look(snapshot, "measured.news.events", list):
        time = look(event, "time", int)
        begins = time - look(event, "minutes_before", int) * US_PER_MINUTE
        ends = time + look(event, "minutes_after", int) * US_PER_MINUTE
        if any(begins <= moment <= ends for moment in moments):
            name = look(event, "event", str)
            return refused(
                "session", name, f"outside {iso(begins)} to {iso(ends)}", RefusalCode.NEWS_WINDOW,
                symbol=symbol, event=name, time=iso(time),
            )  # fmt: skip
    return passed("session", "open, no news", "open, no news")
