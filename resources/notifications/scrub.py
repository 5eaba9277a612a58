"""No secret leaves in a message: what secret files hold, passwords in URLs, tokens and webhook addresses are masked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from resources.logs import mask_text

_MASK = "***"
_SHORTEST = 8
_PATTERNS = (
    re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"https://hooks\.slack\.com/\S+"),
    re.compile(r"https://(?:\w+\.)?discord(?:app)?\.com/api/webhooks/\S+"),
    re.compile(r"\bbot?\d{6,}:[A-Za-z0-9_-]{20,}|\b\d{6,}:[A-Za-z0-9_-]{30,}"),
    re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key)\b(\s*[=:]\s*)(?!\*\*\*)\S+"),
)


class Scrubber:
    """Masks secrets in text. folder: the files whose content must not leave; read again when one changes."""

    def __init__(self, folder: Path, more: Iterable[str] = ()) -> None:
        self._folder = folder
        self._more = tuple(s for s in more if len(s) >= _SHORTEST)
        self._stamp: tuple[tuple[str, int], ...] = ()
        self._secrets: tuple[str, ...] = ()

    def __call__(self, text: str) -> str:
        self._refresh()
        for secret in (*self._secrets, *self._more):
            text = text.replace(secret, _MASK)
        text = mask_text(text)
        for pattern in _PATTERNS[:-1]:
            text = pattern.sub(_MASK, text)
        return _PATTERNS[-1].sub(rf"\1\2{_MASK}", text)

    def _refresh(self) -> None:
        try:
            paths = sorted(p for p in self._folder.iterdir() if p.is_file())
            stamp = tuple((p.name, p.stat().st_mtime_ns) for p in paths)
        except OSError:
            return
        if stamp == self._stamp:
            return
        found: set[str] = set()
        for path in paths:
            try:
                text = path.read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) >= _SHORTEST:
                found.add(text)
                # The part of an address that is the secret, should only that appear.
                found.update(piece for piece in re.split(r"[/?&=]", text) if len(piece) >= 20)
        self._secrets = tuple(sorted(found, key=len, reverse=True))
        self._stamp = stamp
