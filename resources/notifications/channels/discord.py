"""Discord: an incoming webhook. 2,000 characters a message; five at once, then about thirty a minute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from resources.notifications.channels._base import HttpTransport
from resources.notifications.compose import Message

_MARKDOWN = re.compile(r"([\\*_~`|>#\[\]])")


class DiscordTransport(HttpTransport):
    """POST of ``content``, nobody mentioned whatever the text says, answered only when the message stands (wait=true)."""

    limit = 2000
    per_minute = 30.0
    burst = 5

    def url(self) -> str:
        url = super().url()
        return f"{url}{'&' if '?' in url else '?'}wait=true"

    def escape(self, text: str) -> str:
        return _MARKDOWN.sub(r"\\\1", text)

    def body(self, message: Message) -> Mapping[str, Any]:
        return {
            "content": self.escape(message.text),
            "username": self.channel.username,
            "allowed_mentions": {"parse": []},
        }
