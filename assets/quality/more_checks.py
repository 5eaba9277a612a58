"""Check results beside the rules': the scorecard, the quarantine, agreement with a second source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common import image, markdown_table
from assets.quality import score
from assets.quality.cross import COMPARED_SESSIONS, CROSS_SOURCE, Compared
from assets.quality.history import Judged
from resources.ledger.put_aside import QUARANTINE, failing, unresolved
from trading.quality import ERROR
from trading.timeframes import Timeframe
from trading.universe import Universe

if TYPE_CHECKING:
    from resources.ledger.store import Ledger

SCORECARD = "scorecard"
SHOWN = 25


def scorecard(judged: Judged, universe: Universe, cards: score.Cards) -> dg.AssetCheckResult:
    """Does every partition stay below the aim? A warning when one does not: the rules' verdicts stop trading, not the score."""
    timeframe = Timeframe(judged.dataset.removeprefix("bars_"))
    aims = {s: score.aim_of(universe, universe.instruments[s], timeframe) for s in {symbol for symbol, _ in cards}}
    beyond = sorted(
        ((session, symbol, card) for (symbol, session), card in cards.items() if card.fault_share > aims[symbol]),
        key=lambda item: item[:2],
        reverse=True,
    )
    means = score.mean(list(cards.values()))
    metadata: dict[str, Any] = {
        "sessions": f"{judged.start} to {judged.end}",
        "partitions": len(cards),
        "beyond_the_aim": len(beyond),
        **{name: round(value, 6) for name, value in means.items()},
    }
    if cards:
        aim = min(aims.values())
        metadata["aim"] = aim
        metadata["by_symbol"] = dg.MetadataValue.md(markdown_table(*score.table(cards)))
        metadata["trend"] = image(score.trend(cards, judged.dataset, aim), f"scores of {judged.dataset} per session")
    if beyond:
        rows = [[d, s, f"{c.fault_share:.2%}", c.counts.missing, c.counts.invalid, c.counts.odd, c.counts.put_aside]
                for d, s, c in beyond]  # fmt: skip
        header = ["session", "symbol", "missing or wrong", "missing", "invalid", "odd", "in quarantine"]
        metadata["partitions_beyond"] = dg.MetadataValue.md(markdown_table(header, rows, SHOWN))
    said = f"{means['fault_share']:.4%} of the bars are missing or wrong" if means else "nothing to score"
    if beyond:
        day, symbol, card = beyond[0]
        said += f"; {len(beyond)} of {len(cards)} partitions beyond the aim, newest {day} {symbol}: {card.fault_share:.2%}"
    return dg.AssetCheckResult(
        passed=not beyond and not judged.unreadable, asset_key=judged.dataset, check_name=SCORECARD,
        severity=dg.AssetCheckSeverity.WARN, description=f"{said}.", metadata=metadata,
    )  # fmt: skip


def quarantine(judged: Judged, ledger: Ledger) -> dg.AssetCheckResult:
    """Do rows of the judged sessions wait for an operator?"""
    keys = [(judged.dataset, p.session.isoformat(), p.symbol) for p in judged.partitions]
    found = failing(ledger.engine, keys)
    # A session of which nothing but quarantined rows came has no partition to fail.
    symbols = {p.symbol for p in judged.partitions} | judged.ended
    covered = {(symbol, what) for (_, _, symbol), said in found.items() for what in said}  # a week's rows are of its days
    lo, hi = judged.start.isoformat(), judged.end.isoformat()
    rows = [[day, symbol, what] for (_, day, symbol), said in sorted(found.items()) for what in said]
    for symbol, waiting in unresolved(ledger.engine, symbols).items():
        rows += [[day, symbol, what] for day, _, what in waiting if lo <= day <= hi and (symbol, what) not in covered]
    return dg.AssetCheckResult(
        passed=not rows,
        asset_key=judged.dataset,
        check_name=QUARANTINE,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{len(rows)} rows wait in quarantine, {len(found)} partitions refuse trading until an operator accepts, "
        f"repairs or discards them: {rows[0][0]} {rows[0][1]} {rows[0][2]}."
        if rows
        else "No row waits in quarantine.",
        metadata={
            "rows": len(rows),
            "partitions": len(found),
            "waiting": dg.MetadataValue.md(markdown_table(["session", "symbol", "row"], rows, SHOWN)),
            "command": "tapeline quality quarantine list",
        },
    )


def cross_source(judged: Judged, compared: Compared) -> dg.AssetCheckResult:
    """Do the newest sessions agree with the second source?"""
    failed = list(judged.failures(CROSS_SOURCE))
    severe = any(result.severity == ERROR for _, result in failed)
    header = ["session", "symbol", "second source", "bars of both", "disagree", "only here", "only there", "widest, ticks"]
    said = f"{sum(compared.sessions.values())} sessions of {len(compared.sessions)} symbols compared"
    metadata: dict[str, Any] = {
        "compared": dg.MetadataValue.md(markdown_table(header, compared.rows, SHOWN)),
        "newest_sessions": COMPARED_SESSIONS,
        "failed_partitions": len(failed),
    }
    if failed:
        rows = [[p.session, p.symbol, r.severity, r.message] for p, r in failed]
        metadata["failures"] = dg.MetadataValue.md(markdown_table(["session", "symbol", "severity", "what"], rows, SHOWN))
        said += f"; {failed[0][0].session} {failed[0][0].symbol}: {failed[0][1].message}"
    if compared.failed:
        metadata["no_answer"] = dg.MetadataValue.md(markdown_table(["symbol", "why"], sorted(compared.failed.items())))
        said += f"; no answer for {', '.join(sorted(compared.failed))}"
    return dg.AssetCheckResult(
        passed=not failed and not compared.failed, asset_key=judged.dataset, check_name=CROSS_SOURCE,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN, description=f"{said}.", metadata=metadata,
    )  # fmt: skip
