"""Streams of servers that speak OpenAI's Responses with an accent: nothing is told twice, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from llmpipe.errors import ContentFiltered, RateLimited, ServiceUnavailable
from llmpipe.types import Opaque, Reasoning, Refusal, Text, ToolCall, ToolDelta, fold
from tests.dialects.test_responses_stream import (
    CREATED,
    DIALECT,
    added,
    decode,
    delta,
    done,
    failure,
    message,
    over,
)


def event(kind: str, at: int | None, **more: Any) -> dict[str, Any]:
    place = {} if at is None else {"output_index": at}
    return {"type": f"response.{kind}", **place, **more}


def thought(*texts: str, **more: Any) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "summary": [], "content": content, **more}


def text_of(*events: dict[str, Any]) -> list[Any]:
    return [
        part.text if isinstance(part, (Text, Reasoning)) else part
        for part in fold(decode(*events)).message.parts
    ]


def test_a_thought_whose_every_delta_has_another_place_is_one_text():
    """vLLM's (vllm-project/vllm#35184)."""
    item = thought("I say hello", id="m1")
    events = (
        CREATED,
        added(0, type="reasoning", id="m1", summary=[]),
        event("reasoning_part.added", 0, content_index=8, item_id="m1", part={}),
        *(
            delta("reasoning_text", 0, text, content_index=8 + at, item_id="m1")
            for at, text in enumerate(("I", " say", " hello"))
        ),
        event("reasoning_text.done", 0, content_index=11, item_id="m1", text="I say hello"),
        event("reasoning_part.done", 0, content_index=11, item_id="m1", part={}),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["I say hello"]


def test_a_text_whose_every_delta_has_another_place_is_one_text():
    item = message("Hi there", id="m")
    events = (
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        event(
            "content_part.added", 0, content_index=5, item_id="m", part={"type": "output_text", "text": ""}
        ),
        delta("output_text", 0, "Hi", content_index=6, item_id="m"),
        delta("output_text", 0, " there", content_index=7, item_id="m"),
        event("output_text.done", 0, content_index=8, item_id="m", text="Hi there"),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["Hi there"]


def test_a_text_whose_place_counts_from_the_reply_is_not_told_twice():
    """vLLM's counter of content goes on over items (vllm-project/vllm#31761)."""
    item = message("Hi", id="m")
    events = (
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        event(
            "content_part.added", 0, content_index=5, item_id="m", part={"type": "output_text", "text": ""}
        ),
        delta("output_text", 0, "Hi", content_index=5, item_id="m"),
        event("output_text.done", 0, content_index=5, item_id="m", text="Hi"),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["Hi"]


@pytest.mark.parametrize("place", [{}, {"content_index": None}])
def test_a_text_without_a_place_is_not_told_twice(place):
    item = message("Hi you", id="m")
    begin = added(0, type="message", role="assistant", content=[], id="m")
    pieces = [delta("output_text", 0, text, **place) for text in ("Hi", " you")]
    assert text_of(CREATED, begin, *pieces, over(0, **item), done(item)) == ["Hi you"]
    bare = [{"type": "response.output_text.delta", "delta": text} for text in ("Hi", " you")]
    assert text_of(CREATED, *bare, done(item)) == ["Hi you"]
    assert text_of(CREATED, *bare, done()) == ["Hi you"]


def test_an_end_at_the_place_of_the_next_item_is_that_of_its_id():
    """vLLM's (vllm-project/vllm#31761)."""
    first, second = thought("977", id="a"), message("Hi", id="b")
    events = (
        CREATED,
        added(7, type="reasoning", id="a", summary=[]),
        delta("reasoning_text", 7, "977", content_index=4, item_id="a"),
        event("reasoning_text.done", 8, content_index=4, item_id="a", text="977"),
        over(8, **first),
        added(8, type="message", role="assistant", content=[], id="b"),
        delta("output_text", 8, "Hi", content_index=5, item_id="b"),
        over(8, **second),
        done(first, second),
    )
    assert text_of(*events) == ["977", "Hi"]


def test_items_that_all_have_the_same_place_are_told_apart_by_their_ids():
    """LiteLLM's: output_index and content_index are 0 everywhere."""
    texts = [message("one", id="a"), message("two", id="b")]
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc"}
    events = (
        CREATED,
        added(0, type="message", role="assistant", content=[], id="a"),
        delta("output_text", 0, "on", content_index=0, item_id="a"),
        delta("output_text", 0, "e", content_index=0, item_id="a"),
        over(0, **texts[0]),
        added(0, **{**call, "arguments": ""}),
        delta("function_call_arguments", 0, "{}", item_id="fc"),
        over(0, **call),
        added(0, type="message", role="assistant", content=[], id="b"),
        delta("output_text", 0, "tw", content_index=0, item_id="b"),
        delta("output_text", 0, "o", content_index=0, item_id="b"),
        over(0, **texts[1]),
        done(texts[0], call, texts[1]),
    )
    assert text_of(*events) == ["one", ToolCall("c", "f", "{}", {"item": {"id": "fc"}}), "two"]


def test_a_thought_at_the_place_of_the_message_is_told_as_it_comes():
    """LiteLLM's: the message is begun first, and its place is the thought's too."""
    begun = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        delta("reasoning_summary_text", 0, "hm", summary_index=0, item_id="rs"),
        delta("reasoning_summary_text", 0, "m", summary_index=0, item_id="rs"),
        delta("output_text", 0, "Hi", content_index=0, item_id="m"),
        done(thought("hmm", id="x"), message("Hi", id="m")),
    )
    assert [getattr(one, "text", None) for one in begun[2:5]] == ["hm", "m", "Hi"]
    assert [part.text for part in fold(begun).message.parts] == ["hmm", "Hi"]


def test_an_item_that_begins_after_its_first_delta_is_that_item():
    item = message("Hello", id="m")
    events = (
        CREATED,
        delta("output_text", 0, "Hel", content_index=0, item_id="m"),
        added(0, type="message", role="assistant", content=[], id="m"),
        delta("output_text", 0, "lo", content_index=0, item_id="m"),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["Hello"]


def test_arguments_before_their_call_wait_for_its_name():
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}', "id": "fc"}
    for rest in (
        (added(0, **{**call, "arguments": ""}), over(0, **call)),
        (over(0, **call),),
        (event("function_call_arguments.done", 0, item_id="fc", arguments='{"a":1}', name="f", call_id="c"),),
    ):
        events = decode(CREATED, delta("function_call_arguments", 0, '{"a":', item_id="fc"), *rest, done())
        told = [one for one in events if isinstance(one, ToolDelta)]
        assert (told[0].id, told[0].name) == ("c", "f"), rest
        assert fold(events).tool_calls == (ToolCall("c", "f", '{"a":1}', {"item": {"id": "fc"}}),)


def test_an_item_that_is_begun_twice_is_one():
    begin = added(0, type="function_call", call_id="c", name="f", arguments="", id="fc")
    piece = delta("function_call_arguments", 0, "{}", item_id="fc")
    completion = fold(decode(CREATED, begin, begin, piece, done()))
    assert completion.tool_calls == (ToolCall("c", "f", "{}", {"item": {"id": "fc"}}),)


def test_texts_that_are_told_at_their_end_only_are_told():
    events = (
        CREATED,
        added(0, type="reasoning", id="rs", summary=[]),
        event("reasoning_summary_text.done", 0, item_id="rs", summary_index=0, text="one"),
        event("reasoning_summary_text.done", 0, item_id="rs", summary_index=1, text="two"),
        added(1, type="message", role="assistant", content=[], id="m"),
        event("output_text.done", 1, item_id="m", content_index=0, text="Hi"),
        done(),
    )
    assert text_of(*events) == ["one\n\ntwo", "Hi"]


def test_a_text_that_is_said_to_be_over_too_early_goes_on():
    """9router's (decolua/9router#3234)."""
    item = message("codex-ok", id="m")
    events = (
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        delta("output_text", 0, "cod", content_index=0, item_id="m"),
        event("output_text.done", 0, item_id="m", content_index=0, text="cod"),
        delta("output_text", 0, "ex", content_index=0, item_id="m"),
        delta("output_text", 0, "-ok", content_index=0, item_id="m"),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["codex-ok"]


def test_parts_of_one_message_stay_parts():
    item = message("one", "two", id="m")
    part = {"type": "output_text", "text": ""}
    events = (
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        event("content_part.added", 0, content_index=0, item_id="m", part=part),
        delta("output_text", 0, "one", content_index=0, item_id="m"),
        event("output_text.done", 0, content_index=0, item_id="m", text="one"),
        event("content_part.done", 0, content_index=0, item_id="m", part={**part, "text": "one"}),
        event("content_part.added", 0, content_index=1, item_id="m", part=part),
        delta("output_text", 0, "two", content_index=1, item_id="m"),
        over(0, **item),
        done(item),
    )
    assert text_of(*events) == ["one", "two"]


def test_a_refusal_after_a_text_is_a_part_of_its_own():
    item = message("Well", id="m")
    item["content"].append({"type": "refusal", "refusal": "no."})
    events = decode(
        CREATED,
        added(0, type="message", role="assistant", content=[], id="m"),
        delta("output_text", 0, "Well", content_index=0, item_id="m"),
        delta("refusal", 0, "no", content_index=1, item_id="m"),
        delta("refusal", 0, ".", content_index=1, item_id="m"),
        over(0, **item),
        done(item),
    )
    said, refused = fold(events).message.parts
    assert (said.text, refused) == ("Well", Refusal("no."))


def test_an_item_of_an_unknown_kind_keeps_what_a_stream_tells_of_it():
    """Deltas of shells, MCP servers and images are signs of life; the item at its end has all of it."""
    items: list[dict[str, Any]] = [
        {
            "type": "shell_call",
            "id": "sh",
            "call_id": "s",
            "action": {"commands": ["ls"]},
            "status": "completed",
        },
        {"type": "mcp_call", "id": "mcp", "name": "f", "arguments": "{}", "output": "x", "server_label": "l"},
        {"type": "image_generation_call", "id": "ig", "result": "aGk=", "status": "completed"},
        {"type": "program", "id": "p", "call_id": "q", "code": "1", "fingerprint": "f"},
        {"type": "function_call_output", "id": "fo", "call_id": "c", "output": "done"},
    ]
    events = decode(
        CREATED,
        *(added(at, **{**item, "status": "in_progress"}) for at, item in enumerate(items)),
        event("shell_call_command.delta", 0, command_index=0, delta="ls"),
        event("mcp_call_arguments.delta", 1, item_id="mcp", delta="{}"),
        event("image_generation_call.partial_image", 2, item_id="ig", partial_image_b64="aGk="),
        *(over(at, **item) for at, item in enumerate(items)),
        done(*items),
    )
    assert fold(events).message.parts == tuple(Opaque(DIALECT.name, item) for item in items)
    assert DIALECT.encode_reply(fold(events))["output"] == items


def test_a_failure_without_a_response_is_a_failure():
    assert isinstance(failure(CREATED, {"type": "response.failed"}), ServiceUnavailable)
    error = {"code": "rate_limit_exceeded", "message": "slow"}
    assert isinstance(failure(CREATED, {"type": "response.failed", "error": error}), RateLimited)
    assert isinstance(failure(CREATED, {"type": "response.failed", "response": None, **error}), RateLimited)
    flagged = {"code": "misalignment_policy_violation", "message": "no", "misalignment": {"steer": None}}
    failed = {"type": "response.failed", "response": {"status": "failed", "error": flagged, "output": []}}
    assert isinstance(failure(CREATED, failed), ContentFiltered)


def test_many_parts_cost_no_more_than_their_number():
    item = message(*(["x"] * 20_000), id="m")
    assert len(fold(decode(CREATED, over(0, **item), done(item))).message.parts) == 20_000
