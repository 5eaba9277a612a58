"""Telegram: sendMessage of a bot. 4,096 characters a message; a chat takes one a second, a group twenty a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resources.notifications.channels._base import Delivery, HttpTransport, Said
from resources.notifications.compose import Message


class TelegramTransport(HttpTransport):
    """Plain text to one chat; the token is part of the address and is never shown."""

    limit = 4096
    per_minute = 20.0
    burst = 3

    def url(self) -> str:
        return f"{self.channel.api_url.rstrip('/')}/bot{self._read_secret(self.channel.token_secret)}/sendMessage"

    def body(self, message: Message) -> Mapping[str, Any]:
        silent = self.channel.silent
        quiet = silent == "always" or (silent == "info" and all(item.severity == "info" for item in message.items))
        return {
            "chat_id": self.channel.chat_id,
            "text": message.text,
            "disable_notification": quiet,
            "link_preview_options": {"is_disabled": True},
        }

    def judge(self, status: int, headers: Mapping[str, str], body: Any) -> Delivery:
        if 200 <= status < 300 and not (isinstance(body, Mapping) and body.get("ok") is True):
            return Delivery(Said.FAILED, "the answer does not say ok")
        moved = body.get("parameters", {}).get("migrate_to_chat_id") if isinstance(body, Mapping) else None
        if moved:
            return Delivery(Said.FAILED, f'the group became a supergroup: set chat_id: "{moved}" in notifications.yaml')
        if status == 400 and isinstance(body, Mapping) and "chat not found" in str(body.get("description", "")):
            return Delivery(Said.FAILED, "chat not found: is chat_id right, and is the bot in the chat?")
        return super().judge(status, headers, body)
