"""The ladder of modes: how far a strategy or plan has come on its way to real money, and how it climbs."""

from __future__ import annotations

from typing import Final

from trading.instruments import Mode

LADDER: Final = (Mode.BACKTEST, Mode.SHADOW, Mode.ALERT, Mode.PAPER, Mode.LIVE)
SENDS: Final = frozenset({Mode.PAPER, Mode.LIVE})
"""Modes in which orders go to a broker."""


def rank(mode: Mode) -> int:
    """Place on the ladder, 0 the lowest."""
    return LADDER.index(mode)


def capped(mode: Mode, highest: Mode) -> Mode:
    """`mode`, never above the installation's `highest`.

    live is not brought down to paper: what is meant for real money is refused there, not done with play money.
    """
    if mode is Mode.LIVE and highest is Mode.PAPER:
        return mode
    return mode if rank(mode) <= rank(highest) else highest


def first_of(stated: Mode) -> Mode:
    """The mode a strategy begins in when its file is seen for the first time: what it states, but live only by command."""
    return Mode.PAPER if stated is Mode.LIVE else stated


def step_problem(was: Mode, to: Mode, *, forced: bool) -> str:
    """Why `was` may not become `to`, "" when it may. Down is always allowed, up one step at a time unless it is forced."""
    steps = rank(to) - rank(was)
    if steps <= 1 or forced:
        return ""
    skipped = ", ".join(m.value for m in LADDER[rank(was) + 1 : rank(to)])
    return f"{was} to {to} skips {skipped}: promote one step at a time, or say --force"
