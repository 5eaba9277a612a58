"""``python -m resources.brokers.remote --book FILE``: run the simulated broker until Ctrl-C. For drills; never real money."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from resources.brokers.remote.faults import FAULTS, FaultPlan, parse_rates
from resources.brokers.remote.server import LOOPBACK, BrokerServer
from resources.brokers.remote.venue import Venue, VenueOptions
from resources.config import ConfigInvalid, load_config
from resources.settings import settings
from trading.costs import Costs


def main(arguments: list[str] | None = None) -> int:
    """Serve one account; the exit status. Prints ``simulated broker listens on 127.0.0.1:PORT`` when it is ready."""
    parser = argparse.ArgumentParser(
        prog="tapeline broker simulate",
        description="A simulated broker in a process of its own, for drills. Never real money.",
        epilog="faults: " + "; ".join(f"{kind}: {text}" for kind, text in FAULTS.items()),
    )
    parser.add_argument(
        "--book", type=Path, default=None, help="file of the account; default: simulated_broker.sqlite in the data folder"
    )
    parser.add_argument("--port", type=int, default=8611, help="0: any free one")
    parser.add_argument("--faults", type=parse_rates, default={}, metavar="KIND=SHARE,...", help="how often it misbehaves")
    parser.add_argument("--seed", type=int, default=0, help="the same seed, the same faults")
    parser.add_argument("--late-seconds", type=float, default=5.0, help="how late a late answer is")
    parser.add_argument("--rate", type=float, default=0.0, help="commission as a fraction of the traded value")
    parser.add_argument("--minimum", type=float, default=0.0, help="smallest commission of a fill")
    options = parser.parse_args(arguments)
    own = settings()
    try:
        instruments = load_config(own).universe.instruments
    except ConfigInvalid as error:
        print(f"simulated broker: {'; '.join(str(p) for p in error.problems)}", file=sys.stderr)  # noqa: T201
        return 2
    costs = Costs("per_value", options.rate, options.minimum)
    book = options.book or own.path("simulated_broker.sqlite")
    book.parent.mkdir(parents=True, exist_ok=True)
    venue = Venue(
        book, instruments, lambda symbol: costs, VenueOptions(own.paper_cash, own.account_currency),
        FaultPlan(options.faults, options.seed),
    )  # fmt: skip
    with BrokerServer(venue, options.port, options.late_seconds) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"simulated broker listens on {LOOPBACK}:{server.port}, account {venue.account().account_id}", flush=True)  # noqa: T201
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            return 0
        finally:
            venue.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
