"""Jobs that stop and start trading from the Dagster UI: what `tapeline halt`, `resume`, `flatten` and `kill` do.

Fill in the reason in the launchpad. What was done stands in the ledger's audit with the run's id as who asked.
"""

from dataclasses import asdict
from typing import Literal

import dagster as dg

from resources.dagster_resources import DeskResource
from resources.settings import settings


class HaltConfig(dg.Config):
    """level: reduce_only, halted or flatten; scope: ``desk`` or a strategy's name."""

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


@dg.op
def halt_desk(context: dg.OpExecutionContext, config: HaltConfig, desk: DeskResource) -> None:
    answer = desk.client().halt(config.level, config.reason, _who(context), config.scope)
    context.log.info(f"halted {config.scope}: {answer['halt']}")


@dg.op
def resume_desk(context: dg.OpExecutionContext, config: ResumeConfig, desk: DeskResource) -> None:
    answer = desk.client().resume(config.reason, _who(context), config.scope)
    context.log.info(f"resumed {config.scope}" if answer["resumed"] else f"{config.scope} was not halted")


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


_TAGS = {"tapeline/lane": "control"}


@dg.job(name="halt", executor_def=dg.in_process_executor, tags=_TAGS, description="No new risk: REDUCE_ONLY, HALTED or FLATTEN.")
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
