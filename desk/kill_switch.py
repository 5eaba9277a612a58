"""The kill switch: ends all risk with a connection of its own to ledger and broker, whether the desk lives, hangs or is dead.

    python -m desk.kill_switch              watch the desk's heartbeat (a process of the supervisor)
    tapeline kill --reason "..."            act now, in the command's own process

1. The desk is asked, once, to halt at the level. When it does not answer within seconds and its process still lives, that
   is ended with SIGKILL: whoever may hang in the middle of an order is not left beside somebody who cancels it.
2. The halt is latched in the ledger, so that a desk that comes back (the supervisor restarts it) does the same by itself.
3. When no desk holds the ledger, this process takes its place: it reads the broker's books to their end, cancels what works
   and closes the positions through the desk's own router, so that every order has its intent and nothing is closed twice.
4. The broker is asked, not the ledger, whether it is done: no working order, no position. It is asked until it is or until
   patience ends; what is left is named. Everything is in the audit trail and in a file beside the logs.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from desk import external, risk_state, store
from desk.legs import kind_of
from desk.store import SecondDesk
from resources.brokers.protocol import BrokerError
from resources.desk_client import DeskClient, DeskError
from resources.ledger import audit
from resources.ledger.store import Ledger, connect
from resources.secrets import SecretError, read_secret
from resources.settings import ROOT, Settings

if TYPE_CHECKING:
    pass
from desk.live import LiveDesk

log = structlog.get_logger("kill_switch")

STATE_KEY: Final = "kill_switch"
"""desk_state: {wall, pid, desk_age_seconds, acted: the last outcome}."""
ANSWER_SECONDS: Final = 5.0
"""The desk's time to answer before it counts as hung."""
LOCK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done. flat: the broker holds no order and no position (hand-placed ones aside unless they were meant).

    how: ``desk`` (it did as it was told), ``took_over`` or ``desk_came_back``. ended_pid: of the hung desk, None when none was.
    orders, positions: what the broker still holds, as client ids and ``symbol quantity``.
    """

    level: str
    reason: str
    who: str
    how: str
    flat: bool
    ended_pid: int | None = None
    orders: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class KillSwitch:
    """One pull of the switch.

    patience: seconds to wait for the broker to be flat. by_hand: cancel and close what was placed by hand at the broker, too.
    """

    settings: Settings
    level: risk_state.HaltLevel
    reason: str
    who: str
    patience: float = 30.0
    by_hand: bool = False
    _start: float = field(default_factory=time.monotonic)

    def pull(self) -> Outcome:
        """Do it. Raises SQLAlchemyError, ConfigInvalid, BrokerError: the journal says how far it came."""
        self._journal({"event": "pulled", "level": self.level.value, "reason": self.reason, "who": self.who})
        engine = connect(self.settings.ledger_url())
        try:
            outcome = self._pull(engine)
            with engine.begin() as connection:
                audit.append(connection, self.who, "kill_switch", {k: v for k, v in asdict(outcome).items() if k != "who"})
        finally:
            engine.dispose()
        self._journal({"event": "outcome", **asdict(outcome)})
        return outcome

    def _pull(self, engine: Engine) -> Outcome:
        answered = self._ask_desk()
        ended = None if answered else self._end_desk(engine)
        self._latch(engine)
        live, how = (None, "desk") if answered else self._take_over()
        try:
            return self._until_flat(engine, live, how, ended)
        finally:
            if live is not None:
                live.close()

    def _ask_desk(self) -> bool:
        """Whether the desk did as it was told."""
        try:
            token = read_secret(self.settings.token_file)
            with DeskClient(self.settings.desk_url, token, timeout=ANSWER_SECONDS, attempts=1) as desk:
                desk.halt(self.level.value.lower(), f"kill switch: {self.reason}", self.who)
                if self.by_hand and self.level is risk_state.HaltLevel.FLATTEN:
                    desk.halt(self.level.value.lower(), f"kill switch: {self.reason}", self.who, external.STRATEGY)
        except (DeskError, SecretError, OSError) as error:
            log.warning("desk_did_not_answer", error=f"{type(error).__name__}: {error}")
            return False
        return True

    def _end_desk(self, engine: Engine) -> int | None:
        """SIGKILL to the desk that does not answer. Its pid, None when there is no such process on this machine."""
        pid = int((Ledger(engine).get_state("heartbeat") or {}).get("pid", 0))
        if not pid or pid == os.getpid() or not is_desk(pid):
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            log.error("hung_desk_ended", pid=pid)
            self._journal({"event": "desk_ended", "pid": pid})
            return pid
        return None

    def _latch(self, engine: Engine) -> None:
        """The halt into the ledger. A hung desk's transaction has ended with it; the server notices within seconds."""
        deadline = time.monotonic() + LOCK_SECONDS * 4
        while True:
            try:
                with engine.begin() as connection:
                    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS:.0f}s'"))
                    store.lock(connection)
                    now = _market_time(connection)
                    scopes = [risk_state.DESK]
                    if self.by_hand and self.level is risk_state.HaltLevel.FLATTEN:
                        scopes.append(external.STRATEGY)
                    for scope in scopes:
                        risk_state.set_halt(connection, self.level, scope, f"kill switch: {self.reason}", self.who, now)
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    def _take_over(self) -> tuple[LiveDesk | None, str]:
        """The desk's place, or nothing when a desk has it: that one finds the halt and does the same."""
        from desk.beside import live_desk

        live = live_desk(self.settings)
        deadline = time.monotonic() + LOCK_SECONDS
        while True:  # the ended desk's session at the server takes a moment to go
            try:
                live.take_over()
                return live, "took_over"
            except SecondDesk:
                if time.monotonic() > deadline:
                    live.close()
                    return None, "desk_came_back"
                time.sleep(PAUSE_SECONDS)
            except BaseException:
                live.close()
                raise

    def _until_flat(self, engine: Engine, live: LiveDesk | None, how: str, ended: int | None) -> Outcome:
        from desk.beside import live_desk

        asked = live or live_desk(self.settings)  # for its own connection to the broker; it takes nothing over
        outcome = Outcome(self.level.value, self.reason, self.who, how, False, ended)
        try:
            if live is not None:
                self._act(live)
            if self.by_hand:
                self._cancel_placed_by_hand(asked)
            deadline = time.monotonic() + self.patience
            while True:
                if live is not None:
                    live.reconcile()  # what the broker says into the ledger, then whatever exits that allows
                orders, positions = self._left(asked)
                wanted = not orders and (not positions or self.level is not risk_state.HaltLevel.FLATTEN)
                outcome = replace(
                    outcome, flat=wanted, orders=orders, positions=positions, seconds=round(time.monotonic() - self._start, 3)
                )  # fmt: skip
                if wanted or time.monotonic() > deadline:
                    return outcome
                time.sleep(PAUSE_SECONDS)
        finally:
            if live is None:
                asked.close()

    def _act(self, live: LiveDesk) -> None:
        """What the desk would have done: entries end, and at FLATTEN positions."""
        reason = f"kill switch: {self.reason}"
        live.router.cancel_entries(reason)
        if self.level is risk_state.HaltLevel.FLATTEN:
            live.router.flatten(reason, self.who)
            if self.by_hand:
                live.router.flatten(reason, self.who, external.STRATEGY)

    @staticmethod
    def _cancel_placed_by_hand(live: LiveDesk) -> None:
        """At the broker: to the desk they are nobody's, and it hears of their end as of any event."""
        for order in live.broker.open_orders():
            if external.is_external(order.client_id):
                try:
                    live.broker.cancel(order.client_id)
                except BrokerError as error:  # not known whether it ended: what is left is read from the broker's book
                    log.error("cancel_unclear", order=order.client_id, error=str(error))

    def _left(self, live: LiveDesk) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the broker holds that should be gone. Protective orders of positions that stay (HALTED) may stay."""
        flatten = self.level is risk_state.HaltLevel.FLATTEN
        entries = {o.id for o in live.store.working_orders() if kind_of(o.leg) == "entry"}
        orders = [
            o.client_id
            for o in live.broker.open_orders()
            if (self.by_hand or not external.is_external(o.client_id)) and (flatten or o.client_id in entries)
        ]
        kept: dict[str, float] = {}
        if not self.by_hand:
            for position in live.store.open_positions():
                if position.strategy == external.STRATEGY:
                    kept[position.symbol] = kept.get(position.symbol, 0.0) + position.quantity
        positions = []
        for held in live.broker.positions():
            left = held.quantity - kept.get(held.symbol, 0.0)
            if abs(left) > 1e-9 * max(1.0, abs(held.quantity)):
                positions.append(f"{held.symbol} {left:g}")
        return tuple(orders), tuple(positions)

    def _journal(self, content: Mapping[str, Any]) -> None:
        """One line on the disk, whatever becomes of the ledger."""
        path = journal_path(self.settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"wall": store.wall_us(), "pid": os.getpid(), **content}, default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())


def journal_path(settings: Settings) -> Path:
    """What every pull did, one JSON object a line."""
    return settings.book_path("logs", "kill_switch.jsonl")


def is_desk(pid: int) -> bool:
    """Is process `pid` of this machine a desk (``python -m desk``) of this installation?"""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if Path(f"/proc/{pid}/cwd").resolve(strict=True) != ROOT.resolve():
            return False
    except OSError:
        return False
    return any(a == b"-m" and b == b"desk" for a, b in itertools.pairwise(arguments))


def _market_time(connection: Any) -> int:
    """Newest market time the ledger knows: the heartbeat's, or real time when there never was one."""
    beat = store.get_state(connection, "heartbeat")
    return int(beat.get("market_time") or store.wall_us())


def silence(beat: Mapping[str, Any] | None) -> float | None:
    """Seconds since the desk last gave a sign of life or its worker took up what it still does; None: there never was one.

    The heart beats beside the worker: a worker that hangs in a call, with all orders behind it, is a desk that hangs.
    """
    if not beat:
        return None
    since = min(int(beat["wall"]), int(beat.get("working_since_wall") or beat["wall"]))
    return round((store.wall_us() - since) / 1e6, 3)


@dataclass
class Watch:
    """Looks at the desk's heartbeat and pulls the switch, once an outage, when the settings ask for that."""

    settings: Settings
    pull: Callable[[KillSwitch], Outcome] = KillSwitch.pull
    _acted: bool = False

    def look(self, ledger: Ledger) -> Outcome | None:
        """One look. Returns what was done, None when nothing was to do. Raises what the ledger or the pull raises."""
        own = self.settings
        age = silence(ledger.get_state("heartbeat"))
        outcome = None
        if age is not None and age <= own.kill_switch_seconds:
            self._acted = False
        elif not self._acted and own.kill_switch_then != "alert" and self._at_risk(ledger):
            level = risk_state.HaltLevel.FLATTEN if own.kill_switch_then == "flatten" else risk_state.HaltLevel.HALTED
            for_how_long = "" if age is None else f" for {age:.0f} s"
            log.error("desk_silent", seconds=age, then=own.kill_switch_then)
            # One that raises is pulled again at the next look: pulling twice is harmless, not pulling is not.
            outcome = self.pull(KillSwitch(own, level, f"no sign of life of the desk{for_how_long}", "kill_switch"))
            self._acted = True
            log.error("kill_switch_pulled", **asdict(outcome))
        known = ledger.get_state(STATE_KEY) or {}
        acted = asdict(outcome) if outcome is not None else known.get("acted")
        ledger.put_state(
            STATE_KEY, {"wall": store.wall_us(), "pid": os.getpid(), "desk_age_seconds": age, "acted": acted}
        )  # fmt: skip
        return outcome

    @staticmethod
    def _at_risk(ledger: Ledger) -> bool:
        desk = store.DeskStore(ledger.engine)
        return bool(desk.open_positions() or desk.working_orders())


def main() -> int:
    """Watch until told to stop."""
    from resources.logs import configure
    from resources.settings import settings

    own = settings()
    configure("kill_switch", own.log_level)
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: stopping.append(n))
    watch, ledger = Watch(own), Ledger(connect(own.ledger_url()))
    while not stopping:
        try:
            watch.look(ledger)
        except Exception as error:  # noqa: BLE001 - the watch goes on: it is there for when other things fail
            log.error("look_failed", error=f"{type(error).__name__}: {error}")
        time.sleep(1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
