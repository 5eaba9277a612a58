"""Jobs that stop and start trading from the Dagster UI: what `tapeline halt`, `resume`, `flatten` and `kill` do.

Fill in the reason in the launchpad. What was done stands in the ledger's audit with the run's id as who asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal

import dagster as dg

from resources.dagster_resources import DeskResource, desk_client
from resources.desk_client import DeskClient, DeskError
from resources.secrets import SecretError
from resources.settings import settings


class HaltConfig(dg.Config):
    """level: reduce_only, halted or flatten; scope: ``desk``, a strategy's or plan's name, or ``instrument:SYMBOL``."""

    reason: str
    level: Literal["reduce_only", "halted", "flatten"] = "halted"
    scope: str = "desk"


class ResumeConfig(dg.Config):
    reason: str
    scope: str = "desk"


class FlattenConfig(dg.Config):
    """strategy, symbol: only these; empty means all."""

    reason: str
    strategy: str = ""
    symbol: str = ""


class KillConfig(dg.Config):
    """level: flatten or halted; by_hand: what was placed by hand at the broker, too."""

    reason: str
    level: Literal["flatten", "halted"] = "flatten"
    by_hand: bool = False
    patience_seconds: float = 30.0


def _who(context: dg.OpExecutionContext) -> str:
    return f"dagster:{context.run_id}"


def _every_book(context: dg.OpExecutionContext, desk: DeskResource, ask: Callable[[DeskClient], Mapping[str, Any]]) -> None:
    """Ask the desk, and the one of the paper book where one stands beside it: what stops one must not leave the other.

    Raises dg.Failure, with both asked, when one did not do it.
    """
    own = settings()
    books = [own, own.paper_book()] if own.two_books else [own]
    failed = []
    for book in books:
        try:
            answer = ask(desk.client() if book is own else desk_client(book))
        except (DeskError, SecretError) as error:
            failed.append(f"{book.label}: {error}")
        else:
            context.log.info(f"{book.label}: {answer}")
    if failed:
        raise dg.Failure("NOT known to be done: " + "; ".join(failed) + ". The job `kill` needs no desk")


@dg.op
def halt_desk(context: dg.OpExecutionContext, config: HaltConfig, desk: DeskResource) -> None:
    _every_book(context, desk, lambda client: client.halt(config.level, config.reason, _who(context), config.scope))


@dg.op
def resume_desk(context: dg.OpExecutionContext, config: ResumeConfig, desk: DeskResource) -> None:
    answer = desk.client().resume(config.reason, _who(context), config.scope)
    context.log.info(f"resumed {config.scope}" if answer["resumed"] else f"{config.scope} was not halted")
    if settings().two_books:
        context.log.warning("the paper book beside it stays as it is: `tapeline --book paper resume`")


@dg.op
def flatten_desk(context: dg.OpExecutionContext, config: FlattenConfig, desk: DeskResource) -> None:
    answer = desk.client().flatten(config.reason, _who(context), config.strategy or None, config.symbol or None)
    context.log.info(f"flatten: {answer}")


@dg.op
def pull_kill_switch(context: dg.OpExecutionContext, config: KillConfig) -> None:
    from desk.kill_switch import KillSwitch
    from desk.risk_state import HaltLevel

    level = HaltLevel(config.level.upper())
    outcome = KillSwitch(settings(), level, config.reason, _who(context), config.patience_seconds, config.by_hand).pull()
    if not outcome.flat:
        left = ", ".join((*outcome.orders, *outcome.positions))
        raise dg.Failure(f"{outcome.level} is latched, the broker is not flat yet: {left}", metadata={"how": outcome.how})
    context.log.info(f"flat: {asdict(outcome)}")


_TAGS = {"tapeline/lane": "control", "tapeline/mode": settings().label}


@dg.job(
    name="halt",
    executor_def=dg.in_process_executor,
    tags=_TAGS,
    description="No new risk in any book: REDUCE_ONLY, HALTED or FLATTEN.",
)
def halt_job() -> None:
    halt_desk()


@dg.job(name="resume", executor_def=dg.in_process_executor, tags=_TAGS, description="Lift a halt.")
def resume_job() -> None:
    resume_desk()


@dg.job(name="flatten", executor_def=dg.in_process_executor, tags=_TAGS, description="Cancel entries and close positions, once.")
def flatten_job() -> None:
    flatten_desk()


@dg.job(
    name="kill",
    executor_def=dg.in_process_executor,
    tags=_TAGS,
    description="The kill switch: halts, cancels and closes by itself; a desk that does not answer is ended first.",
)
def kill_job() -> None:
    pull_kill_switch()


JOBS = [halt_job, resume_job, flatten_job, kill_job]
