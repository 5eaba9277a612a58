"""Log lines: one event each, whose process it was, and never a secret."""

from __future__ import annotations

import io
import json

import structlog

from resources.logs import configure, mask_text


def logged(**values: object) -> dict[str, object]:
    out = io.StringIO()
    configure("desk", "INFO", out)
    try:
        structlog.get_logger().info("order_sent", **values)
        structlog.get_logger().debug("not shown")
    finally:
        structlog.reset_defaults()
    lines = out.getvalue().splitlines()
    assert len(lines) == 1
    line: dict[str, object] = json.loads(lines[0])
    return line


def test_a_line_says_what_when_and_whose() -> None:
    line = logged(symbol="EURUSD", quantity=2)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "order_sent", "process": "desk", "level": "info", "symbol": "EURUSD", "quantity": 2}


def test_secrets_are_masked_wherever_they_stand() -> None:
    url = "postgresql+psycopg2://tapeline:hush@127.0.0.1:5433/tapeline"
    line = logged(url=url, api_token="hush", nested={"password": "hush", "list": [url]}, error=f"could not connect to {url}")
    assert "hush" not in json.dumps(line)
    assert "127.0.0.1:5433" in str(line["url"]), "what is not secret stays readable"


def test_what_only_looks_like_one_is_left() -> None:
    assert mask_text("mail a@b.c at http://host:80/x") == "mail a@b.c at http://host:80/x"
