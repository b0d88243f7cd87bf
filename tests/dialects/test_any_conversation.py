"""A conversation that one provider began goes on with every other, which sees none of its words.

The answer is read from each provider's own wire, with a thought that is proved, words, and two calls of
one tool at once; the results stand in every form that callers give them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from llmpipe import dialects
from llmpipe.dialects.losses import Losses
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import Message, Request, Text, Tool, ToolCall, ToolResult

PARIS, ROME = {"city": "Paris"}, {"city": "Rome"}
PROOFS = ("UFJPT0Y=", "SElEREVO")
WORDS = {"novel_word": 1}


def _function(place: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "w", "arguments": orjson.dumps(place).decode()}, **more}


REPLIES: dict[str, dict[str, Any]] = {
    "openai.chat": {
        "id": "r",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": "Let me look.",
                    "reasoning_content": "hmm",
                    "tool_calls": [_function(PARIS, id="call_a", **WORDS), _function(ROME, id="call_b")],
                    **WORDS,
                },
            }
        ],
    },
    "openai.responses": {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hmm"}],
                "encrypted_content": PROOFS[0],
            },
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}],
            },
            *(
                {
                    "type": "function_call",
                    "id": f"fc_{place['city']}",
                    "call_id": f"call_{place['city']}",
                    "name": "w",
                    "arguments": orjson.dumps(place).decode(),
                    "status": "completed",
                }
                for place in (PARIS, ROME)
            ),
        ],
    },
    "anthropic.messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 1},
        "content": [
            {"type": "thinking", "thinking": "hmm", "signature": PROOFS[0]},
            {"type": "redacted_thinking", "data": PROOFS[1]},
            {"type": "text", "text": "Let me look.", **WORDS},
            {"type": "tool_use", "id": "toolu_a", "name": "w", "input": PARIS},
            {"type": "tool_use", "id": "toolu_b", "name": "w", "input": ROME, **WORDS},
        ],
    },
    "gemini.generate": {
        "responseId": "r",
        "modelVersion": "gemini-3-pro",
        "candidates": [
            {
                "finishReason": "STOP",
                "content": {
                    "role": "model",
                    **WORDS,
                    "parts": [
                        {"text": "hmm", "thought": True},
                        {"executableCode": {"language": "PYTHON", "code": "1"}},
                        {"text": "Let me look.", **WORDS},
                        {"functionCall": {"name": "w", "args": PARIS}, "thoughtSignature": PROOFS[0]},
                        {"functionCall": {"name": "w", "args": ROME}},
                        {"text": "", "thoughtSignature": PROOFS[1]},
                    ],
                },
            }
        ],
    },
    "cohere.chat": {
        "id": "c",
        "finish_reason": "TOOL_CALL",
        "message": {
            "role": "assistant",
            "tool_plan": "I will look.",
            "content": [{"type": "thinking", "thinking": "hmm", **WORDS}],
            "citations": [{"start": 0, "end": 3, "text": "I w", "sources": []}],
            "tool_calls": [_function(PARIS, id="w_a"), _function(ROME, id="w_b")],
        },
    },
    "bedrock.converse": {
        "stopReason": "tool_use",
        "usage": {"inputTokens": 1, "outputTokens": 1},
        "output": {
            "message": {
                "role": "assistant",
                "content": [
                    {"reasoningContent": {"reasoningText": {"text": "hmm", "signature": PROOFS[0]}}},
                    {"reasoningContent": {"redactedContent": PROOFS[1]}},
                    {"text": "Let me look."},
                    {"toolUse": {"toolUseId": "tooluse_a", "name": "w", "input": PARIS}},
                    {"toolUse": {"toolUseId": "tooluse_b", "name": "w", "input": ROME}},
                    {"somethingNew": WORDS},
                ],
            }
        },
    },
    "ollama.chat": {
        "model": "m",
        "created_at": "2025-01-01T00:00:00Z",
        "done": True,
        "message": {
            "role": "assistant",
            "content": "Let me look.",
            "thinking": "hmm",
            "tool_calls": [{"function": {"name": "w", "arguments": place}} for place in (PARIS, ROME)],
            **WORDS,
        },
    },
}
NAMES = tuple(REPLIES)
FORMS = ("apart", "swapped", "together", "with words")
TOOL = Tool("w", "The weather", {"type": "object", "properties": {"city": {"type": "string"}}})


def conversation(origin: str, form: str, model: str = "m") -> Request:
    answer = dialects.get(origin).decode_reply(copy.deepcopy(REPLIES[origin]), {}).message
    first, second = (
        ToolResult(call.id, said) for call, said in zip(answer.tool_calls, ("sun", "rain"), strict=True)
    )
    results = {
        "apart": [Message("tool", (first,)), Message("tool", (second,))],
        "swapped": [Message("tool", (second,)), Message("tool", (first,))],
        "together": [Message("tool", (first, second))],
        "with words": [Message("user", (first, second, Text("And now?")))],
    }[form]
    messages = [
        Message("system", "Be brief."),
        "Weather?",
        answer,
        *results,
        Message("assistant", "Sun."),
        "Thanks.",
    ]
    return Request(model, messages, [TOOL])


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects inside some JSON."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(inner)
    if isinstance(value, dict):
        yield value


def order_of(name: str, wire: dict[str, Any]) -> list[str]:
    """The calls and results of a body, in order, each with its id: ``call a``, ``result a``."""
    return list({"bedrock.converse": _bedrock, "gemini.generate": _gemini}.get(name, _others)(wire))


def _bedrock(wire: dict[str, Any]) -> Iterator[str]:
    turns = wire["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2) + ["user"]
    for turn in turns:
        assert turn["content"]
        for block in turn["content"]:
            ((kind, value),) = block.items()
            assert kind != "text" or value.strip()
            if kind in ("toolUse", "toolResult"):
                yield f"{'call' if kind == 'toolUse' else 'result'} {value['toolUseId']}"


def _gemini(wire: dict[str, Any]) -> Iterator[str]:
    calls: list[dict[str, Any]] = []
    for turn in wire["contents"]:
        assert turn["parts"]
        results = [part["functionResponse"] for part in turn["parts"] if "functionResponse" in part]
        if calls or results:
            assert len(results) == len(calls) == len(turn["parts"])  # as many, and nothing between
            for call, result in zip(calls, results, strict=True):
                assert (call["name"], call.get("id")) == (result["name"], result.get("id"))
            assert [result["response"] for result in results] == [{"output": "sun"}, {"output": "rain"}]
            yield from (f"call {place}" for place in range(len(calls)))
            yield from (f"result {place}" for place in range(len(calls)))
        calls = [part["functionCall"] for part in turn["parts"] if "functionCall" in part]


def _others(wire: dict[str, Any]) -> Iterator[str]:
    for turn in wire.get("messages") or wire["input"]:
        for call in turn.get("tool_calls") or ():
            yield f"call {call['id']}"
        if turn.get("role") == "tool":
            yield f"result {turn['tool_call_id']}"
        if turn.get("type") in ("function_call", "function_call_output"):
            yield f"{'call' if turn['type'] == 'function_call' else 'result'} {turn['call_id']}"
        for block in turn.get("content") if isinstance(turn.get("content"), list) else ():
            if block.get("type") in ("tool_use", "tool_result"):
                tool_use = block["type"] == "tool_use"
                yield f"call {block['id']}" if tool_use else f"result {block['tool_use_id']}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", NAMES)
@pytest.mark.parametrize("origin", NAMES)
def test_a_conversation_goes_on_elsewhere(origin, target, form):
    losses = Losses()
    wire = orjson.loads(orjson.dumps(dialects.get(target).encode_request(conversation(origin, form), losses)))
    said = order_of(target, wire)
    calls, results = said[:2], said[2:]
    assert len(said) == 4
    assert all(one.startswith("call") for one in calls)
    assert len(set(calls)) == 2
    wanted = [one.replace("call ", "result ", 1) for one in calls]
    assert sorted(results) == sorted(wanted)
    if form != "swapped":
        assert results == wanted
    text = orjson.dumps(wire).decode()
    assert "Let me look." in text or origin == "cohere.chat"
    if origin != target:
        assert not [proof for proof in PROOFS if proof in text]
        assert not [
            one
            for one in objects(wire)
            if one.keys() & {*WORDS, "citations", "somethingNew", "executableCode"}
        ]
        proven = origin in ("anthropic.messages", "bedrock.converse", "gemini.generate")
        assert losses or not proven


def test_gemini_3_gets_the_documented_value_for_calls_that_it_did_not_make():
    for origin in NAMES:
        wire = dialects.get("gemini.generate").encode_request(
            conversation(origin, "apart", "gemini-3-pro-preview")
        )
        order_of("gemini.generate", wire)
        calls = [one for one in objects(wire) if "functionCall" in one]
        own = origin == "gemini.generate"
        assert calls[0]["thoughtSignature"] == (PROOFS[0] if own else "skip_thought_signature_validator")


@pytest.mark.parametrize("name", ["bedrock.converse", "gemini.generate", "ollama.chat"])
@pytest.mark.parametrize("arguments", ["{", "[1]", " ", '"x"'])
def test_arguments_that_are_no_object_are_named_and_nothing_is_sent(name, arguments):
    asked = Request("m", ["x", Message("assistant", ["y", ToolCall("c", "f", arguments)])])
    with pytest.raises(InvalidRequest) as caught:
        dialects.get(name).encode_request(asked)
    assert caught.value.metadata["param"] == "messages[1].parts[1].arguments"
    assert (caught.value.code, caught.value.sent, caught.value.health) == ("tool_arguments", False, "ignore")


WITHOUT_MEANING = {"store": True, "stream_options": {"include_usage": True}, "modalities": ["text"], "n": 1}


@pytest.mark.parametrize("name", ["bedrock.converse", "cohere.chat", "gemini.generate", "ollama.chat"])
@pytest.mark.parametrize(
    ("dialect", "extra", "path"),
    [
        ("openai.chat", {"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ("openai.chat", {"functions": [{"name": "f"}]}, "functions"),
        ("openai.responses", {"previous_response_id": "resp_1"}, "previous_response_id"),
        ("openai.responses", {"conversation": "conv_1"}, "conversation"),
        ("anthropic.messages", {"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ("openai.chat", {"modalities": ["text", "audio"]}, "modalities"),
        ("openai.chat", {"n": 2}, "n"),
        ("gemini.generate", {"candidateCount": 2}, "candidateCount"),
        ("gemini.generate", {"responseModalities": ["TEXT", "IMAGE"]}, "responseModalities"),
        ("gemini.generate", {"cachedContent": "cachedContents/x"}, "cachedContent"),
    ],
)
def test_what_would_make_another_answer_is_refused_and_never_left_out(name, dialect, extra, path):
    losses = Losses()
    asked = Request("m", "x", extra=extra, dialect=dialect)
    if name == "gemini.generate" and (dialect == name or path in ("modalities", "n")):
        config = dialects.get(name).encode_request(asked, losses)
        assert path == "cachedContent" or "generationConfig" in config  # it has words for these
        assert not losses
        return
    with pytest.raises(Unsupported) as caught:
        dialects.get(name).encode_request(asked, losses)
    assert (caught.value.metadata["param"], caught.value.sent) == (path, False)


@pytest.mark.parametrize("name", ["bedrock.converse", "cohere.chat", "gemini.generate", "ollama.chat"])
def test_what_says_nothing_is_left_out_without_a_word(name):
    losses = Losses()
    asked = Request("m", "x", extra={**WITHOUT_MEANING, "logit_bias": None}, dialect="openai.chat")
    wire = dialects.get(name).encode_request(asked, losses)
    assert not wire.keys() & (WITHOUT_MEANING.keys() | {"logit_bias"})
    assert not losses
