"""The writing of the trail: what is durable when, what an outage does, batches, closing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmpipe.errors import LLMError, Overloaded, StoreUnavailable
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.retry import Retry
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.function import layer
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.state import AuditQuery, shared
from tests.middleware.audit.store import URL, HostileAudit, kill, process


def made(trail: HostileAudit, provider: MockProvider | None = None, *parts: Any, **settings: Any) -> Chain:
    provider = provider or MockProvider(default="fine")
    return Chain(provider, Audit(store=URL, **settings), *parts, runtime=process(trail))


def stats(chain: Chain) -> Any:
    (audit,) = (one for one in chain.middleware if isinstance(one, Audit))
    return audit.stats(chain.runtime)


# ------------------------------------------------------------ before the first byte


async def test_the_provider_is_not_asked_before_the_begin_is_kept():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    provider = MockProvider(default="fine")
    chain = made(trail, provider)
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(100)
    assert provider.requests == []
    assert trail.records() == []
    trail.gate.set()
    await task
    assert [each.kind for each in trail.records()] == ["begin"]
    await chain.aclose()
    assert trail.ends() == ["ok"]
    assert trail.faults() == []


async def test_no_guard_further_in_is_asked_before_the_begin_is_kept():
    """Else a budget could be charged, after a crash, for a call that the trail does not know."""
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    asked = []

    async def guard(call: Call) -> Call:
        asked.append(call.id)
        return call

    @layer(priority=500, name="guarded")
    async def guarded(call: Call, call_next: Any) -> Any:
        return await call_next(call.evolve(guards=(*call.guards, guard)))

    chain = made(trail, None, guarded)
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(100)
    assert trail.tried == 1  # it waits at the gate
    assert asked == []
    trail.gate.set()
    await task
    assert len(asked) == 1
    await chain.aclose()


async def test_a_store_that_is_away_refuses_the_call_and_the_provider_is_never_asked():
    trail = HostileAudit()
    trail.away = True
    provider = MockProvider(default="fine")
    chain = made(trail, provider, Retry(attempts=1))
    with pytest.raises(StoreUnavailable) as refused:
        await chain.complete("hi")
    assert refused.value.sent is False
    assert provider.requests == []
    trail.away = False
    await chain.aclose()
    assert trail.ends() == ["refused"]
    assert trail.faults() == []


async def test_nobody_waits_for_the_pause_between_two_tries():
    """An outage costs each call one try of the store, and no more."""
    trail = HostileAudit()
    trail.away = True
    chain = made(trail, None, Retry(attempts=1))
    loop = asyncio.get_running_loop()
    for _ in range(10):
        began = loop.time()
        with pytest.raises(StoreUnavailable):
            await chain.complete("hi")
        assert loop.time() - began < 0.01
        await asyncio.sleep(0.5)
    trail.away = False
    await chain.aclose()
    assert trail.ends() == ["refused"] * 10
    assert trail.faults() == []


async def test_each_who_waits_gets_an_error_of_its_own():
    trail = HostileAudit()
    trail.away = True
    chain = made(trail, None, Retry(attempts=1))
    errors = await asyncio.gather(*[chain.complete("hi") for _ in range(5)], return_exceptions=True)
    assert len({id(error) for error in errors}) == 5
    assert all(isinstance(error, StoreUnavailable) for error in errors)
    trail.away = False
    await chain.aclose()


async def test_a_call_that_needs_no_attempt_does_not_wait_for_the_store():
    class Shortcut:
        name, priority = "shortcut", 400

        async def __call__(self, call, call_next):
            from llmpipe.pipeline.reply import Reply
            from llmpipe.types import Completion, Message

            return Reply.of(Completion("i", "m", Message("assistant", "hit"), "stop"))

    trail = HostileAudit()
    trail.away = True
    chain = made(trail, None, Shortcut())
    assert (await chain.complete("hi")).text == "hit"
    trail.away = False
    await chain.aclose()
    assert trail.ends() == ["ok"]
    assert trail.faults() == []


async def test_a_refresh_is_not_sent_before_its_note_is_kept():
    trail = HostileAudit()
    provider = MockProvider(default="fine")
    chain = made(trail, provider, Cache(ttl=10, stale=100))
    await chain.complete("hi")
    await asyncio.sleep(20)
    trail.gate = asyncio.Event()
    await chain.complete("hi")  # a stale hit, which nobody waits for
    await asyncio.sleep(2)
    assert len(provider.requests) == 1
    trail.gate.set()
    await asyncio.sleep(2)
    assert len(provider.requests) == 2
    assert [each.kind for each in trail.records()][:4] == ["begin", "end", "begin", "end"]
    assert [each.body["because_of"] for each in trail.records("note")] == [trail.records("begin")[1].call]
    await chain.aclose()


async def test_each_retry_asks_and_is_let_pass_for_the_begin_that_is_kept():
    trail = HostileAudit()
    chain = made(trail, MockProvider([Overloaded("full"), Overloaded("full"), "fine"]), Retry(attempts=3))
    await chain.complete("hi")
    await chain.aclose()
    (end,) = trail.records("end")
    assert (end.outcome, end.body["attempts"]) == ("ok", 3)
    assert len(trail.records()) == 2


# ------------------------------------------------------------ outages


async def test_ends_are_kept_when_the_store_is_back_once_each_and_in_order():
    trail = HostileAudit()
    chain = made(trail, MockProvider(default=[Wait(1), "fine"]))
    calls = [asyncio.create_task(chain.complete("hi")) for _ in range(20)]
    await asyncio.sleep(0.5)
    trail.away = True
    await asyncio.gather(*calls)
    await asyncio.sleep(60)
    assert trail.ends() == []
    assert stats(chain).waiting == 20
    trail.away = False
    await asyncio.sleep(6)
    assert trail.ends() == ["ok"] * 20
    assert stats(chain).waiting == 0
    assert trail.faults() == []
    await chain.aclose()


async def test_a_batch_of_which_it_is_not_known_whether_it_was_kept_is_kept_once():
    trail = HostileAudit()
    chain = made(trail, None, Retry(attempts=1))
    trail.deaf = 3
    for _ in range(6):
        try:
            await chain.complete("hi")
        except StoreUnavailable:
            await asyncio.sleep(1)
    await chain.aclose()
    assert len(trail.records("begin")) == len(trail.records("end")) == 6
    assert [each.seq for each in trail.records()] == list(range(1, 13))
    assert trail.faults() == []
    assert stats(chain).failures >= 1


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_the_store_does_every_begin_has_its_end(seed):
    from random import Random

    random = Random(seed)
    trail = HostileAudit()

    async def weather(name: str) -> None:
        trail.away = random.random() < 0.3
        trail.seconds = random.random() * 2
        trail.deaf = random.random() < 0.2

    trail.between = weather
    chain = made(
        trail,
        MockProvider(default=[Wait(0.3), "fi", Wait(0.3), "ne"]),
        max_waiting=random.choice([5, 1000]),
        batch=random.choice([1, 7, 100]),
        lease=20.0,
    )
    seen: list[str] = []

    async def one(number: int) -> None:
        await asyncio.sleep(random.random() * 30)
        task = asyncio.create_task(chain.complete("hi"))
        if random.random() < 0.2:
            asyncio.get_running_loop().call_later(random.random() * 3, task.cancel)
        try:
            await task
            seen.append("ok")
        except LLMError:
            seen.append("refused")
        except asyncio.CancelledError:
            seen.append("cancelled")

    await asyncio.gather(*[one(number) for number in range(60)])
    trail.between = None
    trail.away, trail.deaf = False, 0
    await asyncio.sleep(30)
    await chain.aclose()
    assert trail.faults() == []
    assert len(trail.records("begin")) == len(trail.ends())
    assert trail.ends().count("ok") == seen.count("ok")
    assert await trail.unended() == []
    assert stats(chain).waiting == 0


async def test_a_record_that_the_store_cannot_keep_is_kept_without_its_body_and_holds_nobody_up():
    trail = HostileAudit()
    trail.refuse = lambda record: "poison" in str(record.body)
    chain = made(trail)
    calls = [chain.complete("hi", tags={"t": "poison" if number == 3 else "good"}) for number in range(8)]
    await asyncio.wait_for(asyncio.gather(*calls), 60)
    await chain.aclose()
    assert trail.ends() == ["ok"] * 8
    assert trail.faults() == []
    stripped = [each for each in trail.records() if "unkept" in each.body]
    assert [each.kind for each in stripped] == ["begin", "end"]


async def test_a_cancelled_caller_who_waits_for_its_begin_leaves_a_begin_and_an_end():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    chain = made(trail)
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])
    trail.gate.set()
    await chain.aclose()
    assert trail.ends() == ["cancelled"]
    assert trail.faults() == []


# ------------------------------------------------------------ bounds


async def test_a_durable_call_waits_for_room_and_no_more_wait_than_may():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    chain = made(trail, max_waiting=10)
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(50)]
    await asyncio.sleep(10)
    assert stats(chain).waiting == 10
    trail.gate.set()
    await asyncio.gather(*tasks)
    await chain.aclose()
    assert trail.ends() == ["ok"] * 50
    assert stats(chain).dropped == stats(chain).refused == 0
    assert trail.faults() == []


async def test_of_all_who_wait_for_room_only_as_many_find_some_as_there_is():
    trail = HostileAudit()
    most = 0
    chain = made(trail, MockProvider(default=[Wait(1000), "fine"]), max_waiting=10)

    async def look(name: str) -> None:
        nonlocal most
        most = max(most, stats(chain).waiting)

    trail.between = look
    trail.gate = asyncio.Event()
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(50)]
    await asyncio.sleep(1)
    trail.gate.set()
    await asyncio.sleep(1)
    assert len(trail.records("begin")) == 50
    assert most == 10
    await asyncio.gather(*tasks)
    await chain.aclose()
    assert trail.faults() == []


async def test_a_durable_call_for_which_there_is_no_room_in_an_outage_is_refused_and_counted():
    trail = HostileAudit()
    trail.away = True
    provider = MockProvider(default="fine")
    chain = made(trail, provider, Retry(attempts=1), max_waiting=4)
    for _ in range(10):
        with pytest.raises(StoreUnavailable):
            await chain.complete("hi")
    assert provider.requests == []
    assert stats(chain).waiting == 4
    assert stats(chain).refused == 8
    trail.away = False
    await chain.aclose()
    assert trail.ends() == ["refused"] * 2
    assert trail.faults() == []


async def test_queued_records_never_wait_and_what_finds_no_room_is_counted():
    trail = HostileAudit()
    trail.away = True
    chain = made(trail, mode="queued", max_waiting=20)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(30):
        await chain.complete("hi")
    assert loop.time() == began
    seen = stats(chain)
    assert (seen.written, seen.waiting, seen.dropped) == (20, 20, 40)
    trail.away = False
    await chain.aclose()
    assert len(trail.records()) == 20
    assert trail.faults() == []


async def test_a_queued_call_that_has_begun_finds_room_for_its_end():
    trail = HostileAudit()
    trail.away = True
    chain = made(trail, MockProvider(default=[Wait(1), "fine"]), mode="queued", max_waiting=5)
    await asyncio.gather(*[chain.complete("hi") for _ in range(12)])
    assert stats(chain).dropped == 14  # the begins of seven, and their ends
    trail.away = False
    await chain.aclose()
    assert len(trail.records("begin")) == len(trail.ends()) == 5
    assert trail.faults() == []


async def test_a_queued_call_gives_the_loop_to_nobody():
    """No await between the caller and the provider, nor between the provider and the caller."""
    chain = made(HostileAudit(), mode="queued")
    await chain.complete("the first one binds the loop")
    work = chain.complete("hi")
    with pytest.raises(StopIteration) as done:
        work.send(None)
    assert done.value.value.text == "fine"
    await chain.aclose()


# ------------------------------------------------------------ batches


async def test_a_hundred_records_are_kept_together_at_once():
    trail = HostileAudit()
    chain = made(trail, mode="queued")
    for _ in range(125):
        await chain.complete("hi")
    await asyncio.sleep(1)
    assert [count for _, count in trail.batches] == [100, 100, 50]  # those that came while the first was kept
    await chain.aclose()


async def test_fewer_are_kept_after_five_seconds_to_the_second():
    trail = HostileAudit()
    trail.seconds = 0.0
    chain = made(trail, mode="queued")
    loop = asyncio.get_running_loop()
    for pause in (0.0, 3.0, 9.5):
        await asyncio.sleep(pause)
        began = loop.time()
        trail.batches.clear()
        await chain.complete("hi")
        await asyncio.sleep(4.999)
        assert trail.batches == []
        await asyncio.sleep(0.002)
        ((at, count),) = trail.batches
        assert at == pytest.approx(began + 5.0, abs=1e-6)
        assert count == 2
    await chain.aclose()


async def test_the_five_seconds_count_from_the_first_that_waits():
    trail = HostileAudit()
    trail.seconds = 0.0
    chain = made(trail, mode="queued")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await chain.complete("hi")
        await asyncio.sleep(1.5)
    ((at, count),) = trail.batches
    assert at == pytest.approx(began + 5.0)
    assert count == 8
    await chain.aclose()


async def test_a_timer_that_was_set_for_others_keeps_nobody_early():
    trail = HostileAudit()
    trail.seconds = 0.0
    chain = made(trail, mode="queued", batch=4)
    began = asyncio.get_running_loop().time()
    for pause in (0.0, 1.0, 2.0):  # the second fills a batch, the third begins to wait at 3
        await asyncio.sleep(pause)
        await chain.complete("hi")
    await asyncio.sleep(10)
    assert [(round(at - began, 3), count) for at, count in trail.batches] == [(1.0, 4), (8.0, 2)]
    await chain.aclose()


async def test_no_batch_is_larger_than_it_may_be_however_many_wait():
    trail = HostileAudit()
    chain = made(trail, MockProvider(default=[Wait(1), "fine"]), batch=30)
    await asyncio.gather(*[chain.complete("hi") for _ in range(400)])
    await chain.aclose()
    assert max(count for _, count in trail.batches) == 30
    assert trail.ends() == ["ok"] * 400
    assert trail.faults() == []


async def test_calls_that_begin_together_share_a_write():
    trail = HostileAudit()
    chain = made(trail)
    await asyncio.gather(*[chain.complete("hi") for _ in range(50)])
    assert [count for _, count in trail.batches] == [50]
    await chain.aclose()


# ------------------------------------------------------------ closing


@pytest.mark.parametrize("mode", ["durable", "queued"])
@pytest.mark.parametrize("close", ["chain", "runtime"])
async def test_what_waits_is_kept_when_the_chain_or_its_runtime_is_closed(mode, close):
    trail = HostileAudit()
    chain = made(trail, mode=mode)
    await asyncio.gather(*[chain.complete("hi") for _ in range(7)])
    await (chain if close == "chain" else chain.runtime).aclose()
    assert trail.ends() == ["ok"] * 7
    assert await trail.lost() == []


async def test_a_chain_that_was_closed_and_is_called_again_goes_on_in_its_chain_of_records():
    trail = HostileAudit()
    chain = made(trail)
    for _ in range(3):
        await chain.complete("hi")
        await chain.aclose()
    assert trail.ends() == ["ok"] * 3
    assert trail.faults() == []
    assert len(await trail.writers()) == 1


async def test_closing_while_the_store_is_away_for_a_moment_loses_nothing():
    trail = HostileAudit()
    chain = made(trail)
    await chain.complete("hi")
    trail.away = True

    def back() -> None:
        trail.away = False

    asyncio.get_running_loop().call_later(2.0, back)
    await chain.aclose()
    assert trail.ends() == ["ok"]


async def test_closing_while_the_store_stays_away_says_what_is_lost_in_bounded_time(caplog):
    trail = HostileAudit()
    chain = made(trail)
    await chain.complete("hi")
    trail.away = True
    loop = asyncio.get_running_loop()
    began = loop.time()
    await chain.aclose()
    assert loop.time() - began <= chain.runtime.cleanup_seconds + 0.1
    assert "1 records could not be kept" in caplog.text


async def test_closing_leaves_nobody_waiting():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    chain = made(trail, None, Retry(attempts=1))
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    await chain.aclose()
    with pytest.raises(StoreUnavailable):
        await asyncio.wait_for(task, 10)


@pytest.mark.real_time
def test_a_chain_may_be_used_from_one_event_loop_after_the_other():
    trail = HostileAudit()
    chain = made(trail, flush=0.01)

    async def some() -> None:
        await chain.complete("hi")
        await asyncio.sleep(0.1)

    for _ in range(3):
        asyncio.run(some())
    asyncio.run(chain.aclose())
    assert trail.ends() == ["ok"] * 3
    assert trail.faults() == []


async def test_settings_of_a_chain_that_was_made_anew_hold_from_then_on():
    trail = HostileAudit()
    chain = made(trail, mode="queued")
    again = Chain(chain.provider, Audit(store=URL, mode="queued", batch=2), runtime=chain.runtime)
    await chain.complete("hi")
    await asyncio.sleep(1)
    assert trail.batches == []
    await again.complete("hi")
    await asyncio.sleep(1)
    assert sum(count for _, count in trail.batches) == 4
    assert len(await trail.writers()) == 1
    await chain.aclose()


async def test_two_trails_of_one_name_in_two_stores_are_two():
    trail, runtime = HostileAudit(), Runtime()
    process_of = process(trail)
    chain = Chain(MockProvider(default="fine"), Audit(store=URL), runtime=process_of)
    other = Chain(MockProvider(default="fine"), Audit(), runtime=process_of)
    await chain.complete("hi")
    await other.complete("hi")
    await chain.aclose()
    found = await shared(process_of, "memory://").audit("audit").query(AuditQuery())
    assert len(trail.records()) == len(found) == 2
    assert runtime.states("audit") == {}


async def test_a_killed_process_leaves_what_it_had_been_told_is_kept():
    trail = HostileAudit()
    chain = made(trail, MockProvider(default=[Wait(10), "fine"]))
    tasks = [asyncio.create_task(chain.complete("hi")) for _ in range(3)]
    await asyncio.sleep(1)
    await kill(chain)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert len(await trail.unended()) == 3
    await kill(chain)
