"""``python -m tests.faults.torture N``: kill the desk N times at every boundary and at random moments, count what went wrong.

The desk (real router, ledger, submission, reconciliation, a real Postgres) trades at a simulated broker in a process of its
own, which misbehaves in every way it can and goes on while the desk is dead. Desks are forked from a process that has
imported everything (tests.faults.zygote) and killed by SIGKILL. After each life the broker's book is compared with the
ledger. Prints progress and tables; exits 1 when any count is not 0.

``--seed`` repeats a campaign, ``--journal FILE`` keeps one that is cut off and goes on with it, ``--matrix`` takes every
boundary with every fault, one fault at a time, N times (at least once) instead. TAPELINE_TORTURE_POSTGRES_URL names a server
to use (without a database); otherwise an embedded one is started for the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from desk.faults import TORTURED
from resources.brokers.remote.faults import FAULTS
from resources.ledger.migrate import create_databases, upgrade
from resources.ports import free_port
from resources.postgres import EmbeddedPostgres
from tests.faults import remote_checks as checks
from tests.faults.remote_process import warm
from tests.faults.torture_life import FAILED, KILLS_IN_A_LIFE, Life, by_dice, every_pair, pairs_of

_TEMPLATE = "torture_template"


@contextmanager
def _server() -> Iterator[str]:
    url = os.environ.get("TAPELINE_TORTURE_POSTGRES_URL")
    if url:
        yield url.rstrip("/")
        return
    from tests.conftest import _memory_disk, _sign_in_quickly

    room = Path(tempfile.mkdtemp(prefix="tapeline-torture-", dir=_memory_disk()))
    room.chmod(0o755)
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), durable=False, relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        _sign_in_quickly(server)
        yield server.url("").rstrip("/")
    finally:
        server.stop()
        shutil.rmtree(server.place, ignore_errors=True)
        shutil.rmtree(room, ignore_errors=True)


class Ledgers:
    """Migrated, empty ledgers on `server`, from a template. Safe from several threads."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._numbers = itertools.count(1)
        self._admin = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
        self._making = threading.Lock()  # the server copies a template for one at a time
        create_databases(server, [_TEMPLATE])
        upgrade(f"{server}/{_TEMPLATE}")

    def new(self) -> str:
        name = f"torture_{os.getpid()}_{next(self._numbers)}"
        with self._making, self._admin.connect() as connection:
            # By files: the other strategy writes every page of the template to the write-ahead log first.
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}" STRATEGY FILE_COPY'))
        return f"{self._server}/{name}"

    def drop(self, url: str) -> None:
        name = url.rpartition("/")[2]
        with suppress(SQLAlchemyError), self._admin.connect() as connection:  # the server may be in it: it ends with the server
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))

    @contextmanager
    def several(self) -> Iterator[Callable[[], str]]:
        """Makes ledgers that are dropped at the end."""
        made: list[str] = []

        def make() -> str:
            made.append(self.new())
            return made[-1]

        try:
            yield make
        finally:
            for url in made:
                self.drop(url)


def _books() -> str | None:
    """Where the brokers' books lie: in memory, where there is such a place."""
    from tests.conftest import _memory_disk

    return _memory_disk()


# -- the campaign --------------------------------------------------------------------------------------------------------


class Campaign:
    """Lives, some at a time, and what came of them. goal: kills, or with `matrix` rounds of every boundary with every fault.

    Those the journal holds are not lived again.
    """

    def __init__(self, goal: int, seed: int, journal: Path | None, matrix: bool, at_once: int) -> None:
        self.goal, self.seed, self.journal, self.matrix, self.at_once = goal, seed, journal, matrix, at_once
        self.lives = _read(journal, seed)
        self.before = self.kills
        self._started = time.monotonic()

    @property
    def kills(self) -> int:
        return sum(life.killed for life in self.lives)

    def run(self) -> list[Life]:
        if self.lives:
            print(f"going on behind {len(self.lives)} lives: {self.kills} kills so far", flush=True)
        with _server() as server, tempfile.TemporaryDirectory(prefix="tapeline-torture-", dir=_books()) as room:
            ledgers = Ledgers(server)
            with ledgers.several() as make:
                warm(make, Path(room))
            self._started = time.monotonic()
            tasks = self._rounds() if self.matrix else self._numbers()
            with ThreadPoolExecutor(self.at_once) as pool:
                running: set[Future[list[Life]]] = set()
                for task in tasks:
                    running.add(pool.submit(self._lived, ledgers, Path(room), *task))
                    while len(running) >= self.at_once:
                        running = self._take(running)
                while running:
                    running = self._take(running)
        return self.lives

    def _numbers(self) -> Iterator[tuple[int, str]]:
        """Numbers of the lives that are still to be lived, as long as kills are missing."""
        lived = {life.number for life in self.lives}
        for number in itertools.count(1):
            if self.kills >= self.goal:
                return
            if number not in lived:
                yield number, ""

    def _rounds(self) -> Iterator[tuple[int, str]]:
        """(number of a round's first life with a fault, fault) of those not in the journal."""
        lived = {
            (life.number // 100, fault) for life in self.lives for fault in FAULTS if any(f" x {fault}" in p for p in life.pairs)
        }
        for number, fault in ((n, f) for n in range(1, max(1, self.goal) + 1) for f in FAULTS):
            if (number, fault) not in lived:
                yield number * 100, fault

    def _lived(self, ledgers: Ledgers, room: Path, number: int, fault: str) -> list[Life]:
        with ledgers.several() as make, tempfile.TemporaryDirectory(dir=room) as own:
            if fault:
                return every_pair([fault], self.seed + number, make, Path(own), number)
            life = Life(number, random.Random(f"{self.seed} life {number}").randrange(2**31))
            return [by_dice(make(), Path(own), life, min(KILLS_IN_A_LIFE, max(1, self.goal - self.kills)))]

    def _take(self, running: set[Future[list[Life]]]) -> set[Future[list[Life]]]:
        """Wait for one to end; book it."""
        done, rest = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            for life in future.result():
                self.lives.append(life)
                _write(self.journal, self.seed, life)
                if any(life.wrong.values()):
                    print(f"life {life.number} (seed {life.seed}): { ({k: v for k, v in life.wrong.items() if v}) }", flush=True)
                    print("\n".join(f"    {note}" for note in life.notes[:10]), flush=True)
        speed = (self.kills - self.before) / (time.monotonic() - self._started) * 60
        pairs = len({pair for life in self.lives for pair in life.pairs})
        whole = (
            f"{pairs}/{len(pairs_of(tuple(FAULTS)))} pairs, {self.kills} kills"
            if self.matrix
            else f"{self.kills}/{self.goal} kills"
        )
        wrong = sum(sum(x.wrong.values()) for x in self.lives)
        print(f"{whole}, {len(self.lives)} lives, {speed:.0f} kills a minute, {wrong} wrong", flush=True)
        return rest


def _read(journal: Path | None, seed: int) -> list[Life]:
    if journal is None or not journal.is_file():
        return []
    rows = [json.loads(line) for line in journal.read_text().splitlines() if line.strip()]
    if rows and rows[0]["campaign"] != seed:
        raise SystemExit(f"{journal} is of the campaign --seed {rows[0]['campaign']}, asked for {seed}")
    return [Life(**{k: v for k, v in row.items() if k != "campaign"}) for row in rows]


def _write(journal: Path | None, seed: int, life: Life) -> None:
    if journal is not None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        with journal.open("a") as file:
            file.write(json.dumps({"campaign": seed, **asdict(life)}) + "\n")


def tables(lives: list[Life]) -> str:
    """The campaign's figures as text."""

    def total(name: str) -> dict[str, int]:
        out: dict[str, int] = {}
        for life in lives:
            for key, value in getattr(life, name).items():
                out[key] = out.get(key, 0) + value
        return out

    blocks = (
        ("killed at", {k: total("kills").get(k, 0) for k in (*TORTURED, "random")}),
        ("the broker did", {k: total("struck").get(k, 0) for k in FAULTS}),
        ("what happened", {**total("busy"), "market moves while the desk was down": sum(life.while_down for life in lives)}),
        ("wrong", {k: total("wrong").get(k, 0) for k in (*checks.NAMES, FAILED)}),
    )
    lines = []
    for title, rows in blocks:
        lines += [title, *(f"  {name:<40}{count:>9}" for name, count in rows.items())]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kills", type=int, help="how many times the desk is killed; rounds of the matrix")
    parser.add_argument("--seed", type=int, default=None, help="of the campaign; a cut-off one is gone on with by its seed")
    parser.add_argument("--journal", type=Path, default=None, help="file that keeps the campaign's lives, to go on with them")
    parser.add_argument("--matrix", action="store_true", help="every boundary with every fault, one fault at a time")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="lives beside each other (default: one a core)")
    chosen = parser.parse_args(arguments)
    seed = int(time.time()) if chosen.seed is None else chosen.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server, its room and the desks go, too
    started = time.monotonic()
    print(f"torture: {'matrix' if chosen.matrix else f'{chosen.kills} kills'}, seed {seed}", flush=True)
    lives = Campaign(chosen.kills, seed, chosen.journal, chosen.matrix, max(1, chosen.at_once)).run()
    killed = sum(life.killed for life in lives)
    print(f"{killed} kills in {len(lives)} lives, {time.monotonic() - started:.0f} s")
    print(tables(lives))
    fills = sum(life.busy.get("fills", 0) for life in lives)
    if fills == 0:
        print("nothing was filled: the campaign proves nothing")
    missed = pairs_of(tuple(FAULTS)) - {pair for life in lives for pair in life.pairs} if chosen.matrix else set()
    for pair in sorted(missed):
        print(f"not reached: {pair}")
    return int(any(any(life.wrong.values()) for life in lives) or fills == 0 or bool(missed))


if __name__ == "__main__":
    sys.exit(main())
