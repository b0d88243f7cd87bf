from __future__ import annotations

import asyncio
import hashlib
import math
from importlib.metadata import entry_points
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe import (
    Chain,
    ConfigError,
    Image,
    MockProvider,
    ServiceUnavailable,
    StreamBroken,
    Text,
    Tool,
    ToolCall,
    Wait,
)
from llmpipe.middleware.cost import Cost
from llmpipe.pipeline import registry
from llmpipe.testing import conform, run
from llmpipe.types import Completion, Message, Request
from llmpipe_semantic_cache import SemanticCache, facts
from llmpipe_semantic_cache.index import Index, unit

SYNONYMS = {"big": "large", "huge": "large", "people": "inhabitants", "live": "inhabitants", "tell": "what"}
EMPTY = {"how", "is", "the", "a", "in", "of", "me", "what", "many", "does", "please"}


async def embed(texts):
    """Bags of words, of which some mean the same and some nothing: deterministic, and blind to order."""
    return [_vector(text) for text in texts]


def _vector(text: str) -> list[float]:
    row = [0.0] * 64
    for word in text.lower().replace("?", " ").replace(".", " ").split():
        word = SYNONYMS.get(word, word)
        if word not in EMPTY:
            row[hashlib.sha256(word.encode()).digest()[0] % 64] += 1.0
    return row


async def same(texts):
    """All texts mean the same: the worst embedder there is."""
    return [[1.0, 0.0] for _ in texts]


def cached(script=(), embedder: Any = embed, **options) -> Any:
    options.setdefault("mode", "on")
    provider = MockProvider(script)
    provider.default = lambda request: f"answer {len(provider.requests)}"
    return Chain(provider, SemanticCache(embedder=embedder, **options))


async def ask(chain: Any, prompt: Any, **options) -> str:
    return (await chain.complete(prompt, **options)).text


async def read(chain: Any, prompt: Any, **options) -> str:
    async with chain.stream(prompt, **options) as reply:
        return "".join([text async for text in reply.texts()])


@pytest.mark.parametrize("first", [ask, read])
@pytest.mark.parametrize("then", [ask, read])
async def test_a_question_that_means_the_same_gets_the_stored_answer_whole_or_streamed(first, then):
    chain = cached()
    assert await first(chain, "How big is the city of Rome?") == "answer 1"
    assert await then(chain, "Tell me how large is Rome the city") == "answer 1"
    assert await then(chain, "Tell me how old is Rome the city") == "answer 2"


async def test_it_is_off_until_it_is_asked_for():
    chain = cached(mode="off")
    assert [await ask(chain, "How big is Rome?") for _ in range(2)] == ["answer 1", "answer 2"]
    assert SemanticCache(embedder=embed).mode == "off"
    assert len(chain.runtime.states("semantic_cache")) == 0
    assert await ask(chain, "How big is Rome?", options={SemanticCache: {"mode": "on"}}) == "answer 3"
    assert await ask(chain, "How large is Rome?", options={SemanticCache: {"mode": "on"}}) == "answer 3"


async def test_in_the_shadow_it_only_says_what_it_would_have_given():
    chain = cached(mode="shadow")
    notes: list = []

    class Watch:
        name, priority = "watch", 100

        async def __call__(self, call, call_next):
            notes.append(call.ledger.notes)
            return await call_next(call)

    chain.use(Watch())
    assert await ask(chain, "How big is Rome?") == "answer 1"
    assert await ask(chain, "How large is Rome?") == "answer 2"
    ((note,),) = notes[1:]
    assert note.kind == "semantic.would_hit"
    assert note.detail["similarity"] == pytest.approx(1.0)


async def test_a_hit_costs_nothing_and_says_what_it_saved():
    prices = {"mock-1": {"input": 1.0, "output": 1.0}}
    chain = Chain(MockProvider(["a"]), Cost(prices=prices), SemanticCache(embedder=embed, mode="on"))
    first = await chain.complete("How big is Rome?")
    again = await chain.complete("How large is Rome?")
    assert first.cost
    assert again.cost == 0
    assert again.text == "a"


DIFFERENT = [
    ("How many people live in Rome?", "How many people live in Paris?"),
    ("Population in 2024?", "Population in 2025?"),
    ("Is it safe to eat?", "Is it not safe to eat?"),
    ("Can I eat it?", "Can't I eat it?"),
    ("What is 3% of 100?", "What is 5% of 100?"),
    ("What is 5 - 3?", "What is 5 + 3?"),
    ("What is -3?", "What is 3?"),
    ("Flights from Rome to Paris", "Flights from Paris to London"),
    ("Flights from Rome to Paris", "Flights from Paris to Rome"),
    ("Did Alice beat Bob?", "Did Bob beat Alice?"),
    ("Which is the largest city?", "Which is the smallest city?"),
    ("Translate “yes”.", "Translate “no”."),
    ("What does `foo` do?", "What does `bar` do?"),
    ("Read user_id", "Read group_id"),
    ("Write to a@example.com", "Write to b@example.com"),
    ("Python 3.11 or later", "Python 3.12 or later"),
    ("two apples", "three apples"),
    ("Alice likes it", "Bob likes it"),
    ("Is Anna older?", "Is Anna younger?"),
    ("罗马有多大", "巴黎有多大"),
    ("100 €", "100 $"),
    ("Send $5", "Send 5"),
]


@pytest.mark.parametrize("pair", DIFFERENT)
async def test_what_differs_in_a_fact_is_another_question_however_near_its_vector(pair):
    chain = cached(embedder=same)
    assert [await ask(chain, text) for text in pair] == ["answer 1", "answer 2"]
    assert [await ask(chain, text) for text in pair] == ["answer 1", "answer 2"]


SAME = [
    ("How big is the city?", "What size has the city?"),
    ("Please explain why the sky is blue.", "Why is the sky blue? Explain."),
    ("How many people live in Rome?", "Tell me the number of people who live in Rome."),
    ("What is 1,000 squared", "What is the square of 1000"),
    ("I don't like it. Why?", "Why do I not like it?"),
]


@pytest.mark.parametrize("pair", SAME)
def test_other_words_for_the_same_facts_are_the_same_facts(pair):
    assert facts(pair[0]) == facts(pair[1])


@given(st.text(max_size=60))
def test_facts_of_anything_can_be_told_and_stand_in_it(text):
    folded = text.casefold()
    for fact in facts(text):
        assert fact == "not" or fact.replace(",", "") in text.replace(",", "") or fact in folded


async def test_everything_but_the_question_must_be_equal():
    chain = cached(embedder=same)
    question = Message("user", "how big is it?")
    contexts: list[dict[str, Any]] = [
        {"prompt": [question]},
        {"prompt": [Message("system", "Be brief."), question]},
        {"prompt": [Message("user", "Rome?"), Message("assistant", "Yes?"), question]},
        {"prompt": [question], "temperature": 0},
        {"prompt": [question], "max_tokens": 10},
        {"prompt": [question], "model": "other"},
        {"prompt": [question], "tenant": "a"},
        {"prompt": [question], "tenant": "b"},
    ]
    for _ in range(2):
        answers = [
            await ask(chain, c["prompt"], **{k: v for k, v in c.items() if k != "prompt"}) for c in contexts
        ]
        assert answers == [f"answer {n + 1}" for n in range(len(contexts))]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.booleans()), max_size=25))
def test_no_tenant_is_ever_given_what_another_has_asked_for(script):
    async def main():
        provider = MockProvider()
        writer = [""]
        provider.default = lambda request: f"for {writer[0]}"
        chain = Chain(provider, SemanticCache(embedder=same, mode="on", max_entries=2, max_contexts=2))
        for tenant, number, stream in script:
            writer[0] = tenant
            how = read if stream else ask
            assert await how(chain, f"the same {number}", tenant=tenant) == f"for {tenant}"

    run(main())


NEVER: list[Any] = [
    Completion(message=Message("assistant", ToolCall("1", "f")), finish_reason="tool_calls"),
    Completion(message=Message("assistant", [Text("a"), ToolCall("1", "f")]), finish_reason="stop"),
    Completion(message=Message("assistant", "cut"), finish_reason="length"),
    Completion(message=Message("assistant", "no"), finish_reason="refusal"),
    Completion(message=Message("assistant", ""), finish_reason="stop"),
    ServiceUnavailable("down"),
    ["begun", StreamBroken("cut")],
]


@pytest.mark.parametrize("line", NEVER, ids=repr)
@pytest.mark.parametrize("how", [ask, read])
async def test_only_whole_answers_in_text_are_stored(line, how):
    chain = cached([line])
    await asyncio.gather(how(chain, "hello"), return_exceptions=True)
    assert await how(chain, "hello") == "answer 2"


async def test_a_stream_that_is_left_early_is_not_stored():
    chain = cached([["begun", Wait(1), " and", Wait(1), " done"]])
    async with chain.stream("hello") as reply:
        async for _ in reply:
            break
    assert await ask(chain, "hello") == "answer 2"


async def test_requests_that_ask_more_than_a_question_pass():
    chain = cached(embedder=same)
    for number, request in enumerate(
        (
            Request(messages="hi", tools=[Tool("f")]),
            Request(messages=[Message("user", [Text("hi"), Image(url="https://example.com/a.png")])]),
            Request(messages="hi", extra={"previous_response_id": "r"}),
            Request(messages=[Message("user", "hi"), Message("assistant", "so")]),
            Request(messages=" "),
        )
    ):
        assert await ask(chain, request) == f"answer {2 * number + 1}"
        assert await ask(chain, request) == f"answer {2 * number + 2}"
    await chain.embed(["hi"])


async def test_an_answer_is_given_for_its_time():
    chain = cached(ttl=10.0)
    assert await ask(chain, "hello") == "answer 1"
    await asyncio.sleep(9.9)
    assert await ask(chain, "hello") == "answer 1"
    await asyncio.sleep(0.1)
    assert await ask(chain, "hello") == "answer 2"


async def test_less_alike_than_the_threshold_is_another_question():
    chain = cached(threshold=0.7)
    assert await ask(chain, "alpha beta gamma delta") == "answer 1"
    assert await ask(chain, "alpha beta gamma epsilon") == "answer 1"  # three of four words
    assert await ask(chain, "alpha beta epsilon zeta") == "answer 2"  # two of four


async def test_an_embedder_that_fails_or_hangs_costs_the_hit_and_not_the_call():
    async def fails(texts):
        raise RuntimeError("out of order")

    async def hangs(texts):
        await asyncio.sleep(3600)

    async def wrong(texts):
        return [[math.nan, 1.0]]

    async def none(texts):
        return []

    for embedder in (fails, hangs, wrong, none):
        chain = cached(embedder=embedder)
        assert [await ask(chain, "hello") for _ in range(2)] == ["answer 1", "answer 2"]
    assert asyncio.get_running_loop().time() == pytest.approx(4)


async def test_a_provider_or_a_chain_embeds_for_the_tenant_who_asks():
    seen = []

    class Watch:
        name, priority = "watch", 100

        async def __call__(self, call, call_next):
            seen.append((call.tenant, call.request.inputs))
            return await call_next(call)

    for embedder in (MockProvider(default="ok"), Chain(MockProvider(default="ok"), Watch())):
        chain = cached(embedder=embedder)
        assert [await ask(chain, "hello", tenant="t") for _ in range(2)] == ["answer 1"] * 2
    assert seen == [("t", ("hello",))] * 2


async def test_what_is_given_nobody_can_change_and_all_is_forgotten_on_request():
    answer = Completion(message=Message("assistant", "a"), finish_reason="stop", extra={"list": [1]})
    chain = cached([answer])
    await ask(chain, "hello")
    hit: Any = await chain.complete("hello")
    with pytest.raises(TypeError):
        hit.extra["list"].append(2)
    chain.middleware[0].clear(chain.runtime)
    assert await ask(chain, "hello") == "answer 2"


def test_the_index_is_bounded_and_a_change_of_the_embedder_empties_it():
    index = Index(2, 2)
    kept: Any = [type("K", (), {"facts": (), "expires_at": 9.0, "n": n}) for n in range(4)]
    rows: Any = [unit([1.0, 0.0]), unit([0.0, 1.0]), unit([1.0, 1.0])]
    for row, one in zip(rows, kept, strict=False):
        index.add(b"a", row, one)
    assert len(index) == 2
    assert index.find(b"a", rows[0], (), 0.9, 0.0) is None  # the oldest went
    assert index.find(b"a", rows[2], (), 0.9, 0.0).kept.n == 2  # type: ignore[union-attr]
    assert index.find(b"a", unit([1.0, 0.0, 0.0]), (), 0.1, 0.0) is None  # type: ignore[arg-type]
    for name in (b"b", b"c"):
        index.add(name, rows[0], kept[0])
    assert index.find(b"a", rows[2], (), 0.9, 0.0) is None
    index.add(b"c", unit([1.0, 0.0, 0.0]), kept[0])  # type: ignore[arg-type]
    assert len(index) == 2


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=6))
def test_a_vector_has_length_one_or_none_at_all(vector):
    row = unit(vector)
    if row is not None:
        assert float((row * row).sum()) == pytest.approx(1.0, abs=1e-5)
    else:
        assert not any(vector) or not all(map(math.isfinite, vector)) or not vector


async def test_it_keeps_the_laws_of_a_middleware_however_a_call_goes():
    report = await conform(lambda: SemanticCache(embedder=same, mode="on"))
    assert report.cancellations > 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "maybe"}, {"threshold": 0}, {"threshold": 1.1}, {"ttl": 0}, {"max_entries": 0},
        {"timeout": 0}, {"embedder": 5}, {"embedder": "nowhere"}, {"embedder": "nowhere.at:all"},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SemanticCache(**{"embedder": same, **wrong})


def test_it_is_found_by_its_name():
    found = {point.name: point for point in entry_points(group=registry.GROUP)}
    if "semantic_cache" not in found:
        pytest.skip("the package is not installed")
    assert found["semantic_cache"].load() is SemanticCache
