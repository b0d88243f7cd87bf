"""Token estimates: high rather than low, linear, and of every part of a request."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.tokens import bound_tokens, estimate_request, estimate_tokens
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Request,
    RerankRequest,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

# Tokens in o200k_base, cl100k_base and voyage3_base, counted with the package bpe-openai.
WRITTEN = {
    "The quick brown fox jumps over the lazy dog, and nobody is surprised by it any more.": (19, 19, 19),
    "Summarise the following article in three sentences, then list the people it mentions.": (17, 17, 17),
    "You are a helpful assistant. Answer briefly. If you do not know the answer, say so.": (20, 20, 20),
    "def fold(events):\n    total = 0\n    for event in events:\n        total += len(event.text)\n": (
        23,
        23,
        23,
    ),
    '{"name": "get_weather", "parameters": {"type": "object", "required": ["city"]}}': (23, 23, 23),
    "import re\n\nPATTERN = re.compile(r'^[a-z0-9_]+$')\n\n\nclass NotFoundError(LookupError):\n    pass\n": (
        32,
        30,
        30,
    ),
    "请用三句话总结下面的文章，然后列出文中提到的人物和他们的职务。": (23, 32, 17),
    "今天天气很好，我们一起去公园散步吧。孩子们在草地上玩耍，老人在树下下棋。": (30, 46, 23),
    "次の文章を三つの文で要約し、登場人物とその役割を挙げてください。": (27, 32, 25),
    "Fassen Sie den folgenden Artikel in drei Sätzen zusammen und nennen Sie die Personen.": (17, 20, 20),
    "Résumez l'article suivant en trois phrases, puis donnez la liste des personnes citées.": (20, 21, 21),
    "Изложите следующую статью в трёх предложениях и перечислите упомянутых людей и их должности.": (
        27,
        40,
        33,
    ),
    "IMPORTANT: DO NOT REPLY TO THIS MESSAGE. CALL THE OFFICE INSTEAD.": (17, 18, 18),
}
MACHINE_MADE = {
    "2026-11-21T03:43:48Z 200 4812 0.0134 192.168.17.204": (31, 31, 51),
    "3f9a1c7be2d04588a6c1f09be7d3425a3f9a1c7be2d04588a6c1f09be7d3425a": (48, 48, 60),
    "🙂🚀🌍🔥🎉 done": (9, 15, 6),
}


@pytest.mark.parametrize("text", WRITTEN, ids=lambda text: text[:20])
def test_an_estimate_of_written_text_is_not_below_the_truth_and_under_three_times_it(text):
    assert max(WRITTEN[text]) <= estimate_tokens(text) <= 3 * min(WRITTEN[text])


@pytest.mark.parametrize("text", MACHINE_MADE, ids=lambda text: text[:20])
def test_an_estimate_of_machine_made_text_is_at_most_a_seventh_below_the_truth(text):
    assert max(MACHINE_MADE[text]) * 6 / 7 <= estimate_tokens(text) <= 3 * min(MACHINE_MADE[text])


@given(st.text())
def test_no_estimate_exceeds_what_a_byte_level_vocabulary_can_need(text):
    assert 0 <= estimate_tokens(text) <= 2 * bound_tokens(text)
    assert (estimate_tokens(text) == 0) == (text == "")


def test_a_lone_surrogate_counts():
    assert estimate_tokens("\ud800") > 0
    assert bound_tokens("\ud800") == 4


def test_an_estimate_grows_with_its_text():
    sizes = [estimate_tokens("The quick brown fox jumps over the lazy dog. " * n) for n in (1, 10, 100, 1000)]
    for smaller, larger in pairwise(sizes):
        assert 8 * smaller < larger <= 10 * smaller


def text_of(*parts, **fields) -> int:
    return estimate_request(Request(messages=[Message("user", parts)], **fields))


def test_every_part_of_a_request_counts():
    bare = text_of(Text("hello"))
    assert bare == 32 + 5 + estimate_tokens("hello")
    more = [
        text_of(Text("hello"), Text("world")),
        text_of(Text("hello"), Refusal("no")),
        text_of(Text("hello"), Reasoning("hm")),
        text_of(Text("hello"), Reasoning("", encrypted="x" * 400)),
        text_of(Text("hello"), ToolCall("1", "f", '{"a": 1}')),
        text_of(Text("hello"), ToolResult("1", "four words of text")),
        text_of(Text("hello"), Opaque("openai.chat", {"type": "x", "value": 1})),
        text_of(Text("hello"), Document(text="some words")),
        text_of(Text("hello"), tools=[Tool("f", "does f", {"type": "object"})]),
        text_of(Text("hello"), response_format=ResponseFormat("json_schema", {"type": "object"})),
        estimate_request(Request(messages=[Message("user", "hello", name="ann")])),
        text_of(Text("hello"), extra={"functions": [{"name": "f"}]}),
    ]
    assert all(count > bare for count in more)


def test_attachments_follow_the_stated_rule():
    bare = text_of()
    assert text_of(Image(url="https://x/y.png")) - bare == 1600
    assert text_of(Image(data="A" * 9, media_type="image/png", detail="low")) - bare == 300
    assert text_of(Document(file_id="f")) - bare == 3000
    assert text_of(Document(data="A" * 80_000)) - bare == 10_000
    assert text_of(Audio("A" * 64_000, "wav")) - bare == 33  # a second
    assert text_of(Audio("A" * 5_120, "mp3")) - bare == 33


def test_embeddings_and_reranking_count_their_texts():
    assert estimate_request(EmbeddingRequest("m", ["a b", [1, 2, 3]])) == estimate_tokens("a b") + 3
    query, documents = estimate_tokens("what"), [estimate_tokens("one"), estimate_tokens("two words")]
    assert estimate_request(RerankRequest("m", "what", ["one", "two words"])) == 2 * query + sum(documents)


def test_a_counter_of_ones_own_takes_the_place_of_the_estimate():
    request = Request(messages=[Message("user", "abc")])
    assert estimate_request(request, count=len) == 32 + 5 + 3
    assert estimate_request(request, count=bound_tokens) == 32 + 5 + 4


def test_what_json_cannot_say_is_counted_all_the_same():
    tool = Tool("f", "", {"a": {"b", "c"}})
    assert text_of(Text("x"), tools=[tool]) > text_of(Text("x"))
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"a": deep}
    for odd in ([2**64], "\ud800", deep):
        assert text_of(Text("x"), extra={"odd": [odd]}) > text_of(Text("x"))
    for _ in range(5000):
        deep = {"a": deep}
    assert text_of(Text("x"), extra=deep) >= text_of(Text("x"))


def test_switches_of_a_wire_are_no_part_of_the_prompt():
    plain = estimate_request(Request(messages="hi"))
    switches = {"store": False, "top_k": 5, "stream_options": {"include_usage": True}, "user": None}
    assert estimate_request(Request(messages="hi", extra=switches)) == plain
    assert estimate_request(Request(messages="hi", extra={"documents": ["a long text"]})) > plain
