"""Stores that fail as none should, or for so long that no more may wait."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.errors import LLMError, Overloaded, StoreUnavailable
from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.state import open_state
from tests.middleware.audit.store import HostileAudit
from tests.middleware.audit.test_scribe import made, stats


async def test_a_bug_in_the_store_refuses_the_call_and_hangs_nobody(caplog):
    trail = HostileAudit()

    async def bug(name: str) -> None:
        raise RuntimeError("a bug in the store")

    trail.between = bug
    provider = MockProvider(default="fine")
    chain = made(trail, provider)
    async with asyncio.timeout(60):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="RuntimeError: a bug in the store"):
                await chain.complete("hi")
    assert provider.requests == []
    trail.between = None
    await asyncio.sleep(10)
    assert trail.ends() == ["refused", "refused"]
    await chain.complete("hi")
    await chain.aclose()
    assert trail.ends() == ["refused", "refused", "ok"]
    assert trail.faults() == []
    assert caplog.text.count("records wait for the store") == 1


async def test_closing_while_the_store_has_a_bug_ends_in_bounded_time(caplog):
    trail = HostileAudit()
    chain = made(trail)
    await chain.complete("hi")

    async def bug(name: str) -> None:
        raise RuntimeError("a bug in the store")

    trail.between = bug
    began = asyncio.get_running_loop().time()
    await chain.aclose()
    assert asyncio.get_running_loop().time() - began <= 5.1
    assert "1 records could not be kept" in caplog.text


@pytest.mark.real_time
async def test_a_trail_that_was_opened_to_be_read_only_refuses_the_call_and_hangs_nobody(tmp_path):
    url = f"file://{tmp_path}/audit.jsonl"
    state = open_state(url)
    await state.check()
    await state.aclose()
    provider = MockProvider(default="fine")
    chain = Chain(provider, Audit(store=f"{url}?read_only=true"))
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="read only"):
            await chain.complete("hi")
    assert provider.requests == []
    chain.runtime.cleanup_seconds = 0.1
    await chain.aclose()


async def test_no_more_failed_calls_wait_to_be_kept_than_may():
    """Where only they are kept, there is no begin that would wait for room."""
    trail = HostileAudit()
    trail.away = True
    provider = MockProvider(default=Overloaded("no"))
    chain = made(trail, provider, what="failed", max_waiting=3)
    for number in range(10):
        with pytest.raises(Overloaded if number < 3 else StoreUnavailable):
            await chain.complete("hi")
    assert len(provider.requests) == 3
    assert (stats(chain).waiting, stats(chain).refused) == (3, 7)
    trail.away = False
    await asyncio.sleep(10)
    with pytest.raises(Overloaded):
        await chain.complete("hi")
    await chain.aclose()
    assert trail.ends() == ["failed"] * 4


async def test_a_failed_call_waits_for_room_while_the_store_takes_its_time():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    chain = made(trail, MockProvider(default=Overloaded("no")), what="failed", max_waiting=2, batch=2)
    tasks = []
    for _ in range(5):
        tasks.append(asyncio.create_task(chain.complete("hi")))
        await asyncio.sleep(1)
    tasks[-1].cancel()
    await asyncio.sleep(1)
    assert [task.done() for task in tasks] == [True, True, False, False, True]
    assert stats(chain).waiting == 2
    trail.gate.set()
    given = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in given] == [Overloaded] * 4 + [asyncio.CancelledError]
    await chain.aclose()
    assert trail.ends() == ["failed"] * 4  # of the one that left before it began there is nothing


async def test_records_are_kept_when_no_more_may_wait_though_they_are_fewer_than_a_batch():
    """The store has time for it: nothing is dropped only because more were to come first."""
    trail = HostileAudit()
    chain = made(trail, mode="queued", batch=100, max_waiting=2, flush=60.0)
    for _ in range(5):
        await chain.complete("hi")
        await asyncio.sleep(1)
    assert stats(chain).dropped == 0
    await chain.aclose()
    assert trail.ends() == ["ok"] * 5


async def test_a_call_of_which_nothing_is_wanted_needs_no_room_in_the_queued_mode():
    trail = HostileAudit()
    trail.away = True
    chain = made(trail, MockProvider(default=Overloaded("no")), what="failed", mode="queued", max_waiting=1)
    for _ in range(3):
        with pytest.raises(LLMError) as error:
            await chain.complete("hi")
        assert isinstance(error.value, Overloaded)
    assert (stats(chain).waiting, stats(chain).dropped) == (1, 2)
