"""What a caller of each dialect reads in a reply: the plainest reading, with nothing of the package."""

from __future__ import annotations

import json
from typing import Any

from attrs import field, frozen

__all__ = ("Said", "read_full", "read_stream")


@frozen
class Said:
    """A reply, as far as every dialect can say it. Calls are names and arguments, parsed."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Any]] = field(factory=list)
    ids: list[str] = field(factory=list)
    finish: str = ""
    tokens: tuple[int, int] = (0, 0)


def read_full(dialect: str, body: dict[str, Any]) -> Said:
    """The reply in a whole body."""
    return _FULL[dialect](body)


def read_stream(dialect: str, data: bytes) -> Said:
    """The reply in the bytes of a stream."""
    events = []
    for block in data.decode().split("\n\n"):
        lines = [line[6:] for line in block.split("\n") if line.startswith("data: ")]
        if lines and lines[0] != "[DONE]":
            events.append(json.loads("\n".join(lines)))
    return _STREAM[dialect](events)


# ---------------------------------------------------------------- openai.chat


def _chat(body: dict[str, Any]) -> Said:
    choice, usage = body["choices"][0], body["usage"]
    message = choice["message"]
    return _of_chat(message, choice["finish_reason"], usage)


def _of_chat(message: dict[str, Any], finish: str, usage: dict[str, Any]) -> Said:
    details = message.get("reasoning_details") or []
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    reasoning = reasoning or "".join(x.get("text") or x.get("summary") or "" for x in details)
    calls = message.get("tool_calls") or []
    return Said(
        message.get("content") or "",
        reasoning,
        [(x["function"]["name"], json.loads(x["function"]["arguments"])) for x in calls],
        [x["id"] for x in calls],
        {"stop": "stop", "tool_calls": "tools", "length": "length"}[finish],
        (usage["prompt_tokens"], usage["completion_tokens"]),
    )


def _chat_stream(chunks: list[dict[str, Any]]) -> Said:
    message: dict[str, Any] = {
        "content": "",
        "reasoning_content": "",
        "tool_calls": [],
        "reasoning_details": [],
    }
    finish, usage = "", {"prompt_tokens": 0, "completion_tokens": 0}
    for chunk in chunks:
        assert "error" not in chunk, chunk
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or delta.get("reasoning") or ""
            message["reasoning_details"] += delta.get("reasoning_details") or []
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append(
                        {"id": call["id"], "function": {"name": "", "arguments": ""}}
                    )
                known = message["tool_calls"][call["index"]]["function"]
                known["name"] += call["function"].get("name") or ""
                known["arguments"] += call["function"].get("arguments") or ""
            finish = choice.get("finish_reason") or finish
    return _of_chat(message, finish, usage)


# ---------------------------------------------------------------- openai.responses


def _responses(body: dict[str, Any]) -> Said:
    text, reasoning, calls, ids = "", "", [], []
    for item in body["output"]:
        if item["type"] == "message":
            text += "".join(part["text"] for part in item["content"])
        elif item["type"] == "reasoning":
            reasoning += "".join(part["text"] for part in item.get("summary") or [])
            reasoning += "".join(part["text"] for part in item.get("content") or [])
        elif item["type"] == "function_call":
            calls.append((item["name"], json.loads(item["arguments"])))
            ids.append(item["call_id"])
    finish = {"completed": "tools" if calls else "stop", "incomplete": "length"}[body["status"]]
    return Said(
        text, reasoning, calls, ids, finish, (body["usage"]["input_tokens"], body["usage"]["output_tokens"])
    )


def _responses_stream(events: list[dict[str, Any]]) -> Said:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    said = _responses(events[-1]["response"])
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert text == said.text
    return said


# ---------------------------------------------------------------- anthropic.messages


def _anthropic(body: dict[str, Any]) -> Said:
    blocks, usage = body["content"], body["usage"]
    calls = [block for block in blocks if block["type"] == "tool_use"]
    return Said(
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        [(call["name"], call["input"]) for call in calls],
        [call["id"] for call in calls],
        {"end_turn": "stop", "tool_use": "tools", "max_tokens": "length"}[body["stop_reason"]],
        (usage["input_tokens"], usage["output_tokens"]),
    )


def _anthropic_stream(events: list[dict[str, Any]]) -> Said:
    body: dict[str, Any] = {}
    arguments: dict[int, str] = {}
    for event in events:
        kind = event["type"]
        assert kind != "error", event
        if kind == "message_start":
            body = event["message"]
        elif kind == "content_block_start":
            assert event["index"] == len(body["content"])
            body["content"].append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            block, delta = body["content"][event["index"]], event["delta"]
            if delta["type"] == "input_json_delta":
                arguments[event["index"]] = arguments.get(event["index"], "") + delta["partial_json"]
            else:
                name = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}
                key = name[delta["type"]]
                block[key] = block.get(key, "") + delta[key]
        elif kind == "message_delta":
            body.update(event["delta"])
            body["usage"].update(event["usage"])
    assert events[-1]["type"] == "message_stop"
    for index, text in arguments.items():
        body["content"][index]["input"] = json.loads(text or "{}")
    return _anthropic(body)


# ---------------------------------------------------------------- gemini.generate


def _gemini(body: dict[str, Any]) -> Said:
    return _gemini_stream([body])


def _gemini_stream(chunks: list[dict[str, Any]]) -> Said:
    text, reasoning, calls, ids, finish, usage = "", "", [], [], "", {}
    for chunk in chunks:
        assert "error" not in chunk, chunk
        usage = chunk.get("usageMetadata") or usage
        for candidate in chunk.get("candidates") or []:
            finish = candidate.get("finishReason") or finish
            for part in (candidate.get("content") or {}).get("parts") or []:
                if part.get("thought"):
                    reasoning += part.get("text") or ""
                elif "functionCall" in part:
                    calls.append((part["functionCall"]["name"], part["functionCall"].get("args") or {}))
                    ids.append(part["functionCall"].get("id") or f"place {len(ids)}")
                else:
                    text += part.get("text") or ""
    word = {"STOP": "tools" if calls else "stop", "MAX_TOKENS": "length"}[finish]
    output = usage.get("candidatesTokenCount", 0) + usage.get("thoughtsTokenCount", 0)
    return Said(text, reasoning, calls, ids, word, (usage["promptTokenCount"], output))


_FULL: dict[str, Any] = {
    "openai.chat": _chat,
    "openai.responses": _responses,
    "anthropic.messages": _anthropic,
    "gemini.generate": _gemini,
}
_STREAM: dict[str, Any] = {
    "openai.chat": _chat_stream,
    "openai.responses": _responses_stream,
    "anthropic.messages": _anthropic_stream,
    "gemini.generate": _gemini_stream,
}
