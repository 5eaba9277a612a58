"""How long the lake keeps what: the policy people write, and what would go by it today."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from resources.lake.errors import LakeError
from resources.lake.model import Partition
from resources.lake.periods import CONTENTS, parse_dataset
from resources.lake.store import Lake
from trading.config_text import ConfigModel, Count, Problem, Text, custom_error, load_yaml, nearest, validate
from trading.ids import file_revision
from trading.timeframes import US_PER_DAY, Timeframe

FILE: Final = "lake/retention.yaml"
FOREVER: Final = "forever"


def _days(value: Any) -> int | None:
    if value == FOREVER or value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise custom_error(f"is {value!r}", f"a number of days above 0, or {FOREVER}")


Days = Annotated[int | None, BeforeValidator(_days)]


class DatasetPolicy(ConfigModel):
    """One dataset. keep_days: sessions older than this go; None: forever."""

    keep_days: Days = Field(None, description="Sessions older than this many days go; forever: none")
    superseded_days: Count | None = Field(None, description="Days a replaced version stays; default: the file's")


class RetentionPolicy(ConfigModel):
    """The whole file. superseded_days: replaced versions that nothing refers to go after this many days."""

    superseded_days: Count = Field(90, description="Days a replaced version stays readable when nothing refers to it")
    datasets: dict[str, DatasetPolicy] = Field(default_factory=dict, description="By dataset, e.g. bars_1m")
    revision: Text = Field("", description="Set from the file's content, not written in it")

    def keep_days(self, dataset: str) -> int | None:
        return self.datasets.get(dataset, _KEEP).keep_days

    def superseded(self, dataset: str) -> int:
        own = self.datasets.get(dataset, _KEEP).superseded_days
        return self.superseded_days if own is None else own


_KEEP: Final = DatasetPolicy()  # type: ignore[call-arg]


def parse_retention(text: str, file: str = FILE) -> tuple[RetentionPolicy | None, list[Problem]]:
    """The policy, or every problem the file has."""
    document = load_yaml(text, file)
    policy, problems = validate(RetentionPolicy, document)
    if policy is None:
        return None, problems
    names = [f"{content}_{t}" for content in CONTENTS for t in Timeframe]
    for name in policy.datasets:
        try:
            parse_dataset(name)
        except LakeError:
            expected = "bars_, quotes_ or features_ and a timeframe"
            problems.append(document.problem(("datasets", name), "is no dataset", expected, nearest(name, names)))
    if policy.revision:
        problems.append(document.problem(("revision",), "is set from the file's content", "no such key"))
    return (None, problems) if problems else (policy.model_copy(update={"revision": file_revision(text)}), [])


@dataclass(frozen=True, slots=True)
class Doomed:
    """Partitions of one dataset that are past their time. what: ``sessions`` (that count today) or ``superseded``.

    partitions: what would go. spared: past their time, but something refers to them. bytes: about what would be freed.
    """

    dataset: str
    what: str
    days: int
    partitions: tuple[Partition, ...]
    spared: tuple[Partition, ...]
    bytes: int

    @property
    def rows(self) -> int:
        return sum(p.rows for p in self.partitions)


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What would go by a policy (its revision) on a day. refused: dataset -> why it could not be looked at."""

    policy_revision: str
    today: date
    doomed: tuple[Doomed, ...]
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def partitions(self) -> int:
        return sum(len(d.partitions) for d in self.doomed)

    @property
    def bytes(self) -> int:
        return sum(d.bytes for d in self.doomed)


Referred = Callable[[str, str, date], bool]
"""Does anything refer to (dataset, symbol, session)?"""


def plan_retention(
    lake: Lake, policy: RetentionPolicy, referred: Referred, *, today: date, now_wall: int, datasets: Iterable[str] | None = None
) -> RetentionPlan:
    """What would go today; removes nothing. now_wall: UTC us, against which a replaced version's age is counted."""
    doomed: list[Doomed] = []
    refused: dict[str, str] = {}
    for dataset in lake.datasets() if datasets is None else datasets:
        try:
            doomed += _of_dataset(lake, dataset, policy, referred, today, now_wall)
        except LakeError as error:  # a torn file there is no reason to keep everything elsewhere
            refused[dataset] = str(error)
    return RetentionPlan(policy.revision, today, tuple(d for d in doomed if d.partitions or d.spared), refused)


def _of_dataset(
    lake: Lake, dataset: str, policy: RetentionPolicy, referred: Referred, today: date, now_wall: int
) -> list[Doomed]:
    size = lake.size(dataset)
    found = []
    keep = policy.keep_days(dataset)
    if keep is not None:
        old = lake.partitions(dataset, None, today - timedelta(days=keep + 1))
        going, spared = _parted(old, referred)
        each = (size.bytes + size.hot_bytes) / max(size.rows, 1)
        found.append(Doomed(dataset, "sessions", keep, going, spared, round(each * sum(p.rows for p in going))))
    replaced = lake.superseded(dataset)
    days = policy.superseded(dataset)
    limit = now_wall - days * US_PER_DAY
    going, spared = _parted([p for p in replaced if p.superseded_wall < limit], referred)
    each = size.superseded_bytes / max(sum(p.rows for p in replaced), 1)
    found.append(Doomed(dataset, "superseded", days, going, spared, round(each * sum(p.rows for p in going))))
    return found


def _parted(partitions: list[Partition], referred: Referred) -> tuple[tuple[Partition, ...], tuple[Partition, ...]]:
    kept = [referred(p.dataset, p.symbol, p.session) for p in partitions]
    going = tuple(p for p, keep in zip(partitions, kept, strict=True) if not keep)
    return going, tuple(p for p, keep in zip(partitions, kept, strict=True) if keep)


def carry_out(lake: Lake, doomed: Doomed) -> None:
    """Remove what is doomed. Raises LakeError; what was removed until then stays removed."""
    if doomed.what == "superseded":
        lake.remove_superseded(doomed.dataset, doomed.partitions)
        return
    by_symbol: dict[str, list[date]] = {}
    for p in doomed.partitions:
        by_symbol.setdefault(p.symbol, []).append(p.session)
    lake.remove(doomed.dataset, by_symbol)
