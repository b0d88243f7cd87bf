"""Every way a call can end leaves one begin and one end, which says how it ended."""

from __future__ import annotations

import asyncio
import gc
import math
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson
import pytest

from llmpipe.errors import (
    BudgetExceeded,
    ConfigError,
    InvalidRequest,
    LLMError,
    Overloaded,
    RateLimited,
    StreamBroken,
)
from llmpipe.middleware.audit import Audit
from llmpipe.middleware.batch import Batch
from llmpipe.middleware.breaker import Breaker
from llmpipe.middleware.cache import Cache
from llmpipe.middleware.coalesce import Coalesce
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.hedge import Hedge
from llmpipe.middleware.rate_limit import RateLimit
from llmpipe.middleware.retry import Retry
from llmpipe.middleware.shed import Shed
from llmpipe.middleware.validate import Validate
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.runtime import Runtime
from llmpipe.state import AuditRecord
from llmpipe.testing.conform import conform
from llmpipe.types import Embeddings, Message, Ranked, Ranking, Request
from tests.middleware.audit.store import URL, HostileAudit, HostileState, process


def made(provider: Any, *parts: Any, **settings: Any) -> tuple[Chain, HostileAudit]:
    trail = HostileAudit()
    return Chain(provider, Audit(store=URL, **settings), *parts, runtime=process(trail)), trail


async def told(chain: Chain, trail: HostileAudit) -> tuple[AuditRecord, AuditRecord]:
    """The begin and the end of the only call, when all is written."""
    await chain.aclose()
    assert trail.faults() == []
    begin, end = trail.records()
    assert (begin.kind, end.kind, begin.call) == ("begin", "end", end.call)
    return begin, end


async def refused(chain: Chain, prompt: Any = "hi", **options: Any) -> BaseException:
    with pytest.raises(LLMError) as error:
        await chain.complete(prompt, **options)
    return error.value


VECTORS = Embeddings(vectors=((1.0,), (2.0,)), model="e")
RANKING = Ranking(results=(Ranked(1, 0.5), Ranked(0, 0.1)), model="r")

# ------------------------------------------------------------ ends


async def test_a_call_that_goes_well_says_so():
    chain, trail = made(MockProvider(default="fine"))
    await chain.complete("hi", tenant="t", user="u", tags={"correlation_id": "r-1", "app": "a"})
    begin, end = await told(chain, trail)
    for each in (begin, end):
        assert (each.tenant, each.user, each.body["correlation_id"]) == ("t", "u", "r-1")
        assert each.body["tags"]["app"] == "a"
        assert each.body["provider"] == "mock"
    assert (begin.outcome, end.outcome) == ("", "ok")
    assert end.body["output_tokens"] > 0
    assert "request_body" not in begin.body


async def test_a_request_that_a_rule_refuses_is_refused():
    chain, trail = made(MockProvider(default="fine"), Validate(blocked=("hi",)))
    await refused(chain)
    assert (await told(chain, trail))[1].outcome == "refused"


async def test_a_call_beyond_a_limit_is_refused():
    limit = RateLimit(requests_per_minute=1, burst=1, mode="reject")
    chain, trail = made(MockProvider(default="fine"), limit)
    await chain.complete("hi")
    await refused(chain)
    await chain.aclose()
    assert trail.ends() == ["ok", "refused"]


async def test_a_call_at_an_open_breaker_is_refused_and_the_one_that_opened_it_failed():
    chain, trail = made(MockProvider([Overloaded("full")], default="fine"), Breaker(consecutive=1))
    await refused(chain)
    await refused(chain)
    await chain.aclose()
    assert trail.ends() == ["failed", "refused"]


async def test_a_call_that_is_shed_is_refused():
    chain, trail = made(MockProvider(default=[Wait(1), "fine"]), Shed(in_flight=1))
    first = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0.5)
    await refused(chain)
    await first
    await chain.aclose()
    assert sorted(trail.ends()) == ["ok", "refused"]


async def test_what_a_budget_refuses_is_refused_and_a_call_that_ran_out_of_time_before_an_attempt_too():
    class Broke:
        name, priority = "broke", 500

        async def __call__(self, call, call_next):
            raise BudgetExceeded("nothing left")

    chain, trail = made(MockProvider(default="fine"), Broke())
    await refused(chain)
    assert (await told(chain, trail))[1].outcome == "refused"


async def test_a_call_that_fails_before_its_first_content_failed():
    chain, trail = made(MockProvider([RateLimited("slow down")]))
    await refused(chain)
    end = (await told(chain, trail))[1]
    assert end.outcome == "failed"
    assert end.body["error"]["class"] == "RateLimited"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stream_that_breaks_failed(stream):
    chain, trail = made(MockProvider([["half", StreamBroken("cut")]]))
    with pytest.raises(StreamBroken):
        if stream:
            async with chain.stream("hi") as reply:
                async for _ in reply:
                    pass
        else:
            await chain.complete("hi")
    assert (await told(chain, trail))[1].outcome == "failed"


async def test_a_bug_in_a_middleware_failed():
    class Wrong:
        name, priority = "wrong", 300

        async def __call__(self, call, call_next):
            raise TypeError("a bug")

    chain, trail = made(MockProvider(default="fine"), Wrong())
    with pytest.raises(TypeError):
        await chain.complete("hi")
    assert (await told(chain, trail))[1].outcome == "failed"


async def test_a_request_that_the_provider_refuses_failed_for_it_was_asked():
    chain, trail = made(MockProvider([InvalidRequest("no")]))
    await refused(chain)
    assert (await told(chain, trail))[1].outcome == "failed"


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.5, 1.5, 2.5])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_cancelled_is_cancelled_wherever_it_is(after, stream):
    chain, trail = made(MockProvider(default=[Wait(1), "fi", Wait(1), "ne", Wait(1), "!"]))

    async def call() -> None:
        if stream:
            async with chain.stream("hi") as reply:
                async for _ in reply:
                    pass
        else:
            await chain.complete("hi")

    task = asyncio.create_task(call())
    await asyncio.sleep(after)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await told(chain, trail))[1].outcome == "cancelled"


async def test_a_stream_that_is_left_early_is_abandoned():
    chain, trail = made(MockProvider(default=["one", Wait(1), "two"]))
    async with chain.stream("hi") as reply:
        async for _ in reply:
            break
    assert (await told(chain, trail))[1].outcome == "abandoned"


async def test_a_stream_that_another_task_closes_is_abandoned():
    chain, trail = made(MockProvider(default=["one", Wait(10), "two"]))
    reply = await chain(chain.new_call(Request(messages="hi", stream=True)))

    async def read() -> None:
        async for _ in reply:
            pass

    reader = asyncio.create_task(read())
    await asyncio.sleep(1)
    await reply.aclose()
    await asyncio.wait([reader])
    assert reader.exception() is not None
    assert (await told(chain, trail))[1].outcome == "abandoned"


async def test_a_reply_that_is_dropped_is_abandoned():
    chain, trail = made(MockProvider(default=["one", Wait(1), "two"]))
    reply = await chain(chain.new_call(Request(messages="hi", stream=True)))
    with pytest.warns(ResourceWarning, match="never closed"):
        del reply
        gc.collect()
    await asyncio.sleep(1)
    assert (await told(chain, trail))[1].outcome == "abandoned"


async def test_a_hit_is_recorded_as_any_call():
    chain, trail = made(MockProvider(["fine"]), Cache())
    await chain.complete("hi")
    await chain.complete("hi")
    await chain.aclose()
    assert trail.ends() == ["ok", "ok"]
    assert [each.body["attempts"] for each in trail.records("end")] == [1, 0]
    assert trail.faults() == []


async def test_a_refresh_in_the_background_is_noted_for_it_is_nobodys_call():
    chain, trail = made(MockProvider(["old", "new"]), Cache(ttl=10, stale=1000))
    await chain.complete("hi")
    await asyncio.sleep(20)
    await chain.complete("hi")
    await asyncio.sleep(1)
    await chain.aclose()
    assert trail.ends() == ["ok", "ok"]
    (note,) = trail.records("note")
    assert note.body["because_of"] == trail.records("begin")[1].call
    assert note.call.startswith("refresh-")
    assert trail.faults() == []


async def test_embeddings_and_rankings_are_calls():
    chain, trail = made(MockProvider([VECTORS, RANKING]))
    await chain.embed(["a", "b"])
    await chain.rerank("q", ["a", "b"])
    await chain.aclose()
    assert trail.ends() == ["ok", "ok"]
    assert [each.body["operation"] for each in trail.records("begin")] == ["embeddings", "rerank"]


async def test_all_whose_inputs_go_out_in_one_batch_have_begun_durably_before():
    provider = MockProvider(["fine", Embeddings(vectors=tuple((float(n),) for n in range(5)), model="e")])
    chain, trail = made(provider, Batch(window=0.5))
    seen: list[int] = []

    class Look:
        name, priority = "look", 2000

        async def __call__(self, call, call_next):
            reply = await call_next(call)
            seen.append(len(trail.records("begin")))
            return reply

    chain.use(Look())

    async def one(number: int) -> None:
        await asyncio.sleep(number / 100)
        await chain.embed([f"text {number}"])

    async def other() -> None:
        """Has the first one's begin kept long before the batch goes out, and nobody else's."""
        await asyncio.sleep(0.005)
        await chain.complete("hi")

    await asyncio.gather(other(), *[one(number) for number in range(5)])
    await chain.aclose()
    assert len(provider.requests) == 2
    assert seen == [2, 6]
    assert trail.ends() == ["ok"] * 6


async def test_who_shares_a_request_has_a_begin_and_an_end_of_its_own():
    chain, trail = made(
        MockProvider([[Wait(1), Overloaded("full")], [Wait(1), "fine"]]), Coalesce(when="always")
    )
    for wanted in ("failed", "ok"):
        calls = [chain.complete("hi") for _ in range(5)]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, LLMError) == (wanted == "failed") for each in done)
    await chain.aclose()
    assert trail.ends() == ["failed"] * 5 + ["ok"] * 5
    assert trail.faults() == []


# ------------------------------------------------------------ chains in chains


async def test_a_hedge_a_fallback_and_a_retry_are_one_call():
    slow = MockProvider(default=[Wait(50), "late"])
    chain, trail = made(slow, Hedge(delay=1.0, max_share=1.0))
    await chain.complete("hi")
    assert (await told(chain, trail))[1].body["attempts"] == 2
    spare = MockProvider(default="spare", name="spare")
    chain, trail = made(MockProvider(default=Overloaded("full")), Fallback(spare), Retry(attempts=2))
    await chain.complete("hi")
    end = (await told(chain, trail))[1]
    assert (end.outcome, end.body["attempts"]) == ("ok", 2)


@pytest.mark.parametrize("mode", ["durable", "queued"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_chain_in_a_chain_with_the_same_trail_leaves_one_begin_and_one_end(mode, stream):
    trail = HostileAudit()
    runtime = process(trail)
    inner = Chain(MockProvider(default="fine"), Audit(store=URL, mode=mode), runtime=runtime)
    middle = Chain(inner, Audit(store=URL, mode=mode), runtime=runtime)
    chain = Chain(middle, Audit(store=URL, mode=mode), Retry(), runtime=runtime)
    if stream:
        async with chain.stream("hi") as reply:
            assert [text async for text in reply.texts()]
    else:
        await chain.complete("hi")
    assert (await told(chain, trail))[1].outcome == "ok"


async def test_a_begin_that_was_dropped_further_out_is_kept_before_the_attempt_where_it_must_be():
    trail = HostileAudit()
    trail.gate = asyncio.Event()
    runtime = process(trail)
    provider = MockProvider(default="fine")
    queued = Audit(store=URL, mode="queued", max_waiting=1)
    within = Chain(provider, Audit(store=URL), runtime=runtime)
    await Chain(MockProvider(default="fine"), queued, runtime=runtime).complete("that there is no room")
    task = asyncio.create_task(Chain(within, queued, runtime=runtime).complete("hi"))
    await asyncio.sleep(10)
    assert provider.requests == []
    trail.gate.set()
    await task
    await within.aclose()
    assert trail.ends() == ["ok", "ok"]
    assert trail.faults() == []


async def test_a_call_that_was_left_to_others_who_share_its_request_does_not_begin_again():
    """Its request is tried again for them, in a chain within the chain, when it has its end."""
    trail = HostileAudit()
    runtime = process(trail)
    provider = MockProvider([Overloaded("no", retry_after=3)], default=["x", Wait(5), "y"])
    within = Chain(provider, Audit(store=URL), runtime=runtime)
    chain = Chain(within, Audit(store=URL), Coalesce(when="always"), Retry(), runtime=runtime)
    leader = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0.5)
    other = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0.5)
    leader.cancel()
    await other
    assert len(provider.requests) == 2
    await chain.aclose()
    assert sorted(trail.ends()) == ["cancelled", "ok"]
    assert trail.faults() == []


async def test_another_trail_in_a_chain_within_the_chain_is_kept_too():
    trail = HostileAudit()
    runtime = process(trail)
    within = Chain(MockProvider(["fine"]), Audit(store=URL, name="another"), runtime=runtime)
    chain = Chain(within, Audit(store=URL), runtime=runtime)
    await chain.complete("hi")
    await chain.aclose()
    assert len({each.writer for each in trail.records("begin")}) == 2
    assert trail.ends() == ["ok", "ok"]


async def test_what_is_nobodys_call_begins_and_ends_in_a_chain_within_the_chain():
    trail = HostileAudit()
    runtime = process(trail)
    within = Chain(MockProvider(["old", "new"]), Audit(store=URL), runtime=runtime)
    chain = Chain(within, Audit(store=URL), Cache(ttl=10, stale=1000), runtime=runtime)
    await chain.complete("hi")
    await asyncio.sleep(20)
    await chain.complete("hi")
    await asyncio.sleep(1)
    await chain.aclose()
    assert [each.call.partition("-")[0] for each in trail.records("begin")] == ["call", "call", "refresh"]
    assert trail.ends() == ["ok", "ok", "ok"]
    assert trail.faults() == []


async def test_what_the_outermost_chain_makes_of_it_is_the_outcome():
    trail = HostileAudit()
    runtime = process(trail)
    inner = Chain(MockProvider([Overloaded("full")]), Audit(store=URL), runtime=runtime)
    chain = Chain(inner, Audit(store=URL), Fallback(MockProvider(["spare"])), runtime=runtime)
    await chain.complete("hi")
    assert (await told(chain, trail))[1].outcome == "ok"


async def test_only_failed_calls_are_kept_where_that_is_wanted_and_once():
    trail = HostileAudit()
    runtime = process(trail)
    inner = Chain(
        MockProvider(["fine", Overloaded("full")]), Audit(store=URL, what="failed"), runtime=runtime
    )
    chain = Chain(inner, Audit(store=URL, what="failed"), runtime=runtime)
    await chain.complete("hi")
    await refused(chain)
    await chain.aclose()
    (record,) = trail.records()
    assert (record.kind, record.outcome) == ("end", "failed")


async def test_members_of_an_ensemble_are_within_the_call():
    from llmpipe.routing.ensemble import Ensemble

    members = [MockProvider(default=text, name=text) for text in ("a", "b", "a")]
    trail = HostileAudit()
    chain = Chain(Ensemble(*members, combine="vote"), Audit(store=URL), runtime=process(trail))
    await chain.complete("hi")
    end = (await told(chain, trail))[1]
    assert (end.outcome, end.body["attempts"]) == ("ok", 3)


async def test_a_call_may_say_how_it_is_recorded():
    chain, trail = made(MockProvider(default="fine"))
    await chain.complete("hi", options={Audit: {"bodies": True}})
    await chain.complete("hi", options={Audit: {"what": "failed"}})
    await chain.complete("hi", without="audit")
    begin, end = await told(chain, trail)
    assert begin.body["request_body"] == "user: hi"
    assert end.body["response_body"] == "fine"


# ------------------------------------------------------------ what is in a record

KEY = "sk-canary0123456789abcdef"


async def test_a_key_is_in_no_record_whatever_slot_it_came_in():
    errors = [Overloaded(f"Incorrect API key provided: {KEY}"), [f"text {KEY}", StreamBroken(f"cut {KEY}")]]
    provider = MockProvider(errors, default=f"your key is {KEY}")
    chain, trail = made(provider, Retry(attempts=1), bodies=True)
    for _ in range(3):
        with suppress(LLMError):
            await chain.complete(
                f"my key is {KEY}",
                tenant=f"t {KEY}",
                user=f"u {KEY}",
                tags={"correlation_id": KEY, "note": f"a {KEY}", KEY: "b"},
            )
    await chain.aclose()
    assert len(trail.records()) == 6
    for each in trail.records():
        text = orjson.dumps(each.__dict__).decode()
        assert KEY not in text
        assert KEY[8:20] not in text
        assert "canary" not in text


HOSTILE = ["\ud800", "a\x00b", "x" * 10_000_000, "\u202e", "é" * 3000, "", "\U0001f600" * 5000, "\r\n"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_hostile_text_in_every_slot_is_recorded_within_bounds(text):
    chain, trail = made(MockProvider(default="fine"), bodies=True, writer=text[:100])
    await chain.complete(
        [Message("user", text + "!")], tenant=text, user=text, tags={"t": text, "correlation_id": text}
    )
    begin, end = await told(chain, trail)
    assert len(orjson.dumps(begin.__dict__)) < 200_000
    assert len(orjson.dumps(end.__dict__)) < 200_000


async def test_tags_without_end_do_not_make_a_record_without_end():
    chain, trail = made(MockProvider(default="fine"))
    await chain.complete("hi", tags={f"tag{number}": "x" * 100 for number in range(20_000)})
    begin, _ = await told(chain, trail)
    assert len(begin.body["tags"]) == 100
    assert begin.body["tags_left_out"] == 19_900


@pytest.mark.parametrize("value", [2**70, math.nan, math.inf, Decimal("0.5"), (1, 2), {1: 2}])
async def test_a_value_that_json_cannot_say_is_recorded_all_the_same(value):
    class Odd:
        name, priority = "odd", 300

        async def __call__(self, call, call_next):
            error = Overloaded("odd")
            error.code = value
            raise error

    chain, trail = made(MockProvider(default="fine"), Odd())
    await refused(chain)
    assert (await told(chain, trail))[1].outcome == "refused"


async def test_bodies_are_cut_and_masked():
    chain, trail = made(MockProvider(default="z" * 500), bodies=True, max_body_chars=100)
    await chain.complete("write to jane.doe@example.com, " + "y" * 500)
    begin, end = await told(chain, trail)
    assert "jane.doe" not in begin.body["request_body"]
    assert len(begin.body["request_body"]) == len(end.body["response_body"]) == 100
    assert begin.body["request_truncated"] is True


# ------------------------------------------------------------ retention, settings, laws


async def test_records_are_dropped_when_their_days_are_over_and_the_chain_still_verifies():
    trail = HostileAudit()
    loop = asyncio.get_running_loop()
    runtime = Runtime(wall=lambda: 1e9 + loop.time())
    runtime.state("store", URL, lambda: HostileState(trail))
    chain = Chain(MockProvider(default="fine"), Audit(store=URL, retention_days=2), runtime=runtime)
    for _ in range(20):
        await chain.complete("hi")
        await asyncio.sleep(12 * 3600)
    await chain.aclose()
    assert 6 <= len(trail.records()) <= 12
    assert trail.faults() == []
    (audit,) = chain.middleware
    assert isinstance(audit, Audit)
    assert audit.stats(runtime).pruned == 40 - len(trail.records())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0}, {"flush": 0}, {"max_waiting": -1}, {"lease": 0.0}, {"retention_days": 0},
        {"what": "some"}, {"mode": "fast"}, {"max_body_chars": 0}, {"flush": float("nan")},
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_when_it_is_given(wrong):
    with pytest.raises(ConfigError, match=r"audit"):
        Audit(**wrong)


@pytest.mark.parametrize("settings", [{}, {"mode": "queued"}, {"max_waiting": 1, "batch": 1}])
async def test_it_keeps_the_laws_of_the_pipeline_with_a_store_that_takes_its_time(settings):
    trails: list[HostileAudit] = []

    class Over:
        """The middleware, with a store of its own for each runtime."""

        name, priority = "audit", 130

        def __init__(self) -> None:
            self.audit = Audit(store=URL, lease=1e6, **settings)  # one reads ten days later

        async def __call__(self, call, call_next):
            def begin() -> HostileState:
                trails.append(HostileAudit())
                return HostileState(trails[-1])

            call.runtime.state("store", URL, begin)
            return await self.audit(call, call_next)

    report = await conform(Over, requests=[Request("conform-1", "Tell me.")], pairs=2)
    assert report.cancellations > 100
    assert trails
    wrong = [each for trail in trails for each in trail.faults()]
    assert wrong == []
