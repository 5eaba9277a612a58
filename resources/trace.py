"""The chain behind anything: bars and their hashes -> features -> signal -> decision -> intents -> orders -> fills ->
position -> report, found from any id in it, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, Protocol

from sqlalchemy import Connection, Engine, Table, or_, select

from resources.ledger import tables as t
from resources.trace_find import Row, TraceError, resolve, row_of
from trading.bars import Bars
from trading.timeframes import iso

MATCHES: Final = "same"
DIFFERS: Final = "differs"
MISSING: Final = "missing"
READABLE: Final = "readable"
GONE: Final = "not kept"


class BarsReader(Protocol):
    """The part of the lake that is asked."""

    def read_bars(self, dataset: str, symbol: str, start: date | None = None, end: date | None = None) -> Bars: ...

    def read_version(self, dataset: str, symbol: str, session: date, content_hash: str) -> Bars: ...


@dataclass(frozen=True, slots=True)
class PartitionLink:
    """One bars partition a signal was computed from.

    content_hash: then, of the bars known at the signal's close. today: the lake's hash of the same rows now, empty when
    there are none; state: ``same``, ``differs`` or ``missing``. failed: quality checks that stop trading and did not pass.
    then: can the bars that were traded on still be read (Lake.read_version)? ``readable`` or ``not kept``.
    """

    dataset: str
    session: str
    symbol: str
    content_hash: str
    today: str
    state: str
    checks: int
    failed: tuple[str, ...]
    then: str = READABLE

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.session}/{self.symbol}"


@dataclass(frozen=True, slots=True)
class Chain:
    """One signal and what came of it. decision None: none was taken. events: by order id. report: of each session."""

    signal: Row
    partitions: tuple[PartitionLink, ...]
    decision: Row | None
    intents: tuple[Row, ...]
    orders: tuple[Row, ...]
    events: Mapping[str, tuple[Row, ...]]
    fills: tuple[Row, ...]
    position: Row | None
    sessions: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What the id `query` leads to. kind: signal, decision, order, fill, partition, position, run or strategy. chains: one
    per signal.

    loose: orders, intents and fills that no signal of the ledger leads to.
    """

    query: str
    kind: str
    found: str
    chains: tuple[Chain, ...]
    loose: tuple[Row, ...] = field(default=())

    @property
    def sound(self) -> bool:
        """Do all bars still hash to what was traded on?"""
        return all(p.state == MATCHES for chain in self.chains for p in chain.partitions)

    def orders(self) -> list[Row]:
        """Every order it leads to, in the order of the chains: with strategy, leg and the signal it came from."""
        rows = []
        for chain in self.chains:
            intents = {intent["id"]: intent for intent in chain.intents}
            for order in chain.orders:
                intent = intents[order["id"]]
                known = {"order": order["id"], "strategy": intent["strategy"], "leg": intent["leg"]}
                rows.append({**order, **known, "signal": chain.signal["id"]})
        return rows

    def to_markdown(self) -> str:
        """The chain as markdown for UI metadata and files."""
        return "\n".join(_markdown(self))

    def lines(self) -> list[str]:
        """The chain as indented text, one fact a line."""
        return [line for chain in self.chains for line in _chain_lines(chain)] + [_loose_line(row) for row in self.loose]


def trace(engine: Engine, lake: BarsReader, any_id: str) -> Trace:
    """Find the whole chain from a signal, decision, intent (= client order), broker order or fill id, from a bars partition
    such as ``bars_1h/2017-12-28/EURUSD`` (or ``bars_1h/2017-12-28/*``), a position (``strategy/symbol``), a Dagster run, a
    strategy or plan (``name``, ``name@revision``) or an audit record (``audit-120``). An unambiguous part of an id is enough.

    Raises TraceError when nothing fits or several things do.
    """
    wanted = any_id.strip()
    with engine.connect() as c:
        kind, found, signal_ids, loose = resolve(c, wanted)
        chains = tuple(_chain(c, lake, signal_id) for signal_id in signal_ids)
    return Trace(wanted, kind, found, chains, tuple(loose))


# -- the chain ---------------------------------------------------------------------------------------------------------


def _chain(c: Connection, lake: BarsReader, signal_id: str) -> Chain:
    signal = row_of(c, t.signals, signal_id)
    if signal is None:
        raise TraceError(f"signal {signal_id} is not in the ledger")
    decisions = _rows(c, t.decisions, t.decisions.c.signal_id == signal_id)
    decision = decisions[0] if decisions else None
    intents: list[Row] = []
    if decision is not None:
        i = t.intents.c
        trades = select(i.trade_id).where(i.parent == decision["id"])
        intents = _rows(c, t.intents, or_(i.parent == decision["id"], i.trade_id.in_(trades)), order=(i.created_wall, i.leg))
    ids = [row["id"] for row in intents]
    orders = {row["id"]: row for row in _rows(c, t.orders, t.orders.c.id.in_(ids))}
    fills = _rows(c, t.fills, t.fills.c.order_id.in_(ids), order=(t.fills.c.fill_time, t.fills.c.id))
    events = {
        name: tuple(_rows(c, t.order_events, t.order_events.c.order_id == name, order=(t.order_events.c.seq,))) for name in orders
    }
    p = t.positions.c
    positions = _rows(c, t.positions, p.strategy == signal["strategy"], p.symbol == signal["symbol"])
    days = sorted({signal["session"], *(row["session"] for row in (*intents, *fills))})
    return Chain(
        signal=signal,
        partitions=tuple(_link(c, lake, ref, int(signal["close_time"])) for ref in signal["content"]["partitions"]),
        decision=decision,
        intents=tuple(intents),
        orders=tuple(orders[name] for name in ids if name in orders),
        events=events,
        fills=tuple(fills),
        position=positions[0] if positions else None,
        sessions=tuple(_rows(c, t.sessions, t.sessions.c.session.in_(days), order=(t.sessions.c.session,))),
    )


def _link(c: Connection, lake: BarsReader, ref: Mapping[str, str], close_time: int) -> PartitionLink:
    q = t.quality_verdicts.c
    here = (q.dataset == ref["dataset"], q.session == ref["session"], q.symbol == ref["symbol"])
    verdicts = _rows(c, t.quality_verdicts, *here, order=(q.check_name,))
    failed = tuple(v["check_name"] for v in verdicts if not v["passed"] and v["severity"] == "error")
    day = date.fromisoformat(ref["session"])
    try:
        bars = lake.read_bars(ref["dataset"], ref["symbol"], day, day).known_at(close_time)
        today = bars.content_hash() if len(bars) else ""
    except Exception as error:  # noqa: BLE001 - a torn file is something the trace shows, not something that hides the rest
        today, failed = "", (*failed, f"{type(error).__name__}")
    state = MISSING if not today else MATCHES if today == ref["content_hash"] else DIFFERS
    then = READABLE if state == MATCHES or _kept(lake, ref, day) else GONE
    return PartitionLink(
        ref["dataset"], ref["session"], ref["symbol"], ref["content_hash"], today, state, len(verdicts), failed, then
    )  # fmt: skip


def _kept(lake: BarsReader, ref: Mapping[str, str], day: date) -> bool:
    try:
        return len(lake.read_version(ref["dataset"], ref["symbol"], day, ref["content_hash"])) > 0
    except Exception:  # noqa: BLE001 - not there, or its file is torn: either way the bars cannot be shown
        return False


def _rows(c: Connection, table: Table, *conditions: Any, order: Sequence[Any] = ()) -> list[Row]:
    return [dict(row) for row in c.execute(select(table).where(*conditions).order_by(*order)).mappings()]


# -- showing -----------------------------------------------------------------------------------------------------------


def _markdown(found: Trace) -> Iterable[str]:
    yield f"### Trace of {found.kind} `{found.found}`"
    if not found.chains and not found.loose:
        yield "nothing"
    for chain in found.chains:
        yield from _chain_markdown(chain)
    for row in found.loose:
        yield f"- {_loose_line(row)}"


def _chain_markdown(chain: Chain) -> Iterable[str]:
    s, content = chain.signal, chain.signal["content"]
    yield ""
    yield f"**Bars** (hash then, and the lake's hash of the same rows today), features version `{s['features_version']}`"
    yield ""
    yield from _table(
        ["partition", "hash", "then", "today", "checks", "failed"],
        [[f"`{p.name}`", f"`{p.content_hash[:16]}`", p.then, p.state, p.checks, ", ".join(p.failed)] for p in chain.partitions],
    )
    yield ""
    yield f"**Signal** `{s['id']}` {s['action']} {s['symbol']} by {s['strategy']}@{s['strategy_revision']}"
    if model := content.get("model"):
        yield f"*{_model(model)}*"
    target = f"{content['target_price']:g}" if content["target_price"] is not None else "none"
    yield (
        f"at {iso(s['close_time'])} ({s['timeframe']}), reference {content['reference_price']:g}, "
        f"stop {content['stop_price']:g}, target {target}; run `{s['run_id']}`, code `{s['code_revision']}`"
    )
    if chain.decision is None:
        yield "\n**Decision** none"
        return
    d = chain.decision
    yield f"\n**Decision** `{d['id']}` {'approved' if d['approved'] else 'refused: ' + d['refusal']}"
    yield ""
    yield from _table(
        ["gate", "passed", "value", "threshold", "refusal"],
        [[v["gate"], "yes" if v["passed"] else "no", v["value"], v["threshold"], v["refusal"]] for v in d["verdicts"]],
    )
    yield "\n**Orders**\n"
    yield from _table(
        ["order", "leg", "mode", "broker id", "side", "quantity", "type", "state", "filled", "average", "refusal"],
        [_order_cells(chain, intent) for intent in chain.intents],
    )
    yield "\n**Fills**\n"
    yield from _table(
        ["fill", "order", "time", "side", "quantity", "price", "commission"],
        [
            [f"`{f['id']}`", f"`{f['order_id']}`", iso(f["fill_time"]), f["side"], f"{f['quantity']:g}", f"{f['price']:g}",
             f"{f['commission']:g} {f['currency']}"]
            for f in chain.fills
        ],
    )  # fmt: skip
    yield f"\n**Position** {_position_text(chain)}"
    yield f"\n**Report** {_report_text(chain)}"


def _order_cells(chain: Chain, intent: Row) -> list[Any]:
    order: Row = next((o for o in chain.orders if o["id"] == intent["id"]), {})
    average = order.get("average_price")
    return [
        f"`{intent['id']}`", intent["leg"], str(order.get("mode", "")).upper(), f"`{order.get('broker_order_id', '')}`",
        order.get("side", ""), f"{order.get('quantity', 0):g}", order.get("order_type", ""), order.get("state", "never written"),
        f"{order.get('filled_quantity', 0):g}", f"{average:g}" if average is not None else "", intent["refusal"],
    ]  # fmt: skip


def _model(model: Mapping[str, str]) -> str:
    """The model behind a signal, its run in MLflow and the data it was trained on."""
    return (
        f"model {model['name']} version {model['version']} ({model['role']}, {model['hash'][:16]})  MLflow run {model['run']}  "
        f"training data {model['data'][:16]}"
    )


def _chain_lines(chain: Chain) -> Iterable[str]:
    s = chain.signal
    for p in chain.partitions:
        checks = f"{p.checks} checks" + (f", failed {', '.join(p.failed)}" if p.failed else " passed" if p.checks else "")
        yield f"bars      {p.name}  {p.content_hash[:16]}  then: {p.then}  today: {p.state}  ({checks})"
    yield f"features  {s['features_version']}"
    yield f"signal    {s['id']}  {s['strategy']}@{s['strategy_revision']}  {s['action']} {s['symbol']}  {iso(s['close_time'])}"
    if s["content"].get("reason"):
        yield f"          {s['content']['reason']}"
    if model := s["content"].get("model"):
        yield "          " + _model(model)
    d = chain.decision
    if d is None:
        yield "decision  none"
        return
    yield f"decision  {d['id']}  {'approved' if d['approved'] else 'refused'}  {d['refusal']}".rstrip()
    for v in d["verdicts"]:
        outcome = "passed" if v["passed"] else v["refusal"]
        yield f"          gate {v['gate']}: {outcome}  (value {v['value']}, threshold {v['threshold']})"
    orders = {o["id"]: o for o in chain.orders}
    for intent in chain.intents:
        order = orders.get(intent["id"])
        yield f"intent    {intent['id']}  {intent['leg']}  {intent['refusal']}".rstrip()
        if order is None:
            continue
        yield (
            f"order     {order['mode'].upper()} {order['broker']} {order['broker_order_id'] or '(not sent)'}  {order['side']} "
            f"{order['quantity']:g} {order['symbol']} {order['order_type']}  {order['state']}"
        )
        for event in chain.events.get(order["id"], ()):
            marks = "  ANOMALOUS" if event["anomalous"] else ""
            yield (
                f"          {iso(event['event_time'])}  {event['event']}: {event['state_before']} -> {event['state_after']}"
                f"  {event['text']}".rstrip()
                + marks
            )
    for f in chain.fills:
        yield (
            f"fill      {f['id']}  {f['side']} {f['quantity']:g} at {f['price']:g}  {iso(f['fill_time'])}  "
            f"commission {f['commission']:g} {f['currency']}"
        )
    yield f"position  {_position_text(chain)}"
    yield f"report    {_report_text(chain)}"


def _position_text(chain: Chain) -> str:
    net = sum((1 if f["side"] == "buy" else -1) * f["quantity"] for f in chain.fills)
    trade = "no fill" if not chain.fills else "closed" if abs(net) < 1e-9 else f"open {net:+g}"
    if chain.position is None:
        return f"of this trade: {trade}"
    p = chain.position
    now = f"{p['quantity']:+g} at {p['average_price']:g}" if p["quantity"] else "flat"
    return f"of this trade: {trade}; {p['strategy']} in {p['symbol']} now: {now}, realised {p['realized_pnl']:.2f}"


def _report_text(chain: Chain) -> str:
    return ", ".join(f"daily_report/{row['session']} ({row['state']})" for row in chain.sessions) or "no session yet"


def _loose_line(row: Row) -> str:
    return f"without a signal in this ledger: {row.get('id')}  {row.get('leg', row.get('side', ''))}  {row.get('symbol', '')}"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterable[str]:
    if not rows:
        yield "none"
        return
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
