"""What ends within the timeout as a whole, what with each request, and what is not read at all.

The store stands in memory here, and its answers take virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained
from llmpipe_s3.appending import Appender
from llmpipe_s3.audit import S3Audit
from llmpipe_s3.settings import Settings
from llmpipe_s3.store import Object, Page
from llmpipe_s3.trail import Trail

TIMEOUT = 5.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Memory:
    """A store whose requests take `delay`; one that would take longer than a request may is refused then."""

    def __init__(self) -> None:
        self.settings = Settings(bucket="trail", timeout=TIMEOUT)
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.delay = 0.0
        self.asked: list[str] = []
        self.phantoms: set[str] = set()  # listed, and not there

    async def _answer(self, asked: str) -> None:
        self.asked.append(asked)
        await asyncio.sleep(min(self.delay, 0.8 * TIMEOUT))
        if self.delay > 0.8 * TIMEOUT:
            raise StoreUnavailable("did not answer in time")

    async def put_new(self, key: str, data: bytes) -> bool:
        await self._answer(f"PUT {key}")
        there = key in self.objects
        if not there:
            self.objects[key] = data, now()
        return not there

    async def put(self, key: str, data: bytes) -> None:
        await self._answer(f"PUT {key}")
        self.objects[key] = data, now()

    async def get(self, key: str) -> Object | None:
        await self._answer(f"GET {key}")
        held = self.objects.get(key)
        return None if held is None else Object(held[0], now() - held[1])

    async def page(self, prefix: str, after: str = "") -> Page:
        await self._answer(f"LIST {prefix}")
        listed = {*self.objects, *self.phantoms}
        found = sorted([key for key in listed if key.startswith(prefix) and key > after])
        return Page(tuple(found[:1000]), len(found) > 1000)

    async def folders(self, prefix: str) -> list[str]:
        await self._answer(f"LIST {prefix}*/")
        return sorted({
            prefix + key.removeprefix(prefix).partition("/")[0] + "/"
            for key in self.objects
            if key.startswith(prefix)
        })  # fmt: skip

    async def delete(self, key: str) -> None:
        await self._answer(f"DELETE {key}")
        self.objects.pop(key, None)

    @property
    def read(self) -> list[str]:
        """The writers of which batches were read since this was asked last, one for each."""
        found = [line.split("/")[2] for line in self.asked if line.startswith("GET audit/records/")]
        self.asked.clear()
        return found


def opened(store: Any) -> S3Audit:
    """What a process that starts has of it."""
    appender = Appender(Trail(store, "audit"))
    return S3Audit(lambda: appender, lambda: 0.0)


def a_chain(writer: str, count: int, after: AuditRecord | None = None, **rest: Any) -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    records = []
    for number in range(last.seq, last.seq + count):
        fields = {"kind": "note", "at": float(number), "body": {}, **rest}
        last = chained(AuditRecord(writer=writer, seq=0, **fields), last)
        records.append(last)
    return records


async def filled(store: Any, **counts: int) -> S3Audit:
    audit = opened(store)
    for writer, count in counts.items():
        for record in a_chain(writer, count):
            await audit.append([record])
    store.asked.clear()
    return audit


# ------------------------------------------------------------ in time


WHOLE: dict[str, Callable[[S3Audit], Awaitable[object]]] = {
    "append": lambda audit: audit.append(a_chain("w", 60)[59:]),
    "anchor": lambda audit: audit.anchor("w"),
    "beat": lambda audit: audit.beat("w", 60.0),
}
READING: dict[str, Callable[[S3Audit], Awaitable[object]]] = {
    "head": lambda audit: audit.head("w"),
    "writers": lambda audit: audit.writers(),
    "unended": lambda audit: audit.unended(),
    "lost": lambda audit: audit.lost(),
    "query": lambda audit: audit.query(AuditQuery()),
    "prune": lambda audit: audit.prune(10.0),
}


@pytest.mark.parametrize("what", [*WHOLE, *READING])
async def test_when_no_answer_comes_all_end_within_the_timeout(what: str):
    store = Memory()
    await filled(store, w=59)
    audit, store.delay, began = opened(store), 1e9, now()
    with pytest.raises(StoreUnavailable):
        await {**WHOLE, **READING}[what](audit)
    assert now() - began <= TIMEOUT


@pytest.mark.parametrize("what", [*WHOLE])
async def test_what_asks_for_one_thing_ends_within_the_timeout_with_all_its_requests(what: str):
    store = Memory()
    audit = await filled(store, w=59)
    await audit.prune(3.0)  # so that there is an anchor
    audit, store.delay, began = opened(store), 3.0, now()
    if what == "beat":  # one request
        await WHOLE[what](audit)
    else:
        with pytest.raises(StoreUnavailable, match=r"in time|in 5 s"):
            await WHOLE[what](audit)
    assert now() - began <= TIMEOUT


@pytest.mark.parametrize("what", [*READING])
async def test_what_reads_a_trail_goes_on_while_answers_come(what: str):
    store = Memory()
    await filled(store, w=59)
    audit, store.delay, began = opened(store), 3.0, now()
    await READING[what](audit)
    assert now() - began > 2 * TIMEOUT
    store.asked.clear()
    store.delay = 0.0
    await READING[what](audit)
    assert store.read == [] or what in ("query", "prune")  # of these the first reads what it gives


async def test_a_reading_that_failed_goes_on_where_it_was():
    store = Memory()
    await filled(store, w=59)
    audit = opened(store)
    store.delay = 1.0
    reading = asyncio.ensure_future(audit.unended())
    await asyncio.sleep(3.5)
    store.delay = 1e9
    with pytest.raises(StoreUnavailable):
        await reading
    first = len(store.read)
    store.delay = 0.0
    assert await audit.unended() == []
    second = len(store.read)
    assert 16 <= second < 59 <= first + second
    assert await audit.head("w") == a_chain("w", 59)[-1]


async def test_an_append_to_a_long_chain_that_is_not_known_comes_through_in_the_end():
    store = Memory()
    await filled(store, w=200)
    audit, store.delay, tries = opened(store), 1.0, 0
    (record,) = a_chain("w", 201)[200:]
    while True:
        began = now()
        try:
            await audit.append([record])
            break
        except StoreUnavailable:
            tries += 1
            assert now() - began <= TIMEOUT
    assert 1 < tries < 20
    assert await audit.head("w") == record


async def test_anchors_that_are_listed_and_not_there_are_not_looked_for_for_ever():
    store = Memory()
    audit = await filled(store, w=3)
    store.phantoms.add("audit/anchors/w/0000000000000000009.jsonl")
    with pytest.raises(StoreUnavailable, match="lists anchors of the trail 'audit' that are not there"):
        await audit.anchor("w")
    store.phantoms.clear()
    assert await audit.anchor("w") == Anchor()


# ------------------------------------------------------------ what is not read


async def test_lost_reads_no_chain_of_a_writer_that_lives():
    store = Memory()
    audit = await filled(store, a=20, b=20)
    for writer in "ab":
        await audit.beat(writer, 60.0)
    other = opened(store)
    store.asked.clear()
    assert await other.lost() == []
    assert store.read == []
    await asyncio.sleep(61)
    assert await other.lost() == []  # neither has open calls
    assert sorted(store.read) == ["a"] * 20 + ["b"] * 20
    assert await other.lost() == []
    assert store.read == []


async def test_lost_reads_the_others_where_calls_of_a_dead_one_may_have_ended():
    store = Memory()
    audit = await filled(store, a=5, b=5)
    await audit.append(a_chain("dead", 1, kind="begin", call="c"))
    (more,) = a_chain("a", 6)[5:]
    for writer in "ab":
        await audit.beat(writer, 60.0)
    assert await opened(store).lost() == ["dead"]
    (end,) = a_chain("a", 1, a_chain("a", 5)[-1], kind="end", call="c", outcome="ok")
    assert more.seq == end.seq
    await audit.append([end])
    other = opened(store)
    store.asked.clear()
    assert await other.lost() == []
    assert sorted(set(store.read)) == ["a", "b", "dead"]


async def test_of_many_dead_writers_all_is_listed_at_once():
    store = Memory()
    audit = opened(store)
    for number in range(50):
        await audit.append(a_chain(f"w{number}", 1))
    await audit.append(a_chain("open", 1, kind="begin", call="c"))
    other = opened(store)
    store.asked.clear()
    assert await other.lost() == ["open"]
    assert len([line for line in store.asked if line.startswith("LIST")]) < 10


async def test_only_signs_of_writers_that_have_records_are_looked_at():
    store = Memory()
    audit = await filled(store, a=1)
    await audit.beat("gone", 60.0)
    store.objects["audit/alive/gone.json"] = b"no JSON", now()
    store.objects["audit/alive/notes/mine.json"] = b"no JSON", now()
    assert await audit.lost() == []
    await audit.beat("a", 60.0)
    store.objects["audit/alive/a.json"] = orjson.dumps({"seconds": None}), now()
    with pytest.raises(StoreDamaged, match=r"alive/a\.json .* is no sign of life"):
        await audit.lost()


async def test_a_query_of_one_writer_reads_no_other():
    store = Memory()
    await filled(store, a=5, b=5)
    other = opened(store)
    assert await other.query(AuditQuery(writer="b")) == a_chain("b", 5)
    assert store.read == ["b"] * 5
    assert await other.query(AuditQuery(writer="b", since=2.0, until=4.0)) == a_chain("b", 5)[2:4]
    assert store.read == ["b"] * 2


async def test_many_records_that_are_there_are_looked_for_together():
    store = Memory()
    audit = opened(store)
    records = a_chain("w", 60)
    for place in range(0, 60, 20):
        await audit.append(records[place : place + 20])
    other = opened(store)
    await other.unended()
    store.asked.clear()
    await other.append(records)
    assert len(store.asked) <= 3 + 3  # how the chain stands, and the batches
    assert await other.query(AuditQuery()) == records


async def test_records_that_are_pruned_while_they_are_looked_for_do_not_come_back():
    store = Memory()
    audit, other = opened(store), opened(store)
    records = a_chain("w", 60)
    for place in range(0, 60, 20):
        await audit.append(records[place : place + 20])
    await other.unended()
    store.delay = 0.1
    looking = asyncio.ensure_future(other.append(records[:40]))
    await asyncio.sleep(0.35)  # it has looked how the chain stands, and reads the first batch
    await audit.prune(40.0)
    await looking
    assert await other.query(AuditQuery()) == records[40:]
    assert (await other.anchor("w")).seq == 40
