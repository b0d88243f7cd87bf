"""Several keys for one provider: rotation by kind of error, and exchange while calls are under way."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from llmpipe import Chain, Fallback, MockProvider, RateLimit, Request, Retry, presets
from llmpipe.errors import AuthenticationFailed, ConfigError, LLMError, RateLimited
from llmpipe.middleware.credentials import Credentials, Keys
from llmpipe.providers.factory import provider
from tests.providers.kit import BODY, Peer, response, serving

pytestmark = pytest.mark.real_time


def refusal(status: str, code: str, extra: bytes = b"") -> bytes:
    body = orjson.dumps({"error": {"message": "no", "type": code, "code": code}})
    return response(body, status=status, extra=extra)


REFUSED = {
    "401": refusal("401 Unauthorized", "invalid_api_key"),
    "403": refusal("403 Forbidden", "permission_denied"),
    "402": refusal("402 Payment Required", "insufficient_credits"),
    "quota": refusal("429 Too Many Requests", "insufficient_quota"),
}


class Desk:
    """Answers by the key that a request has, and writes down which it had."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.seen: list[str] = []

    async def __call__(self, peer: Peer, number: int) -> None:
        while True:
            head, _ = await peer.request()
            line = next(x for x in head.decode().split("\r\n") if x.lower().startswith("authorization:"))
            key = line.rpartition(" ")[2]
            self.seen.append(key)
            await peer.send(self.answers.get(key, response(BODY)))


@pytest.mark.parametrize("kind", REFUSED)
async def test_a_refused_key_is_replaced_at_once_and_somebody_hears_of_it(kind, caplog):
    desk = Desk({"sk-bad-key-1": REFUSED[kind]})
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-bad-key-1", "sk-good-key"], base_url=server.url, model="m")
        with caplog.at_level(logging.WARNING, "llmpipe.credentials"):
            async with Chain(core) as chain:
                assert (await chain.complete("hi")).text == "Hello there."
                assert desk.seen == ["sk-bad-key-1", "sk-good-key"]
                # Others pass the key over for a while.
                await chain.complete("hi")
                assert desk.seen[2:] == ["sk-good-key"]
    assert "key 1 of provider openai was refused" in caplog.text
    assert "sk-bad" not in caplog.text


async def test_a_throttled_key_rests_as_long_as_the_server_said():
    slow = refusal("429 Too Many Requests", "rate_limit_exceeded", b"Retry-After: 30\r\n")
    desk = Desk({"sk-key-one": slow})
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-key-one", "sk-key-two"], base_url=server.url, model="m")
        async with Chain(core) as chain:
            for _ in range(3):
                await chain.complete("hi")
        assert desk.seen == ["sk-key-one", "sk-key-two", "sk-key-two", "sk-key-two"]


async def test_when_all_keys_are_throttled_the_error_says_when_the_first_is_ready():
    desk = Desk(
        {
            "sk-key-one": refusal("429 Too Many Requests", "rate_limit_exceeded", b"Retry-After: 30\r\n"),
            "sk-key-two": refusal("429 Too Many Requests", "rate_limit_exceeded", b"Retry-After: 20\r\n"),
        }
    )
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-key-one", "sk-key-two"], base_url=server.url, model="m")
        async with Chain(core) as chain:
            with pytest.raises(RateLimited) as caught:
                await chain.complete("hi")
            assert caught.value.retry_after == pytest.approx(20, abs=1)
            assert caught.value.metadata["keys"] == {"tried": 2, "refused": 0}
            with pytest.raises(LLMError) as refused:  # nobody is asked again before that
                await chain.complete("hi")
            assert (refused.value.code, refused.value.sent) == ("credentials_resting", False)
            assert len(desk.seen) == 2


async def test_when_all_keys_are_refused_the_call_fails_with_what_the_last_one_said():
    desk = Desk({"sk-key-one": REFUSED["401"], "sk-key-two": REFUSED["403"]})
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-key-one", "sk-key-two"], base_url=server.url, model="m")
        async with Chain(core, Retry(attempts=4)) as chain:
            with pytest.raises(AuthenticationFailed) as caught:
                await chain.complete("hi")
        assert caught.value.status == 403
        assert desk.seen == ["sk-key-one", "sk-key-two"]


async def test_a_failure_of_the_provider_is_no_matter_of_keys():
    desk = Desk({"sk-key-one": response(b"{}", status="500 Internal Server Error")})
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-key-one", "sk-key-two"], base_url=server.url, model="m")
        async with Chain(core) as chain:
            with pytest.raises(LLMError):
                await chain.complete("hi")
        assert desk.seen == ["sk-key-one"]


async def test_keys_are_exchanged_without_dropping_a_call():
    keys = Keys("sk-old-key")
    gate = asyncio.Event()

    async def desk(peer: Peer, number: int) -> None:
        head, _ = await peer.request()
        seen.append(head)
        if b"sk-old-key" in head:
            await gate.wait()
        await peer.send(response(BODY))

    seen: list[bytes] = []
    async with serving(desk) as server:
        core = provider("openai", api_key=keys, base_url=server.url, model="m")
        async with Chain(core) as chain:
            under_way = asyncio.ensure_future(chain.complete("hi"))
            while not seen:
                await asyncio.sleep(0.01)
            keys.replace("sk-new-key")
            assert (await chain.complete("hi")).text == "Hello there."
            gate.set()
            assert (await under_way).text == "Hello there."
    assert b"sk-old-key" in seen[0]
    assert b"sk-new-key" in seen[1]


async def test_each_key_has_limits_of_its_own():
    desk = Desk({})
    async with serving(desk) as server:
        core = provider("openai", api_key=["sk-key-one", "sk-key-two"], base_url=server.url, model="m")
        limit = RateLimit(requests_per_minute=1, burst=1, mode="reject")
        async with Chain(core, limit) as chain:
            await chain.complete("hi")
            await chain.complete("hi")
            with pytest.raises(RateLimited):
                await chain.complete("hi")
    assert sorted(desk.seen) == ["sk-key-one", "sk-key-two"]


async def test_the_middleware_comes_with_whoever_needs_it():
    several = provider("openai", api_key=["sk-key-one", "sk-key-two"], model="m")
    single = provider("openai", api_key="sk-key-one", model="m")
    assert "credentials" in [m.name for m in Chain(several, *presets.production()).middleware]
    assert "credentials" in [m.name for m in Chain(single, Fallback(several)).middleware]
    assert "credentials" not in [m.name for m in Chain(single, *presets.production()).middleware]
    mine = Credentials(refused_rest=5)
    assert [m for m in Chain(several, mine).middleware if m.name == "credentials"] == [mine]
    assert (await Chain(MockProvider(default="ok"), mine).complete("hi")).text == "ok"


async def test_a_provider_with_several_keys_and_no_chain_takes_them_in_turn():
    desk = Desk({})
    async with serving(desk) as server:
        core = provider("openai", api_key=("sk-key-one", "sk-key-two"), base_url=server.url, model="m")
        await core(Chain(core).new_call(Chain(core)._call("hi", {}, stream=False).request))
        await core(Chain(core).new_call(Chain(core)._call("hi", {}, stream=False).request))
        await core.aclose()
    assert sorted(desk.seen) == ["sk-key-one", "sk-key-two"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([], "at least one"),
        ([""], "non-empty"),
        (["sk-a-key-1", "  "], "non-empty"),
        (["sk-a-key-1", "sk-a-key-1"], "given twice"),
        ([7], "non-empty"),
    ],
)
def test_keys_that_cannot_be_are_refused(keys, says):
    with pytest.raises(ConfigError, match=says) as caught:
        provider("openai", api_key=keys)
    assert "sk-a-key" not in str(caught.value)


def test_a_wrong_exchange_changes_nothing():
    keys = Keys("sk-a-key-1", "sk-a-key-2")
    before = keys.all
    for wrong in ((), ("sk-a-key-3", ""), ("sk-a-key-3", "sk-a-key-3")):
        with pytest.raises(ConfigError):
            keys.replace(*wrong)
        assert keys.all == before
    keys.replace("sk-a-key-2", "sk-a-key-3")
    assert [key.label for key in keys.all] == ["2", "3"]
    assert "sk-a" not in repr(keys) + repr(keys.all)


def test_keys_stay_with_the_first_where_that_is_asked():
    keys = Keys("sk-a-key-1", "sk-a-key-2", order="first")
    assert [keys.pick(0.0).label for _ in range(3)] == ["1", "1", "1"]
    keys.rest(keys.all[0], 5.0)
    assert keys.pick(1.0).label == "2"
    assert keys.pick(5.0).label == "1"
    assert keys.wait(1.0, {"2"}) == 4.0
    assert keys.wait(1.0, {"1", "2"}) is None
    with pytest.raises(ConfigError, match="round_robin"):
        Keys("sk-a-key-1", order="random")


async def test_one_providers_key_never_goes_to_another():
    desk = Desk({})
    async with serving(desk) as server:
        mine = provider("openai", api_key=Keys("sk-my-own-key"), base_url=server.url, model="m")
        other = Keys("sk-of-another")
        call = Chain(mine).new_call(Request("m", "hi")).evolve(credential=other.all[0])
        await mine(call)
        await mine.aclose()
    assert desk.seen == ["sk-my-own-key"]
