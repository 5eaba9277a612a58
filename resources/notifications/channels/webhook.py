"""Any webhook: the events as JSON, with an idempotency key, signed when the channel has a signing secret.

Body: ``{"id", "text", "part", "parts", "events": [{"id", "kind", "severity", "title", "body", "time"}]}``. Signature:
``X-Tapeline-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>." + body>``.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

from resources.notifications.channels._base import Delivery, HttpTransport, Said
from resources.notifications.compose import Message
from resources.secrets import SecretError
from trading.timeframes import iso


class WebhookTransport(HttpTransport):
    """POST of the events; any 2xx takes them."""

    limit = 60_000
    per_minute = 120.0
    burst = 20

    def body(self, message: Message) -> Mapping[str, Any]:
        return {
            "id": message.dedupe_id,
            "text": message.text,
            "part": message.part,
            "parts": message.parts,
            "events": [
                {
                    "id": item.dedupe_id, "kind": item.kind, "severity": item.severity, "title": item.title,
                    "body": item.body if message.parts == 1 else "", "time": iso(item.happened_wall),
                }
                for item in message.items
            ],
        }  # fmt: skip

    def headers(self, message: Message, content: bytes) -> Mapping[str, str]:
        headers = {"Idempotency-Key": message.dedupe_id}
        if self.channel.signing_secret is not None:
            stamp = str(int(time.time()))
            key = self._read_secret(self.channel.signing_secret).encode()
            digest = hmac.new(key, f"{stamp}.".encode() + content, hashlib.sha256).hexdigest()
            headers["X-Tapeline-Signature"] = f"t={stamp},v1={digest}"
        return headers

    def send(self, message: Message) -> Delivery:
        try:
            return super().send(message)
        except SecretError as error:  # of the signature: without it nothing is sent
            return Delivery(Said.FAILED, str(error))
