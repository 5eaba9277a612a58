"""The desk process: one event loop for the API and the timers, one worker thread for everything that touches orders.

The worker takes one thing after the other, so a decision never meets a half-done bar close. The API answers while it
works. When the ledger goes away, what runs on it is taken down, no new risk is taken, and it is built again from the
ledger when that is back: the same path as after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
import uvicorn
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from desk.api import Unavailable, create_api
from desk.beside import live_desk
from desk.clock import wall
from desk.desk_service import DeskService
from desk.live import LiveDesk
from desk.store import SecondDesk
from resources.config import ConfigInvalid
from resources.logs import mask_text
from resources.secrets import SecretError, ensure_secret
from resources.settings import Settings

log = structlog.get_logger("desk")

T = TypeVar("T")

EXIT_OK = 0
EXIT_CANNOT_START = 2
EXIT_SECOND_DESK = 3
MAX_PAUSE_SECONDS = 10.0


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the desk decides when it stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class DeskProcess:
    """The running desk: its state for the API, its worker, and the loop that keeps it on the ledger."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stop = asyncio.Event()
        self.started_wall = wall()
        self.live: LiveDesk | None = None
        """What runs on the ledger; None while there is none."""
        self.reason = "the desk is starting"
        """Why there is no `live`."""
        self._was_live = False
        self._lost = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="desk-worker")
        self._working_since: int | None = None

    # -- for the service -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """starting, ok, degraded or stopping."""
        if self.stop.is_set():
            return "stopping"
        if self.live is None:
            return "degraded" if self._was_live else "starting"
        return "degraded" if self.live.no_new_risk else "ok"

    @property
    def working_since(self) -> int | None:
        """When the worker took up what it does now, real time, UTC us."""
        return self._working_since

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function` on the worker, after everything asked before. Raises what it raises; a lost ledger is noticed."""

        def run() -> T:
            self._working_since = wall()
            try:
                return function(*arguments)
            finally:
                self._working_since = None

        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, run)
        except SQLAlchemyError as error:
            self.notice(error)
            raise

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a reading `function` beside the worker. Raises Unavailable when the ledger does not answer."""
        try:
            return await asyncio.to_thread(function, *arguments)
        except SQLAlchemyError as error:
            self.notice(error)
            raise Unavailable(f"the ledger does not answer ({type(error).__name__})") from error

    def notice(self, error: SQLAlchemyError) -> None:
        """Take the desk down when `error` says that the ledger is gone."""
        if is_gone(error):
            self.lose(f"the ledger does not answer ({type(error).__name__}): no new risk until it is back")

    def lose(self, reason: str) -> None:
        """From now on there is no live desk; it is built again."""
        if self.live is not None:
            log.error("desk_lost_ledger", reason=reason)
        self.live = None
        self.reason = reason
        self._lost.set()

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit code. What it cannot start with is one line on standard error."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, number)
        try:
            token = ensure_secret(self.settings.token_file)
            listening = bind(self.settings.host, self.settings.desk_port)
        except (SecretError, OSError) as error:
            print(f"desk: {error}", file=sys.stderr)  # noqa: T201
            return EXIT_CANNOT_START
        service = DeskService(self)
        options = uvicorn.Config(
            create_api(service, token, self.settings.desk_requests_per_second),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
        )
        server = _Server(options)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        log.info("desk_listens", url=self.settings.desk_url, mode=self.settings.mode.upper(), pid=os.getpid())
        try:
            return await self._keep_live()
        finally:
            self.stop.set()
            server.should_exit = True
            await serving
            self._worker.shutdown(wait=True)
            log.info("desk_stopped")

    def _asked_to_stop(self, number: int) -> None:
        log.info("desk_stopping", signal=signal.Signals(number).name)
        self.stop.set()

    async def _keep_live(self) -> int:
        pause = 0.25
        while not self.stop.is_set():
            began = asyncio.get_running_loop().time()
            try:
                await self._live_once()
            except SecondDesk as error:
                if not self._was_live:
                    print(f"desk: {error}", file=sys.stderr)  # noqa: T201
                    return EXIT_SECOND_DESK
                self._not_live(str(error))  # our own lost connection may still hold the lock for a while
            except ConfigInvalid as error:
                self._not_live(f"the configuration cannot be used: {'; '.join(str(p) for p in error.problems)}")
            except SQLAlchemyError as error:
                self._not_live(f"the ledger does not answer ({type(error).__name__}): no new risk until it is back")
                log.warning("ledger_unavailable", error=mask_text(str(getattr(error, "orig", error))).strip()[:300])
            except FileNotFoundError as error:
                self._not_live(f"Postgres was never started here: {error.filename} is missing")
            except Exception as error:
                self._not_live(f"the desk failed ({type(error).__name__}: {error}) and starts again from the ledger")
                log.error("desk_failed", exc_info=True)
            if asyncio.get_running_loop().time() - began > MAX_PAUSE_SECONDS:
                pause = 0.25  # it ran well for a while
            if not self.stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), pause)
                pause = min(pause * 2, MAX_PAUSE_SECONDS)
        return EXIT_OK

    def _not_live(self, reason: str) -> None:
        if reason != self.reason:
            log.warning("desk_not_live", reason=reason)
        self.live = None
        self.reason = reason

    async def _live_once(self) -> None:
        """Build the live desk on the ledger and run it until the desk stops or the ledger is lost."""
        self._lost.clear()
        live = await self.work(live_desk, self.settings)
        tasks: list[asyncio.Task[None]] = []
        try:
            await self.work(live.take_over)
            self.live, self._was_live, self.reason = live, True, ""
            log.info("desk_ready", market_time=live.market_time_text, mode=self.settings.mode.upper())
            tasks = [asyncio.create_task(job, name=name) for name, job in live.jobs(self)]
            ends = [asyncio.create_task(self.stop.wait()), asyncio.create_task(self._lost.wait())]
            done, _ = await asyncio.wait([*tasks, *ends], return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            failed = [task for task in done if task in tasks and task.exception() is not None]
            if failed and not self._lost.is_set():
                error = failed[0].exception()
                if error is not None:
                    raise error
        finally:
            self.live = None
            if self.stop.is_set():  # replay and live day end by themselves behind the close they are in
                ending = [t for t in tasks if t.get_name() in ("replay", "live_feed")]
                await asyncio.wait(ending or [asyncio.create_task(asyncio.sleep(0))])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(SQLAlchemyError):
                await self.work(live.close)


def is_gone(error: SQLAlchemyError) -> bool:
    """Does the error say that the server cannot be reached (and not that one statement failed)?"""
    return isinstance(error, (OperationalError, InterfaceError)) or bool(
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError that names the address and what to do."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise OSError(f"port {port} on {host} is taken ({error.strerror}): stop what uses it or set TAPELINE_DESK_PORT") from None
    return listening
