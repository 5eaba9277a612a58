"""An order between desk and broker, as a state machine: whatever is lost, told twice or told in another order, it ends as the
broker's book has it, and never with more filled than was ordered."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trading.account import Account, Contract, Executed, Ordered
from trading.orders import MAY_BE_AT_BROKER, TERMINAL, OrderState, Side, apply
from trading.orders import OrderEvent as E

QUANTITY = 10


class OneOrder(RuleBasedStateMachine):
    """The broker lives its own life; what it says reaches the desk late, twice, or in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.state = apply(OrderState.INITIALIZED, E.SEND).state
        self.account = Account({"X": Contract()})
        self.account.apply(Ordered("o", "X", Side.BUY, float(QUANTITY)))
        self.truth = "new"  # the broker's book: new, working, filled, canceled, expired, rejected
        self.filled = 0
        self.said: list[tuple[E, Executed | None]] = []
        self.told: set[int] = set()
        self.asked_to_cancel = False

    @property
    def alive(self) -> bool:
        return self.truth in ("new", "working")

    def say(self, event: E, execution: Executed | None = None) -> None:
        self.said.append((event, execution))

    # -- the broker ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.truth == "new")
    @rule(fate=st.sampled_from(["working", "working", "rejected"]))
    def answers(self, fate: str) -> None:
        self.truth = fate
        for event in (E.ACK, E.ACCEPT) if fate == "working" else (E.ACK, E.REJECT):
            self.say(event)

    @precondition(lambda self: self.truth == "working")
    @rule(part=st.integers(1, QUANTITY))
    def fills(self, part: int) -> None:
        part = min(part, QUANTITY - self.filled)
        self.filled += part
        number = len(self.said)
        execution = Executed(f"x{number}", "o", number, float(part), 100.0 + number)
        if self.filled == QUANTITY:
            self.truth = "filled"
        self.say(E.FILL if self.truth == "filled" else E.PARTIAL_FILL, execution)

    @precondition(lambda self: self.truth == "working")
    @rule(by_itself=st.booleans())
    def ends(self, by_itself: bool) -> None:
        if self.asked_to_cancel or not by_itself:
            self.truth = "canceled" if self.asked_to_cancel else "expired"
            self.say(E.CANCELED if self.asked_to_cancel else E.EXPIRED)

    # -- the desk --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.state in MAY_BE_AT_BROKER)
    @rule()
    def asks_to_cancel(self) -> None:
        self.asked_to_cancel = True
        self.take(E.REQUEST_CANCEL)

    @precondition(lambda self: self.state in MAY_BE_AT_BROKER)
    @rule()
    def loses_sight(self) -> None:
        self.take(E.LOST)
        assert self.state is OrderState.UNKNOWN

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def hears(self, data: st.DataObject) -> None:
        """Any word of the broker, in any order, also once more."""
        self.deliver(data.draw(st.integers(0, len(self.said) - 1)))

    def deliver(self, number: int) -> None:
        event, execution = self.said[number]
        if execution is not None:
            assert self.account.apply(execution) == (number not in self.told)
        self.told.add(number)
        before = self.state
        step = self.take(event)
        assert not step.anomalous, f"{before} --{event}"

    def take(self, event: E):  # type: ignore[no-untyped-def]
        step = apply(self.state, event)
        assert not (self.state in TERMINAL and step.state not in TERMINAL), "an ended order never works again by hearsay"
        self.state = step.state
        return step

    @invariant()
    def fills_never_exceed_the_order_and_what_is_booked_was_said(self) -> None:
        booked = self.account.filled("o")
        assert booked <= QUANTITY
        assert booked == sum(x.quantity for i, (_, x) in enumerate(self.said) if x is not None and i in self.told)

    @invariant()
    def an_order_that_may_be_at_the_broker_is_never_taken_for_unsent(self) -> None:
        assert self.state not in (OrderState.INITIALIZED, OrderState.DENIED, OrderState.EMULATED)

    def teardown(self) -> None:
        """Once everything has been heard, in whatever order, the state is the broker's and the position is the fills'."""
        rest = [i for i in range(len(self.said)) if i not in self.told]
        random.Random(len(self.said)).shuffle(rest)
        for number in rest:
            self.deliver(number)
        assert self.account.filled("o") == self.filled
        assert self.account.position("X").quantity == self.filled
        if not self.alive:
            assert self.state is OrderState(self.truth), (self.truth, self.state)
        elif self.truth == "working":
            assert self.state in MAY_BE_AT_BROKER


TestOneOrder = OneOrder.TestCase
TestOneOrder.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
