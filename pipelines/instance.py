"""Opens the Dagster instance once, alone, before the processes that share it: two that meet an empty database collide.

    python -m pipelines.instance FILE

FILE keeps the Dagster version whose schema the database has. When it names this version, nothing is imported or done.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    done = Path(sys.argv[1])
    if done.exists() and done.read_text() == _state():
        return
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        if done.exists():
            instance.upgrade()
        instance.get_run_ids(limit=1)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(_state())


def _state() -> str:
    return f"{version('dagster')} {_database_identity()}"


def _database_identity() -> str:
    """Which database this is and whether it has Dagster's tables: a file must not vouch for another database."""
    import psycopg2

    url = os.environ["TAPELINE_DAGSTER_URL"].replace("+psycopg2", "")
    connection = psycopg2.connect(url, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.oid, to_regclass('public.runs') IS NOT NULL, to_regclass('public.event_logs') IS NOT NULL, "
                "to_regclass('public.instigators') IS NOT NULL FROM pg_database d WHERE datname = current_database()"
            )
            found = cursor.fetchone() or ()
    finally:
        connection.close()
    return " ".join(map(str, found))


if __name__ == "__main__":
    main()
