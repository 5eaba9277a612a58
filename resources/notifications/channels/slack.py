"""Slack: an incoming webhook. 4,000 characters are advised (40,000 are cut off); one message a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources.notifications.channels._base import HttpTransport
from resources.notifications.compose import Message


class SlackTransport(HttpTransport):
    """POST of ``text`` with Slack's three control characters escaped, so that nothing in it is a link or a mention."""

    limit = 4000
    per_minute = 60.0
    burst = 3

    def escape(self, text: str) -> str:
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    def body(self, message: Message) -> Mapping[str, Any]:
        return {"text": self.escape(message.text), "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
