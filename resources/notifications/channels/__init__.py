"""The channels' protocols, by kind. Each says what one message may hold, how often one may come, and how one is sent.

httpx and smtplib are used directly. The library apprise, which would be the transport alone, answers yes or no: the status,
Retry-After and `retry_after` that decide whether a message waits, is given up or is sent again do not come through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from resources.notifications.channels._base import Delivery, SecretReader, Transport
from resources.notifications.channels.discord import DiscordTransport
from resources.notifications.channels.email import EmailTransport
from resources.notifications.channels.slack import SlackTransport
from resources.notifications.channels.telegram import TelegramTransport
from resources.notifications.channels.webhook import WebhookTransport

__all__ = ["Delivery", "SecretReader", "Transport", "transport_of"]

_KINDS: Final[Mapping[str, Callable[[str, Any, SecretReader], Transport]]] = {
    "discord": DiscordTransport,
    "telegram": TelegramTransport,
    "slack": SlackTransport,
    "email": EmailTransport,
    "webhook": WebhookTransport,
}


def transport_of(name: str, channel: Any, read_secret: SecretReader) -> Transport:
    """The transport of a channel of the configuration. Secrets are read when something is sent, so a new one counts at once."""
    return _KINDS[channel.kind](name, channel, read_secret)
