"""The main job: history in, models trained, strategies backtested, then the live day.

    python -m pipelines.main_job

Drives the runs through Dagster's webserver, so that everything is seen in the UI as if a person had started it, and says
how far it is. What is done is remembered in the ledger with what it was done for (universe revision, range, what the lake
held then): a second start repeats nothing, a changed universe or a longer range brings in what is missing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from pipelines.graphql import DagsterApi, DagsterApiError, RunState
from resources.config import ConfigInvalid, load_config
from resources.desk_client import DeskClient, DeskError
from resources.lake import Lake, open_lake
from resources.ledger.store import Ledger
from resources.secrets import read_secret
from resources.settings import Settings, settings

STATE_KEY = "main_job"
STAGE_TAG = "tapeline/main_job"
RANGE_START_TAG, RANGE_END_TAG = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
ATTEMPTS = 2
POLL_SECONDS = 0.5
SAY_EVERY_SECONDS = 5.0
PATIENCE_SECONDS = 120.0
LAUNCH_SECONDS = 45.0
"""A run that is still not started after this long never will be: its launch broke off (webserver killed, disk full)."""

NEVER_STARTED = "NEVER_STARTED"
NEVER_STARTED_LIMIT = 10

Say = Callable[[str], None]


class MainJobError(Exception):
    """A stage failed; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the history should hold: all partition keys from the first to the last before the live day."""

    universe: str
    revision: str
    first: str
    last: str

    def known(self, done: Mapping[str, Any]) -> bool:
        """Whether `done` was made of the same universe from the same start: then only what is newer is missing."""
        return (done.get("universe"), done.get("revision"), done.get("first")) == (self.universe, self.revision, self.first)


def missing_range(wanted: Wanted, done: Mapping[str, Any], held: Mapping[str, int], keys: list[str]) -> tuple[str, str] | None:
    """(first, last) partition key still to be ingested; None when nothing is missing.

    done: what was remembered. held: how many partitions the lake holds by dataset. A lake that holds less than it did
    was damaged or removed: everything is asked for again, and what is unchanged is not written again.
    """
    if not wanted.known(done) or any(held.get(name, 0) < count for name, count in done.get("held", {}).items()):
        return wanted.first, wanted.last
    newer = [key for key in keys if done["last"] < key <= wanted.last]
    return (newer[0], newer[-1]) if newer else None


class MainJob:
    """One passage through the stages. say: shows a line to the person at the terminal."""

    def __init__(self, api: DagsterApi, ledger: Ledger, lake: Lake, own: Settings, say: Say) -> None:
        self._api, self._ledger, self._lake, self._settings, self._say = api, ledger, lake, own, say

    def history(self) -> None:
        """Ingest, train, research: each only where something is missing. Raises MainJobError, DagsterApiError."""
        wanted, keys = self._wanted()
        done: dict[str, Any] = self._ledger.get_state(STATE_KEY) or {}
        span = missing_range(wanted, done, self._held(wanted), keys)
        if span is None:
            self._say(f"history {wanted.first} to {wanted.last} is there")
        else:
            self._say(f"ingest: {span[0]} to {span[1]}")
            self._run("ingest", {RANGE_START_TAG: span[0], RANGE_END_TAG: span[1]})
            done = {
                "universe": wanted.universe, "revision": wanted.revision, "first": wanted.first, "last": wanted.last,
                "held": self._held(wanted), "stages": [],
            }  # fmt: skip
            self._ledger.put_state(STATE_KEY, done)
        for stage in ("train", "research"):
            if stage in done["stages"]:
                continue
            try:
                self._run(stage, {})
            except MainJobError as error:
                # The live day needs neither: the desk trades the files' rules, and a missing model only means no model.
                self._say(f"{error}; the rest goes on, the next start tries again")
                continue
            done = {**done, "stages": [*done["stages"], stage]}
            self._ledger.put_state(STATE_KEY, done)

    def live_day(self) -> None:
        """Start the replay of the last sessions and tell how far it is until it is over."""
        if self._live_until() is not None:
            self._say("live day: the desk listens to the live feeds of the universe (`tapeline feeds list`)")
            return
        count = self._settings.replay_sessions
        if count == 0:
            self._say("no live day: REPLAY_SESSIONS is 0")
            return
        with DeskClient(self._settings.desk_url, read_secret(self._settings.token_file), attempts=20, pause_seconds=1.0) as desk:
            state = desk.start_replay(count)
            self._say(f"live day: {_replay_words(state)}")
            said = time.monotonic()
            while state.get("state") == "running":
                time.sleep(1.0)
                try:
                    state = desk.replay()
                except DeskError as error:
                    self._say(f"live day: {error}")
                    time.sleep(5.0)
                    continue
                if time.monotonic() - said >= SAY_EVERY_SECONDS or state.get("state") != "running":
                    self._say(f"live day: {_replay_words(state)}, {self._counts()}")
                    said = time.monotonic()

    def _wanted(self) -> tuple[Wanted, list[str]]:
        from desk.replay import replay_sessions

        universe = load_config(self._settings).universe
        live = replay_sessions(universe, self._settings.replay_sessions)
        end = universe.history_end.isoformat() if universe.history_end else date.today().isoformat()  # noqa: DTZ011
        if (until := self._live_until()) is not None:  # the desk writes the sessions under way, no run does
            live, end = [], until
        keys = [key for key in self._api.partition_keys("ingest") if key <= end and not (live and key >= live[0].isoformat())]
        if not keys:
            raise MainJobError(f"universe {universe.name} has no session before the live day: set REPLAY_SESSIONS lower")
        return Wanted(universe.name, universe.revision, keys[0], keys[-1]), keys

    def _live_until(self) -> str | None:
        """ISO date of the newest session that is over, when the desk listens to live feeds; None when it replays."""
        from desk.live_feed import ended_sessions_until, live_feeds, market_clock
        from resources.feeds.protocol import FeedError

        universe = load_config(self._settings).universe
        try:
            feeds = live_feeds(universe, self._settings)
            return ended_sessions_until(universe, market_clock(feeds)()) if feeds else None
        except FeedError as error:
            raise MainJobError(f"no live feed: {error}") from error

    def _held(self, wanted: Wanted) -> dict[str, int]:
        """How many (session, symbol) partitions of the wanted range the lake holds, by dataset."""
        first, last = date.fromisoformat(wanted.first), date.fromisoformat(wanted.last)
        return {name: len(self._lake.partitions(name, first, last)) for name in self._lake.datasets()}

    def _run(self, job: str, tags: Mapping[str, str]) -> None:
        """Run a job to its end; a run of the same stage that is already under way is waited for."""
        tags = {**tags, STAGE_TAG: job}
        reasons: list[str] = []
        failed = never_started = 0
        while failed < ATTEMPTS and never_started < NEVER_STARTED_LIMIT:
            begun = time.monotonic()
            run_id = self._launch(job, tags)
            # A machine that needed longer than this once will again: asking anew at the same pace would never end.
            state = self._follow(job, run_id, begun, LAUNCH_SECONDS * 2 ** min(never_started, 3))
            if state.status == "SUCCESS":
                self._say(f"{job}: done in {time.monotonic() - begun:.0f} s, {state.materializations} materialisations")
                return
            if state.status == NEVER_STARTED:
                # Nothing was tried yet: this says something about the machine, not about the job.
                never_started += 1
                reasons = [f"run {run_id} was made but never started"]
            else:
                failed += 1
                reasons = self._api.failures(run_id)[:3] or [f"run {run_id} ended as {state.status}"]
            if state.status == "CANCELED":
                break
            self._say(f"{job}: {reasons[0]}")
        raise MainJobError(f"{job} failed: {' / '.join(reasons)} ({self._settings.webserver_url}/runs)")

    def _launch(self, job: str, tags: Mapping[str, str]) -> str:
        """Id of the stage's run: the one under way, else a new one. Tried again while the webserver restarts: a run that
        was started although the answer was lost is found by its tags."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._api.active(tags) or self._api.launch(job, tags)
            except DagsterApiError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(2.0)

    def _follow(self, job: str, run_id: str, begun: float, patience: float) -> RunState:
        said, shown = time.monotonic(), ""
        while True:
            try:
                state = self._api.run(run_id)
            except DagsterApiError:
                time.sleep(2.0)  # the webserver restarts; the run goes on
                continue
            if state.finished:
                return state
            if state.status == "NOT_STARTED" and time.monotonic() - begun > patience and self._given_up(run_id):
                return replace(state, status=NEVER_STARTED)
            words = f"{job}: {state.succeeded} steps done, {state.materializations} materialisations"
            quiet = time.monotonic() - said
            if quiet >= SAY_EVERY_SECONDS and (words != shown or quiet >= 3 * SAY_EVERY_SECONDS):
                self._say(f"{words} ({time.monotonic() - begun:.0f} s)")
                said, shown = time.monotonic(), words
            time.sleep(POLL_SECONDS)

    def _given_up(self, run_id: str) -> bool:
        """Take back a run that was made but never started; False while that cannot be done."""
        try:
            self._api.give_up(run_id)
        except DagsterApiError:
            return False
        return True

    def _counts(self) -> str:
        return ", ".join(f"{count} {name}" for name, count in self._ledger.counts().items())


def _replay_words(state: Mapping[str, Any]) -> str:
    sessions = state.get("sessions") or []
    span = f"{sessions[0]} to {sessions[-1]}" if len(sessions) > 1 else (sessions or ["no session"])[0]
    total = state.get("total") or "?"
    return f"{state.get('state', 'unknown')} ({span}), {state.get('closes', 0)} of {total} bar closes"


def main() -> int:
    """Run the main job of this installation; 0 when all of it is done."""
    own = settings()

    def say(words: str) -> None:
        print(words, flush=True)  # noqa: T201 - read by the person who started Tapeline

    try:
        with DagsterApi(own.webserver_url) as api:
            job = MainJob(api, Ledger.at(own.ledger_url()), open_lake(own), own, say)
            job.history()
            job.live_day()
    except (MainJobError, DagsterApiError, DeskError, ConfigInvalid) as error:
        say(f"stopped: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
