"""Writers that die, seem to have died, or share a name: every begin has one end, whoever writes it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.state import Anchor, AuditRecord
from llmpipe.state.hash_chain import chained, fault
from llmpipe.state.memory.audit import MemoryAudit
from tests.middleware.audit.store import URL, HostileAudit, kill, process


def started(trail: HostileAudit, seconds: float = 1.0, **settings) -> Chain:
    """A process, whose provider takes so long."""
    provider = MockProvider(default=[Wait(seconds), "fine"])
    return Chain(provider, Audit(store=URL, **settings), runtime=process(trail))


async def dies(trail: HostileAudit, calls: int = 3, **settings) -> Chain:
    """A process that dies amid so many calls."""
    chain = started(trail, 1000.0, **settings)
    tasks = [asyncio.create_task(chain.complete("hi", tenant="t")) for _ in range(calls)]
    await asyncio.sleep(1)
    (scribe,) = chain.runtime.states("audit").values()
    scribe._store = scribe._keeper._store = HostileAudit()  # whatever it still does reaches nobody
    await kill(chain)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await kill(chain)
    return chain


async def test_who_comes_back_under_the_same_name_ends_what_it_left_open_at_once():
    trail = HostileAudit()
    await dies(trail, writer="gateway-1")
    chain = started(trail, writer="gateway-1")
    await chain.complete("hi")
    assert trail.ends() == ["crashed"] * 3
    await chain.aclose()
    assert trail.ends() == ["crashed"] * 3 + ["ok"]
    assert trail.faults() == []
    assert await trail.writers() == ["gateway-1"]
    assert {each.tenant for each in trail.records("end") if each.outcome == "crashed"} == {"t"}


async def test_another_ends_them_when_the_lease_has_ended_and_not_before():
    trail = HostileAudit()
    await dies(trail, lease=30.0)
    chain = started(trail, 25.0, lease=30.0)
    await chain.complete("hi")
    assert "crashed" not in trail.ends()
    await asyncio.sleep(60)
    await chain.complete("hi")
    assert trail.ends().count("crashed") == 3
    await chain.aclose()
    assert trail.faults() == []
    assert await trail.unended() == []


async def test_a_process_with_little_to_do_looks_for_the_dead_all_the_same():
    """One call, and then nothing: those who died before it are ended without another."""
    trail = HostileAudit()
    await dies(trail, lease=30.0)
    chain = started(trail, lease=30.0)
    await chain.complete("hi")
    await asyncio.sleep(120)
    assert trail.ends().count("crashed") == 3
    await chain.aclose()


async def test_and_then_it_rests():
    trail = HostileAudit()
    chain = started(trail, lease=3.0)
    await chain.complete("hi")
    await asyncio.sleep(300)
    (scribe,) = chain.runtime.states("audit").values()
    assert not scribe._keeper.awake
    await chain.complete("hi")
    assert scribe._keeper.awake
    await chain.aclose()
    assert not scribe._keeper.awake


@pytest.mark.parametrize("name", ["", "gateway-1"])
async def test_of_many_that_start_at_the_same_moment_one_ends_each_call(name):
    trail = HostileAudit()
    await dies(trail, 5, lease=3.0, writer=name)
    await asyncio.sleep(100)
    chains = [started(trail, lease=3.0, writer=name) for _ in range(4)]
    await asyncio.gather(*[chain.complete("hi") for chain in chains])
    await asyncio.sleep(200)
    for chain in chains:
        await chain.aclose()
    assert trail.ends().count("crashed") >= 5
    assert trail.faults() == []
    assert await trail.unended() == []
    # Those of one name took one another for dead, and what really came of their calls is noted.
    late = [each.body["ended_late"] for each in trail.records("note")]
    assert trail.ends().count("ok") + late.count("ok") == 4
    assert bool(late) <= bool(name)


async def test_a_writer_that_was_taken_for_dead_and_comes_back_notes_what_really_happened():
    trail = HostileAudit()
    zombie = started(trail, 500.0, lease=3.0)
    task = asyncio.create_task(zombie.complete("long"))
    await asyncio.sleep(1)
    await kill(zombie)  # its timers, as a suspended machine's: it shows no sign of life
    (scribe,) = zombie.runtime.states("audit").values()
    scribe._bind(asyncio.get_running_loop())
    other = started(trail, lease=3.0)
    await asyncio.sleep(10)
    await other.complete("hi")
    await asyncio.sleep(10)
    assert trail.ends().count("crashed") == 1
    await task
    await zombie.complete("after that")
    await zombie.aclose()
    await other.aclose()
    assert trail.faults() == []
    (note,) = trail.records("note")
    assert note.body["ended_late"] == "ok"
    assert sorted(trail.ends()) == ["crashed", "ok", "ok"]
    assert {each.call for each in trail.records("begin")} == {each.call for each in trail.records("end")}


async def test_a_long_call_is_not_taken_for_dead_while_its_process_lives():
    trail = HostileAudit()
    one, other = started(trail, 5000.0, lease=30.0), started(trail, 100.0, lease=30.0)
    task = asyncio.create_task(one.complete("long"))
    for _ in range(60):
        await other.complete("hi")
    await task
    await one.aclose()
    await other.aclose()
    assert "crashed" not in trail.ends()
    assert trail.faults() == []


@pytest.mark.parametrize("pause", [7.0, 29.0, 1000.0])
async def test_a_call_that_begins_after_a_rest_is_at_no_moment_taken_for_dead(pause):
    """The sign of life comes before the begin: between them another may look."""
    trail = HostileAudit()
    chain = started(trail, 0.01, lease=30.0)
    looked = 0

    async def look() -> None:
        nonlocal looked
        looked += 1
        assert await MemoryAudit.lost(trail) == []

    trail.kept = look
    for _ in range(12):
        await chain.complete("hi")
        await asyncio.sleep(pause)
    await chain.aclose()
    assert looked >= 12


async def test_a_call_that_begins_while_its_process_closes_the_trail_is_not_taken_for_dead():
    trail = HostileAudit()
    chain = started(trail, 100.0, lease=30.0)
    short = Chain(MockProvider(default="fine"), *chain.middleware, runtime=chain.runtime)
    await short.complete("hi")
    (scribe,) = chain.runtime.states("audit").values()
    tasks = []

    async def begin(name: str) -> None:
        if name == "beat" and not tasks:
            tasks.append(asyncio.create_task(chain.complete("late")))
            await asyncio.sleep(1)

    await scribe._write()
    trail.between = begin
    await scribe.aclose()
    trail.between = None
    assert len(await trail.unended()) == 1
    assert await trail.lost() == []
    await tasks[0]
    await chain.aclose()
    assert trail.ends() == ["ok", "ok"]
    assert trail.faults() == []


def zombies(trail: HostileAudit, *calls: str) -> tuple[list[AuditRecord], AuditRecord]:
    """Begins of a writer without a lease, and the end of the first."""
    records: list[AuditRecord] = []
    for call in calls:
        begin = AuditRecord(writer="d", seq=0, kind="begin", at=1.0, call=call, body={})
        records.append(chained(begin, records[-1] if records else Anchor()))
    end = AuditRecord(writer="d", seq=0, kind="end", at=2.0, call=calls[0], outcome="ok", body={})
    return records, chained(end, records[-1])


async def test_who_is_ending_calls_while_their_writer_ends_them_itself_is_second():
    """The dead one wakes between the two looks at its chain, in whichever order they come."""
    trail = HostileAudit()
    begins, end = zombies(trail, "c1", "c2")
    chain = started(trail, lease=30.0)
    await chain.complete("hi")
    await MemoryAudit.append(trail, begins)
    seen = []

    async def wake(name: str) -> None:
        if name in ("head", "unended"):
            seen.append(name)
            if len(seen) == 2:
                await MemoryAudit.append(trail, [end])

    trail.between = wake
    await asyncio.sleep(300)
    trail.between = None
    assert len(seen) >= 2
    assert trail.faults() == []
    assert [each.outcome for each in trail.records("end") if each.call == "c1"] == ["ok"]
    await chain.aclose()


async def test_who_comes_back_before_its_calls_are_ended_keeps_them():
    trail = HostileAudit()
    begins, _ = zombies(trail, "c1", "c2")
    chain = started(trail, lease=30.0)
    await chain.complete("hi")
    await MemoryAudit.append(trail, begins[:1])
    back = []

    async def wake(name: str) -> None:
        if name == "head" and not back:
            back.append(name)
            await MemoryAudit.beat(trail, "d", 10_000.0)
            await MemoryAudit.append(trail, begins[1:])

    trail.between = wake
    await asyncio.sleep(300)
    trail.between = None
    assert back
    assert {each.call for each in await trail.unended()} == {"c1", "c2"}
    await chain.aclose()


async def test_ends_that_wait_behind_another_batch_become_notes_too():
    trail = HostileAudit()
    zombie = started(trail, 500.0, lease=3.0, batch=1)
    tasks = [asyncio.create_task(zombie.complete("long")) for _ in range(5)]
    await asyncio.sleep(1)
    await kill(zombie)
    (scribe,) = zombie.runtime.states("audit").values()
    scribe._bind(asyncio.get_running_loop())
    other = started(trail, lease=3.0)
    await asyncio.sleep(10)
    await other.complete("hi")
    await asyncio.sleep(10)
    assert trail.ends().count("crashed") == 5
    trail.deaf = 1  # its ends are handed in before it learns that it was taken for dead
    await asyncio.gather(*tasks)
    await zombie.aclose()
    await other.aclose()
    assert trail.faults() == []
    assert [each.body["ended_late"] for each in trail.records("note")] == ["ok"] * 5


async def test_the_chain_of_a_name_goes_on_without_a_gap_over_restarts():
    trail = HostileAudit()
    for number in range(4):
        if number % 2:
            await dies(trail, 2, writer="w")
        else:
            chain = started(trail, writer="w")
            await chain.complete("hi")
            await chain.aclose()
    records = trail.records()
    assert [each.seq for each in records] == list(range(1, len(records) + 1))
    assert fault(records, Anchor()) is None
    assert trail.faults() == []


async def test_two_that_share_a_name_lose_nothing_and_hang_nobody():
    trail = HostileAudit()
    chains = [started(trail, 0.5, writer="same") for _ in range(3)]

    async def busy(chain: Chain, seed: int) -> None:
        random = Random(seed)
        for _ in range(10):
            await asyncio.sleep(random.random() * 5)
            await chain.complete("hi")

    async with asyncio.timeout(3600):
        await asyncio.gather(*[busy(chain, seed) for seed, chain in enumerate(chains)])
        for chain in chains:
            await chain.aclose()
    assert trail.faults() == []
    assert len(trail.records("begin")) == 30 == len(trail.ends())
    assert await trail.unended() == []


@pytest.mark.parametrize("seed", range(10))
async def test_processes_that_die_and_come_back_in_any_order_leave_one_end_for_every_begin(seed):
    random = Random(seed)
    trail = HostileAudit()

    async def weather(name: str) -> None:
        trail.seconds = random.random()
        trail.deaf = random.random() < 0.1
        trail.away = random.random() < 0.1

    trail.between = weather
    names = random.choice([["", "", ""], ["a", "b", "c"], ["a", "a", "a"]])

    async def life(name: str) -> None:
        for _ in range(4):
            chain = started(trail, random.random() * 20, lease=5.0, writer=name)
            tasks = []
            for _ in range(6):
                await asyncio.sleep(random.random() * 10)
                tasks.append(asyncio.create_task(chain.complete("hi")))
            if random.random() < 0.5:
                await kill(chain)
                (scribe,) = chain.runtime.states("audit").values()
                scribe._store = HostileAudit()  # whatever it still does reaches nobody
                scribe._keeper._store = scribe._store
                for task in tasks:
                    task.cancel()
            await asyncio.wait(tasks)
            await chain.aclose()

    await asyncio.gather(*[life(name) for name in names])
    trail.between = None
    trail.away, trail.deaf = False, 0
    last = started(trail, lease=5.0, writer=names[0])
    for _ in range(3):
        await asyncio.sleep(100)
        await last.complete("hi")
        await asyncio.sleep(100)
    await last.aclose()
    assert trail.faults() == []
    left = await trail.unended()
    assert [each.call for each in left] == []
