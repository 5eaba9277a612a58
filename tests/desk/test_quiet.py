"""The garbage collector waits until the exits are sent, and is called between the closes."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from desk import quiet
from desk.quiet import RENEW_SECONDS, SETTLE_SECONDS, Settler, no_collection


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    was = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if was else gc.disable)()


def test_nothing_is_collected_until_the_exits_are_sent_whatever_is_raised() -> None:
    def broken() -> None:
        with no_collection():
            assert not gc.isenabled()
            with no_collection():
                pass
            assert not gc.isenabled(), "the outermost one ends it"
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert gc.isenabled()


def test_who_has_turned_it_off_keeps_it_off() -> None:
    gc.disable()
    with no_collection():
        pass
    assert not gc.isenabled()


class TestBetweenCloses:
    @pytest.fixture
    def called(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        found: list[str] = []
        for name in ("collect", "freeze", "unfreeze"):
            monkeypatch.setattr(quiet.gc, name, lambda name=name: found.append(name))
        return found

    def test_only_the_process_that_asked_for_it_collects(self, called: list[str]) -> None:
        assert not Settler().after_close(0.0)
        assert called == []

    def test_what_is_new_is_walked_now_and_then_and_everything_rarely(self, called: list[str]) -> None:
        settler = Settler()
        settler.start()
        assert settler.after_close(0.0)
        assert called == ["unfreeze", "collect", "freeze"]
        called.clear()
        assert not settler.after_close(SETTLE_SECONDS - 1)
        assert called == []
        assert settler.after_close(SETTLE_SECONDS)
        assert called == ["collect", "freeze"]
        called.clear()
        assert settler.after_close(RENEW_SECONDS)
        assert called == ["unfreeze", "collect", "freeze"]
