"""Messages within a channel's limit: several short events in one, one long event in several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trading.timeframes import iso

JOIN = "\n\n"
_ROOM_FOR_COUNT = 16
"""Kept free for ``(2/3) `` before the parts of a long message."""


@dataclass(frozen=True, slots=True)
class Item:
    """One queued notification as the channel gets it. parts_sent: of a long one, how many parts the channel has."""

    id: int
    dedupe_id: str
    kind: str
    severity: str
    title: str
    body: str
    happened_wall: int
    parts_sent: int = 0

    @property
    def text(self) -> str:
        """Title, body, and a last line by which a person knows a message that came twice."""
        mark = {"critical": "[CRITICAL] ", "warning": "[WARNING] "}.get(self.severity, "")
        lines = [f"{mark}{self.title}", self.body.strip(), f"{iso(self.happened_wall)} · {self.dedupe_id}"]
        return "\n".join(line for line in lines if line)


@dataclass(frozen=True, slots=True)
class Message:
    """What goes out at once. items: those it completes or, for a part, the one it is of. part: 1-based; parts: of how many."""

    items: tuple[Item, ...]
    text: str
    part: int = 1
    parts: int = 1

    @property
    def completes(self) -> bool:
        """Are its items told when it is?"""
        return self.part == self.parts

    @property
    def dedupe_id(self) -> str:
        """The same whenever the same message is sent again."""
        first, last = self.items[0], self.items[-1]
        name = first.dedupe_id if first is last else f"{first.dedupe_id}..{last.dedupe_id}"
        return name if self.parts == 1 else f"{name}-{self.part}of{self.parts}"


def utf16(text: str) -> int:
    """Length as Discord and Telegram may count it: UTF-16 code units."""
    return len(text) + sum(1 for c in text if ord(c) > 0xFFFF)


def compose(items: Sequence[Item], limit: int, size: Callable[[str], int] = utf16, most: int = 50) -> Message:
    """The next message for `items` (oldest first, at least one): as many whole ones as fit, or the next part of the first.

    limit: what `size` of the text may be; most: items in one message.
    """
    first = items[0]
    if size(first.text) > limit:
        pieces = split(first.text, limit - _ROOM_FOR_COUNT, size)
        part = min(first.parts_sent, len(pieces) - 1) + 1
        return Message((first,), f"({part}/{len(pieces)}) {pieces[part - 1]}", part, len(pieces))
    taken, text = [first], first.text
    for item in items[1:most]:
        longer = text + JOIN + item.text
        if size(longer) > limit:
            break
        taken.append(item)
        text = longer
    return Message(tuple(taken), text)


def split(text: str, limit: int, size: Callable[[str], int] = utf16) -> list[str]:
    """`text` in pieces of at most `limit`, cut at line ends, else at spaces, else anywhere; joined they say the same.

    Raises ValueError when `limit` is too small for a single character.
    """
    pieces: list[str] = []
    rest = text
    while size(rest) > limit:
        low, high = 0, len(rest)
        while low < high:  # the longest start that fits
            middle = (low + high + 1) // 2
            if size(rest[:middle]) <= limit:
                low = middle
            else:
                high = middle - 1
        if low == 0:
            raise ValueError(f"a limit of {limit} does not hold a single character")
        cut = rest.rfind("\n", 1, low + 1)
        if cut <= 0:
            cut = rest.rfind(" ", low // 2, low + 1)
        if cut <= 0:
            pieces.append(rest[:low])
            rest = rest[low:]
        else:
            pieces.append(rest[:cut])
            rest = rest[cut + 1 :]
    return [*pieces, rest]
