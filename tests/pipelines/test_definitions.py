"""What Dagster loads: every job resolves, for the checks and assets it names are there and can be chosen that way."""

from pipelines.definitions import defs


def test_every_asset_check_job_schedule_and_sensor_loads() -> None:
    repository = defs.get_repository_def()
    repository.load_all_definitions()
    jobs = {job.name for job in repository.get_all_jobs()}
    assert {"ingest", "trade", "end_of_session", "train", "research", "halt", "kill", "kill_switch_drill_job"} <= jobs


def test_a_bar_close_runs_the_lane_before_the_checks_that_only_inform() -> None:
    """What a close waits for is one step, which makes signals, decisions and orders; nothing else may come between."""
    graph = defs.resolve_job_def("trade").graph
    assert {node.name for node in graph.nodes} == {"trade_close", "live_verdicts"}
    first = {n.name for n in graph.nodes if n.definition.tags.get("dagster/priority") == "1"}
    assert first == {"trade_close"}
