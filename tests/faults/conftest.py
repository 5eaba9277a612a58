"""Fixtures of the fault tests: a zygote that has done once what its desks do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import harness, remote_process


@pytest.fixture
def warm_desks(new_ledger_url: Callable[[], str], tmp_path: Path) -> None:
    """Desks over the simulated broker start as fast as they can."""
    remote_process.warm(new_ledger_url, tmp_path)


@pytest.fixture
def warm_paper_desks(new_ledger_url: Callable[[], str]) -> None:
    """Desks over the paper broker start as fast as they can."""
    harness.warm(new_ledger_url)
