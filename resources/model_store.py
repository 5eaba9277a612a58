"""Models on this disk, so that a desk serves them while MLflow is away: one folder for each version, and the aliases.

    data/models/tapeline-forecaster-sample/aliases.json          champion, challenger, previous as MLflow last said
    data/models/tapeline-forecaster-sample/3-1f0c9a2b4d5e/       files of version 3, named by the hash over them

A version is written whole or not at all, and never again; its files are hashed when they are fetched and each time a process
loads them. `fetch` alone talks to MLflow. A process loads a version once and hands the same object to everyone who asks.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resources.settings import Settings
from trading.refusals import RefusalCode, refuse

if TYPE_CHECKING:
    from ml.serving import Served
    from resources.tracking import Tracking

ALIASES: Final = "aliases.json"
RECORD: Final = "version.json"
_lock = threading.Lock()
_loaded: dict[tuple[str, int], Served] = {}


class ModelRefused(Exception):
    """A version that may not trade. The message is the refusal, ``CODE: key=value``."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """Versions MLflow names, "" where it names none. asked_wall: when it was asked, UTC us."""

    champion: str = ""
    challenger: str = ""
    previous: str = ""
    asked_wall: int = 0

    @property
    def named(self) -> tuple[str, ...]:
        """Every version named, each once."""
        return tuple(dict.fromkeys(v for v in (self.champion, self.challenger, self.previous) if v))


@dataclass(frozen=True, slots=True)
class Kept:
    """A version on this disk. tags: those of the model version in MLflow."""

    registered: str
    version: str
    run_id: str
    files_hash: str
    tags: Mapping[str, str]
    folder: Path


def registered_name(model: str, universe: str) -> str:
    """Name in the model registry: each model and each universe has versions of its own."""
    return f"tapeline-{model}-{universe}"


def files_hash(files: Mapping[str, bytes], order: Sequence[str]) -> str:
    """SHA-256 over names and contents in the order they were stored in."""
    digest = hashlib.sha256()
    for name in order:
        digest.update(name.encode() + b"\0" + files[name])
    return digest.hexdigest()


class ModelStore:
    """The models below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def of(settings: Settings) -> ModelStore:
        return ModelStore(settings.path("models"))

    # -- reading ---------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every registered model that was ever fetched."""
        return sorted(p.parent.name for p in self.folder.glob(f"*/{ALIASES}"))

    def aliases(self, registered: str) -> Aliases | None:
        """What MLflow last said, None when it was never asked. Raises ModelRefused when the file cannot be read."""
        path = self.folder / registered / ALIASES
        try:
            return Aliases(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            said = refuse(RefusalCode.MODEL_MISSING, model=registered, reason="changed files", file=ALIASES)
            raise ModelRefused(str(said)) from error

    def versions(self, registered: str) -> list[Kept]:
        """Versions on this disk, oldest first; a folder that cannot be read is left out."""
        found = []
        for record in (self.folder / registered).glob(f"*/{RECORD}"):
            try:
                found.append(_kept(record.parent))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
        return sorted(found, key=lambda kept: int(kept.version))

    def kept(self, registered: str, version: str) -> Kept | None:
        """The version, when it is on this disk."""
        return next((k for k in self.versions(registered) if k.version == version), None)

    def load(self, registered: str, version: str) -> Served:
        """The version as it can be asked; read once a process. Raises ModelRefused with the refusal."""
        kept = self.kept(registered, version)
        if kept is None:
            raise ModelRefused(_refusal(RefusalCode.MODEL_MISSING, registered, version, "not fetched"))
        try:
            key = str(kept.folder), (kept.folder / RECORD).stat().st_mtime_ns
        except OSError as error:
            raise ModelRefused(_refusal(RefusalCode.MODEL_MISSING, registered, version, "not fetched")) from error
        with _lock:
            found = _loaded.get(key)
            if found is None:
                found = _loaded[key] = self._read(kept)
        if not found.fits:
            raise ModelRefused(
                _refusal(RefusalCode.MODEL_SCHEMA, registered, version, "features", trained_on=found.features_version)
            )
        return found

    def _read(self, kept: Kept) -> Served:
        from ml import serving

        files = _intact(kept)
        if files is None:
            raise ModelRefused(_refusal(RefusalCode.MODEL_MISSING, kept.registered, kept.version, "changed files"))
        try:
            return serving.load(files, registered=kept.registered, version=kept.version, run_id=kept.run_id)
        except serving.NotServable as error:
            raise ModelRefused(
                _refusal(RefusalCode.MODEL_MISSING, kept.registered, kept.version, "cannot be served", why=error)
            ) from error

    # -- writing ---------------------------------------------------------------------------------------------------------

    def put(self, registered: str, version: str, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> Kept:
        """Keep a version, whole or not at all; one that is kept stays as it is. tags: with ``files`` and ``files_hash``.

        Raises ModelRefused when the files are not those whose hash the tags state.
        """
        known = self.kept(registered, version)
        if known is not None and known.files_hash == tags.get("files_hash") and _intact(known) is not None:
            return known
        order = tags.get("files", "").split()
        if not order or set(order) != set(files) or files_hash(files, order) != tags.get("files_hash"):
            raise ModelRefused(_refusal(RefusalCode.MODEL_MISSING, registered, version, "changed files"))
        place = self.folder / registered
        place.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place))
        try:
            record = {"registered": registered, "version": version, "run_id": run_id, "tags": dict(tags)}
            for name, content in {**files, RECORD: json.dumps(record, sort_keys=True, indent=1).encode()}.items():
                _write(draft / name, content)
            final = place / f"{version}-{tags['files_hash'][:12]}"
            if final.exists():  # a copy that was damaged: the fetched one takes its place
                shutil.rmtree(final)
            draft.rename(final)
            _sync(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return _kept(final)

    def name(self, registered: str, aliases: Aliases) -> None:
        """Keep what MLflow says the aliases are."""
        place = self.folder / registered
        place.mkdir(parents=True, exist_ok=True)
        draft = place / f".{ALIASES}.{os.getpid()}.{threading.get_ident()}"
        _write(draft, json.dumps(asdict(aliases), sort_keys=True).encode())
        draft.replace(place / ALIASES)
        _sync(place)

    def fetch(self, tracking: Tracking, registered: str, say: Callable[[str], None] = lambda _: None) -> Aliases:
        """Ask MLflow which versions it names, and keep those that are not here yet: files first, then the names.

        A version that cannot be kept is named all the same, so that its strategy is refused rather than served by another
        one. Raises TrackingError when MLflow does not answer: what is kept stays in force.
        """
        from resources.tracking import CHALLENGER, CHAMPION, PREVIOUS, TrackingError

        named = {alias: tracking.version_of(registered, alias) or "" for alias in (CHAMPION, CHALLENGER, PREVIOUS)}
        aliases = Aliases(**named, asked_wall=time.time_ns() // 1000)
        for version in aliases.named:
            tags = tracking.version_tags(registered, version)
            known = self.kept(registered, version)
            if known is not None and known.files_hash == tags.get("files_hash") and _intact(known) is not None:
                continue
            try:
                files = {name: tracking.model_bytes(registered, version, name) for name in tags.get("files", "").split()}
                self.put(registered, version, tracking.run_of(registered, version), files, tags)
                say(f"{registered} version {version} is kept")
            except (ModelRefused, TrackingError) as error:
                say(f"{registered} version {version} is not kept: {error}")
        if aliases.named:
            self.name(registered, aliases)
        return aliases


def _refusal(code: RefusalCode, model: str, version: str, reason: str, **more: Any) -> str:
    return str(refuse(code, model=model, version=version, reason=reason, **more))


def _kept(folder: Path) -> Kept:
    said = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    tags = {str(k): str(v) for k, v in said["tags"].items()}
    return Kept(str(said["registered"]), str(int(said["version"])), str(said["run_id"]), tags["files_hash"], tags, folder)


def _intact(kept: Kept) -> dict[str, bytes] | None:
    """The version's files, None when they are not those that were kept."""
    order = kept.tags.get("files", "").split()
    try:
        files = {name: (kept.folder / name).read_bytes() for name in order}
    except OSError:
        return None
    return files if order and files_hash(files, order) == kept.files_hash else None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def named_by(url: str, registered: str) -> dict[str, str]:
    """Alias -> version as the MLflow server at `url` says, without MLflow's own library: a sensor asks every half minute.

    Raises httpx.HTTPError when it does not answer, or answers nonsense.
    """
    import httpx

    found: dict[str, str] = {}
    with httpx.Client(base_url=url, timeout=10, verify=not url.startswith("http://")) as client:
        for alias in ("champion", "challenger", "previous"):
            answer = client.get("/api/2.0/mlflow/registered-models/alias", params={"name": registered, "alias": alias})
            if answer.status_code in (400, 404):  # no such model, or no such alias
                continue
            answer.raise_for_status()
            try:
                found[alias] = str(answer.json()["model_version"]["version"])
            except (ValueError, KeyError, TypeError) as error:
                raise httpx.DecodingError(f"MLflow's answer about {registered}@{alias} has no version") from error
    return found
