"""Where tests find real market data. Never copied into the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def market_data() -> Path:
    """Folder of shared real market data; skips the test, saying why, when it is absent."""
    folder = Path(os.environ.get("TAPELINE_TEST_MARKET_DATA", ROOT.parent / "shared" / "market-data"))
    if not folder.is_dir():
        pytest.skip(f"real market data not found at {folder}: set TAPELINE_TEST_MARKET_DATA to a folder with lean/ in it")
    return folder


def lean_data() -> Path:
    """The LEAN `Data` folder below the market data."""
    return market_data() / "lean" / "Data"
