"""A provider whose key is looked up: kept for a while, and exchanged without a call that fails."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from llmpipe.errors import AuthenticationFailed, ConfigError, LLMError, StoreDamaged, StoreUnavailable
from llmpipe.middleware.alerts import Alerts, NoteSeen
from llmpipe.middleware.credentials import Credentials, FetchedKeys
from llmpipe.middleware.fallback import Fallback
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.factory import provider
from llmpipe.providers.mock import MockProvider
from llmpipe.secret import Secret
from llmpipe.types import Request
from tests.providers.kit import BODY, Peer, response, serving


class Source:
    """Gives the key of the moment, or fails, and counts."""

    def __init__(
        self, key: str | Exception = "sk-first-key-00", fresh: float = 60.0, takes: float = 0.0
    ) -> None:
        self.key, self.fresh, self.takes = key, fresh, takes
        self.asked = 0
        self.overdue_days: float | None = None

    async def __call__(self) -> Secret:
        self.asked += 1
        await asyncio.sleep(self.takes)
        if isinstance(self.key, Exception):
            raise self.key
        return Secret(self.key)


class Core(MockProvider):
    """Accepts some keys, as a provider over HTTP does, and says which were used."""

    def __init__(self, source, *accepted: str) -> None:
        super().__init__(default="ok")
        self.keys = FetchedKeys(source)
        self.accepted = set(accepted)
        self.seen: list[str] = []

    def brings(self):
        return (Credentials(),)

    async def __call__(self, call):
        key = call.credential.secret.reveal()
        self.seen.append(key)
        if key not in self.accepted:
            raise AuthenticationFailed("no", provider=self.name)
        return await super().__call__(call)


FIRST, SECOND = "sk-first-key-00", "sk-second-key-0"


async def test_a_key_is_looked_up_once_and_again_when_it_is_old():
    source = Source()
    chain = Chain(Core(source, FIRST))
    for _ in range(10):
        await chain.complete("hi")
    assert source.asked == 1
    await asyncio.sleep(60)
    for _ in range(10):
        await chain.complete("hi")
    assert source.asked == 2


async def test_a_key_is_exchanged_without_a_call_that_fails():
    source = Source()
    core = Core(source, FIRST)
    chain = Chain(core)
    await chain.complete("hi")
    source.key, core.accepted = SECOND, {SECOND}
    call = chain.new_call(Request("", "hi"))
    assert (await (await chain(call)).full()).text == "ok"
    assert core.seen == [FIRST, FIRST, SECOND]
    assert [attempt.status for attempt in call.ledger.attempts] == ["error", "ok"]
    assert [note.kind for note in call.ledger.notes] == ["credential.refused"]


async def test_a_thousand_calls_under_way_ask_once_for_the_new_key():
    source = Source(takes=0.1)
    core = Core(source, FIRST)
    chain = Chain(core)
    await asyncio.gather(*(chain.complete("hi") for _ in range(500)))
    assert source.asked == 1
    source.key, core.accepted = SECOND, {SECOND}
    done = await asyncio.gather(*(chain.complete("hi") for _ in range(500)))
    assert all(each.text == "ok" for each in done)
    assert source.asked == 2


async def test_rotation_under_load_fails_no_call():
    """Every second a new key; the one before it is good for half a second more."""
    source = Source(fresh=5.0, takes=0.01)
    core = Core(source, FIRST)
    chain = Chain(core)
    failed: list[LLMError] = []

    async def caller() -> None:
        for _ in range(200):
            try:
                await chain.complete("hi")
            except LLMError as error:
                failed.append(error)
            await asyncio.sleep(0.05)

    async def rotate() -> None:
        for number in range(10):
            await asyncio.sleep(0.5)
            before, source.key = source.key, f"sk-key-number-{number}"
            core.accepted.add(source.key)
            await asyncio.sleep(0.5)
            core.accepted.discard(before)

    await asyncio.gather(rotate(), *(caller() for _ in range(20)))
    assert not failed
    assert source.asked <= 15


async def test_only_one_waits_when_a_key_is_old_and_the_others_go_on():
    source = Source(takes=5.0)
    chain = Chain(Core(source, FIRST))
    await chain.complete("hi")
    await asyncio.sleep(60)
    begun = asyncio.get_running_loop().time()
    first = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(0)
    for _ in range(10):
        await chain.complete("hi")
    assert asyncio.get_running_loop().time() == begun
    await first


async def test_a_key_that_stays_refused_is_not_looked_up_at_every_call():
    source = Source()
    chain = Chain(Core(source, SECOND))
    for _ in range(20):
        with pytest.raises(AuthenticationFailed):
            await chain.complete("hi")
        await asyncio.sleep(0.1)
    assert source.asked <= 4


@pytest.mark.parametrize("problem", [StoreUnavailable("away"), StoreDamaged("does not open")])
async def test_a_store_that_is_out_of_reach_leaves_the_last_known_key(problem, caplog):
    source = Source()
    chain = Chain(Core(source, FIRST))
    await chain.complete("hi")
    await asyncio.sleep(61)
    source.key = problem
    with caplog.at_level(logging.WARNING, "llmpipe.credentials"):
        for _ in range(100):
            await chain.complete("hi")
            await asyncio.sleep(0.1)
    assert source.asked <= 12  # once a second
    assert len(caplog.records) == 1
    source.key = FIRST
    await asyncio.sleep(1)
    await chain.complete("hi")
    asked = source.asked
    await asyncio.sleep(30)
    await chain.complete("hi")
    assert source.asked == asked


async def test_a_store_that_never_gave_a_key_is_an_error():
    with pytest.raises(StoreUnavailable, match="away"):
        await Chain(Core(Source(StoreUnavailable("away")))).complete("hi")


async def test_no_key_is_an_error_that_says_where_one_could_be_and_another_target_helps():
    source = Source()
    core = Core(source, FIRST)
    chain = Chain(core, Fallback(MockProvider(default="spare", name="spare")))
    assert (await chain.complete("hi")).text == "ok"
    source.key = ConfigError("no key for provider 'openai': store one")  # it was deleted
    await asyncio.sleep(60)
    assert (await chain.complete("hi")).text == "spare"
    with pytest.raises(AuthenticationFailed, match="store one") as failed:
        await Chain(core).complete("hi")
    assert (failed.value.sent, failed.value.code) == (False, "no_key")
    source.key = FIRST
    assert (await Chain(core).complete("hi")).text == "ok"


async def test_a_cancelled_look_up_leaves_the_next_one_free():
    source = Source(takes=10.0)
    chain = Chain(Core(source, FIRST))
    task = asyncio.create_task(chain.complete("hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    source.takes = 0.0
    assert (await chain.complete("hi")).text == "ok"


async def test_an_old_key_is_noted_once_for_each_look_up():
    source = Source()
    source.overdue_days = 3.21
    chain = Chain(Core(source, FIRST))
    kinds = []
    for _ in range(3):
        call = chain.new_call(Request("", "hi"))
        await (await chain(call)).full()
        kinds.append([(note.kind, note.detail.get("days")) for note in call.ledger.notes])
    assert kinds == [[("credential.overdue", 3.2)], [], []]


@pytest.mark.parametrize("give", [lambda: FIRST, lambda: Secret(FIRST)])
async def test_a_plain_function_will_do(give):
    assert (await Chain(Core(give, FIRST)).complete("hi")).text == "ok"


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "60"])
def test_a_wrong_time_is_refused(wrong):
    with pytest.raises(ConfigError):
        FetchedKeys(Source(fresh=wrong))
    with pytest.raises(ConfigError):
        FetchedKeys("sk-no-function")


def test_it_goes_on_on_another_loop():
    source = Source()
    chain = Chain(Core(source, FIRST))
    for _ in range(2):
        assert asyncio.run(chain.complete("hi")).text == "ok"


@pytest.mark.real_time
async def test_over_http_a_refused_key_is_looked_up_again_and_no_error_shows_either():
    accepted, seen = [FIRST], []

    async def desk(peer: Peer, number: int) -> None:
        while True:
            head, _ = await peer.request()
            line = next(x for x in head.decode().split("\r\n") if x.lower().startswith("authorization:"))
            key = line.rpartition(" ")[2]
            seen.append(key)
            answer = b'{"error":{"message":"Incorrect API key: %b","code":"invalid_api_key"}}' % key.encode()
            good = key in accepted
            await peer.send(response(BODY) if good else response(answer, status="401 Unauthorized"))

    source = Source()
    async with serving(desk) as server:
        core: Any = provider("openai", api_key=source, base_url=server.url, model="m")
        async with Chain(core) as chain:
            await chain.complete("hi")
            accepted[:], source.key = [SECOND], SECOND
            assert (await chain.complete("hi")).text == "Hello there."
            assert seen == [FIRST, FIRST, SECOND]
            accepted[:], source.key = [], "xx-no-known-form-of-a-key"
            with pytest.raises(AuthenticationFailed) as failed:
                await chain.complete("hi")
            assert source.key not in str(failed.value)
            # Beside the chain, where nobody rotates, the next call has the new key.
            source.key, accepted[:] = FIRST, [FIRST]
            assert "xx-no" not in repr(core) + repr(core.keys)
            core.keys._again_at = 0.0  # a refused key is looked up once a second; that second is over
            assert (await chain.complete("hi")).text == "Hello there."
            accepted[:], source.key = [SECOND], SECOND
            assert await core.validate_api_key() is False


async def test_an_old_key_can_be_an_alert():
    told: list[str] = []
    source = Source()
    source.overdue_days = 3.0
    rule = NoteSeen(name="key_due", kind="credential.overdue", key=("provider", "key"))
    chain = Chain(
        Core(source, FIRST), Alerts(rules=(rule,), sinks=(lambda alert: told.append(alert.summary),))
    )
    for _ in range(5):
        await chain.complete("hi")
        await asyncio.sleep(61)
    await chain.runtime.aclose()
    assert 1 <= len(told) <= 2  # and not once a minute
    assert "days 3.0" in told[0]


async def test_a_key_that_is_gone_is_kept_nowhere():
    source = Source()
    keys = FetchedKeys(source)
    await keys.fetch()
    assert len(keys) == 1
    source.key = ConfigError("deleted")
    await asyncio.sleep(60)
    with pytest.raises(AuthenticationFailed):
        await keys.fetch()
    assert keys.all == ()


async def test_a_refusal_of_a_key_that_was_exchanged_meanwhile_says_nothing_of_the_new_one():
    source = Source()
    keys = FetchedKeys(source)
    await keys.fetch()
    (old,) = keys.all
    keys.doubt(old)
    source.key = SECOND
    await keys.fetch()
    assert source.asked == 2
    keys.doubt(old)  # by a call that was slow
    await keys.fetch()
    assert source.asked == 2


@pytest.mark.real_time
async def test_beside_a_chain_a_refused_key_is_looked_up_by_the_next_call():
    async def desk(peer: Peer, number: int) -> None:
        while True:
            head, _ = await peer.request()
            good = SECOND.encode() in head
            await peer.send(
                response(b'{"object":"list","data":[]}')
                if good
                else response(b"{}", status="401 Unauthorized")
            )

    source = Source()
    async with serving(desk) as server:
        core: Any = provider("openai", api_key=source, base_url=server.url, model="m")
        assert await core.validate_api_key() is False
        source.key = SECOND
        assert await core.validate_api_key() is True
        await core.aclose()
