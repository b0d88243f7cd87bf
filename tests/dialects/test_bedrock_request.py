from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects import get
from llmpipe.dialects.bedrock_converse import BedrockConverse
from llmpipe.dialects.bedrock_converse.tools import NO_TOOLS_INSTRUCTION
from llmpipe.dialects.json_mode import JSON_INSTRUCTION
from llmpipe.dialects.losses import Losses
from llmpipe.errors import InvalidRequest, LLMError, Unsupported
from llmpipe.types import (
    Audio,
    Completion,
    Document,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Refusal,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from tests.dialects import strategies
from tests.dialects.bedrock_values import DIALECT, NAME, b64, request_of

CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NOVA = "us.amazon.nova-2-lite-v1:0"
LLAMA = "us.meta.llama3-3-70b-instruct-v1:0"
GPT = "openai.gpt-oss-120b-1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/1arbu5hu2sjr"
PNG = b64(b"\x89PNG\r\n\x1a\n0000")
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
CACHE = {"cache_control": {"type": "ephemeral"}}
POINT = {"cachePoint": {"type": "default"}}


def said(*messages, model=CLAUDE, dialect=DIALECT, **fields):
    """The body of a request, and the warnings of its encoding."""
    losses = Losses()
    wanted = [m if isinstance(m, Message) else Message("user", m) for m in messages or ("hi",)]
    body = dialect.encode_request(Request(model=model, messages=wanted, **fields), losses)
    json.dumps(body)
    return body, losses.warnings


def content(*parts, role="user", **more):
    before = ("go", "on") if role == "assistant" else ("go", Message("assistant", "yes"))
    body, warnings = said(*before, Message(role, parts), **more)
    return body["messages"][-1]["content"], warnings


def refusal(*messages, **fields) -> str:
    with pytest.raises(Unsupported) as caught:
        said(*messages, **fields)
    assert caught.value.sent is False
    assert caught.value.message.startswith(caught.value.metadata["param"])
    return caught.value.metadata["param"]


def test_it_is_found_by_its_name_and_has_the_clients_side_only():
    assert get("bedrock.converse") == BedrockConverse()
    for serve in (
        lambda: DIALECT.decode_request({}),
        lambda: DIALECT.encode_reply(Completion()),
        lambda: DIALECT.encoder(Request()),
        lambda: DIALECT.encode_error(LLMError("x")),
    ):
        with pytest.raises(Unsupported, match="client's side only"):
            serve()


def test_a_request_of_every_field_is_said():
    body, warnings = said(
        Message("system", "Be brief."),
        "hi",
        tools=[ADD],
        tool_choice="required",
        temperature=0.5,
        top_p=0.9,
        max_tokens=10,
        stop=["a", "b"],
        response_format=ResponseFormat("json_schema", {"type": "object"}, "thing", description="A thing."),
        metadata={"team": "a b"},
        stream=True,
        extra={"guardrailConfig": {"guardrailIdentifier": "x", "guardrailVersion": "1"}},
    )
    assert body == {
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
        "system": [{"text": "Be brief."}],
        "inferenceConfig": {"maxTokens": 10, "temperature": 0.5, "topP": 0.9, "stopSequences": ["a", "b"]},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "add",
                        "description": "Adds.",
                        "inputSchema": {"json": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                    }
                }
            ],
            "toolChoice": {"any": {}},
        },
        "requestMetadata": {"team": "a b"},
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {
                    "jsonSchema": {"name": "thing", "schema": '{"type":"object"}', "description": "A thing."}
                },
            }
        },
        "guardrailConfig": {"guardrailIdentifier": "x", "guardrailVersion": "1"},
    }
    assert warnings == ()


def test_hints_that_the_wire_lacks_are_dropped_with_a_warning():
    body, warnings = said(
        Message("user", "hi", name="ann"), seed=1, frequency_penalty=0.1, presence_penalty=0.0
    )
    assert list(body) == ["messages"]
    assert [warning.split(" dropped")[0] for warning in warnings] == [
        "messages[0].name",
        "seed",
        "frequency_penalty",
        "presence_penalty",
    ]


def test_a_temperature_of_other_scales_is_lowered_to_the_highest():
    body, warnings = said(temperature=1.7)
    assert body["inferenceConfig"] == {"temperature": 1}
    assert warnings == ("temperature emulated: lowered to 1, the highest here",)


def test_extra_objects_are_merged_with_ours():
    body, _ = said(
        max_tokens=5,
        reasoning=ReasoningOptions(max_tokens=1024),
        extra={"inferenceConfig": {"topP": 0.1}, "additionalModelRequestFields": {"top_k": 3}},
    )
    assert body["inferenceConfig"] == {"maxTokens": 5, "topP": 0.1}
    assert body["additionalModelRequestFields"] == {
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "top_k": 3,
    }


# ------------------------------------------------------------ tools


def test_no_tool_choice_without_calls_leaves_the_tools_out():
    body, warnings = said(tools=[ADD], tool_choice="none")
    assert list(body) == ["messages"]
    assert warnings == ("tool_choice emulated: the tools are left out",)


HISTORY = (
    "hi",
    Message("assistant", [ToolCall("t1", "add", '{"a":1}')]),
    Message("tool", [ToolResult("t1", "1")]),
)


def test_no_tool_choice_after_calls_declares_the_tools_and_asks_not_to_call_them():
    body, warnings = said(*HISTORY, tools=[ADD], tool_choice="none")
    assert body["toolConfig"] == {"tools": [tool_of("add", "Adds.", {"a": {"type": "integer"}})]}
    assert body["system"] == [{"text": NO_TOOLS_INSTRUCTION}]
    assert warnings == ("tool_choice emulated: by an instruction",)


def test_a_conversation_with_calls_and_no_tools_declares_those_it_used():
    body, warnings = said(*HISTORY)
    (tool,) = body["toolConfig"]["tools"]
    assert tool["toolSpec"]["name"] == "add"
    assert "not available" in tool["toolSpec"]["description"]
    assert body["system"] == [{"text": NO_TOOLS_INSTRUCTION}]
    assert warnings[0].startswith("tools emulated")
    body, _ = said("hi", Message("tool", [ToolResult("t1", "1")]))
    assert [tool["toolSpec"]["name"] for tool in body["toolConfig"]["tools"]] == ["unknown"]
    searched = {"toolUseId": "a", "name": "nova_grounding", "input": {}, "type": "server_tool_use"}
    body, _ = said("hi", Message("assistant", [Opaque(NAME, {"toolUse": searched})]), "more")
    assert body["toolConfig"] == {"tools": [{"systemTool": {"name": "nova_grounding"}}]}


def tool_of(name, description, properties):
    schema = {"json": {"type": "object", "properties": properties}}
    return {"toolSpec": {"name": name, "description": description, "inputSchema": schema}}


def test_tool_choices_are_said_or_refused():
    assert said(tools=[ADD], tool_choice="auto")[0]["toolConfig"]["toolChoice"] == {"auto": {}}
    assert said(tools=[ADD], tool_choice=NamedTool("add"))[0]["toolConfig"]["toolChoice"] == {
        "tool": {"name": "add"}
    }
    assert "toolChoice" not in said(tools=[ADD])[0]["toolConfig"]
    assert refusal(tool_choice="required") == "tool_choice"
    assert refusal(tool_choice=NamedTool("add")) == "tool_choice"
    assert said(tool_choice="auto") == said()


def test_one_call_at_a_time_is_said_to_claude_where_no_call_is_forced():
    body, warnings = said(tools=[ADD], parallel_tool_calls=False)
    assert body["additionalModelRequestFields"] == {
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}
    }
    assert warnings == ()
    for more in ({"model": NOVA}, {"tool_choice": "required"}):
        body, warnings = said(tools=[ADD], parallel_tool_calls=False, **more)
        assert "additionalModelRequestFields" not in body
        assert warnings[0].startswith("parallel_tool_calls dropped")
    assert said(tools=[ADD], parallel_tool_calls=True, model=NOVA)[1] == ()
    assert "additionalModelRequestFields" not in said(parallel_tool_calls=False)[0]


def test_bedrocks_own_tools_go_through_and_those_of_others_are_refused():
    body, _ = said(tools=[Tool("", extra={"systemTool": {"name": "nova_grounding"}})], model=NOVA)
    assert body["toolConfig"] == {"tools": [{"systemTool": {"name": "nova_grounding"}}]}
    search = Tool("web_search", extra={"type": "web_search_20250305", "max_uses": 3})
    with pytest.raises(Unsupported, match=r"tools\[1\]: .*web_search_20250305"):
        DIALECT.encode_request(Request(CLAUDE, "hi", [ADD, search], dialect="anthropic.messages"))


def test_a_tools_strictness_and_schema_without_a_type_are_said():
    body, _ = said(tools=[Tool("t", parameters={"properties": {}}, strict=True)])
    assert body["toolConfig"]["tools"] == [
        {
            "toolSpec": {
                "name": "t",
                "inputSchema": {"json": {"type": "object", "properties": {}}},
                "strict": True,
            }
        }
    ]


def test_results_come_in_one_message_that_the_user_goes_on_in():
    body, _ = said(
        "hi",
        Message("assistant", [ToolCall("a", "add"), ToolCall("b", "add")]),
        Message("tool", [ToolResult("a", "1", is_error=True)]),
        Message("tool", [ToolResult("b", "")]),
        "well?",
        tools=[ADD],
    )
    assert body["messages"][2] == {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "a", "content": [{"text": "1"}], "status": "error"}},
            {"toolResult": {"toolUseId": "b", "content": []}},
            {"text": "well?"},
        ],
    }


def test_a_failed_tool_always_says_something():
    blocks, _ = content(ToolResult("a", "  ", is_error=True), role="tool", tools=[ADD])
    assert blocks[0]["toolResult"]["content"] == [{"text": "The tool failed and said nothing."}]


def test_results_hold_pictures_documents_and_json():
    parts = [Image(data=PNG), Document(text="x", name="a.txt"), Opaque(NAME, {"json": {"a": 1}})]
    blocks, _ = content(ToolResult("a", parts), role="tool", tools=[ADD])
    assert blocks[0]["toolResult"]["content"] == [
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        {"document": {"format": "txt", "name": "a", "source": {"text": "x"}}},
        {"json": {"a": 1}},
    ]
    path = refusal("hi", Message("tool", [ToolResult("a", [Audio("AAAA")])]))
    assert path == "messages[1].parts[0].content[0]"


def test_ids_that_the_api_refuses_become_others_the_same_for_call_and_result():
    odd = "call|" + "x" * 80
    body, _ = said(
        "hi", Message("assistant", [ToolCall(odd, "add")]), Message("tool", [ToolResult(odd, "1")])
    )
    used = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert used == body["messages"][2]["content"][0]["toolResult"]["toolUseId"]
    assert used != odd
    assert len(used) <= 64
    other, _ = content(ToolCall(odd + "y", "add"), role="assistant")
    assert other[0]["toolUse"]["toolUseId"] != used


def test_arguments_that_are_no_object_are_an_invalid_request():
    with pytest.raises(InvalidRequest, match="add"):
        said("hi", Message("assistant", [ToolCall("a", "add", "[1]")]))


def test_a_tool_message_holds_results_only():
    assert refusal("hi", Message("tool", ["x"])) == "messages[1].parts[0]"


# ------------------------------------------------------------ messages


def test_turns_alternate():
    body, _ = said("a", "b", Message("assistant", "c"), Message("assistant", "d"), "e")
    assert [(m["role"], len(m["content"])) for m in body["messages"]] == [
        ("user", 2),
        ("assistant", 2),
        ("user", 1),
    ]


def test_a_message_with_fields_of_its_own_stays_alone():
    body, _ = said("a", Message("user", "b", extra={"later": 1}), "c")
    assert [m["content"] for m in body["messages"]] == [[{"text": "a"}], [{"text": "b"}], [{"text": "c"}]]
    assert body["messages"][1]["later"] == 1


def test_blank_text_is_left_out_and_an_answer_of_nothing_with_it():
    body, _ = said("a", Message("assistant", "\n"), Message("user", [" ", "b"]))
    assert body["messages"] == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]
    assert refusal("") == "messages[0]"
    assert refusal("a", Message("assistant", "b"), "") == "messages[2]"


def test_a_system_message_in_the_middle_joins_the_system_prompt_with_a_warning():
    messages = (Message("system", "s"), "a", Message("system", "t"), "b")
    body, warnings = said(*messages)
    assert body["system"] == [{"text": "s"}, {"text": "t"}]
    assert warnings == ("messages[2] emulated: it is in the system prompt",)
    body, warnings = said(*messages, dialect=BedrockConverse(system_in_messages=True))
    assert [m["role"] for m in body["messages"]] == ["user", "system", "user"]
    assert warnings == ()


def test_a_system_prompt_is_text_and_what_bedrock_guards():
    guarded = {"guardContent": {"text": {"text": "x"}}}
    assert said(Message("system", [Opaque(NAME, guarded)]), "a")[0]["system"] == [guarded]
    assert refusal(Message("system", [Image(data=PNG)]), "a") == "messages[0].parts[0]"


def test_n_above_one_is_refused():
    assert refusal(extra={"n": 2}) == "n"
    assert said(extra={"n": 1}) == said()


def test_opaque_parts_of_others_are_refused_from_the_user_and_dropped_from_history():
    foreign = Opaque("openai.responses", {"type": "x"})
    assert refusal(Message("user", [foreign])) == "messages[0].parts[0]"
    blocks, warnings = content("a", foreign, role="assistant")
    assert blocks == [{"text": "a"}]
    assert warnings[0].startswith("messages[2].parts[1] dropped")


def test_a_refusal_is_text():
    assert content(Refusal("no"), role="assistant") == (
        [{"text": "no"}],
        ("messages[2].parts[0] emulated: a refusal is text",),
    )


# ------------------------------------------------------------ attachments


def test_pictures_are_bytes_with_a_format():
    png = {"image": {"format": "png", "source": {"bytes": PNG}}}
    assert content(Image(data=PNG))[0] == [png]
    assert content(Image(url=f"data:image/png;base64,{PNG}"))[0] == [png]
    assert content(Image(data="AAAA", media_type="image/jpg"))[0][0]["image"]["format"] == "jpeg"
    bucket = {"s3Location": {"uri": "s3://bucket/a.webp"}}
    assert content(Image(url="s3://bucket/a.webp"))[0] == [{"image": {"format": "webp", "source": bucket}}]
    owned = {"s3Location": {"uri": "s3://b/x", "bucketOwner": "123456789012"}}
    assert content(Image(extra={"format": "gif", "source": owned}))[0] == [
        {"image": {"format": "gif", "source": owned}}
    ]
    assert content(Image(data=PNG, detail="low"))[1] == (
        "messages[2].parts[0].detail dropped: Bedrock has none",
    )


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Image(url="https://example.com/a.png"), "url"),
        (Image(data="AAAA"), "media_type"),
        (Image(data="AAAA", media_type="image/bmp"), "media_type"),
        (Image(), ""),
        (Document(url="https://example.com/a.pdf"), "url"),
        (Document(file_id="file-1"), "file_id"),
        (Document(data="AAAA", media_type="application/zip"), "media_type"),
        (Document(), ""),
    ],
)
def test_what_cannot_be_attached_is_refused_by_path(part, field):
    path = refusal(Message("user", ["look", part]))
    assert path == f"messages[0].parts[1]{'.' if field else ''}{field}"


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Document(data="AAAA"), {"format": "pdf", "name": "Document 1", "source": {"bytes": "AAAA"}}),
        (
            Document(data="AAAA", media_type="text/csv", name="a (1)"),
            {"format": "csv", "name": "a (1)", "source": {"bytes": "AAAA"}},
        ),
        (
            Document(data="AAAA", name="x.docx"),
            {"format": "docx", "name": "x", "source": {"bytes": "AAAA"}},
        ),
        (
            Document(data="AAAA", media_type="application/octet-stream", name="x.MD"),
            {"format": "md", "name": "x", "source": {"bytes": "AAAA"}},
        ),
        (Document(text="hi", name="f"), {"format": "txt", "name": "f", "source": {"text": "hi"}}),
        (
            Document(url="data:text/html;base64,AAAA", name="f"),
            {"format": "html", "name": "f", "source": {"bytes": "AAAA"}},
        ),
        (
            Document(url="s3://bucket/f.pdf", name="f"),
            {"format": "pdf", "name": "f", "source": {"s3Location": {"uri": "s3://bucket/f.pdf"}}},
        ),
        (
            Document(text="x", name="f", extra={"citations": {"enabled": True}, "context": "c"}),
            {
                "format": "txt",
                "name": "f",
                "source": {"text": "x"},
                "citations": {"enabled": True},
                "context": "c",
            },
        ),
    ],
)
def test_documents_have_a_format_and_a_name(part, block):
    assert content("read", part) == ([{"text": "read"}, {"document": block}], ())


def test_names_of_documents_are_made_fit_and_unique_with_a_warning():
    blocks, warnings = content(*(Document(data="AAAA", name="My_report  v2.pdf") for _ in range(2)))
    assert [block["document"]["name"] for block in blocks] == ["My-report v2", "My-report v2 2"]
    assert len(warnings) == 1
    assert warnings[0].startswith("messages[2].parts[0].name (and 1 more) emulated")


def test_films_and_sound_go_as_what_they_are():
    blocks, _ = content(Document(data="AAAA", media_type="video/mp4"), Audio("BBBB", "mp3"))
    assert blocks == [
        {"video": {"format": "mp4", "source": {"bytes": "AAAA"}}},
        {"audio": {"format": "mp3", "source": {"bytes": "BBBB"}}},
    ]


# ------------------------------------------------------------ reasoning


def test_reasoning_that_bedrock_signed_goes_back_and_no_other():
    own = [Reasoning("t", "sig", origin=NAME), Reasoning(encrypted="xx", origin=NAME), Reasoning("u", "sig2")]
    assert content(*own, "a", role="assistant") == (
        [
            {"reasoningContent": {"reasoningText": {"text": "t", "signature": "sig"}}},
            {"reasoningContent": {"redactedContent": "xx"}},
            {"reasoningContent": {"reasoningText": {"text": "u", "signature": "sig2"}}},
            {"text": "a"},
        ],
        (),
    )
    foreign = [
        Reasoning("t"),
        Reasoning("t", "sig", origin="anthropic.messages"),
        Reasoning(encrypted="x", origin="openai.responses"),
    ]
    blocks, warnings = content(*foreign, "a", role="assistant")
    assert blocks == [{"text": "a"}]
    assert len(warnings) == 2
    eager = BedrockConverse(replay_unsigned_reasoning=True)
    blocks, _ = content(*foreign, "a", role="assistant", dialect=eager)
    assert blocks == [{"reasoningContent": {"reasoningText": {"text": "t"}}}] * 2 + [{"text": "a"}]


@pytest.mark.parametrize(
    ("model", "options", "fields", "effort"),
    [
        (CLAUDE, {"max_tokens": 2048}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}, None),
        (CLAUDE, {"enabled": True}, {"thinking": {"type": "adaptive"}}, None),
        (CLAUDE, {"enabled": False}, {"thinking": {"type": "disabled"}}, None),
        (CLAUDE, {"effort": "none"}, {"thinking": {"type": "disabled"}}, None),
        (CLAUDE, {"effort": "minimal"}, {}, "low"),
        (CLAUDE, {"effort": "max", "extra": {"a": 1}}, {"a": 1}, "max"),
        (PROFILE, {"effort": "high"}, {}, "high"),
        (
            NOVA,
            {"effort": "xhigh"},
            {"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "high"}},
            None,
        ),
        (NOVA, {"enabled": False}, {"reasoningConfig": {"type": "disabled"}}, None),
        (GPT, {"effort": "minimal"}, {"reasoning_effort": "low"}, None),
        ("qwen.qwen3-32b-v1:0", {"effort": "high"}, {"reasoning_config": "high"}, None),
    ],
)
def test_each_family_is_told_in_its_own_words_how_much_to_think(model, options, fields, effort):
    body, warnings = said(model=model, reasoning=ReasoningOptions(**options))
    assert body.get("additionalModelRequestFields", {}) == fields
    assert body.get("outputConfig", {}) == ({} if effort is None else {"effort": effort})
    assert warnings == ()


@pytest.mark.parametrize(
    ("model", "options", "lost"),
    [
        (LLAMA, {"effort": "high"}, ["reasoning.effort"]),
        (LLAMA, {"enabled": True}, ["reasoning.enabled"]),
        (GPT, {"enabled": False}, ["reasoning.enabled"]),
        (GPT, {"effort": "low", "max_tokens": 5}, ["reasoning.max_tokens"]),
    ],
)
def test_what_a_family_has_no_word_for_is_dropped_with_a_warning(model, options, lost):
    _, warnings = said(model=model, reasoning=ReasoningOptions(**options))
    assert [warning.split(" dropped")[0] for warning in warnings] == lost


# ------------------------------------------------------------ cache points


def test_cache_markers_are_points_behind_what_they_stand_on():
    body, warnings = said(
        Message("system", [Text("s", CACHE)]),
        Message("user", [Text("a", {"cache_control": {"type": "ephemeral", "ttl": "1h"}}), "b"]),
        Message("assistant", "c", extra=CACHE),
        Message("tool", [ToolResult("t", "r", extra=CACHE)]),
        tools=[Tool("t", extra=CACHE)],
    )
    assert body["system"] == [{"text": "s"}, POINT]
    assert body["messages"][0]["content"] == [
        {"text": "a"},
        {"cachePoint": {"type": "default", "ttl": "1h"}},
        {"text": "b"},
    ]
    assert body["messages"][1] == {"role": "assistant", "content": [{"text": "c"}, POINT]}
    assert body["messages"][2]["content"][1] == POINT
    assert body["toolConfig"]["tools"][1] == POINT
    assert warnings == ()


@pytest.mark.parametrize(
    ("model", "in_text", "in_tools"),
    [
        (CLAUDE, True, True),
        (PROFILE, True, True),
        (NOVA, True, False),
        (LLAMA, False, False),
        (GPT, False, False),
    ],
)
def test_cache_points_stand_only_where_the_family_takes_them(model, in_text, in_tools):
    body, warnings = said(
        Message("user", [Text("a", CACHE)], extra=CACHE), tools=[Tool("t", extra=CACHE)], model=model
    )
    assert body["messages"][0]["content"].count(POINT) == 2 * in_text
    assert body["toolConfig"]["tools"].count(POINT) == in_tools
    assert len(warnings) == (not in_text) + (not in_tools)


def test_a_marker_inside_a_result_is_dropped_with_a_warning():
    blocks, warnings = content(ToolResult("t", [Text("r", CACHE)]), role="tool", tools=[ADD])
    assert POINT not in blocks
    assert warnings[0].startswith("messages[2].parts[0].content[0].cache_control dropped")


# ------------------------------------------------------------ other dialects' words


def test_words_of_another_dialect_never_reach_the_wire():
    request = Request(
        CLAUDE,
        [
            Message(
                "user",
                [Text("a", {"citations": [1], **CACHE})],
                extra={"weird": 1},
                dialect="anthropic.messages",
            ),
            Message(
                "user", [Image(data=PNG, extra={"source": {"type": "file"}})], dialect="anthropic.messages"
            ),
        ],
        tools=[Tool("t", extra={"type": "function", "defer_loading": True, **CACHE})],
        response_format=ResponseFormat("json_schema", {}, extra={"x": 1}),
        reasoning=ReasoningOptions(max_tokens=5, extra={"display": "omitted"}),
        extra={"top_k": 5, "user": "u-1", "service_tier": "flex", "logprobs": True, "store": None},
        dialect="openai.chat",
    )
    losses = Losses()
    body = DIALECT.encode_request(request, losses)
    assert body["messages"] == [
        {
            "role": "user",
            "content": [{"text": "a"}, POINT, {"image": {"format": "png", "source": {"bytes": PNG}}}],
        }
    ]
    assert body["additionalModelRequestFields"] == {
        "thinking": {"type": "enabled", "budget_tokens": 5},
        "top_k": 5,
    }
    assert body["requestMetadata"] == {"user_id": "u-1"}
    assert body["serviceTier"] == {"type": "flex"}
    dropped = {warning.split(" dropped")[0].split(" (and")[0] for warning in losses.warnings}
    assert dropped == {
        "messages[0].weird",
        "messages[0].parts[0].citations",
        "messages[1].parts[0].source",
        "tools[0].defer_loading",
        "response_format.x",
        "reasoning.display",
        "logprobs",
    }
    text = json.dumps(body)
    for word in ("weird", "defer_loading", "display", "logprobs", "store"):
        assert word not in text


@pytest.mark.parametrize(
    ("extra", "field", "value"),
    [
        ({"service_tier": "auto"}, "serviceTier", None),
        ({"service_tier": "standard_only"}, "serviceTier", {"type": "default"}),
        ({"top_k": 4}, "additionalModelRequestFields", {"inferenceConfig": {"topK": 4}}),
    ],
)
def test_well_known_words_are_translated(extra, field, value):
    losses = Losses()
    body = DIALECT.encode_request(Request(NOVA, "hi", extra=extra, dialect="anthropic.messages"), losses)
    assert body.get(field) == value
    assert not losses


def test_metadata_that_the_wire_refuses_is_dropped_with_a_warning():
    wanted = {"ok": "v", "number": 5, "long": "x" * 257, "emoji": "☺", **{f"k{n}": "v" for n in range(20)}}
    body, warnings = said(metadata=wanted)
    assert body["requestMetadata"] == {"ok": "v", **{f"k{n}": "v" for n in range(15)}}
    assert {warning.split(" ")[0] for warning in warnings} >= {
        "metadata.number",
        "metadata.long",
        "metadata.k15",
    }


# ------------------------------------------------------------ the answer's form


def test_json_mode_is_an_instruction():
    body, warnings = said(response_format=ResponseFormat("json"))
    assert body["system"] == [{"text": JSON_INSTRUCTION}]
    assert warnings == ("response_format emulated: the system prompt asks for JSON",)
    assert said(response_format=ResponseFormat()) == said()


def test_a_schema_is_an_instruction_where_the_model_does_not_know_it():
    wanted = ResponseFormat("json_schema", {"type": "object"})
    body, warnings = said(response_format=wanted, dialect=BedrockConverse(json_schema=False))
    assert "outputConfig" not in body
    assert body["system"][0]["text"].endswith('\n{"type":"object"}')
    assert len(warnings) == 1
    assert refusal(response_format=ResponseFormat("json_schema")) == "response_format.schema"
    assert refusal(response_format=ResponseFormat("json_schema", {"a": object()})) == "response_format.schema"


# ------------------------------------------------------------ laws

ids = st.text("abcXYZ019_.:-", min_size=1, max_size=64)
texts = st.text(min_size=1, max_size=20).filter(str.strip)
arguments = strategies.json_objects.map(json.dumps)
media = strategies.base64
marked = st.sampled_from([{}, CACHE])
user_parts = st.one_of(
    st.builds(Text, texts, marked),
    st.builds(Image, data=media, media_type=st.sampled_from(["image/png", "image/jpeg", "image/webp"])),
    st.builds(Audio, media, st.sampled_from(["wav", "mp3"])),
    st.builds(Document, data=media, media_type=st.just("video/mp4")),
)
results = st.builds(
    ToolResult,
    ids,
    st.lists(st.builds(Text, texts), min_size=1, max_size=2),
    st.booleans(),
    extra=marked,
)
answers = st.one_of(
    st.builds(Text, texts, marked),
    st.builds(ToolCall, ids, strategies.names, arguments),
    st.builds(Reasoning, strategies.texts, strategies.words, origin=st.just(NAME)),
    st.builds(Reasoning, st.just(""), st.none(), media, origin=st.just(NAME)),
)


@st.composite
def requests(draw):
    """Requests that the wire can say as they are: turns alternate, and tools are declared."""
    system = draw(st.lists(st.builds(Text, texts, marked), max_size=2))
    messages = [Message("system", [part]) for part in system]
    for turn in range(draw(st.integers(1, 4))):
        if turn % 2:
            messages.append(Message("assistant", draw(st.lists(answers, min_size=1, max_size=3))))
        else:
            messages.append(
                Message("user", draw(st.lists(st.one_of(user_parts, results), min_size=1, max_size=3)))
            )
    schemas = strategies.json_objects.map(lambda more: {"type": "object", "x": more})
    tools = draw(
        st.lists(
            st.builds(
                Tool,
                strategies.names,
                strategies.texts,
                schemas,
                strategies.maybe(st.booleans()),
                extra=marked,
            ),
            min_size=1,
            max_size=3,
        )
    )
    return Request(
        model=CLAUDE,
        messages=messages,
        tools=tools,
        tool_choice=draw(st.sampled_from([None, "auto", "required", NamedTool("x")])),
        temperature=draw(strategies.maybe(st.floats(0, 1))),
        max_tokens=draw(strategies.maybe(st.integers(1, 10**6))),
        stop=draw(st.lists(texts, max_size=3)),
        response_format=draw(strategies.maybe(st.builds(ResponseFormat, st.just("json_schema"), schemas))),
    )


@given(requests())
def test_what_is_encoded_says_what_was_asked(request):
    losses = Losses()
    again = request_of(CLAUDE, DIALECT.encode_request(request, losses))
    assert losses.warnings == ()
    for ours, theirs in zip(request.messages, again.messages, strict=True):
        for part, other in zip(ours.parts, theirs.parts, strict=True):
            if isinstance(part, ToolCall):
                assert (part.id, part.name, part.args) == (other.id, other.name, other.args)
            else:
                assert part == other
    for name in ("tools", "tool_choice", "temperature", "max_tokens", "stop", "response_format", "model"):
        assert getattr(again, name) == getattr(request, name)


@cache
def service():
    """The shape of a request in the vendor's own SDK, and its validator; None where that is absent."""
    found = find_spec("botocore")
    if found is None or found.origin is None:
        return None
    from botocore.model import ServiceModel  # type: ignore[import-untyped]  # botocore has no types
    from botocore.validate import ParamValidator  # type: ignore[import-untyped]  # as above

    (path,) = Path(found.origin).parent.glob("data/bedrock-runtime/*/service-2.json.gz")
    model = ServiceModel(json.loads(gzip.decompress(path.read_bytes())), "bedrock-runtime")
    return model.operation_model("Converse").input_shape, ParamValidator()


def check_by_vendor(body):
    if service() is None:
        pytest.skip("botocore is not installed")
    shape, validator = service()
    report = validator.validate({"modelId": CLAUDE, **body}, shape)
    assert not report.has_errors(), report.generate_report()


@given(requests())
def test_the_vendors_own_sdk_finds_nothing_wrong_with_it(request):
    check_by_vendor(DIALECT.encode_request(request))


def test_the_vendors_own_sdk_finds_nothing_wrong_with_what_is_emulated():
    check_by_vendor(said(*HISTORY, response_format=ResponseFormat("json"), tool_choice="none")[0])
    check_by_vendor(said(*HISTORY, tools=[ADD], reasoning=ReasoningOptions("high"), metadata={"a": "b"})[0])
    check_by_vendor(said(Message("user", ["x", Document(data="AAAA"), Image(url="s3://bucket/a.png")]))[0])
