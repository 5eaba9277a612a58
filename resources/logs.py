"""Logging of every process of ours: structlog, one line an event, UTC, to standard error.

A terminal gets readable lines, everything else JSON lines. Values under names that look like secrets are masked, and so
are passwords inside URLs, before anything is written.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_SECRET_NAME = re.compile(r"password|passwd|secret|token|api_?key|authorization|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@\s]+@")
_MASK = "***"


def configure(process: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Set up logging of this process once, at its start. process: its name in every line (``desk``, ``supervisor``)."""
    out = stream or sys.stderr
    threshold = logging.getLevelNamesMapping()[level]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True) if out.isatty() else structlog.processors.JSONRenderer(ensure_ascii=False)
    )

    def name_process(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            name_process,
            structlog.processors.format_exc_info,
            mask_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    libraries = max(threshold, logging.WARNING)
    logging.basicConfig(stream=out, level=libraries, format="%(asctime)s %(levelname)s %(name)s %(message)s")


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: masks values named like secrets, and passwords in URLs, at any depth."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


def mask_text(text: str) -> str:
    """`text` with the passwords of URLs masked."""
    return _URL_PASSWORD.sub(rf"\1{_MASK}@", text)


def _masked(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) and value:
        return _MASK
    if isinstance(value, str):
        return mask_text(value)
    if isinstance(value, dict):
        return {key: _masked(str(key), item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked("", item) for item in value]
    return value
