"""Every needed bars partition has a good, current verdict for every check that stops trading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trading.freshness import expired
from trading.gates.base import GATES, Missing, Snapshot, look, passed, present
from trading.refusals import RefusalCode, refuse
from trading.signals import GateVerdict


def _refused(partition: str, check: str, reason: str) -> GateVerdict:
    refusal = refuse(RefusalCode.DATA_QUALITY, partition=partition, check=check, reason=reason)
    return GateVerdict("data_quality", False, f"{check} {reason}", "every check passed", str(refusal))


@GATES.register("data_quality", 20)
class DataQuality:
    """Refuses with the first partition and check that failed, is missing or is stale.

    Stale: the verdict judged other bars (another content hash) than the lake has now, or the signal was computed from
    other bars than that. A verdict of severity ``warn`` counts as evaluated and never refuses; any other severity,
    a missing one included, refuses unless it passed. Checks beyond the required ones refuse, too, when they failed.
    Expired: the verdict of a required check is older than its limit (trading.freshness). Snapshots from before verdicts
    expired carry no limits and decide as they did.
    """

    code = RefusalCode.DATA_QUALITY

    def judge(self, snapshot: Snapshot) -> GateVerdict:
        required = look(snapshot, "required", list)
        checks = look(snapshot, "required_checks", list)
        verdicts = look(snapshot, "verdicts", list)
        computed_from = look(snapshot, "signal.partitions", list)
        if not required or not checks or not computed_from:
            raise Missing("required" if not required else "required_checks" if not checks else "signal.partitions")
        hashes = {_key(ref): look(ref, "content_hash", str) for ref in required}
        newest = computed_from[0]
        if _key(newest) not in hashes:
            return _refused(_name(newest), "required", "missing")
        for ref in computed_from:
            known = hashes.get(_key(ref))
            if known is not None and look(ref, "content_hash", str) != known:
                return _refused(_name(ref), "content_hash", "stale")
        limits = _limits(snapshot)
        for ref in required:
            mine = [v for v in verdicts if isinstance(v, Mapping) and _key(v) == _key(ref)]
            bad = self._partition(ref, mine, [str(c) for c in checks])
            if bad is None and limits is not None:
                bad = self._too_old(snapshot, ref, mine, [str(c) for c in checks], limits)
            if bad is not None:
                return bad
        return passed("data_quality", f"{len(required)} partitions", f"{len(checks)} checks each")

    def _partition(self, ref: Mapping[str, Any], verdicts: list[Mapping[str, Any]], checks: list[str]) -> GateVerdict | None:
        content_hash = look(ref, "content_hash", str)
        by_check: dict[str, list[Mapping[str, Any]]] = {check: [] for check in checks}
        for verdict in verdicts:
            by_check.setdefault(look(verdict, "check", str), []).append(verdict)
        for check, found in by_check.items():
            if not found:
                return _refused(_name(ref), check, "missing")
            for verdict in found:
                if look(verdict, "content_hash", str) != content_hash:
                    if check in checks:
                        return _refused(_name(ref), check, "stale")
                    continue  # an extra check that judged other bars says nothing about these
                good = verdict.get("passed") is True
                warned = verdict.get("passed") is False and verdict.get("severity") == "warn"
                if not good and not warned:
                    return _refused(_name(ref), check, "failed")
        return None

    def _too_old(
        self,
        snapshot: Snapshot,
        ref: Mapping[str, Any],
        verdicts: list[Mapping[str, Any]],
        checks: list[str],
        limits: Mapping[tuple[str, str, str], Mapping[str, Any]],
    ) -> GateVerdict | None:
        limit = limits.get(_key(ref))
        if limit is None:
            raise Missing("freshness")
        now_time = look(snapshot, "now_time", int)
        now_wall = look(snapshot, "now_wall", int) if limit.get("max_wall_age") is not None else 0
        for verdict in sorted(verdicts, key=lambda v: str(v.get("check"))):
            if verdict.get("check") in checks and expired(verdict, limit, now_time, now_wall):
                return _refused(_name(ref), str(verdict.get("check")), "expired")
        return None


def _limits(snapshot: Snapshot) -> Mapping[tuple[str, str, str], Mapping[str, Any]] | None:
    if not present(snapshot, "freshness"):
        return None
    return {_key(limit): limit for limit in look(snapshot, "freshness", list)}


def _key(ref: Any) -> tuple[str, str, str]:
    if not isinstance(ref, Mapping):
        raise Missing("partition")
    return look(ref, "dataset", str), look(ref, "session", str), look(ref, "symbol", str)


def _name(ref: Mapping[str, Any]) -> str:
    return "/".join(_key(ref))
