"""Plain readings of Bedrock's wire, written apart from the dialect's own, and ways to cut a stream."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmpipe.dialects.bedrock_converse import BedrockConverse
from llmpipe.dialects.eventstream import encode
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    Event,
    Image,
    Message,
    NamedTool,
    Opaque,
    Part,
    Reasoning,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    fold,
)

DIALECT = BedrockConverse()
NAME = "bedrock.converse"


def frames(stream: bytes) -> Iterator[tuple[dict[str, str], bytes]]:
    """The headers, whose values are all strings, and payloads of a stream; checksums are passed over."""
    while stream:
        size, head = struct.unpack_from(">II", stream)
        raw, headers = stream[12 : 12 + head], {}
        while raw:
            name, raw = raw[1 : 1 + raw[0]], raw[1 + raw[0] :]
            assert raw[0] == 7, "not a string"
            length = struct.unpack_from(">H", raw, 1)[0]
            headers[name.decode()], raw = raw[3 : 3 + length].decode(), raw[3 + length :]
        yield headers, stream[12 + head : size - 4]
        stream = stream[size:]


def event(kind: str, **fields: Any) -> bytes:
    """One event as Bedrock sends it, padding and all."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode(headers, json.dumps({**fields, "p": "abcdefgh"}).encode())


def delta(index: int, **what: Any) -> bytes:
    return event("contentBlockDelta", contentBlockIndex=index, delta=what)


def exception(kind: str, **fields: Any) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return encode(headers, json.dumps(fields).encode())


HELLO = (
    event("messageStart", role="assistant"),
    delta(0, text="Hel"),
    delta(0, text="lo"),
    event("contentBlockStop", contentBlockIndex=0),
    event("messageStop", stopReason="end_turn"),
    event(
        "metadata", usage={"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, metrics={"latencyMs": 9}
    ),
)


def message_of(stream: bytes) -> dict[str, Any]:
    """The body that the full reply would have had, put together as the API's documentation tells."""
    body: dict[str, Any] = {"output": {"message": {}}}
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for headers, payload in frames(stream):
        told = json.loads(payload)
        told.pop("p", None)
        at = told.get("contentBlockIndex")
        match headers[":event-type"]:
            case "messageStart":
                body["output"]["message"] = told
            case "contentBlockStart":
                (kind, start), *none = told["start"].items()
                assert not none
                blocks[at] = {kind: {**start, **({"content": []} if kind == "toolResult" else {})}}
            case "contentBlockDelta":
                (kind, piece), *none = told["delta"].items()
                assert not none
                _grow(blocks.setdefault(at, {}), kind, piece, inputs, at)
            case "messageStop":
                body.update(told)
            case "metadata":
                body.update(told)
    for at, text in inputs.items():
        blocks[at]["toolUse"]["input"] = json.loads(text or "{}")
    body["output"]["message"]["content"] = [blocks[at] for at in sorted(blocks)]
    return body


def _grow(block: dict[str, Any], kind: str, piece: Any, inputs: dict[int, str], at: int) -> None:
    match kind:
        case "text" if "citationsContent" in block:
            block["citationsContent"]["content"].append({"text": piece})
        case "text":
            block["text"] = block.get("text", "") + piece
        case "citation":
            text = [{"text": block.pop("text")}] if "text" in block else []
            block.setdefault("citationsContent", {"content": text, "citations": []})["citations"].append(
                piece
            )
        case "toolUse":
            inputs[at] = inputs.get(at, "") + piece["input"]
        case "toolResult":
            block["toolResult"]["content"] += piece
        case "reasoningContent" if "redactedContent" in piece:
            block["reasoningContent"] = piece
        case "reasoningContent":
            told = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
            for name, value in piece.items():
                told[name] = told.get(name, "") + value
        case _:
            raise AssertionError(kind)


def part_of(block: Mapping[str, Any]) -> Part:
    """A block of a message as our part."""
    ((kind, value),) = block.items()
    match kind:
        case "text":
            return Text(value)
        case "image":
            if "bytes" not in value["source"]:
                return Image(extra=value)
            return Image(data=value["source"]["bytes"], media_type=f"image/{value['format']}")
        case "document":
            source = value["source"]
            known = ("name", "source") if {"bytes", "text"} & source.keys() else ("name",)
            extra = {key: value[key] for key in value if key not in known}
            return Document(
                data=source.get("bytes"),
                text=source.get("text"),
                name=value["name"],
                extra=extra,
            )
        case "video":
            return Document(data=value["source"]["bytes"], media_type=f"video/{value['format']}")
        case "audio":
            return Audio(value["source"]["bytes"], value["format"])
        case "toolUse" if value.get("type") in (None, "tool_use"):
            extra = {"type": value["type"]} if "type" in value else {}
            return ToolCall(value["toolUseId"], value["name"], json.dumps(value["input"]), extra)
        case "toolResult" if "type" not in value:
            content = [
                Opaque(NAME, inner) if "json" in inner else part_of(inner) for inner in value["content"]
            ]
            told = {"status": value["status"]} if value.get("status") == "success" else {}
            return ToolResult(value["toolUseId"], content, value.get("status") == "error", None, told)
        case "reasoningContent" if "redactedContent" in value:
            return Reasoning(encrypted=value["redactedContent"], origin=NAME)
        case "reasoningContent":
            told = value["reasoningText"]
            signature = told.get("signature")
            return Reasoning(told["text"], signature, origin=NAME if signature else "")
        case "citationsContent":
            text = "".join(piece["text"] for piece in value["content"])
            return Text(text, {"citations": value["citations"]})
    return Opaque(NAME, dict(block))


def parts_of(blocks: Iterable[Mapping[str, Any]]) -> list[Part]:
    """The blocks of a message as our parts; a cache point is a marker on the part before it."""
    parts: list[Any] = []
    for block in blocks:
        if "cachePoint" in block and parts and hasattr(parts[-1], "extra"):
            last = parts.pop()
            control = {"type": "ephemeral", **{k: v for k, v in block["cachePoint"].items() if k != "type"}}
            parts.append(type(last)(**{**_fields(last), "extra": {**last.extra, "cache_control": control}}))
        else:
            parts.append(part_of(block))
    return parts


def _fields(part: Part) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.__slots__ if not name.startswith("__")}


def request_of(model: str, body: Mapping[str, Any]) -> Request:
    """A body of the wire as our request."""
    rest = dict(body)
    inference = rest.pop("inferenceConfig", {})
    config = rest.pop("toolConfig", {})
    tools: list[Tool] = []
    for tool in config.get("tools", ()):
        if "toolSpec" in tool:
            spec = tool["toolSpec"]
            tools.append(
                Tool(
                    spec["name"], spec.get("description", ""), spec["inputSchema"]["json"], spec.get("strict")
                )
            )
        elif "cachePoint" in tool:
            last = tools.pop()
            control = {"cache_control": {"type": "ephemeral"}}
            tools.append(Tool(last.name, last.description, last.parameters, last.strict, control))
        else:
            tools.append(Tool("", extra=tool))
    choice: Any = None
    for kind, told in config.get("toolChoice", {}).items():
        choice = {"auto": "auto", "any": "required"}.get(kind) or NamedTool(told["name"])
    form = None
    if "outputConfig" in rest and "textFormat" in rest["outputConfig"]:
        schema = rest.pop("outputConfig")["textFormat"]["structure"]["jsonSchema"]
        form = ResponseFormat(
            "json_schema", json.loads(schema["schema"]), schema["name"], description=schema.get("description")
        )
    messages = [Message("system", [part]) for part in parts_of(rest.pop("system", ()))]
    for message in rest.pop("messages"):
        messages.append(Message(message["role"], parts_of(message["content"])))
    return Request(
        model=model,
        messages=messages,
        tools=tools,
        tool_choice=choice,
        temperature=inference.get("temperature"),
        top_p=inference.get("topP"),
        max_tokens=inference.get("maxTokens"),
        stop=inference.get("stopSequences", ()),
        response_format=form,
        metadata=rest.pop("requestMetadata", {}),
        extra=rest,
    )


def decode_all(stream: bytes, cuts: Iterable[int] = ()) -> list[Event]:
    """The events of a whole stream, cut at `cuts`."""
    decoder = DIALECT.decoder()
    events: list[Event] = []
    start = 0
    for end in (*cuts, len(stream)):
        events += decoder.feed(stream[start:end])
        start = end
    return events + decoder.close()


def folded(*messages: bytes) -> Completion:
    return fold(decode_all(b"".join(messages)))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
