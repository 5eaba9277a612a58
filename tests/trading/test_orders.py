"""The order state table: what really happens is kept, nothing else moves an order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.orders import MAY_BE_AT_BROKER, TERMINAL, TRANSITIONS, OrderEvent, OrderState, apply

S, E = OrderState, OrderEvent
EVIDENCE = {
    E.ACK, E.ACCEPT, E.TRIGGER, E.PARTIAL_FILL, E.FILL, E.CANCELED, E.EXPIRED, E.REJECT, E.NOT_FOUND, E.FOUND,
}  # fmt: skip
OURS = {E.DENY, E.SEND, E.EMULATE, E.REQUEST_CANCEL, E.REQUEST_UPDATE}
events = st.lists(st.sampled_from(list(E)), max_size=30)


def after(state: OrderState, sequence: list[OrderEvent]) -> OrderState:
    for event in sequence:
        state = apply(state, event).state
    return state


@given(st.sampled_from(list(S)), events)
def test_no_sequence_of_events_raises_and_every_answer_is_consistent(state: OrderState, sequence: list[OrderEvent]) -> None:
    for event in sequence:
        step = apply(state, event)
        assert step.changed == (step.state is not state)
        assert not (step.anomalous and step.changed)
        assert step.anomalous == ((state, event) not in TRANSITIONS)
        state = step.state


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_terminal_states_are_left_only_by_a_real_late_fill_the_brokers_book_or_how_a_rejected_one_ended(
    state: OrderState,
) -> None:
    for event in E:
        reached = apply(state, event).state
        if reached is not state:
            corrected = {(E.CANCELED, S.CANCELED), (E.EXPIRED, S.EXPIRED)} if state is S.REJECTED else set()
            assert (event, reached) in {(E.FILL, S.FILLED), (E.FOUND, S.ACCEPTED)} | corrected
            assert state in {S.CANCELED, S.EXPIRED, S.REJECTED}


def test_an_order_given_up_that_turns_up_ends_as_the_broker_says_it_ended() -> None:
    given_up = after(S.INITIALIZED, [E.SEND, E.LOST, E.NOT_FOUND])
    assert after(given_up, [E.ACK, E.PARTIAL_FILL, E.CANCELED]) is S.CANCELED
    assert after(given_up, [E.ACCEPT, E.EXPIRED]) is S.EXPIRED


def test_a_denied_order_was_never_sent_and_stays_denied() -> None:
    assert all(apply(S.DENIED, event).state is S.DENIED for event in E)


@given(st.sampled_from(list(S)), events, st.data())
def test_a_duplicate_of_any_event_changes_nothing(state: OrderState, sequence: list[OrderEvent], data: st.DataObject) -> None:
    doubled = []
    for event in sequence:
        doubled.extend([event] * data.draw(st.integers(1, 3)))
    assert after(state, doubled) is after(state, sequence)


def test_a_duplicate_of_what_a_broker_said_is_no_anomaly() -> None:
    for (state, event), reached in TRANSITIONS.items():
        if event not in OURS:
            assert not apply(reached, event).anomalous, f"{state} --{event}--> {reached}, then {event} again"


def test_unknown_is_left_only_by_evidence_from_the_broker() -> None:
    for event in E:
        if apply(S.UNKNOWN, event).state is not S.UNKNOWN:
            assert event in EVIDENCE
    assert apply(S.UNKNOWN, E.NOT_FOUND).state is S.REJECTED


def test_only_an_unknown_order_can_be_found_not_to_exist() -> None:
    for state in set(S) - {S.UNKNOWN}:
        assert not apply(state, E.NOT_FOUND).changed


@pytest.mark.parametrize("state", sorted(MAY_BE_AT_BROKER))
def test_every_order_that_may_be_at_the_broker_can_fill_be_cancelled_and_get_lost(state: OrderState) -> None:
    assert apply(state, E.FILL).state is S.FILLED
    assert apply(state, E.CANCELED).state is S.CANCELED
    assert apply(state, E.LOST).state is S.UNKNOWN


@given(st.sampled_from(sorted(MAY_BE_AT_BROKER)), events)
def test_an_order_that_was_sent_never_looks_unsent_again(state: OrderState, sequence: list[OrderEvent]) -> None:
    assert after(state, sequence) not in {S.INITIALIZED, S.EMULATED, S.DENIED}


def test_a_cancel_request_is_forgotten_only_when_it_is_answered_or_the_order_is_lost() -> None:
    answers = {E.CANCELED, E.CANCEL_REJECTED, E.FILL, E.EXPIRED, E.REJECT, E.LOST}
    for event in E:
        if apply(S.PENDING_CANCEL, event).changed:
            assert event in answers, f"{event} forgets the request"


def test_nothing_is_sent_twice() -> None:
    assert {state for state in S if not apply(state, E.SEND).anomalous} == {S.INITIALIZED, S.EMULATED}


def test_a_fill_after_cancel_is_kept() -> None:
    assert after(S.INITIALIZED, [E.SEND, E.ACK, E.ACCEPT, E.REQUEST_CANCEL, E.CANCELED, E.FILL]) is S.FILLED
