"""Checkpoints of a training: tensors in safetensors, the rest in JSON, replaced as one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

_NAME = "training.safetensors"


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Replace the folder's checkpoint. A kill at any moment leaves the old one or the new one."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{_NAME}.part"
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(whole, draft, metadata={"about": json.dumps(about, sort_keys=True)})
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(folder / _NAME)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors, about) of the folder's checkpoint; None when there is none. Raises ValueError when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["about"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a whole checkpoint ({type(error).__name__}); remove it to train from the start") from error
