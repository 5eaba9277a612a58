"""``python -m tests.faults.torture N``: kill the desk N times at every boundary and at random moments, count what went wrong.

The desk (real router, ledger, submission, reconciliation, a real Postgres) trades at a simulated broker in a process of its
own, which misbehaves in every way it can and goes on while the desk is dead. After each life the broker's book is compared
with the ledger. Prints progress and tables; exits 1 when any count is not 0.

``--seed`` repeats a campaign, ``--journal FILE`` keeps one that is cut off and goes on with it, ``--matrix`` takes every
boundary with every fault instead. TAPELINE_TORTURE_POSTGRES_URL names a server to use (without a database); otherwise an
embedded one is started for the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from desk.faults import TORTURED
from resources.brokers.remote.faults import ANSWER_FAULTS, FAULTS
from resources.ledger.migrate import create_databases, upgrade
from resources.ledger.store import connect
from resources.ports import free_port
from resources.postgres import EmbeddedPostgres
from tests.faults import remote_checks as checks
from tests.faults import remote_desk as harness

_TEMPLATE = "torture_template"
KILLS_IN_A_LIFE = 24
RATES = {
    **dict.fromkeys(ANSWER_FAULTS, 0.01), "reject": 0.03, "partial_fill": 0.15, "fill_after_cancel": 0.1,
    "cancel_rejected": 0.05, "event_twice": 0.05, "events_swapped": 0.05, "events_late": 0.05, "disconnect_daily": 0.7,
}  # fmt: skip
"""How often the broker misbehaves in a campaign."""


@dataclass
class Life:
    """What one desk lived through. kills: by boundary; ``random`` for those at no boundary, ``while_down`` are market moves
    that no desk saw."""

    number: int
    seed: int
    kills: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, int] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    struck: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    while_down: int = 0
    seconds: float = 0.0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


@contextmanager
def _server() -> Iterator[str]:
    url = os.environ.get("TAPELINE_TORTURE_POSTGRES_URL")
    if url:
        yield url.rstrip("/")
        return
    room = Path(tempfile.mkdtemp(prefix="tapeline-torture-"))
    room.chmod(0o755)
    server = EmbeddedPostgres(
        room / "postgres", room / "secrets" / "password", free_port(), durable=False, relocate_to=(Path("/tmp"), Path("/var/tmp"))
    )
    try:
        server.start()
        yield server.url("").rstrip("/")
    finally:
        server.stop()
        shutil.rmtree(server.place, ignore_errors=True)
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _ledger(server: str, number: int) -> Iterator[str]:
    admin = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    name = f"torture_{os.getpid()}_{number}"
    try:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}"'))
        yield f"{server}/{name}"
    finally:
        with suppress(SQLAlchemyError), admin.connect() as connection:  # the server may be vacuuming it: it ends with the server
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
        admin.dispose()


def warm(url: str, room: Path) -> None:
    """Do everything once in this process: what is compiled and imported now, every forked desk and broker has."""
    harness.quiet()
    with harness.market(room / "warm.sqlite", {}, 0) as market:
        harness.live(url, market.address, 0, 3)
    from resources.brokers.remote.venue import Venue, VenueOptions

    venue = Venue(
        room / "warm2.sqlite", harness.INSTRUMENTS, lambda s: harness.COSTS, VenueOptions(harness.CASH, "USD", durable=False)
    )
    venue.on_bars(harness.hour(1), harness.bars_at(0, 1))
    venue.close()


def one_life(url: str, room: Path, life: Life, most: int, rates: dict[str, float], boundaries: list[str] | None = None) -> Life:
    """Kill and restart one desk until its hours are over or it died `most` times; let it finish; compare the books.

    boundaries: where it dies, in this order (default: by dice, random moments included).
    """
    dice, started = random.Random(life.seed), time.monotonic()
    wanted = list(boundaries) if boundaries is not None else None
    with harness.market(room / f"book_{life.number}.sqlite", rates, life.seed) as market:
        engine = connect(url)
        while life.killed < most:
            place, crash_at, seconds = _where(dice, wanted)
            if place == "":
                break
            if not harness.run(url, market.address, life.seed, harness.MAX_CLOSES, crash_at, seconds):
                if wanted is not None:
                    life.missed.append(place)
                break
            life.kills[place] = life.kills.get(place, 0) + 1
            done = harness.progress(engine)
            engine.dispose()  # no connection is open when the next process is forked
            if dice.random() < 0.3 and done + 2 <= harness.MAX_CLOSES:  # the market does not wait for the desk
                for n in range(done + 1, done + 1 + dice.randint(1, 2)):
                    market.move(life.seed, n)
                    life.while_down += 1
            if dice.random() < 0.1:
                market.ask("place", symbol=dice.choice(harness.SYMBOLS), side=dice.choice(["buy", "sell"]), quantity=10)
        last = min(harness.progress(engine) + 1, harness.MAX_CLOSES)
        engine.dispose()
        harness.run(url, market.address, life.seed, last, decide_until=last)
        life.struck = market.ask("struck")
        market.ask("calm")
        harness.run(url, market.address, life.seed, last + harness.SETTLING, decide_until=last)
        life.wrong = checks.compare(engine, market.books(), life.notes)
        life.busy = checks.activity(engine)
        engine.dispose()
    life.seconds = time.monotonic() - started
    return life


def _where(dice: random.Random, wanted: list[str] | None) -> tuple[str, str, float | None]:
    """(place, TAPELINE_CRASH_AT, seconds) of the next death."""
    if wanted is not None:
        return (wanted[0], f"{wanted.pop(0)}:1", None) if wanted else ("", "", None)
    if dice.random() < 0.7:
        place = dice.choice(TORTURED)
        return place, f"{place}:{dice.randint(1, 4)}", None
    return "random", "", dice.uniform(0.05, 0.5)


def matrix_pairs() -> list[tuple[str, str]]:
    """Every boundary with every fault."""
    return [(boundary, fault) for boundary in TORTURED for fault in FAULTS]


def matrix_rates(fault: str) -> dict[str, float]:
    """Rates of a life in which one fault is common; some part fills, without which two boundaries are never passed."""
    return {"partial_fill": 0.2, fault: 0.25}


# -- the campaign --------------------------------------------------------------------------------------------------------


def campaign(kills: int, seed: int, journal: Path | None, matrix: bool) -> list[Life]:
    """Lives until `kills` deaths are reached; those the journal holds are not lived again."""
    lives = _read(journal, seed)
    done = sum(life.killed for life in lives)
    if lives:
        print(f"going on behind life {lives[-1].number}: {done} kills so far", flush=True)
    pairs = matrix_pairs() if matrix else []
    started, before = time.monotonic(), done
    with _server() as server, tempfile.TemporaryDirectory(prefix="tapeline-torture-") as room:
        create_databases(server, [_TEMPLATE])
        upgrade(f"{server}/{_TEMPLATE}")
        with _ledger(server, 0) as url:
            warm(url, Path(room))
        settled = [life.number for life in lives if life.killed]
        while (len(settled) < len(pairs)) if matrix else (done < kills):
            number = len(lives) + 1
            life = Life(number, random.Random(f"{seed} life {number}").randrange(2**31))
            with _ledger(server, number) as url:
                if matrix:
                    boundary, fault = pairs[len(settled)]
                    one_life(url, Path(room), life, 2, matrix_rates(fault), [boundary, boundary])
                    life.notes.insert(0, f"{boundary} x {fault}")
                    if life.killed:  # else another life tries: this one never came by the boundary
                        settled.append(number)
                else:
                    one_life(url, Path(room), life, min(KILLS_IN_A_LIFE, kills - done), RATES)
            lives.append(life)
            done += life.killed
            _write(journal, seed, life)
            if any(life.wrong.values()):
                print(f"life {number} (seed {life.seed}): { ({k: v for k, v in life.wrong.items() if v}) }", flush=True)
                print("\n".join(f"    {note}" for note in life.notes[:10]), flush=True)
            speed = (done - before) / (time.monotonic() - started) * 60
            whole = f"{len(settled)}/{len(pairs)} pairs" if matrix else f"{done}/{kills} kills"
            wrong = sum(sum(x.wrong.values()) for x in lives)
            print(f"{whole}, {len(lives)} lives, {speed:.0f} kills a minute, {wrong} wrong", flush=True)
    return lives


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
        ("wrong", {k: total("wrong").get(k, 0) for k in checks.NAMES}),
    )
    lines = []
    for title, rows in blocks:
        lines += [title, *(f"  {name:<40}{count:>9}" for name, count in rows.items())]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kills", type=int, help="how many times the desk is killed")
    parser.add_argument("--seed", type=int, default=None, help="of the campaign; a cut-off one is gone on with by its seed")
    parser.add_argument("--journal", type=Path, default=None, help="file that keeps the campaign's lives, to go on with them")
    parser.add_argument("--matrix", action="store_true", help="every boundary with every fault, two kills each")
    chosen = parser.parse_args(arguments)
    seed = int(time.time()) if chosen.seed is None else chosen.seed
    started = time.monotonic()
    print(f"torture: {'matrix' if chosen.matrix else f'{chosen.kills} kills'}, seed {seed}", flush=True)
    lives = campaign(chosen.kills, seed, chosen.journal, chosen.matrix)
    killed = sum(life.killed for life in lives)
    print(f"{killed} kills in {len(lives)} lives, {time.monotonic() - started:.0f} s")
    print(tables(lives))
    fills = sum(life.busy.get("fills", 0) for life in lives)
    if fills == 0:
        print("nothing was filled: the campaign proves nothing")
    return int(any(any(life.wrong.values()) for life in lives) or fills == 0)


if __name__ == "__main__":
    sys.exit(main())
