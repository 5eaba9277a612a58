"""``python -m tests.faults.risk_million --intents 1000000``: random intents against random limits, fills in between: no breach.

Every intent goes through ``trading.risk.check``, the one check that the router asks for every order, entry or manual, API or
asset. An account lives beside it: its own list of fills and orders, from which an oracle that shares no code with the rules
adds up positions, exposure, equity, loss and order counts again, and says which limit an accepted order exceeds. Between
intents orders fill whole, in parts and late after their cancel, prices jump, sessions begin, limits change, the desk is
halted, orders get lost. Exits are asked for, too: none may be refused.

``--router N`` sends N of the same kind of intents through the real router on a real Postgres. Exits 1 on a breach.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from trading.instruments import AssetClass, Instrument, Mode
from trading.limits import DailyLoss, Drawdown, Limits, OrderRate, StrategyLimits
from trading.orders import OrderType, Side
from trading.risk import RiskState, check, refusal
from trading.signals import Intent
from trading.timeframes import Timeframe

CASH = 1_000_000.0
STRATEGIES = ("a", "b", "c", "d")
_TINY = 1e-6


def _instrument(symbol: str, multiplier: str, sector: str) -> Instrument:
    return Instrument(
        symbol, AssetClass.FUTURE if multiplier != "1" else AssetClass.EQUITY, "XNYS", Decimal("0.01"), "USD", "f", symbol,
        Timeframe.D1, lot_size=Decimal(1), multiplier=Decimal(multiplier), tradable_in=frozenset({Mode.PAPER}), sector=sector,
    )  # fmt: skip


INSTRUMENTS = {
    i.symbol: i
    for i in (
        _instrument("AA", "1", "tech"), _instrument("BB", "1", "tech"), _instrument("CC", "5", "energy"),
        _instrument("DD", "50", ""), _instrument("EE", "1", "energy"), _instrument("FF", "1", "bank"),
    )
}  # fmt: skip


@dataclass(slots=True)
class Working:
    """An accepted entry that has not filled whole."""

    strategy: str
    symbol: str
    side: Side
    left: float


@dataclass
class Account:
    """What happened, told in fills and orders; everything else is added up from them."""

    fills: list[tuple[str, str, float, float]] = field(default_factory=list)  # strategy, symbol, signed quantity, price
    working: list[Working] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    price: dict[str, float] = field(default_factory=dict)
    held: dict[tuple[str, str], float] = field(default_factory=dict)
    cash: float = CASH
    day_start: float = CASH
    peak: float = CASH
    session_pnl: dict[str, float] = field(default_factory=dict)

    def fill(self, strategy: str, symbol: str, quantity: float, price: float) -> None:
        """Take a fill (signed quantity)."""
        self.fills.append((strategy, symbol, quantity, price))
        self.held[strategy, symbol] = self.held.get((strategy, symbol), 0.0) + quantity
        self.cash -= quantity * price * float(INSTRUMENTS[symbol].multiplier)

    def equity(self) -> float:
        return self.cash + sum(q * self.price[s] * float(INSTRUMENTS[s].multiplier) for (_, s), q in self.held.items())

    def added_up(self) -> tuple[dict[tuple[str, str], float], float]:
        """Positions and cash from the list of fills alone: what a desk that starts again reads."""
        held: dict[tuple[str, str], float] = {}
        cash = CASH
        for strategy, symbol, quantity, price in self.fills:
            held[strategy, symbol] = held.get((strategy, symbol), 0.0) + quantity
            cash -= quantity * price * float(INSTRUMENTS[symbol].multiplier)
        return held, cash


def random_limits(dice: random.Random) -> Limits:
    """Limits of any tightness, optional ones now and then, one of the required ones missing now and then."""

    def between(low: float, high: float) -> float:
        return round(low * (high / low) ** dice.random(), 2)

    values: dict[str, Any] = {
        "max_order_quantity": between(10, 5_000), "max_notional": between(5_000, 1_000_000),
        "max_position_notional": between(10_000, 2_000_000), "max_concurrent_positions": dice.randint(1, 12),
        "daily_loss": DailyLoss(amount=between(1_000, 200_000), percent=between(0.5, 20)),
        "price_collar_percent": between(0.2, 20), "max_gross_leverage": between(0.2, 5),
    }  # fmt: skip
    if dice.random() < 0.4:
        values["drawdown"] = Drawdown(percent=between(1, 40))
    if dice.random() < 0.4:
        values["max_net_leverage"] = between(0.1, 3)
    if dice.random() < 0.4:
        values["max_sector_percent"] = between(5, 200)
    if dice.random() < 0.4:
        values["order_rate"] = OrderRate(orders=dice.randint(1, 20), seconds=between(1, 300))
    if dice.random() < 0.5:
        values["strategies"] = {
            "a": StrategyLimits(
                max_order_quantity=between(5, 3_000), max_concurrent_positions=dice.randint(1, 5),
                daily_loss=DailyLoss(amount=between(500, 50_000)),
            )
        }  # fmt: skip
    if dice.random() < 0.02:
        values[dice.choice(["max_notional", "daily_loss", "max_gross_leverage", "price_collar_percent"])] = None
    return Limits.model_construct(**{**{n: f.default for n, f in Limits.model_fields.items()}, "strategies": {}, **values})


@dataclass
class Tally:
    """What a campaign came to. breaches: the first of them in words."""

    intents: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    exits: int = 0
    exits_refused: int = 0
    fills: int = 0
    limits: int = 0
    needless: int = 0
    rebuilt: int = 0
    breaches: list[str] = field(default_factory=list)


class Campaign:
    """Random intents of one seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.account = Account(price={s: 20.0 * (n + 1) for n, s in enumerate(INSTRUMENTS)})
        self.limits = random_limits(self.dice)
        self.now = 1_000_000_000
        self.halted, self.strategies_halted = "", frozenset[str]()
        self.lost: frozenset[str] = frozenset()
        self.differ: frozenset[str] = frozenset()
        self.quality = ""
        self.tally = Tally()
        self._earned_before: dict[str, float] = {}

    def run(self, intents: int) -> Tally:
        for n in range(intents):
            self._something_happens()
            self._one(n)
        self.tally.fills = self.tally.fills or len(self.account.fills)
        return self.tally

    # -- the world -------------------------------------------------------------------------------------------------------

    def _something_happens(self) -> None:
        dice, account = self.dice, self.account
        self.now += dice.choice((1, 1_000, 1_000_000, 20_000_000))
        symbol = dice.choice(tuple(INSTRUMENTS))
        account.price[symbol] = max(
            1.0, round(account.price[symbol] * (1 + dice.gauss(0, 0.004 if dice.random() < 0.98 else 0.08)), 2)
        )
        while account.working and dice.random() < 0.6:
            order = dice.choice(account.working)
            part = order.left if dice.random() < 0.6 else max(1.0, float(int(order.left * dice.random())))
            account.fill(order.strategy, order.symbol, order.side.sign * part, account.price[order.symbol])
            self.tally.fills += 1
            order.left -= part
            if order.left <= 0 or dice.random() < 0.1:  # filled, or the rest cancelled
                account.working.remove(order)
        if dice.random() < 0.3:
            self._exit()
        if dice.random() < 0.002:
            self.limits = random_limits(dice)
            self.tally.limits += 1
        if dice.random() < 0.004:
            account.day_start = account.equity()
            self._earned_before = self._earned()
        if dice.random() < 0.004 or account.equity() < CASH / 4:
            self._begin_again()
        if dice.random() < 0.01:
            self.halted = dice.choice(("",) * 20 + ("REDUCE_ONLY", "HALTED", "FLATTEN"))
            self.strategies_halted = frozenset(s for s in STRATEGIES if dice.random() < 0.04)
            self.lost = frozenset(s for s in INSTRUMENTS if dice.random() < 0.08)
            self.differ = frozenset(s for s in INSTRUMENTS if dice.random() < 0.05)
        self.quality = "DATA_QUALITY: reason=test" if dice.random() < 0.02 else ""
        account.peak = max(account.peak, account.equity())

    def _begin_again(self) -> None:
        """The desk starts again: what it adds up from its ledger is what it had."""
        held, cash = self.account.added_up()
        same = all(math.isclose(held[k], q, abs_tol=_TINY) for k, q in self.account.held.items())
        if not same or not math.isclose(cash, self.account.cash, rel_tol=1e-9, abs_tol=0.01):
            self.tally.breaches.append("the account added up again is another one")
        self.tally.rebuilt += 1
        self.account = Account(price=dict(self.account.price))
        self._earned_before = {}

    def _exit(self) -> None:
        """Close a position: whatever the limits say, an exit is never refused."""
        held = [key for key, quantity in self.account.held.items() if quantity]
        if not held:
            return
        strategy, symbol = self.dice.choice(held)
        quantity = self.account.held[strategy, symbol]
        side = Side.SELL if quantity > 0 else Side.BUY
        intent = Intent("t", "exit:rule:1", strategy, symbol, side, abs(quantity), OrderType.MARKET, reduce_only=True)
        self.tally.exits += 1
        if refusal(check(self.limits, self.state(), intent, INSTRUMENTS[symbol])):
            self.tally.exits_refused += 1
            self.tally.breaches.append(f"an exit was refused: {intent}")
        self.account.fill(strategy, symbol, -quantity, self.account.price[symbol])

    def _earned(self) -> dict[str, float]:
        out: dict[str, float] = {}
        for strategy, symbol, quantity, price in self.account.fills:
            worth = float(INSTRUMENTS[symbol].multiplier)
            out[strategy] = out.get(strategy, 0.0) + quantity * (self.account.price[symbol] - price) * worth
        return out

    # -- the check -------------------------------------------------------------------------------------------------------

    def state(self) -> RiskState:
        account = self.account
        notional: dict[str, float] = {}
        net: dict[str, float] = {}
        for order in account.working:
            value = order.left * account.price[order.symbol] * float(INSTRUMENTS[order.symbol].multiplier)
            notional[order.symbol] = notional.get(order.symbol, 0.0) + value
            net[order.symbol] = net.get(order.symbol, 0.0) + order.side.sign * value
        earned = self._earned() if "a" in self.limits.strategies else {}
        return RiskState(
            mode=Mode.PAPER, equity=account.equity(), day_start_equity=account.day_start, cash=account.cash,
            quality_ok=self.quality, halt_level=self.halted, strategy_halted=self.strategies_halted,
            unknown_symbols=self.lost, mismatch_symbols=self.differ,
            last_price=account.price, positions={k: q for k, q in account.held.items() if q},
            pending_entries=frozenset((o.strategy, o.symbol) for o in account.working), working_notional=notional,
            multipliers={s: float(i.multiplier) for s, i in INSTRUMENTS.items()},
            strategy_pnl={s: earned.get(s, 0.0) - self._earned_before.get(s, 0.0) for s in STRATEGIES}, now_time=self.now,
            peak_equity=account.peak, sectors={s: i.sector for s, i in INSTRUMENTS.items() if i.sector}, working_net=net,
            order_times=tuple(account.sent[-40:]),
        )  # fmt: skip

    def _one(self, n: int) -> None:
        dice, account = self.dice, self.account
        symbol, strategy = dice.choice(tuple(INSTRUMENTS)), dice.choice(STRATEGIES)
        last = account.price[symbol]
        limits = self.limits
        # Around the limits, where a rule that is off by one is seen, and far from them.
        room = (limits.max_notional or 50_000.0) / (last * float(INSTRUMENTS[symbol].multiplier))
        quantity = float(
            max(1, int(dice.choice((1, limits.max_order_quantity or 100, room, room * dice.random(), 10 ** (4 * dice.random())))))
        )
        side = dice.choice((Side.BUY, Side.SELL))
        kind = dice.choice((OrderType.MARKET, OrderType.LIMIT, OrderType.STOP))
        price = round(last * (1 + dice.gauss(0, 0.03)), 2)
        intent = Intent(
            f"d{n}", "entry", strategy, symbol, side, quantity, kind, limit_price=price if kind is OrderType.LIMIT else None,
            stop_price=price if kind is OrderType.STOP else None, reference_price=round(last * (1 + dice.gauss(0, 0.005)), 2),
        )  # fmt: skip
        said = refusal(check(limits, self.state(), intent, INSTRUMENTS[symbol]))
        exceeded = self.exceeded(intent)
        self.tally.intents += 1
        if said:
            self.tally.refused[said.partition(":")[0]] += 1
            self.tally.needless += not exceeded
            return
        self.tally.accepted += 1
        if exceeded:
            self.tally.breaches.append(f"{'; '.join(exceeded)}: accepted {intent}")
        account.working.append(Working(strategy, symbol, side, quantity))
        account.sent.append(self.now)

    def exceeded(self, intent: Intent) -> list[str]:
        """The oracle: every limit that this order would exceed, added up from fills and orders without the rules' code."""
        account, limits, out = self.account, self.limits, []
        worth = {s: float(i.multiplier) for s, i in INSTRUMENTS.items()}
        last = account.price[intent.symbol]
        levels = [p for p in (intent.limit_price, intent.stop_price, intent.reference_price, last) if p is not None]
        value = intent.quantity * max(levels) * worth[intent.symbol]
        gross: dict[str, float] = {}
        net = 0.0
        for (_, symbol), quantity in account.held.items():
            gross[symbol] = gross.get(symbol, 0.0) + abs(quantity) * account.price[symbol] * worth[symbol]
            net += quantity * account.price[symbol] * worth[symbol]
        for order in account.working:
            waiting = order.left * account.price[order.symbol] * worth[order.symbol]
            gross[order.symbol] = gross.get(order.symbol, 0.0) + waiting
            net += waiting if order.side is Side.BUY else -waiting
        equity = account.equity()
        own = limits.strategies.get(intent.strategy)

        def over(name: str, measured: float, limit: float | None) -> None:
            if limit is None or measured > limit * (1 + 1e-9) + _TINY:
                out.append(f"{name} {measured} > {limit}")

        over("quantity", intent.quantity, limits.max_order_quantity)
        over("notional", value, limits.max_notional)
        over("position", gross.get(intent.symbol, 0.0) + value, limits.max_position_notional)
        over(
            "gross",
            sum(gross.values()) + value,
            None if limits.max_gross_leverage is None else equity * limits.max_gross_leverage,
        )
        collar = limits.price_collar_percent
        over("collar", max(abs(p - last) for p in levels) / last * 100, collar)
        keys = {k for k, q in account.held.items() if q} | {(o.strategy, o.symbol) for o in account.working}
        if (intent.strategy, intent.symbol) in keys:
            out.append("the strategy is in this instrument")
        over("positions", len(keys | {(intent.strategy, intent.symbol)}), limits.max_concurrent_positions)
        loss = account.day_start - equity
        daily = limits.daily_loss
        if daily is None or loss >= min(daily.amount or math.inf, account.day_start * (daily.percent or math.inf) / 100) - _TINY:
            out.append(f"daily loss {loss}")
        if limits.drawdown is not None and (1 - equity / account.peak) * 100 >= limits.drawdown.percent:
            out.append("drawdown")
        if limits.max_net_leverage is not None:
            signed = value if intent.side is Side.BUY else -value
            if abs(net + signed) > abs(net):
                over("net", abs(net + signed), equity * limits.max_net_leverage)
        sector = INSTRUMENTS[intent.symbol].sector
        if limits.max_sector_percent is not None:
            used = {s for s, v in gross.items() if v} | {intent.symbol}
            if not all(INSTRUMENTS[s].sector for s in used):
                out.append("sector not known")
            else:
                inside = sum(v for s, v in gross.items() if INSTRUMENTS[s].sector == sector) + value
                over("sector", inside, equity * limits.max_sector_percent / 100)
        if limits.order_rate is not None:
            recent = sum(t > self.now - int(limits.order_rate.seconds * 1_000_000) for t in account.sent)
            over("orders", recent + 1, limits.order_rate.orders)
        if own is not None:
            over("own quantity", intent.quantity, own.max_order_quantity)
            mine = {k for k in keys if k[0] == intent.strategy} | {(intent.strategy, intent.symbol)}
            over("own positions", len(mine), own.max_concurrent_positions)
            lost = self._earned_before.get(intent.strategy, 0.0) - self._earned().get(intent.strategy, 0.0)
            if own.daily_loss is not None and own.daily_loss.amount is not None and lost >= own.daily_loss.amount:
                out.append(f"own daily loss {lost}")
        if self.halted or intent.strategy in self.strategies_halted or self.quality:
            out.append("halted or bad data")
        if intent.symbol in self.lost or intent.symbol in self.differ:
            out.append("in doubt")
        return out


def _campaign(job: tuple[int, int]) -> Tally:
    return Campaign(job[0]).run(job[1])


def through_the_router(intents: int, seed: int) -> tuple[int, int, list[str]]:
    """(asked, accepted, breaches): random decisions through the real router and paper broker on a real Postgres."""
    from resources.ledger.migrate import create_databases, upgrade
    from resources.ledger.store import connect
    from tests.faults import torture

    with torture._server() as server:
        create_databases(server, ["risk_million"])
        upgrade(f"{server}/risk_million")
        engine = connect(f"{server}/risk_million")
        try:
            return router_campaign(engine, intents, seed)
        finally:
            engine.dispose()


def router_campaign(engine: Any, intents: int, seed: int) -> tuple[int, int, list[str]]:
    """Random decisions, halts and exits on one ledger; an accepted order beyond a limit of that moment is a breach."""
    from tests.desk.kit import LIMITS, Desk, bar, hour
    from trading.signals import Action

    dice, desk = random.Random(seed), Desk(engine).open()
    asked = accepted = n = 0
    breaches: list[str] = []
    answers: dict[str, Any] = {}
    price = {"EURUSD": 1.2, "GBPUSD": 1.2}
    worth = {"EURUSD": 1.0, "GBPUSD": 2.0}
    while asked < intents:
        desk.config.limits = LIMITS.model_copy(
            update={
                "max_order_quantity": dice.choice((500, 5_000, 50_000)), "max_notional": dice.choice((600, 6_000, 60_000)),
                "max_position_notional": dice.choice((1_000, 8_000, 80_000)), "max_concurrent_positions": dice.randint(1, 4),
                "max_gross_leverage": dice.choice((0.01, 0.1, 3)), "daily_loss": DailyLoss(amount=dice.choice((5, 100, 1e6))),
            }
        )  # fmt: skip
        limits = desk.config.limits
        for _ in range(6):
            symbol, strategy = dice.choice(list(price)), dice.choice(("trend", "revert", "idea"))
            action = dice.choice((Action.ENTER_LONG, Action.ENTER_SHORT))
            away = 0.01 * action.side.sign
            quantity = float(dice.choice((100, 450, 501, 3_000, 20_000)))
            before = {k: v for p in desk.store.open_positions() if (k := (p.strategy, p.symbol)) and (v := p.quantity)}
            entries = [o for o in desk.store.working_orders() if o.leg == "entry"]
            account = desk.broker.account()
            made = _decision(n, strategy, symbol, action, round(price[symbol], 4), round(price[symbol] - away, 4), quantity)
            result = desk.router.submit_decision(made)
            asked += 1
            if made.id in answers:  # whatever it says now, it was decided on once
                if result != answers[made.id]:
                    breaches.append(f"answered otherwise the second time: {strategy} {symbol}: {answers[made.id]}, {result}")
                continue
            if result.accepted:
                answers[made.id] = result
            order = desk.store.order(result.intent_ids[0]) if result.intent_ids else None
            if not result.accepted or order is None:
                continue
            accepted += 1
            if order.quantity != quantity:
                breaches.append(f"an order of {order.quantity} for {quantity}: {strategy} {symbol}")
            value = quantity * price[symbol] * worth[symbol]
            keys = set(before) | {(o.strategy, o.symbol) for o in entries} | {(strategy, symbol)}
            held = sum(abs(q) * price[s] * worth[s] for (_, s), q in before.items())
            waiting = sum(o.quantity * price[o.symbol] * worth[o.symbol] for o in entries if o.id != result.intent_ids[0])
            here = sum(abs(q) * price[s] * worth[s] for (_, s), q in before.items() if s == symbol)
            here += sum(
                o.quantity * price[symbol] * worth[symbol] for o in entries if o.symbol == symbol and o.id != result.intent_ids[0]
            )
            for name, measured, limit in (
                ("quantity", quantity, limits.max_order_quantity), ("notional", value, limits.max_notional),
                ("position", here + value, limits.max_position_notional),
                ("positions", len(keys), limits.max_concurrent_positions),
                ("gross", held + waiting + value, account.equity * (limits.max_gross_leverage or 0)),
            ):  # fmt: skip
                if limit is None or measured > limit * (1 + 1e-9):
                    breaches.append(f"{name} {measured} > {limit}: {strategy} {symbol} {quantity}")
        n += 1
        bars = []
        for symbol in price:
            opened = price[symbol]
            price[symbol] = round(opened + dice.randint(-30, 30) / 10_000, 4)
            high, low = max(opened, price[symbol]), min(opened, price[symbol])
            bars.append(bar(symbol, n, opened, round(high + 0.0005, 4), round(low - 0.0005, 4), price[symbol]))
        desk.close(n, *bars)
        if dice.random() < 0.1:
            desk.router.resume("desk", "go on", "risk")
        for held_now in desk.store.open_positions():
            if (
                dice.random() < 0.4
                and not desk.router.exit_position(held_now.strategy, held_now.symbol, "rule", hour(n)).accepted
            ):
                breaches.append(f"an exit was refused: {held_now.strategy} {held_now.symbol}")
    return asked, accepted, breaches


def _decision(n: int, strategy: str, symbol: str, action: Any, reference: float, stop: float, quantity: float) -> Any:
    from tests.desk.kit import decision

    return decision(n, strategy, symbol, action, reference=reference, stop=stop, target=None, quantity=quantity)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.risk_million", description="Random intents, random limits.")
    parser.add_argument("--intents", type=int, default=1_000_000)
    parser.add_argument("--router", type=int, default=0, help="so many more through the real router on a real Postgres")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args(arguments)
    started = time.monotonic()
    share = 20_000
    jobs = [(chosen.seed + i, min(share, chosen.intents - i * share)) for i in range(math.ceil(chosen.intents / share))]
    total = Tally()
    with multiprocessing.get_context("fork").Pool(chosen.jobs) as pool:
        for tally in pool.imap_unordered(_campaign, jobs):
            for name in ("intents", "accepted", "exits", "exits_refused", "fills", "limits", "needless", "rebuilt"):
                setattr(total, name, getattr(total, name) + getattr(tally, name))
            total.refused += tally.refused
            total.breaches += tally.breaches
            speed = total.intents / (time.monotonic() - started)
            print(
                f"{total.intents} intents, {total.accepted} accepted, {len(total.breaches)} breaches, {speed:.0f}/s", flush=True
            )
    for name in ("intents", "accepted", "fills", "exits", "exits_refused", "limits", "rebuilt", "needless"):
        print(f"{name:24}{getattr(total, name):>10}")
    for code, count in total.refused.most_common():
        print(f"  refused {code:24}{count:>10}")
    if chosen.router:
        asked, accepted, breaches = through_the_router(chosen.router, chosen.seed)
        print(f"through the router: {asked} asked, {accepted} accepted, {len(breaches)} breaches")
        total.breaches += breaches
    for breach in total.breaches[:10]:
        print(breach)
    print(f"{'breaches':24}{len(total.breaches):>10}   seed {chosen.seed}, {time.monotonic() - started:.0f} s")
    return int(bool(total.breaches) or total.accepted == 0)


if __name__ == "__main__":
    sys.exit(main())
