"""The few questions Tapeline asks Dagster's webserver: is it there, what partitions has a job, start a run, how is it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from resources.dagster_home import LOCATION

REPOSITORY = "__repository__"

_LOCATIONS = """
{ locationStatusesOrError { __typename ... on WorkspaceLocationStatusEntries { entries { name loadStatus } } }
  workspaceOrError { __typename ... on Workspace { locationEntries {
    name locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"
_KEYS = """
query Keys($selector: PipelineSelector!) { pipelineOrError(params: $selector) { __typename
  ... on Pipeline { partitionKeysOrError { ... on PartitionKeys { partitionKeys } } } ... on PythonError { message } } }
"""
_LAUNCH = """
mutation Launch($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } ... on PipelineNotFoundError { message }
  ... on InvalidSubsetError { message } ... on RunConfigValidationInvalid { errors { message } } } }
"""
_RUN = """
query Run($id: ID!) { runOrError(runId: $id) { __typename
  ... on Run { runId status stats { ... on RunStatsSnapshot { stepsSucceeded stepsFailed materializations startTime } } } } }
"""
_ACTIVE = """
query Active($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 1) { __typename ... on Runs { results { runId } } } }
"""
_GIVE_UP = """
mutation GiveUp($id: String!) { terminateRun(runId: $id, terminatePolicy: MARK_AS_CANCELED_IMMEDIATELY) { __typename
  ... on TerminateRunFailure { message } ... on PythonError { message } } }
"""
_FAILURES = """
query Failures($id: ID!, $after: String) { logsForRun(runId: $id, afterCursor: $after, limit: 1000) { __typename
  ... on EventConnection { cursor hasMore events { __typename
  ... on ExecutionStepFailureEvent { stepKey error { message cause { message } } } ... on RunFailureEvent { message }
  ... on AssetCheckEvaluationEvent { evaluation { checkName success assetKey { path } } } } } } }
"""

IN_PROGRESS = ("QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "CANCELING")


class DagsterApiError(Exception):
    """The webserver did not answer, or refused; the message says which."""


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run stands: Dagster's status word, steps that succeeded and failed, materialisations.

    Nothing that makes the webserver read the run's whole log: a run over the history has tens of thousands of events.
    """

    status: str
    succeeded: int
    failed: int
    materializations: int

    @property
    def finished(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


class DagsterApi:
    """GraphQL client of the webserver at `url`. Every method raises DagsterApiError."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        # verify only matters for https; leaving it off saves making a TLS context for each client of a loopback server.
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=url.startswith("https"))

    def __enter__(self) -> DagsterApi:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def location_state(self) -> str:
        """``LOADED``, ``LOADING``, or the error that keeps the code location from loading."""
        data = self._ask(_LOCATIONS)
        entries = {entry["name"]: entry for entry in data["workspaceOrError"].get("locationEntries", ())}
        answer = (entries.get(LOCATION) or {}).get("locationOrLoadError")
        if not answer:
            return "LOADING"
        return "LOADED" if answer["__typename"] == "RepositoryLocation" else str(answer.get("message", answer["__typename"]))

    def daemons_healthy(self) -> bool:
        """Whether every daemon Dagster needs has reported a heartbeat lately."""
        statuses = self._ask(_DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        required = [status for status in statuses if status["required"]]
        return bool(required) and all(status["healthy"] for status in required)

    def partition_keys(self, job: str) -> list[str]:
        """Partition keys of a job, ascending."""
        selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "pipelineName": job}
        answer = self._ask(_KEYS, selector=selector)["pipelineOrError"]
        if answer["__typename"] not in ("Pipeline", "Job"):
            raise DagsterApiError(f"job {job}: {answer.get('message', answer['__typename'])}")
        return sorted(answer["partitionKeysOrError"].get("partitionKeys") or ())

    def launch(self, job: str, tags: Mapping[str, str]) -> str:
        """Start a run of `job`; return its id."""
        params = {
            "selector": {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        answer = self._ask(_LAUNCH, params=params)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            said = answer.get("message") or "; ".join(error["message"] for error in answer.get("errors", ()))
            raise DagsterApiError(f"job {job} was not started: {said or answer['__typename']}")
        return str(answer["run"]["runId"])

    def active(self, tags: Mapping[str, str]) -> str | None:
        """Id of a run in progress with all these tags; None when there is none."""
        wanted = [{"key": key, "value": value} for key, value in tags.items()]
        answer = self._ask(_ACTIVE, filter={"tags": wanted, "statuses": list(IN_PROGRESS)})["runsOrError"]
        results = answer.get("results") or ()
        return str(results[0]["runId"]) if results else None

    def run(self, run_id: str) -> RunState:
        """How a run stands."""
        answer = self._ask(_RUN, id=run_id)["runOrError"]
        if answer["__typename"] != "Run":
            raise DagsterApiError(f"run {run_id}: {answer['__typename']}")
        stats = answer.get("stats") or {}
        return RunState(
            answer["status"], stats.get("stepsSucceeded") or 0, stats.get("stepsFailed") or 0, stats.get("materializations") or 0
        )

    def give_up(self, run_id: str) -> None:
        """Mark a run as cancelled whatever became of it."""
        answer = self._ask(_GIVE_UP, id=run_id)["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise DagsterApiError(f"run {run_id}: {answer.get('message', answer['__typename'])}")

    def failures(self, run_id: str) -> list[str]:
        """Why a run failed: its failed checks and steps, one line each."""
        lines = []
        for event in self._events(run_id):
            if event["__typename"] == "AssetCheckEvaluationEvent" and not event["evaluation"]["success"]:
                asset = "/".join(event["evaluation"]["assetKey"]["path"])
                lines.append(f"check {event['evaluation']['checkName']} of {asset} failed")
            elif event["__typename"] == "ExecutionStepFailureEvent":
                error = event.get("error") or {}
                cause = (error.get("cause") or {}).get("message") or error.get("message") or ""
                lines.append(f"step {event['stepKey']}: {cause.strip().splitlines()[0] if cause.strip() else 'failed'}")
            elif event["__typename"] == "RunFailureEvent" and event.get("message"):
                lines.append(event["message"].strip().splitlines()[0])
        return lines

    def _events(self, run_id: str) -> Iterator[dict[str, Any]]:
        """The run's log, page by page."""
        cursor: str | None = None
        while True:
            page = self._ask(_FAILURES, id=run_id, after=cursor)["logsForRun"]
            yield from page.get("events", ())
            if not page.get("hasMore"):
                return
            cursor = page["cursor"]

    def _ask(self, query: str, **variables: Any) -> dict[str, Any]:
        try:
            response = self._http.post("/graphql", json={"query": query, "variables": variables})
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DagsterApiError(f"the Dagster webserver does not answer: {type(error).__name__}") from error
        if body.get("errors") or not body.get("data"):
            said = "; ".join(str(error.get("message")) for error in body.get("errors") or ())
            raise DagsterApiError(f"the Dagster webserver refused: {said or response.status_code}")
        data: dict[str, Any] = body["data"]
        return data
