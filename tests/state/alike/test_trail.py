"""One random life on the audit trail, lived by all backends at the same time."""

from __future__ import annotations

import pytest

from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained
from tests.state.alike.sides import HUGE, NAMES
from tests.state.alike.world import INF, LEASES, NAN, World

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("seed", range(2))
async def test_a_life_on_the_trail(world: World, seed: int) -> None:
    one_of = world.one_of
    names = [name for name in NAMES if not any("\ud800" <= letter < "\ue000" for letter in name)]
    writers = ["w", "v", *names[:9], "\ud7ff", "😀"]
    heads: dict[str, AuditRecord | Anchor] = {}
    old: list[AuditRecord] = []

    def record(writer: str) -> AuditRecord:
        kind = one_of("begin", "begin", "end", "end", "note")
        made = AuditRecord(
            writer=writer,
            seq=0,
            kind=kind,
            at=one_of(1.0, 5.0, 5.0, 50.0, -3.0, 1e18, 1e-300),
            call=one_of("c1", "c2", "c3", *names),
            tenant=one_of("t", *names),
            user=one_of("", *names),
            outcome=one_of("ok", "failed"),
            body=one_of({}, {"a": [1, None, {"\0": "\x1f😀"}]}, {"n": 2**63 - 1, "f": 1e-300, "z": -0.0}),
        )
        heads[writer] = chained(made, heads.get(writer, Anchor()))
        return heads[writer]  # type: ignore[return-value]  # it was put there just now

    for _ in range(120):
        match one_of("append", "append", "append", "again", "other", "odd", "prune", "beat", "time", "query"):
            case "append":
                made = [record(one_of(*writers)) for _ in range(one_of(0, 1, 3))]
                old += made
                await world.ask("audit", "append", made)
            case "again" if old:
                await world.ask("audit", "append", world.random.sample(old, min(len(old), 3)))
            case "other" if old:
                head = heads.get("w", Anchor())
                taken = AuditRecord(
                    writer="w", seq=max(1, head.seq), kind="note", at=1.0, body={}, hash="other"
                )
                new = chained(AuditRecord(writer="new", seq=0, kind="note", at=1.0, body={}), Anchor())
                await world.ask("audit", "append", [new, taken])
            case "odd":
                odd = {
                    "writer": "odd",
                    "kind": "note",
                    "seq": one_of(0, -1, 2**63),
                    "at": 1.0,
                    "body": {},
                    "hash": "h",
                }
                odd |= one_of(
                    {}, {"seq": 1, "at": NAN}, {"seq": 1, "at": INF}, {"seq": 1, "body": {"x": 2**70}}
                )
                assert await world.ask("audit", "append", [AuditRecord(**odd)]) is ValueError  # type: ignore[arg-type]  # that is the point
            case "prune":
                await world.ask("audit", "prune", one_of(2.0, 6.0, 60.0, -INF, NAN))
            case "beat":
                await world.ask("audit", "beat", one_of(*writers), one_of(*LEASES))
            case "time":
                world.pass_time(one_of(100.0, 300.0))
            case "query":
                query = AuditQuery(
                    since=one_of(0.0, 2.0, -INF, NAN),
                    until=one_of(INF, 5.0, 51.0),
                    tenant=one_of(None, "t", *names),
                    call=one_of(None, "c1", *names),
                    kind=one_of(None, "end"),
                    writer=one_of(None, "w", *names),
                )
                await world.ask("audit", "query", query, limit=one_of(1000, 2, 0, -1, 2**70))
        writer = one_of(*writers)
        for asked in ("head", "anchor", "unended"):
            await world.ask("audit", asked, writer)
        for asked in ("writers", "unended", "lost"):
            await world.ask("audit", asked)
    page: list[AuditRecord] = []
    while found := await world.ask(
        "audit", "query", AuditQuery(since=-INF), limit=7, after=page[-1] if page else None
    ):
        page += found
    assert page == await world.ask("audit", "query", AuditQuery(since=-INF))


async def test_thousands_of_records_in_one_call_and_a_huge_body(world: World) -> None:
    records: list[AuditRecord] = []
    for number in range(2500):
        kind = ("begin", "end")[number % 2] if number < 2400 else "begin"
        body = {"text": "y" * HUGE} if number == 7 else {"n": number}
        made = AuditRecord(writer="w", seq=0, kind=kind, at=float(number), call=f"c{number // 2}", body=body)
        records.append(chained(made, records[-1] if records else Anchor()))
    await world.ask("audit", "append", records)
    assert len(await world.ask("audit", "unended")) == 100
    assert await world.ask("audit", "prune", 2450.0) == 2400
    assert await world.ask("audit", "query", AuditQuery()) == records[2400:]
    await world.ask("audit", "append", records)
    assert await world.ask("audit", "query", AuditQuery()) == records[2400:]
