"""The notifier on a real ledger, against the channels' protocols on loopback: what is told, when, how often, and after what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from resources.ledger import audit, audit_anchor
from resources.ledger import notifications as queue
from resources.ledger.audit_read import read as read_audit
from resources.ledger.store import Ledger
from resources.notifications.channels import transport_of
from resources.notifications.desk_watch import DeskWatch
from resources.notifications.ledger_away import LedgerAway
from resources.notifications.routing import load
from resources.notifications.scrub import Scrubber
from resources.notifications.worker import Notifier
from resources.secrets import read_named_secret, write_secret
from resources.settings import ROOT, Settings
from tests.doubles.channel_server import BOT, TOKEN, ChannelServer, Fault, discord_429, slack_429, telegram_429
from tests.doubles.smtp_server import SmtpServer

ROUTES = """\
channels:
  ops: {kind: discord, url_secret: discord, timeout_seconds: 2.0, rate_per_minute: 6000}
  phone: {kind: telegram, token_secret: telegram, chat_id: "-100", api_url: "URL", rate_per_minute: 6000}
  team: {kind: slack, url_secret: slack, rate_per_minute: 6000}
  hook: {kind: webhook, url_secret: webhook, signing_secret: signing, rate_per_minute: 6000}
  mail: {kind: email, host: 127.0.0.1, port: 1, security: none, user: desk, password_secret: smtp, from: desk@x.test,
         to: [r@x.test]}
routes:
  - {events: ["*"], channels: [CHANNELS]}
"""
FOUR = ("discord", "telegram", "slack", "webhook")


@pytest.fixture
def channels() -> Iterator[ChannelServer]:
    with ChannelServer() as server:
        yield server


class Room:
    """One installation's folders and ledger, without any other process."""

    def __init__(self, path: Path, ledger_url: str, engine: Engine, server: ChannelServer) -> None:
        base, _, database = ledger_url.rpartition("/")
        self.environment = {
            "TAPELINE_DATA_DIR": str(path / "data"), "TAPELINE_CONFIG_DIR": str(path / "config"), "TAPELINE_POSTGRES_URL": base,
            "TAPELINE_LEDGER_DATABASE": database,
        }  # fmt: skip
        self.settings = Settings(data_dir=path / "data", config_dir=path / "config", postgres_url=base, ledger_database=database)
        self.engine = engine
        self.server = server
        secrets = self.settings.path("secrets")
        for service in ("discord", "slack", "webhook"):
            write_secret(secrets / service, server.address(service))
        write_secret(secrets / "telegram", BOT)
        write_secret(secrets / "signing", "key-of-the-signature")
        write_secret(secrets / "smtp", "smtp-password-9876")
        (path / "config").mkdir()

    def route(self, channels: str, old: str = "", new: str = "") -> None:
        text = ROUTES.replace("CHANNELS", channels).replace("URL", self.server.url, 1).replace(old, new)
        (self.settings.config / "notifications.yaml").write_text(text)

    def tell(self, count: int = 1, *, start: int = 0, body: str = "", action: str = "halt") -> list[str]:
        """Write audit records; their dedupe ids."""
        names = []
        for number in range(start, start + count):
            with self.engine.begin() as c:
                content = {"scope": "desk", "level": "HALTED", "reason": f"reason {number} {body}"}
                names.append(f"audit-{audit.append(c, 'ana', action, content)}")
        return names

    def queued(self, state: str = queue.QUEUED) -> int:
        with self.engine.connect() as c:
            return int(c.execute(text("SELECT count(*) FROM notifications WHERE state = :s"), {"s": state}).scalar_one())


@pytest.fixture
def room(tmp_path: Path, ledger_url: str, ledger_engine: Engine, channels: ChannelServer) -> Room:
    return Room(tmp_path, ledger_url, ledger_engine, channels)


@pytest.fixture
def run(room: Room) -> Iterator[Callable[[], Notifier]]:
    """Starts a notifier in this process."""
    running: list[tuple[Notifier, threading.Thread]] = []

    def start() -> Notifier:
        notifier = Notifier(room.settings)
        thread = threading.Thread(target=notifier.run, daemon=True)
        thread.start()
        running.append((notifier, thread))
        return notifier

    yield start
    for notifier, _ in running:
        notifier.stop.set()
    for _, thread in running:
        thread.join(60)


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def seen(server: ChannelServer, service: str) -> Counter[str]:
    """How often each dedupe id was in a message."""
    counted: Counter[str] = Counter()
    for message in server.texts(service):
        counted.update(w.replace("\\", "") for line in message.splitlines() for w in line.split() if w.startswith("audit-"))
    return counted


class TestEachChannel:
    def test_gets_what_the_real_one_takes(self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
        room.route("ops, phone, team, hook")
        run()
        (name,) = room.tell(body="<b>_& @everyone")
        for service in FOUR:
            until(lambda service=service: channels.of(service))
        discord, telegram, slack, hook = (channels.of(service)[0] for service in FOUR)
        assert discord.body["allowed_mentions"] == {"parse": []}
        assert discord.query == {"wait": ["true"]}
        assert r"\_& @everyone" in discord.body["content"]
        assert telegram.body["chat_id"] == "-100"
        assert "parse_mode" not in telegram.body
        assert telegram.body["disable_notification"] is False
        assert "&lt;b&gt;_&amp;" in slack.body["text"]
        assert hook.headers["idempotency-key"] == name
        assert hook.body["events"][0]["kind"] == "halt"
        assert hook.headers["x-tapeline-signature"].startswith("t=")
        assert channels.wrong == []
        assert "PAPER HALT HALTED of desk" in telegram.body["text"]

    def test_that_is_a_mailbox_gets_one_mail_for_what_waited(self, room: Room, run: Callable[[], Notifier]) -> None:
        with SmtpServer(("desk", "smtp-password-9876")) as smtp:
            room.route("mail", "port: 1", f"port: {smtp.port}")
            names = room.tell(3)
            run()
            until(lambda: smtp.mails)
            mail = smtp.mails[0]
            assert mail["Subject"] == "[Tapeline critical] PAPER HALT HALTED of desk (and 2 more)"
            assert (mail["To"], mail["From"]) == ("r@x.test", "desk@x.test")
            assert mail["Message-ID"] == f"<{names[0]}..{names[2]}.mail@tapeline.x.test>"
            assert all(name in mail.get_content() for name in names)

    def test_a_mail_that_was_put_off_comes_again(self, room: Room, run: Callable[[], Notifier]) -> None:
        with SmtpServer(("desk", "smtp-password-9876")) as smtp:
            smtp.refuse.append("451 4.3.0 try later")
            room.route("mail", "port: 1", f"port: {smtp.port}")
            room.tell()
            run()
            until(lambda: smtp.mails)

    @pytest.mark.parametrize(
        ("service", "fault"), [("discord", discord_429(1.0)), ("telegram", telegram_429(1)), ("slack", slack_429(1))]
    )
    def test_that_asks_for_time_gets_it_and_then_the_message(
        self, room: Room, channels: ChannelServer, run: Callable[[], Notifier], service: str, fault: Fault
    ) -> None:
        channels.faults[service].append(fault)
        room.route({"discord": "ops", "telegram": "phone", "slack": "team"}[service])
        run()
        room.tell()
        until(lambda: channels.of(service))
        first, second = (at for _, at in channels.requests)
        assert second - first >= 1.0
        assert room.queued(queue.FAILED) == 0

    def test_a_text_too_long_for_one_message_comes_in_parts(
        self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]
    ) -> None:
        room.route("ops")
        with room.engine.begin() as c:
            for number in range(8):
                audit.append(c, "ana", "odd_thing", {f"field_{number}_{k}": "x" * 200 for k in range(12)})
        run()
        until(lambda: room.queued(queue.SENT) == 8)
        assert channels.wrong == []
        assert max(len(t) for t in channels.texts("discord")) <= 2000
        assert any(t.startswith("(2/") for t in channels.texts("discord"))

    def test_a_message_it_will_never_take_is_kept_for_a_person_and_told_elsewhere(
        self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]
    ) -> None:
        channels.faults["discord"].extend([Fault(400, {"message": "Cannot send an empty message"})] * 2)
        room.route("ops, hook")
        names = room.tell(2)
        run()
        until(lambda: room.queued(queue.FAILED))
        until(lambda: seen(channels, "discord")[names[1]])  # refused together, the good one is taken alone
        failed = queue.listed(room.engine, states=[queue.FAILED])[0]
        assert (failed["channel"], failed["dedupe_id"], failed["error"]) == (
            "ops", names[0], "HTTP 400: Cannot send an empty message",
        )  # fmt: skip
        until(lambda: any(e["kind"] == "failure.notification" for t in channels.of("webhook") for e in t.body["events"]))
        assert queue.retry(room.engine, "ana", "mended", ids=[failed["id"]]) == 1
        until(lambda: seen(channels, "discord")[names[0]])
        assert audit.verify(room.engine) == []


class TestADeadChannel:
    def test_does_not_delay_the_others(self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
        channels.dead.add("discord")
        room.route("ops, hook")
        run()
        until(lambda: channels.requests or room.tell())
        begun = time.monotonic()
        room.tell(50, start=1)
        until(lambda: len(seen(channels, "webhook")) >= 50, 5.0)
        assert time.monotonic() - begun < 5.0
        assert not channels.of("discord")
        assert room.queued() >= 50, "and what it was to be told waits for it"

    def test_that_comes_back_is_told_everything(self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
        channels.faults["discord"].append(Fault(drop=True))
        room.route("ops")
        names = room.tell(5)
        run()
        until(lambda: len(seen(channels, "discord")) == 5)
        assert set(seen(channels, "discord")) == set(names)

    def test_says_why_without_its_address(
        self, room: Room, channels: ChannelServer, run: Callable[[], Notifier], capfd: pytest.CaptureFixture[str]
    ) -> None:
        channels.faults["discord"].extend([Fault(404, {"message": f"Unknown Webhook {channels.address('discord')}"})] * 3)
        channels.faults["telegram"].extend([Fault(drop=True)] * 3)
        room.route("ops, phone")
        run()
        room.tell()
        until(lambda: len(queue.overview(room.engine)) == 2 and all(c.get("failures") for c in queue.overview(room.engine)))
        said = str(queue.overview(room.engine)) + str(queue.listed(room.engine)) + "".join(capfd.readouterr())
        assert "Unknown Webhook" in said
        assert TOKEN not in said
        assert BOT not in said


class TestAMissingSecret:
    def test_keeps_the_messages_until_it_is_there(self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
        path = room.settings.path("secrets", "discord")
        path.unlink()
        room.route("ops")
        run()
        room.tell()
        until(lambda: "tapeline notify secret discord" in queue.channel_state(room.engine, "ops")["error"])
        write_secret(path, channels.address("discord"))
        until(lambda: channels.of("discord"))


class TestAFileThatIsWrong:
    def test_at_the_start_holds_everything_back_until_it_is_mended(
        self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]
    ) -> None:
        room.route("nobody")
        names = room.tell(3)
        run()
        time.sleep(0.5)
        assert queue.lag(room.engine)["unread"] == 3
        room.route("hook")
        until(lambda: set(seen(channels, "webhook")) == set(names))

    def test_that_goes_wrong_leaves_what_was_good(self, room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
        room.route("hook")
        run()
        room.tell()
        until(lambda: channels.of("webhook"))
        room.route("nobody")
        time.sleep(0.4)
        (name,) = room.tell(start=1)
        until(lambda: seen(channels, "webhook")[name])


def test_a_ledger_that_does_not_answer_is_told_without_it(
    room: Room, channels: ChannelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.route("hook")
    routing = load(room.settings.config).settings
    secret = room.settings.path("secrets")
    away = LedgerAway("paper", lambda n, c: transport_of(n, c, lambda s: read_named_secret(secret, s)), Scrubber(secret), 0.0)
    away.gone(None, "OperationalError")
    assert not channels.requests
    away.gone(routing, "OperationalError")
    away.gone(routing, "OperationalError")
    until(lambda: channels.of("webhook"))
    assert "the ledger does not answer (OperationalError)" in channels.texts("webhook")[0]
    away.back(room.engine)
    away.back(room.engine)
    assert [r["action"] for r in read_audit(room.engine)] == ["ledger_back"]
    assert len(channels.requests) == 1


def test_a_desk_without_heartbeat_is_told_once_and_so_is_its_return(room: Room) -> None:
    ledger, watch = Ledger(room.engine), DeskWatch(1.0, started_wall=0)
    watch.look(room.engine)  # no desk has ever run
    for age_seconds, stopping in ((3600, False), (3600, False), (0, False), (0, False), (3600, True)):
        beat = {"wall": time.time_ns() // 1000 - age_seconds * 1_000_000, "state": "stopping" if stopping else "ok"}
        ledger.put_state("heartbeat", beat)
        watch.look(room.engine)
        DeskWatch(1.0).look(room.engine)  # one that has just started gives the desk its time
    assert [r["action"] for r in read_audit(room.engine)] == ["desk_silent", "desk_back"]


def test_a_second_notifier_waits_for_the_first(room: Room, channels: ChannelServer, run: Callable[[], Notifier]) -> None:
    room.route("hook")
    first = run()
    until(lambda: queue.lag(room.engine)["unread"] == 0)
    run()
    names = room.tell(20)
    until(lambda: set(seen(channels, "webhook")) == set(names))
    first.stop.set()
    more = room.tell(5, start=20)
    until(lambda: set(seen(channels, "webhook")) >= set(more))
    assert set(seen(channels, "webhook").values()) == {1}


def test_nothing_is_lost_when_the_notifier_is_killed_over_and_over(room: Room, channels: ChannelServer) -> None:
    """kill -9 at moments between reading, handing over and writing down: each event comes at least once, twins by their id."""
    room.route("ops, hook")
    channels.faults["webhook"].extend([Fault(200, "", hang=0.15, take=True)] * 200)
    channels.faults["discord"].extend([Fault(200, "", hang=0.1, take=True)] * 200)
    names: list[str] = []
    process: subprocess.Popen[bytes] | None = None
    try:
        for round_ in range(3):
            process = subprocess.Popen(
                [sys.executable, "-m", "resources.notifications.worker"], cwd=ROOT, env={**os.environ, **room.environment},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            before = len(channels.requests)
            names += room.tell(25, start=25 * round_)
            until(lambda before=before: len(channels.requests) >= before + 2)
            time.sleep(0.07 * round_)
            if round_ < 2:
                process.send_signal(signal.SIGKILL)
                process.wait(60)
                names += room.tell(5, start=1000 + 5 * round_)
        channels.faults.clear()
        until(lambda: set(seen(channels, "webhook")) >= set(names) and set(seen(channels, "discord")) >= set(names))
        until(lambda: room.queued() == 0)
    finally:
        if process is not None:
            process.terminate()
            process.wait(60)
    assert set(seen(channels, "webhook")) == set(names)
    anchors = audit_anchor.read(room.settings.path("audit"))
    assert anchors
    assert audit.check(room.engine, anchors).problems == ()


def test_the_event_is_queued_by_the_transaction_that_made_it_or_not_at_all(
    room: Room, channels: ChannelServer, run: Callable[[], Notifier]
) -> None:
    room.route("hook")
    run()
    with room.engine.connect() as c:
        audit.append(c, "ana", "halt", {"scope": "desk", "level": "HALTED", "reason": "never happened"})
        time.sleep(0.5)
        c.rollback()
    (name,) = room.tell()
    until(lambda: seen(channels, "webhook")[name])
    assert "never happened" not in str(channels.texts("webhook"))
