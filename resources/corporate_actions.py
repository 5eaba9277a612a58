"""Corporate actions: gathered from their sources, and kept below the lake root, every version of them.

    <lake>/corporate_actions/symbol=AAPL/manifest.json          what holds
    <lake>/corporate_actions/symbol=AAPL/000003-5f2c...json     each version as it was written

A version is a small JSON document that is written whole or not at all; its hash is over its content. The files of
data/config/actions come first, then what an operator confirmed, then the vendor's: the first word on an action stands, so
that a person can correct a vendor.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from resources.feeds.protocol import FeedError
from resources.lake.errors import CorruptPartition
from resources.lake.storage import Storage, open_storage
from trading import ids
from trading.action_files import parse_actions, parse_actions_csv
from trading.calendars import Calendar, calendar
from trading.config_text import Problem
from trading.corporate_actions import ActionKind, CorporateAction
from trading.instruments import ActionSource, Instrument

if TYPE_CHECKING:
    from resources.lake import Lake

FOLDER = "corporate_actions"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ActionsVersion:
    """One stored version: its number, content hash and file."""

    number: int
    content_hash: str
    path: str


@dataclass(slots=True)
class Gathered:
    """What the sources say. actions: by symbol, ascending. failed: symbol -> why its source could not be read.
    overruled: actions a stronger source told otherwise."""

    actions: dict[str, list[CorporateAction]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    overruled: list[tuple[CorporateAction, CorporateAction]] = field(default_factory=list)


# -- the store ---------------------------------------------------------------------------------------------------------


def read_actions(lake: Lake | Path | str, symbol: str) -> list[CorporateAction]:
    """Actions of `symbol` as stored now, ascending by ex session; [] when none were ever stored.

    lake: the lake, or where it is (a folder or URL). Raises CorruptPartition naming what is not as it was written.
    """
    storage, folder = _storage(lake), _folder(symbol)
    found = storage.load(folder, None)
    return _parsed(found[1] or b"", storage.where(folder), symbol)[0] if found is not None else []


def action_versions(lake: Lake | Path | str, symbol: str) -> list[ActionsVersion]:
    """Every stored version of a symbol's actions, newest first."""
    found = []
    for entry in _storage(lake).files(_folder(symbol)):
        number, _, digest = entry.name.removesuffix(".json").partition("-")
        if entry.name.endswith(".json") and number.isdigit() and digest:
            found.append(ActionsVersion(int(number), digest, f"{_folder(symbol)}/{entry.name}"))
    return sorted(found, key=lambda v: v.number, reverse=True)


def read_version(lake: Lake | Path | str, version: ActionsVersion, symbol: str) -> list[CorporateAction]:
    """Actions of one stored version. Raises CorruptPartition."""
    storage = _storage(lake)
    file, size, _ = storage.open(version.path)
    with file:
        data = file.read(size)
    actions, digest, _ = _parsed(data, storage.where(version.path), symbol)
    if not digest.startswith(version.content_hash):
        raise CorruptPartition(f"{storage.where(version.path)}: its content is not what its name says")
    return actions


def write_actions(lake: Lake | Path | str, symbol: str, actions: Iterable[CorporateAction]) -> bool:
    """Store `actions` as the newest version of `symbol`'s. False, nothing written, when they are what is stored already.

    The versions before stay. Raises ValueError for another symbol's action, LakeWriteFailed, WriteRaced, OSError.
    """
    ordered = sorted(actions, key=lambda a: (a.ex_session, str(a.kind), a.other_symbol))
    wrong = next((a for a in ordered if a.symbol != symbol), None)
    if wrong is not None:
        raise ValueError(f"an action of {wrong.symbol} is not one of {symbol}")
    storage, folder, digest = _storage(lake), _folder(symbol), content_hash(ordered)
    with storage.lock(f"{folder}/.lock"):
        found = storage.load(folder, None)
        number = 0
        if found is not None:
            _, known, number = _parsed(found[1] or b"", storage.where(folder), symbol)
            if known == digest:
                return False
        elif not ordered:
            return False
        document = {
            "format": _FORMAT, "symbol": symbol, "number": number + 1, "hash": digest, "actions": [_plain(a) for a in ordered],
        }  # fmt: skip
        data = json.dumps(document, indent=1, sort_keys=True).encode()
        storage.make_folder(folder)
        with storage.create(f"{folder}/{number + 1:06d}-{digest[:24]}.json") as file:
            file.write(data)
        storage.sync_folder(folder)
        storage.swap(folder, data, found[0] if found is not None else None)
    return True


def stored_symbols(lake: Lake | Path | str) -> list[str]:
    """Symbols that have stored actions."""
    return sorted(unquote(n.removeprefix("symbol=")) for n in _storage(lake).folders(FOLDER) if n.startswith("symbol="))


def content_hash(actions: Sequence[CorporateAction]) -> str:
    """SHA-256 of the actions in their order."""
    return ids.content_hash(["actions", _FORMAT, [_plain(a) for a in actions]])


def _storage(lake: Lake | Path | str) -> Storage:
    return open_storage(lake) if isinstance(lake, (Path, str)) else lake.storage


def _folder(symbol: str) -> str:
    return f"{FOLDER}/symbol={quote(symbol, safe='')}"


def _parsed(data: bytes, where: str, symbol: str) -> tuple[list[CorporateAction], str, int]:
    """(actions, content hash, number) of a document. Raises CorruptPartition."""
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT or document["symbol"] != symbol:
            raise ValueError(f"holds format {document['format']} of {document['symbol']}")
        actions = [_from_plain(item) for item in document["actions"]]
        if document["hash"] != content_hash(actions):
            raise ValueError("its content is not what its hash says")
        return actions, str(document["hash"]), int(document["number"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptPartition(f"{where}: {error}; remove it and materialise corporate_actions again") from error


def _plain(action: CorporateAction) -> dict[str, Any]:
    values = asdict(action)
    return {**values, "kind": str(action.kind), "factor": None if math.isnan(action.factor) else action.factor}


def _from_plain(values: Mapping[str, Any]) -> CorporateAction:
    factor = values["factor"]
    return CorporateAction(**{**values, "kind": ActionKind(values["kind"]), "factor": math.nan if factor is None else factor})


# -- the sources -------------------------------------------------------------------------------------------------------


def read_config(folder: Path, instruments: Mapping[str, Instrument]) -> tuple[list[CorporateAction], list[Problem]]:
    """Actions of every file in `folder` (data/config/actions) that are of `instruments`, and what is wrong with the files.

    A file with a problem gives no action at all.
    """

    def venue_of(symbol: str) -> Calendar | None:
        instrument = instruments.get(symbol)
        return calendar(instrument.calendar) if instrument is not None else None

    found: list[CorporateAction] = []
    problems: list[Problem] = []
    for path in sorted(p for p in folder.glob("*") if p.suffix in (".yaml", ".yml", ".csv") and not p.name.startswith(".")):
        shown = f"actions/{path.name}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(shown, 0, "", f"cannot be read ({error})", "a readable UTF-8 file"))
            continue
        actions, wrong = (parse_actions_csv if path.suffix == ".csv" else parse_actions)(text, shown, venue_of)
        found += actions
        problems += wrong
    return found, problems


def gather(
    instruments: Mapping[str, Instrument],
    config_folder: Path,
    lean_actions: Callable[[Instrument], list[CorporateAction]],
    confirmed: Iterable[CorporateAction] = (),
) -> Gathered:
    """Actions of every instrument from all its sources.

    lean_actions(instrument): what the LEAN folder tells (raises FeedError). confirmed: what an operator confirmed.
    """
    gathered = Gathered()
    own, gathered.problems = read_config(config_folder, instruments)
    said = list(confirmed)
    for symbol, instrument in instruments.items():
        by_source = [[a for a in own if a.symbol == symbol], [a for a in said if a.symbol == symbol]]
        if instrument.actions is ActionSource.LEAN:
            try:
                by_source.append(lean_actions(instrument))
            except FeedError as error:
                gathered.failed[symbol] = str(error)
                continue
        gathered.actions[symbol] = _merged(by_source, gathered)
    return gathered


def _merged(by_source: Sequence[Sequence[CorporateAction]], gathered: Gathered) -> list[CorporateAction]:
    known: dict[tuple[int, ActionKind], CorporateAction] = {}
    for actions in by_source:
        mine = {(a.ex_session, a.kind): a for a in actions}
        for key, action in mine.items():
            stands = known.setdefault(key, action)
            if stands is not action and (stands.factor, stands.amount) != (action.factor, action.amount):
                gathered.overruled.append((stands, action))
    return sorted(known.values(), key=lambda a: (a.ex_session, str(a.kind), a.other_symbol))
