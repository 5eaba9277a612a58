"""`desk_health`: a desk, broker or queue in trouble is a failed check within seconds, and a passed one when it is back.

No run is started. Answers are reported when one of them changes, and all of them every quarter of an hour. A trouble whose
text alone changes is no news. An observation beside them shows the desk on its asset's page: mode, halts, positions, orders; a
change of mode, of a halt or of the orders in doubt makes one at once. A ledger that does not answer fails the tick: the daemon
shows it, and the notifier, which watches by itself, tells it.
"""

import time
from collections.abc import Sequence

import dagster as dg

from assets.books import books_of
from assets.common import configured_universe
from assets.desk_health import DESK, PAPER_DESK, Face, asset_of, face, judge, look
from resources.dagster_resources import LedgerResource
from resources.settings import settings

REPEAT_SECONDS = 900.0
BETWEEN = "\n"
"""Between the cursors of two books."""


def evaluate(
    answers: Sequence[dg.AssetCheckResult], shown: Face | None, cursor: str | None, now_wall: int, asset: dg.AssetKey = DESK
) -> tuple[list[dg.AssetCheckEvaluation | dg.AssetObservation], str]:
    """Events to report and the new cursor. shown: the desk as it is now, None before its first start. now_wall: UTC us."""
    told, _, rest = (cursor or "").rpartition("@")
    at, _, news = rest.partition("#")
    now = "|".join(f"{a.check_name}={a.passed}" for a in answers)
    before = dict(part.split("=") for part in told.split("|") if part)
    again = (now_wall - int(at or 0)) / 1e6 >= REPEAT_SECONDS
    changed = [a for a in answers if again or before.get(str(a.check_name)) != str(a.passed)]
    made: list[dg.AssetCheckEvaluation | dg.AssetObservation] = [
        dg.AssetCheckEvaluation(
            check_name=str(a.check_name), passed=a.passed, asset_key=asset, metadata=a.metadata, severity=a.severity,
            description=a.description,
        )
        for a in changed
    ]  # fmt: skip
    if shown is not None and (made or shown.news != news):
        made.append(dg.AssetObservation(asset, description=shown.state, metadata=shown.metadata()))
    return made, f"{now}@{now_wall if again else at or now_wall}#{shown.news if shown else ''}"


@dg.sensor(
    name="desk_health",
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    asset_selection=dg.AssetSelection.assets(DESK, *([PAPER_DESK] if settings().two_books else [])),
    description="Heartbeat, broker connection, queues, age of the last bar: a change is told within seconds, without a run.",
)
def desk_health(context: dg.SensorEvaluationContext, ledger: LedgerResource) -> dg.SensorResult | dg.SkipReason:
    now_wall = time.time_ns() // 1000
    before = (context.cursor or "").split(BETWEEN)
    found: list[dg.AssetCheckEvaluation | dg.AssetObservation] = []
    cursors: list[str] = []
    for number, book in enumerate(books_of(ledger.ledger())):
        seen = look(book.ledger, now_wall)
        answers = judge(seen, book.settings, configured_universe())
        known = before[number] if number < len(before) else None
        news, cursor = evaluate(answers, face(book.ledger, seen), known, now_wall, asset_of(book.settings))
        found += news
        cursors.append(cursor)
    if not found:
        return dg.SkipReason("No news of the desk.")
    return dg.SensorResult(asset_events=found, cursor=BETWEEN.join(cursors))


SENSORS: list[dg.SensorDefinition] = [desk_health]
