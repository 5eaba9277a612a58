"""data/config/notifications.yaml: the channels there are, and which events go to which of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, Strict, model_validator

from resources.notifications.events import KINDS, Event, Severity
from trading.config_text import ConfigModel, Name, Positive, Problem, Text, custom_error, load_yaml, nearest, validate

FILE_NAME: Final = "notifications.yaml"
LEVELS: Final = tuple(str(level) for level in Severity)
_ADDRESS = r"^[^@\s<>,]+@[^@\s<>,]+$"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Channel(ConfigModel):
    timeout_seconds: Annotated[float, Strict(), Field(gt=0, le=60, description="longest wait for the channel")] = 10.0
    rate_per_minute: Positive | None = Field(None, description="messages a minute; default: what the service allows")


class _HttpChannel(_Channel):
    url_secret: Name = Field(description="file in data/secrets that holds the URL")


class Discord(_HttpChannel):
    """An incoming webhook of a Discord channel."""

    kind: Literal["discord"]
    username: Text = "Tapeline"


class Slack(_HttpChannel):
    """An incoming webhook of a Slack channel."""

    kind: Literal["slack"]


class Webhook(_HttpChannel):
    """Any URL: gets the events as JSON by POST, signed when there is a signing secret."""

    kind: Literal["webhook"]
    signing_secret: Name | None = Field(None, description="file in data/secrets: key of the signature header")


class Telegram(_Channel):
    """A bot that writes to one chat."""

    kind: Literal["telegram"]
    token_secret: Name = Field(description="file in data/secrets that holds the bot's token")
    chat_id: Annotated[str, Strict(), Field(pattern=r"^(-?\d+|@\w+)$", description='in quotes: "-1001234567890" or "@name"')]
    api_url: Text = "https://api.telegram.org"
    silent: Literal["never", "info", "always"] = "info"

    @model_validator(mode="after")
    def _api(self) -> Telegram:
        _check_url(self.api_url)
        return self


class Email(_Channel):
    """A mailbox, by an SMTP server."""

    kind: Literal["email"]
    host: Text
    port: Annotated[int, Strict(), Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: Text = ""
    password_secret: Name | None = None
    sender: Annotated[str, Strict(), Field(alias="from", pattern=_ADDRESS)]
    to: Annotated[tuple[Annotated[str, Strict(), Field(pattern=_ADDRESS)], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _safe(self) -> Email:
        if bool(self.user) != bool(self.password_secret):
            raise custom_error("user and password_secret belong together", "both or neither")
        if self.security == "none" and self.user and self.host not in _LOOPBACK:
            raise custom_error("the password would travel unencrypted", "security: starttls or tls")
        return self


Channel = Annotated[Discord | Slack | Telegram | Email | Webhook, Field(discriminator="kind")]


SHADOWED = frozenset({"signal", "order.shadow"})
"""What a strategy in mode shadow would do: told by routes only that name the mode."""


class Route(ConfigModel):
    """Events that match go to the channels named. An event goes to a channel once, however many routes say so."""

    events: Annotated[tuple[Text, ...], Field(min_length=1, description="kinds; * stands for anything")]
    channels: Annotated[tuple[Text, ...], Field(min_length=1)]
    at_least: Literal["info", "warning", "critical"] = "info"
    strategies: tuple[Text, ...] = Field((), description="only events of these strategies and plans")
    symbols: tuple[Text, ...] = Field((), description="only events on these instruments")
    modes: tuple[Literal["backtest", "shadow", "alert", "paper", "live"], ...] = ()

    def takes(self, event: Event) -> bool:
        return (
            event.severity >= LEVELS.index(self.at_least)
            and any(fnmatchcase(event.kind, pattern) for pattern in self.events)
            and (not self.strategies or event.strategy in self.strategies)
            and (not self.symbols or event.symbol in self.symbols)
            and (not self.modes or event.mode in self.modes)
            and (event.kind not in SHADOWED or event.mode != "shadow" or "shadow" in self.modes)
        )


class Notifications(ConfigModel):
    """The whole file."""

    channels: Mapping[Name, Channel] = Field(default_factory=dict)
    routes: tuple[Route, ...] = ()

    def channels_for(self, event: Event, about: str = "") -> list[str]:
        """Channels the event goes to, by name. about: the channel it tells of, which is not asked to tell it."""
        named = {name for route in self.routes if route.takes(event) for name in route.channels}
        return sorted(named - {about})


@dataclass(frozen=True, slots=True)
class Loaded:
    """The file as read. settings None: it cannot be used, and `problems` says why."""

    settings: Notifications | None
    problems: tuple[Problem, ...]


def load(config_folder: Path) -> Loaded:
    """Read the file in the config folder; without one there are no channels."""
    path = config_folder / FILE_NAME
    if not path.exists():
        return Loaded(Notifications(), ())
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return Loaded(None, (Problem(FILE_NAME, 0, "", f"cannot be read: {type(error).__name__}", "a readable UTF-8 file"),))
    return parse(text, FILE_NAME)


def parse(text: str, file: str) -> Loaded:
    """The file's text, or every problem of it with its line."""
    document = load_yaml(text, file)
    if document.data is None and not document.problems:
        return Loaded(Notifications(), ())
    parsed, problems = validate(Notifications, document)
    if parsed is None:
        return Loaded(None, tuple(problems))
    wrong: list[Problem] = []
    for i, route in enumerate(parsed.routes):
        for j, name in enumerate(route.channels):
            if name not in parsed.channels:
                known = sorted(parsed.channels)
                wrong.append(
                    document.problem(
                        ("routes", i, "channels", j), f"no channel {name!r}",
                        "one of " + (", ".join(known) or "(none is defined)"), nearest(name, known),
                    )
                )  # fmt: skip
        for j, pattern in enumerate(route.events):
            if not _matches_any(pattern):
                near = nearest(pattern, KINDS)
                wrong.append(document.problem(("routes", i, "events", j), f"no event {pattern!r}", _SEE_EVENTS, near))
    used = {name for route in parsed.routes for name in route.channels}
    idle = [
        document.warning(("channels", name), "no route names this channel: it is told nothing", "a route")
        for name in parsed.channels
        if name not in used
    ]
    return Loaded(None if wrong else parsed, tuple(sorted([*wrong, *idle], key=lambda p: p.line)))


_SEE_EVENTS: Final = "a kind of `tapeline notify events`, or a pattern such as order.*"


def _matches_any(pattern: str) -> bool:
    return pattern.startswith("audit.") or any(fnmatchcase(kind, pattern) for kind in KINDS)


def _check_url(url: str) -> str:
    """`url` when messages may be sent there. Raises a config error that does not repeat it: it may be a secret."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return url
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return url
    raise custom_error("is no address messages may be sent to", "https://...; http only on this machine's loopback")


def usable_url(text: str) -> bool:
    """May messages be sent to this URL: https, or loopback, and no blanks in it?"""
    try:
        _check_url(text)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not used
        return False
    return not re.search(r"\s", text)


def secrets_of(channel: Any) -> Sequence[str]:
    """Names of the secret files a channel needs."""
    names = (getattr(channel, field, None) for field in ("url_secret", "token_secret", "password_secret", "signing_secret"))
    return [name for name in names if name]
