"""An installation whose universe reads vendors' files, and what the tests drop into its inbox."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from resources.feeds.files import FilesFeed, UniverseOfFiles
from resources.inbox import Inbox, Outcome
from resources.settings import ROOT, Settings
from tests.paths import lean_data
from trading.instruments import Instrument


def installation(folder: Path, *instruments: Instrument, **profiles: str) -> Settings:
    """Settings of a folder of its own: a universe of `instruments`, the shipped profiles and those given as name=YAML."""
    config = folder / "config"
    if not config.exists():
        shutil.copytree(ROOT / "data" / "config" / "feeds", config / "feeds")
        (config / "universe").mkdir()
    for name, text in profiles.items():
        (config / "feeds" / f"{name}.yaml").write_text(f"name: {name}\n{text}\n")
    lines = ["name: vendors", "history_start: 1990-01-02", "instruments:"]
    for i in instruments:
        lines += [
            f"  {i.symbol}:", f"    asset_class: {i.asset_class}", f"    calendar: {i.calendar}", f"    tick_size: {i.tick_size}",
            f"    currency: {i.currency}", "    feed: files", f"    feed_symbol: '{i.feed_symbol}'",
            f"    native_timeframe: {i.native_timeframe}", f"    has_volume: {str(i.has_volume).lower()}",
        ]  # fmt: skip
    (config / "universe" / "vendors.yaml").write_text("\n".join(lines) + "\n")
    return Settings(universe="vendors", data_dir=folder / "data", config_dir=config)


def take(of: Settings, name: str, content: str | bytes) -> Outcome:
    """Drop a file and let the inbox take it."""
    path = of.path("inbox") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return Inbox(of).take(name)


def accept(of: Settings, name: str, content: str | bytes) -> Outcome:
    """`take`, which must accept."""
    outcome = take(of, name, content)
    assert outcome.state == "accepted", outcome.why
    return outcome


def feed_of(of: Settings) -> FilesFeed:
    """The feed as the factory makes it, not shared with other tests."""
    return FilesFeed(of.path("inbox"), UniverseOfFiles(of))


def lean_member(*parts: str, member: str = "") -> tuple[str, bytes]:
    """(name, bytes) of a member of a zip in the LEAN folder; its only one unless `member` says which."""
    with zipfile.ZipFile(lean_data().joinpath(*parts)) as archive:
        names = [n for n in archive.namelist() if member in n]
        assert len(names) == 1, names
        return names[0], archive.read(names[0])
