"""Which version of its model serves a strategy at a bar close, and when another one takes over.

What serves is written in the ledger (``desk_state``, key ``model_serving:STRATEGY``) as a history: from after which bar close
on which version. Every change is a record of the audit in the same transaction. The trade run and the desk ask the history
for the close they work on, so that both change at the same bar edge, a repeated close is answered by the version of then, and
a replay by each version in its time. Models themselves come from this disk (resources.model_store): MLflow is not asked here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, func, select

from resources.ledger import audit
from resources.ledger import tables as t
from resources.ledger.base import now_us
from resources.model_store import Aliases, ModelRefused, ModelStore, registered_name
from trading.calendars import calendar
from trading.evaluable import Evaluable
from trading.instruments import Mode
from trading.models import ModelStrategy, as_challenger, bound, champion_of, model_strategies, unbound
from trading.orders import TERMINAL
from trading.refusals import RefusalCode, refuse
from trading.signals import Signal
from trading.timeframes import iso, session_number

if TYPE_CHECKING:
    from resources.config import Config
    from resources.ledger.store import Ledger
    from resources.settings import Settings
    from trading.universe import Universe

log = logging.getLogger(__name__)
KEY: Final = "model_serving:"
_KEPT: Final = 200
"""Changes remembered for each strategy; the audit has them all."""


@dataclass(frozen=True, slots=True)
class Serves:
    """One entry of a strategy's history: `version` serves closes later than `since_time` (UTC us). why: adopted, promoted,
    rolled back."""

    registered: str
    version: str
    files_hash: str
    since_time: int
    why: str
    wall: int


def registered_of(strategy: ModelStrategy, universe: str) -> str:
    """Name in the registry of the model a strategy asks for."""
    return registered_name(strategy.rule.name, strategy.rule.trained_on or universe)


# -- the history ---------------------------------------------------------------------------------------------------------


def history(connection: Connection, strategy: str) -> list[Serves]:
    """What served `strategy`, oldest first."""
    found = connection.execute(select(t.shared_state.c.value).where(t.shared_state.c.key == KEY + strategy)).scalar()
    return [Serves(**entry) for entry in (found or {}).get("history", ())]


def in_force(entries: Iterable[Serves], registered: str, close_time: int) -> Serves | None:
    """What serves the bar that closes at `close_time`: the newest entry from before it."""
    found = [e for e in entries if e.since_time < close_time and e.registered == registered]
    return max(found, key=lambda e: (e.since_time, e.wall)) if found else None


def _take_over(ledger: Ledger, strategy: ModelStrategy, entry: Serves, before: Serves | None) -> bool:
    """Add an entry and its audit record; False when somebody else has just done so."""
    with ledger.transaction() as c:
        # The lock makes two runs of one close agree on one entry.
        c.execute(select(func.pg_advisory_xact_lock(func.hashtext(KEY + strategy.name))))
        entries = history(c, strategy.name)
        now = in_force(entries, entry.registered, entry.since_time + 1)
        if now is not None and now.version == entry.version and now.files_hash == entry.files_hash:
            return False
        told = {"history": [*map(_plain, entries), _plain(entry)][-_KEPT:]}
        ledger.put_state(KEY + strategy.name, told, shared=True, connection=c)
        content = {
            "strategy": strategy.name, "model": entry.registered, "version": entry.version, "files_hash": entry.files_hash,
            "before": before.version if before is not None else "", "why": entry.why, "after_close": iso(entry.since_time),
            "policy": strategy.rule.swap,
        }  # fmt: skip
        audit.append(c, "trade", "model_swap", content)
    log.info("%s is served by %s version %s after %s", strategy.name, entry.registered, entry.version, iso(entry.since_time))
    return True


def _plain(entry: Serves) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in Serves.__slots__}


# -- serving -------------------------------------------------------------------------------------------------------------


def at_close(config: Config, close_time: int, ledger: Ledger, settings: Settings) -> Config:
    """`config` with every model strategy bound to the version that serves it at that close, and its challenger beside it.

    What cannot be served is there without a model and says why. A strategy that never had a model takes the champion now.
    """
    models = model_strategies(config.strategies)
    if not models:
        return config
    store = ModelStore.of(settings)
    strategies = dict(config.strategies)
    for name, strategy in models.items():
        registered = registered_of(strategy, config.universe.name)
        entry, aliases, why = _serving(ledger, store, strategy, registered, close_time)
        strategies[name] = _bound(strategy, store, registered, entry.version) if entry is not None else unbound(strategy, why)
        challenger = _challenger(strategy, store, registered, aliases, entry)
        if challenger is not None and challenger.name not in strategies:
            strategies[challenger.name] = challenger
    return replace(config, strategies=strategies)


def evaluables_at_close(
    evaluables: Mapping[str, Evaluable], close_time: int, ledger: Ledger, settings: Settings, universe: str
) -> dict[str, Evaluable]:
    """The desk's view of the same: `evaluables` with model strategies as they serve at that close. Nothing is adopted."""
    found = dict(evaluables)
    store = ModelStore.of(settings)
    for name, strategy in model_strategies(evaluables).items():
        registered = registered_of(strategy, universe)
        with ledger.engine.connect() as c:
            entry = in_force(history(c, name), registered, close_time)
        found[name] = (
            _bound(strategy, store, registered, entry.version) if entry is not None else unbound(strategy, _missing(strategy))
        )
    return found


def offline(strategies: Mapping[str, Any], universe: str, settings: Settings) -> dict[str, Any]:
    """Model strategies bound to the champion on this disk: for research, and whoever has no bar close at hand."""
    found = dict(strategies)
    store = ModelStore.of(settings)
    for name, strategy in model_strategies(strategies).items():
        registered = registered_of(strategy, universe)
        aliases, why = _aliases(store, registered)
        version = aliases.champion if aliases is not None else ""
        found[name] = _bound(strategy, store, registered, version) if version else unbound(strategy, why or _missing(strategy))
    return found


def as_signalled(signal: Signal, config: Config, settings: Settings) -> ModelStrategy | None:
    """The strategy as it made `signal`, with the very version; None when that cannot be had any more."""
    said = signal.model
    strategy = config.strategies.get(champion_of(signal))
    if not said or not isinstance(strategy, ModelStrategy):
        return None
    try:
        served = ModelStore.of(settings).load(said["name"], said["version"])
    except (KeyError, ModelRefused):
        return None
    made = as_challenger(strategy, served) if said.get("role") == "challenger" else bound(strategy, served)
    return made if made.revision == signal.strategy_revision else None


def _serving(
    ledger: Ledger, store: ModelStore, strategy: ModelStrategy, registered: str, close_time: int
) -> tuple[Serves | None, Aliases | None, str]:
    """(what serves, what MLflow last said, why nothing serves)."""
    aliases, why = _aliases(store, registered)
    with ledger.engine.connect() as c:
        entry = in_force(history(c, strategy.name), registered, close_time)
    if entry is not None or aliases is None or not aliases.champion:
        return entry, aliases, why or _missing(strategy)
    kept = store.kept(registered, aliases.champion)
    if kept is None:
        said = refuse(RefusalCode.MODEL_MISSING, model=registered, version=aliases.champion, reason="not fetched")
        return None, aliases, str(said)
    entry = Serves(registered, kept.version, kept.files_hash, close_time - 1, "adopted", now_us())
    _take_over(ledger, strategy, entry, None)
    return entry, aliases, ""


def _aliases(store: ModelStore, registered: str) -> tuple[Aliases | None, str]:
    try:
        return store.aliases(registered), ""
    except ModelRefused as error:
        return None, str(error)


def _missing(strategy: ModelStrategy) -> str:
    return str(refuse(RefusalCode.MODEL_MISSING, model=strategy.rule.name, reason="no champion"))


def _bound(strategy: ModelStrategy, store: ModelStore, registered: str, version: str) -> ModelStrategy:
    try:
        return bound(strategy, store.load(registered, version))
    except ModelRefused as error:
        return unbound(strategy, str(error))


def _challenger(
    strategy: ModelStrategy, store: ModelStore, registered: str, aliases: Aliases | None, champion: Serves | None
) -> ModelStrategy | None:
    """The newest version beside the champion, when it is another one and can be served."""
    version = aliases.challenger if aliases is not None else ""
    off = strategy.rule.challenger == "off" or strategy.status != "active"
    if not version or off or (champion is not None and champion.version == version):
        return None
    try:
        made = as_challenger(strategy, store.load(registered, version))
    except ModelRefused as error:
        log.warning("no challenger of %s: %s", strategy.name, error)
        return None
    return made if made.served is not None else None


# -- taking over ---------------------------------------------------------------------------------------------------------


def swap(config: Config, close_time: int, session: str, ledger: Ledger, settings: Settings) -> list[Serves]:
    """Let newly named champions take over from the next bar on, where their strategies' policy allows it at this close.

    Asked after the decisions of the close: nothing of the old version is then still on its way to becoming a position, or the
    swap waits. A champion whose files are not here or cannot be served does not take over.
    """
    store, made = ModelStore.of(settings), []
    for strategy in model_strategies(config.strategies).values():
        if strategy.role == "challenger":
            continue
        registered = registered_of(strategy, config.universe.name)
        with ledger.engine.connect() as c:
            before = in_force(history(c, strategy.name), registered, close_time)
            latest = max(history(c, strategy.name), key=lambda e: e.since_time, default=None)
        aliases, _ = _aliases(store, registered)
        kept = store.kept(registered, aliases.champion) if aliases is not None and aliases.champion else None
        if before is None or kept is None or _same(kept, before):
            continue
        if latest is not None and latest.since_time >= close_time:
            continue  # it is arranged already, or this close is repeated long after
        try:
            served = store.load(registered, kept.version)
        except ModelRefused as error:
            log.error("%s stays with version %s: %s", strategy.name, before.version, error)
            continue
        if bound(strategy, served).served is None or not _allowed(strategy, close_time, ledger):
            continue
        since = _end_of(session, strategy, config.universe) if strategy.rule.swap == "at_session" else close_time
        why = "rolled back" if int(kept.version) < int(before.version) else "promoted"
        entry = Serves(registered, kept.version, kept.files_hash, max(since, close_time), why, now_us())
        if _take_over(ledger, strategy, entry, before):
            made.append(entry)
    return made


def _same(kept: Any, entry: Serves) -> bool:
    return (kept.version, kept.files_hash) == (entry.version, entry.files_hash)


def _allowed(strategy: ModelStrategy, close_time: int, ledger: Ledger) -> bool:
    return strategy.rule.swap != "when_flat" or flat(strategy.name, close_time, ledger)


def flat(strategy: str, close_time: int, ledger: Ledger) -> bool:
    """Has `strategy` no position, no order that may work, and no decision that may still become one?"""
    if any(row["strategy"] == strategy for row in ledger.positions(open_only=True)):
        return False
    i, o, d, s = t.intents.c, t.orders.c, t.decisions.c, t.signals.c
    over = [state.value for state in TERMINAL]
    working = select(o.id).join(t.intents, i.id == o.id).where(i.strategy == strategy, o.state.not_in(over)).limit(1)
    coming = (
        select(s.id, s.content)
        .outerjoin(t.decisions, d.signal_id == s.id)
        .outerjoin(t.intents, i.parent == d.id)
        .where(s.strategy == strategy, s.close_time <= close_time, d.approved.is_distinct_from(False), i.id.is_(None))
        .order_by(s.close_time.desc())
        .limit(500)
    )
    with ledger.engine.connect() as c:
        if c.execute(working).first() is not None:
            return False
        waiting = [row.content for row in c.execute(coming)]
    sends = (Mode.PAPER.value, Mode.LIVE.value)
    return not any(w.get("mode") in sends and int(w["valid_until"]) > close_time for w in waiting)


def _end_of(session: str, strategy: ModelStrategy, universe: Universe) -> int:
    """When the session is over at every venue of the strategy, UTC us."""
    from datetime import date

    number = session_number(date.fromisoformat(session))
    ends = []
    for symbol in strategy.symbols:
        venue = calendar(universe.instruments[symbol].calendar)
        try:
            ends.append(int(venue.bounds(number)[1]))
        except KeyError:
            continue
    return max(ends, default=0)


# -- for people ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """A model strategy as it stands. serves: version that serves now, "" for none; since: after which close; refusal: why it
    takes no new risk."""

    strategy: str
    status: str
    mode: str
    registered: str
    serves: str
    since: str
    run_id: str
    data_hash: str
    champion: str
    challenger: str
    refusal: str

    def cells(self) -> list[str]:
        """For a table: strategy, mode, model, serves, since, run, data, champion, challenger, refusal."""
        return [self.strategy, f"{self.mode}, {self.status}", self.registered, self.serves or "none", self.since, self.run_id,
                self.data_hash[:12], self.champion or "none", self.challenger or "none", self.refusal]  # fmt: skip


def status(config: Config, ledger: Ledger, settings: Settings) -> list[Status]:
    """Every model strategy by name: what serves it after the newest change, or would with its first bar."""
    store, rows = ModelStore.of(settings), []
    for name, strategy in model_strategies(config.strategies).items():
        registered = registered_of(strategy, config.universe.name)
        aliases, why = _aliases(store, registered)
        with ledger.engine.connect() as c:
            entry = max((e for e in history(c, name) if e.registered == registered), key=lambda e: e.since_time, default=None)
        version = entry.version if entry is not None else aliases.champion if aliases is not None else ""
        made = _bound(strategy, store, registered, version) if version else unbound(strategy, why or _missing(strategy))
        served = made.served
        unknown = next((w for s in strategy.symbols if (w := made.refused(s))), "")
        rows.append(
            Status(
                name, strategy.status, str(strategy.mode), registered, entry.version if entry is not None else "",
                iso(entry.since_time) if entry is not None else "", served.run_id if served else "",
                served.data_hash if served else "", aliases.champion if aliases else "", aliases.challenger if aliases else "",
                unknown,
            )
        )  # fmt: skip
    return rows


def registered_models(config: Config, settings: Settings) -> list[str]:
    """Every model that strategies ask for, is trained here, or was fetched before, by its name in the registry."""
    from ml.planted import UNIVERSE
    from resources.model_files import read_model_files

    files = read_model_files(settings.config / "models").trainings
    trained = {registered_name(n, UNIVERSE if f.data == "planted" else config.universe.name) for n, f in files.items()}
    asked = {registered_of(s, config.universe.name) for s in model_strategies(config.strategies).values()}
    return sorted(trained | asked | set(ModelStore.of(settings).names()))
