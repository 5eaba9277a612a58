"""``python -m tests.faults.torture N``: kill the desk N times at random moments and boundaries, count what went wrong.

Prints one table and exits 1 when any count is not 0. TAPELINE_TORTURE_POSTGRES_URL names a server to use (without a
database); otherwise an embedded one is started for the time. ``--seed`` repeats a campaign.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from desk.faults import BOUNDARIES
from resources.ledger.migrate import create_databases, upgrade
from resources.ledger.store import connect
from resources.ports import free_port
from resources.postgres import EmbeddedPostgres
from tests.faults import checks, harness

_TEMPLATE = "torture_template"


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


def _one_life(url: str, seed: int, dice: random.Random, most: int) -> int:
    """Kill and restart one desk until it has lived its hours or died `most` times; then let it finish. Returns the kills."""
    kills, closes = 0, harness.MAX_CLOSES
    while kills < most:
        if dice.random() < 0.5:
            crash_at = f"{dice.choice(BOUNDARIES)}:{dice.randint(1, 25)}"
            code = harness.finish(url, seed, closes, crash_at)
            if code not in (0, -9):
                raise RuntimeError(f"desk process of seed {seed} failed with {code}")
            died = code == -9
        else:
            died = harness.kill_after(url, seed, closes, dice.uniform(0.05, 1.5))
        if not died:
            break
        kills += 1
    if harness.finish(url, seed, closes) != 0:
        raise RuntimeError(f"desk process of seed {seed} could not be started after {kills} kills")
    return kills


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kills", type=int, help="how many times the desk is killed")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the campaign")
    chosen = parser.parse_args(arguments)
    dice = random.Random(chosen.seed)
    total = dict.fromkeys(checks.NAMES, 0)
    busy = {"orders": 0, "fills": 0, "exits": 0, "given_up": 0}
    kills = lives = 0
    started = time.monotonic()
    print(f"torture: {chosen.kills} kills, seed {chosen.seed}", flush=True)
    with _server() as server:
        create_databases(server, [_TEMPLATE])
        upgrade(f"{server}/{_TEMPLATE}")
        while kills < chosen.kills:
            lives += 1
            life = dice.randrange(2**31)
            with _ledger(server, lives) as url:
                kills += _one_life(url, life, dice, min(15, chosen.kills - kills))
                engine = connect(url)
                found, done = checks.compare(engine), checks.activity(engine)
                engine.dispose()
            total = {name: total[name] + found[name] for name in total}
            busy = {name: busy[name] + done[name] for name in busy}
            if any(found.values()):
                print(f"life {lives} (seed {life}): { ({k: v for k, v in found.items() if v}) }", flush=True)
    done_text = ", ".join(f"{v} {k}" for k, v in busy.items())
    print(f"{kills} kills in {lives} lives, {time.monotonic() - started:.0f} s; {done_text}")
    for name, count in total.items():
        print(f"  {name:<16}{count:>6}")
    if busy["fills"] == 0:
        print("nothing was filled: the campaign proves nothing")
    return int(any(total.values()) or busy["fills"] == 0)


if __name__ == "__main__":
    sys.exit(main())
