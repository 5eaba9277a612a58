"""Research asset: all strategies and plans on one account, as the desk would have run them."""

from typing import Any

import dagster as dg

from assets import portfolio_run
from assets.common import image, markdown_table
from assets.research import strategy_backtests
from assets.research_run import HALTS_HEADER, halt_rows, prepare_once, trade_rows
from resources.dagster_resources import ConfigFilesResource, LakeResource
from resources.settings import settings


class PortfolioOf(dg.Config):
    """Which strategies."""

    strategies: list[str] = []  # noqa: RUF012 dagster copies it
    """Names that trade, whatever their status and mode; empty: as their files say."""


@dg.asset(
    group_name="research",
    owners=["team:research"],
    tags={"lane": "research"},
    kinds={"python", "numba"},
    deps=[strategy_backtests],
    description="All strategies and plans on one account over the history in the lake: opposite signals resolved by the "
    "universe's policy, legs of pairs together or not at all, one budget, the desk's limits. Beside each: its account alone.",
)
def portfolio_backtest(
    context: dg.AssetExecutionContext, config: PortfolioOf, config_files: ConfigFilesResource, lake: LakeResource
) -> dg.MaterializeResult:
    from resources import backtest_view, plots

    loaded, own = config_files.load(), settings()
    prepared, failed = prepare_once(context.run_id, loaded, lake.lake(), own.paper_cash, config.strategies)
    try:
        found = portfolio_run.portfolio(
            prepared, failed, loaded, own.paper_cash, own.account_currency, all_trade=bool(config.strategies)
        )
    except ValueError as error:
        context.log.warning(str(error))
        return dg.MaterializeResult(metadata={"dagster/row_count": 0, "not_run": str(error)})
    metrics = found.metrics
    metadata: dict[str, Any] = {
        "together": image(plots.png(backtest_view.plot(found.result)), "equity, drawdown and exposure of the whole account"),
        "strategies": dg.MetadataValue.md(markdown_table(portfolio_run.HEADER, portfolio_run.rows(found))),
        "refused": dg.MetadataValue.md(markdown_table(portfolio_run.REFUSED_HEADER, portfolio_run.refused_rows(found))),
        "newest_trades": dg.MetadataValue.md(
            markdown_table(
                ["strategy", "instrument", "side", "quantity", "entry", "price", "exit", "price", "why", "P&L"],
                trade_rows([found], 30),
                30,
            )
        ),
        "left_out": dg.MetadataValue.md(markdown_table(["strategy or plan", "why"], sorted(found.left_out.items()))),
        "heard": ", ".join(found.heard) or "none",
        "halts": dg.MetadataValue.md(markdown_table(HALTS_HEADER, halt_rows([found.result]), 60)),
        "conflicts": f"{found.conflicts.policy}, positions: {found.conflicts.positions}",
        "dagster/row_count": len(found.result.trades),
        "net": float(found.result.equity[-1] - found.result.cash),
        "net_alone": sum(found.alone.values()),
        "max_drawdown": metrics.max_drawdown,
        "account": f"{own.paper_cash:,.0f} {own.account_currency}, mode BACKTEST"
        + (", SIMULATED market data" if loaded.universe.simulated else ""),
    }
    if metrics.sharpe == metrics.sharpe:  # a number: drawn over the runs
        metadata["sharpe"] = metrics.sharpe
    return dg.MaterializeResult(metadata=metadata)


ASSETS: list[Any] = [portfolio_backtest]
