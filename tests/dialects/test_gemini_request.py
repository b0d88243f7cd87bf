"""Requests to Gemini: what is said how, what is left out with a word, and what is refused."""

from __future__ import annotations

import re

import pytest

from llmpipe.dialects.call_ids import made_up_id
from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.dialects.gemini_generate.fields import bare_model, camel, full_model, generation
from llmpipe.dialects.gemini_generate.schema import from_google, to_google
from llmpipe.dialects.losses import Losses
from llmpipe.errors import InvalidRequest, Unsupported
from llmpipe.types import (
    Audio,
    Document,
    EmbeddingRequest,
    Image,
    Message,
    NamedTool,
    Opaque,
    Reasoning,
    ReasoningOptions,
    Request,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

NAME = "gemini.generate"
DIALECT = GeminiGenerate()
PNG = "iVBORw0KGgo="


def encoded(request, **quirks):
    """The body and the warnings."""
    losses = Losses()
    return GeminiGenerate(**quirks).encode_request(request, losses), losses.warnings


def turn(*parts, dialect=""):
    return Message("assistant", parts, dialect=dialect)


# -- conversation


def test_system_messages_are_one_instruction_and_late_ones_are_told():
    messages = [
        Message("system", "a"),
        Message("user", "b"),
        Message("system", "c"),
        Message("assistant", "d"),
    ]
    body, warnings = encoded(Request("gemini-2.5-pro", messages))
    assert body == {
        "systemInstruction": {"parts": [{"text": "a"}, {"text": "c"}]},
        "contents": [{"role": "user", "parts": [{"text": "b"}]}, {"role": "model", "parts": [{"text": "d"}]}],
    }
    assert warnings == ("messages[2] emulated: moved into the system instruction, of which there is one",)


def test_a_system_message_alone_is_sent_as_the_users():
    body, warnings = encoded(Request("m", [Message("system", "a")]))
    assert body == {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}
    assert len(warnings) == 1


def test_results_are_one_content_in_the_order_of_the_calls_and_name_their_function():
    calls = [ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g"), ToolCall(made_up_id("", 0, "h"), "h")]
    results = [
        Message("tool", ToolResult(calls[2].id, "third")),
        Message("tool", ToolResult("b", '{"deg":4}')),
        Message("tool", ToolResult("a", "broke", is_error=True)),
        Message("user", "so?"),
    ]
    body, warnings = encoded(Request("gemini-2.5-flash", [Message("user", "hi"), turn(*calls), *results]))
    assert body["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"functionCall": {"id": "a", "name": "f", "args": {"x": 1}}},
                {"functionCall": {"id": "b", "name": "g", "args": {}}},
                {"functionCall": {"name": "h", "args": {}}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"id": "a", "name": "f", "response": {"error": "broke"}}},
                {"functionResponse": {"id": "b", "name": "g", "response": {"deg": 4}}},
                {"functionResponse": {"name": "h", "response": {"output": "third"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "so?"}]},
    ]
    assert warnings == ()
    without, _ = encoded(Request("m", [turn(calls[0]), results[2]]), call_ids=False)
    assert "id" not in str(without)


def test_a_result_of_no_known_call_is_refused_by_its_path():
    with pytest.raises(InvalidRequest, match=re.escape("messages[0].parts[0].name")) as caught:
        DIALECT.encode_request(Request("m", [Message("tool", ToolResult("x", "y"))]))
    assert not caught.value.sent


def test_an_answer_that_looks_like_an_error_and_is_none_is_not_sent_as_one():
    messages = [turn(ToolCall("a", "f")), Message("tool", ToolResult("a", '{"error":0}'))]
    (part,) = DIALECT.encode_request(Request("m", messages))["contents"][1]["parts"]
    assert part["functionResponse"]["response"] == {"output": '{"error":0}'}


@pytest.mark.parametrize(("model", "nested"), [("gemini-3-flash", True), ("gemini-2.5-flash", False)])
def test_files_of_a_tool_stand_in_its_result_from_gemini_3_on(model, nested):
    messages = [
        turn(ToolCall("a", "f")),
        Message("tool", ToolResult("a", [Text("here"), Image(data=PNG)])),
    ]
    body, warnings = encoded(Request(model, messages))
    parts = body["contents"][1]["parts"]
    image = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    assert parts[0]["functionResponse"]["response"] == {"output": "here"}
    assert parts[0]["functionResponse"].get("parts") == ([image] if nested else None)
    assert (parts[1:] == []) if nested else (parts[-1] == image)
    assert bool(warnings) is not nested


# -- signatures


def test_a_signature_goes_onto_the_part_that_it_signs():
    parts = (
        Reasoning("hm", origin=NAME),
        Reasoning("", "s1", origin=NAME),
        ToolCall("a", "f"),
        ToolCall("b", "g"),
        Reasoning("", "s2"),
        Text("so"),
        Reasoning("", "s3", origin=NAME),
    )
    (content,) = DIALECT.encode_request(Request("gemini-3-pro", [turn(*parts)]))["contents"]
    assert content["parts"] == [
        {"text": "hm", "thought": True},
        {"functionCall": {"id": "a", "name": "f", "args": {}}, "thoughtSignature": "s1"},
        {"functionCall": {"id": "b", "name": "g", "args": {}}},
        {"text": "so", "thoughtSignature": "s2"},
        {"text": "", "thoughtSignature": "s3"},
    ]


@pytest.mark.parametrize(
    ("model", "quirk", "skips"),
    [
        ("gemini-3-pro-preview", "auto", True),
        ("models/gemini-3.5-flash", "auto", True),
        ("gemini-flash-latest", "auto", True),
        ("gemini-2.5-pro", "auto", False),
        ("endpoints/123", "auto", False),
        ("gemini-2.5-pro", "always", True),
        ("gemini-3-pro", "never", False),
    ],
)
def test_a_call_that_gemini_did_not_make_is_sent_with_the_documented_value(model, quirk, skips):
    message = turn(
        Reasoning("why", "claude's", origin="anthropic.messages"), ToolCall("a", "f"), ToolCall("b", "g")
    )
    body, warnings = encoded(Request(model, [message]), signatures=quirk)
    first, second = body["contents"][0]["parts"]
    assert first.get("thoughtSignature") == ("skip_thought_signature_validator" if skips else None)
    assert "thoughtSignature" not in second
    assert warnings == (
        "messages[0].parts[0] dropped: reasoning of another provider, which Gemini cannot check",
    )


@pytest.mark.parametrize(
    "part",
    [
        Reasoning("x", origin="openai.responses"),
        Reasoning("", None, "enc", origin="openai.responses"),
        Reasoning("x"),
    ],
)
def test_reasoning_in_another_dialects_message_is_left_out(part):
    body, warnings = encoded(Request("m", [turn(part, Text("t"), dialect="openai.chat")]))
    assert body["contents"] == [{"role": "model", "parts": [{"text": "t"}]}]
    assert len(warnings) == 1
    assert encoded(Request("m", [turn(part, dialect="openai.chat")]))[0]["contents"] == []


def test_opaque_parts_of_others_are_dropped_in_history_and_refused_in_questions():
    foreign = Opaque("anthropic.messages", {"type": "server_tool_use"})
    body, warnings = encoded(Request("m", [turn(foreign, Text("t"))]))
    assert body["contents"][0]["parts"] == [{"text": "t"}]
    assert "messages[0].parts[0]" in warnings[0]
    with pytest.raises(Unsupported, match=re.escape("messages[0].parts[0]")):
        DIALECT.encode_request(Request("m", [Message("user", [foreign])]))


# -- media


@pytest.mark.parametrize(
    ("part", "wire"),
    [
        (Image(data=PNG), {"inlineData": {"mimeType": "image/png", "data": PNG}}),
        (Image("data:image/gif;base64,AAAA"), {"inlineData": {"mimeType": "image/gif", "data": "AAAA"}}),
        (
            Image("https://x/a.webp?y=1"),
            {"fileData": {"mimeType": "image/webp", "fileUri": "https://x/a.webp?y=1"}},
        ),
        (Image("https://x/a"), {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x/a"}}),
        (Audio("AAAA", "mp3"), {"inlineData": {"mimeType": "audio/mp3", "data": "AAAA"}}),
        (Audio("AAAA", "x-new"), {"inlineData": {"mimeType": "audio/x-new", "data": "AAAA"}}),
        (Document(data="AAAA"), {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}}),
        (Document(text="a"), {"inlineData": {"mimeType": "text/plain", "data": "YQ=="}}),
        (Document("gs://b/f.mp4"), {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/f.mp4"}}),
        (Document("https://youtu.be/x"), {"fileData": {"fileUri": "https://youtu.be/x"}}),
        (
            Document(file_id="files/a", media_type="video/mp4"),
            {
                "fileData": {
                    "mimeType": "video/mp4",
                    "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/a",
                }
            },
        ),
    ],
)
def test_files_are_data_or_addresses(part, wire):
    (content,) = DIALECT.encode_request(Request("m", [Message("user", [part])]))["contents"]
    assert content["parts"] == [wire]


def test_a_file_without_anything_in_it_is_refused():
    for part in (Image(), Document(name="x")):
        with pytest.raises(InvalidRequest, match=re.escape("messages[0].parts[0]")):
            DIALECT.encode_request(Request("m", [Message("user", [part])]))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://10.0.0.1/x", "x"])
def test_an_address_that_a_server_must_not_read_is_refused(url):
    body = {"contents": [{"parts": [{"file_data": {"file_uri": url, "mime_type": "image/png"}}]}]}
    with pytest.raises(InvalidRequest, match=re.escape("contents[0].parts[0].fileData.fileUri")):
        DIALECT.decode_request(body)


# -- tools


def test_functions_are_one_entry_and_googles_tools_their_own():
    tools = [
        Tool("googleSearch", extra={"googleSearch": {}}),
        Tool("f", "does", {"type": "object", "properties": {"a": {"type": "string"}}}, strict=True),
        Tool("g", extra={"behavior": "BLOCKING"}),
    ]
    body, warnings = encoded(Request("m", "hi", tools=tools, tool_choice=NamedTool("f")))
    assert body["tools"] == [
        {"googleSearch": {}},
        {
            "functionDeclarations": [
                {
                    "name": "f",
                    "description": "does",
                    "parametersJsonSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
                },
                {
                    "name": "g",
                    "description": "",
                    "parametersJsonSchema": {"type": "object", "properties": {}},
                    "behavior": "BLOCKING",
                },
            ]
        },
    ]
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}
    assert warnings == ("tools[1].strict dropped: Gemini follows schemas as well as it can",)


def test_a_tool_of_another_providers_server_is_refused():
    tool = Tool("web_search", extra={"type": "web_search_20250305", "name": "web_search"})
    with pytest.raises(Unsupported, match=re.escape("tools[0]")):
        DIALECT.encode_request(Request("m", "hi", tools=[tool], dialect="anthropic.messages"))


@pytest.mark.parametrize(
    ("config", "choice", "extra"),
    [
        ({"mode": "AUTO"}, "auto", {}),
        ({"mode": "any"}, "required", {}),
        ({"mode": 3}, "none", {}),
        ({"mode": "MODE_UNSPECIFIED"}, None, {}),
        ({"mode": "ANY", "allowed_function_names": ["f"]}, NamedTool("f"), {}),
        (
            {"mode": "ANY", "allowedFunctionNames": ["f", "g"]},
            "required",
            {"allowedFunctionNames": ["f", "g"]},
        ),
        ({"mode": "VALIDATED"}, "auto", {"mode": "VALIDATED"}),
    ],
)
def test_modes_of_calling_are_choices(config, choice, extra):
    body = {"contents": [{"parts": [{"text": "x"}]}], "tool_config": {"function_calling_config": config}}
    request = DIALECT.decode_request(body)
    assert request.tool_choice == choice
    assert request.extra == ({"toolConfig": {"functionCallingConfig": extra}} if extra else {})
    if extra:
        again = DIALECT.encode_request(request)["toolConfig"]["functionCallingConfig"]
        assert again == {camel(name): value for name, value in config.items()} | {
            "mode": config["mode"].upper()
        }


# -- schemas


def test_googles_schema_is_read_as_json_schema():
    google = {
        "type": "OBJECT",
        "properties": {
            "a": {"type": "STRING", "nullable": True, "enum": ["x"]},
            "type": {"type": 2, "max_items": "5"},
            "list": {"type": "ARRAY", "items": {"any_of": [{"type": "INTEGER"}, {"type": "BOOLEAN"}]}},
        },
        "property_ordering": ["a"],
    }
    assert from_google(google) == {
        "type": "object",
        "properties": {
            "a": {"type": ["string", "null"], "enum": ["x", None]},
            "type": {"type": "number", "maxItems": 5},
            "list": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "boolean"}]}},
        },
        "propertyOrdering": ["a"],
    }


def test_json_schema_is_reduced_to_googles_where_a_server_wants_that():
    schema = {
        "$schema": "x",
        "type": "object",
        "properties": {
            "node": {"$ref": "#/$defs/Node"},
            "maybe": {"type": ["string", "null"], "minLength": 1},
            "one": {"const": "a"},
            "number": {"enum": [1, 2]},
            "either": {"oneOf": [{"type": "string"}, {"type": "null"}], "description": "d"},
            "all": {"allOf": [{"$ref": "#/$defs/Base"}], "properties": {"b": {"type": "integer"}}},
        },
        "additionalProperties": False,
        "$defs": {
            "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
            "Base": {"type": "object", "properties": {"a": {}}, "required": ["a"]},
        },
    }
    losses = Losses()
    assert to_google(schema, "tools[0].parameters", losses) == {
        "type": "OBJECT",
        "properties": {
            "node": {"type": "OBJECT", "properties": {"next": {"type": "OBJECT"}}},
            "maybe": {"type": "STRING", "nullable": True, "minLength": 1},
            "one": {"type": "STRING", "enum": ["a"]},
            "number": {},
            "either": {"type": "STRING", "nullable": True, "description": "d"},
            "all": {"type": "OBJECT", "required": ["a"], "properties": {"a": {}, "b": {"type": "INTEGER"}}},
        },
    }
    told = " ".join(losses.warnings)
    assert all(name in told for name in ("$ref", "enum", "additionalProperties"))


def test_older_servers_get_the_reduced_schemas():
    tools = [Tool("f", "d", {"type": "object", "properties": {"a": {"type": "string"}}}), Tool("g")]
    wanted = ResponseFormat("json_schema", {"type": "array", "items": {"type": "string"}})
    body, _ = encoded(Request("m", "x", tools=tools, response_format=wanted), json_schema=False)
    first, second = body["tools"][0]["functionDeclarations"]
    assert first["parameters"] == {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}
    assert second == {"name": "g", "description": ""}
    assert body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseSchema": {"type": "ARRAY", "items": {"type": "STRING"}},
    }


# -- generation


@pytest.mark.parametrize(
    ("model", "options", "config", "told"),
    [
        ("gemini-3-flash", ReasoningOptions("medium"), {"thinkingLevel": "MEDIUM"}, False),
        ("gemini-3-pro-preview", ReasoningOptions("minimal"), {"thinkingLevel": "LOW"}, True),
        ("gemini-3-flash", ReasoningOptions(enabled=True), {}, False),
        ("gemini-2.5-flash", ReasoningOptions("high"), {"thinkingBudget": 24576}, True),
        ("gemini-2.5-flash", ReasoningOptions(max_tokens=77), {"thinkingBudget": 77}, False),
        ("gemini-2.5-flash", ReasoningOptions("low", 77), {"thinkingBudget": 77}, True),
        ("gemini-2.5-flash", ReasoningOptions(enabled=True), {"thinkingBudget": -1}, False),
    ],
)
def test_an_effort_is_a_level_or_a_budget_and_thoughts_are_shown(model, options, config, told):
    body, warnings = encoded(Request(model, "x", reasoning=options))
    assert body["generationConfig"]["thinkingConfig"] == {**config, "includeThoughts": True}
    assert bool(warnings) is told


@pytest.mark.parametrize(
    ("model", "config", "told"),
    [
        ("gemini-2.5-flash", {"thinkingBudget": 0}, False),
        ("gemini-2.5-pro", {"thinkingBudget": 128}, True),
        ("gemini-3-flash", {"thinkingLevel": "MINIMAL"}, True),
        ("gemini-3.1-pro", {"thinkingLevel": "LOW"}, True),
    ],
)
def test_no_thinking_is_the_least_that_a_model_can_do(model, config, told):
    for options in (ReasoningOptions(enabled=False), ReasoningOptions("none")):
        body, warnings = encoded(Request(model, "x", reasoning=options))
        assert body["generationConfig"]["thinkingConfig"] == config
        assert bool(warnings) is told


def test_other_dialects_words_are_translated_dropped_or_refused():
    extra = {
        "n": 2,
        "top_k": 5,
        "logprobs": True,
        "top_logprobs": 3,
        "service_tier": "flex",
        "user": "u",
        "stream_options": {"include_usage": True},
        "logit_bias": {"1": 2},
    }
    body, warnings = encoded(
        Request(
            "m",
            "x",
            extra=extra,
            metadata={"a": "b"},
            parallel_tool_calls=False,
            tools=[Tool("f")],
            dialect="openai.chat",
        )
    )
    assert body["generationConfig"] == {
        "candidateCount": 2,
        "topK": 5,
        "responseLogprobs": True,
        "logprobs": 3,
    }
    assert body["serviceTier"] == "flex"
    assert not body.keys() & extra.keys() - {"logprobs"}
    assert [warning.split()[0] for warning in warnings] == [
        "user",
        "logit_bias",
        "parallel_tool_calls",
        "metadata.a",
    ]
    with pytest.raises(Unsupported, match="response_format"):
        DIALECT.encode_request(
            Request("m", "x", extra={"response_format": {"type": "grammar"}}, dialect="openai.chat")
        )


def test_the_users_own_words_reach_the_wire_where_they_belong():
    extra = {"topK": 3, "response_modalities": ["IMAGE"], "safetySettings": [], "generationConfig": {"x": 1}}
    body, warnings = encoded(
        Request("m", "x", temperature=1, extra=extra, metadata={"team": "a"}), labels=True
    )
    assert body["generationConfig"] == {"temperature": 1, "topK": 3, "responseModalities": ["IMAGE"], "x": 1}
    assert (body["safetySettings"], body["labels"], warnings) == ([], {"team": "a"}, ())


def test_what_hints_is_left_out_with_a_word():
    part = Image("https://x/a.png", detail="low", extra={"cache_control": {"type": "ephemeral"}})
    message = Message("user", [part, Document(data="AAAA", name="f.pdf")], name="bob", dialect="openai.chat")
    body, warnings = encoded(Request("m", [message]))
    assert body["contents"][0].keys() == {"role", "parts"}
    assert [warning.split()[0] for warning in warnings] == [
        "messages[0].name",
        "messages[0].parts[0].cache_control",
        "messages[0].parts[0].detail",
        "messages[0].parts[1].name",
    ]


# -- a caller's request


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "assistant", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": "x"}]}, "contents[0].parts"),
        ({"contents": [{"parts": [{"text": 1}]}]}, "contents[0].parts[0].text"),
        (
            {"contents": [{"role": "model", "parts": [{"functionCall": {}}]}]},
            "contents[0].parts[0].functionCall.name",
        ),
        (
            {"contents": [{"parts": [{"inlineData": {"data": "x"}}]}]},
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            {"contents": [{"parts": [{"text": "x"}]}], "generation_config": {"top_p": 2}},
            "generationConfig.topP",
        ),
        (
            {"contents": [{"parts": [{"text": "x"}]}], "tools": [{"functionDeclarations": [{}]}]},
            "tools[0].functionDeclarations[0].name",
        ),
    ],
)
def test_a_wrong_field_is_named(body, path):
    with pytest.raises(InvalidRequest) as caught:
        DIALECT.decode_request(body)
    assert caught.value.metadata["param"] == path


def test_results_without_ids_find_their_calls_by_name_and_order():
    call = {"functionCall": {"name": "f", "args": {}}}
    answer = {"functionResponse": {"name": "f", "response": {"output": "1"}}}
    contents = [
        {"role": "model", "parts": [call, call]},
        {"role": "user", "parts": [answer, answer, {"text": "so?"}]},
    ]
    request = DIALECT.decode_request({"contents": contents})
    first, second = request.messages[0].tool_calls
    assert first.id != second.id
    assert [message.role for message in request.messages] == ["assistant", "tool", "tool", "user"]
    assert [message.parts[0].id for message in request.messages[1:3]] == [first.id, second.id]
    assert DIALECT.encode_request(request)["contents"][1]["parts"] == [answer, answer]


def test_parts_of_tomorrow_survive():
    part = {"aPartOfTomorrow": {"x": 1}}
    contents = [
        {"role": "user", "parts": [part, {"text": "x", "partMetadata": {"a": 1}}]},
        {"role": "model", "parts": [part]},
    ]
    request = DIALECT.decode_request({"contents": contents, "aFieldOfTomorrow": [1]})
    assert DIALECT.encode_request(request) == {"contents": contents, "aFieldOfTomorrow": [1]}


# -- names, tokens, vectors


def test_models_have_many_names():
    assert bare_model("models/gemini-x") == bare_model("gemini-x") == "gemini-x"
    assert bare_model("projects/p/locations/l/publishers/google/models/gemini-x") == "gemini-x"
    assert full_model("gemini-x") == full_model("models/gemini-x") == "models/gemini-x"
    assert full_model("tunedModels/x") == "tunedModels/x"
    names = ("gemini-2.5-pro", "gemini-3-pro", "gemini-pro-latest", "gemma-3", "gemini-flash-lite-4")
    assert [generation(name) for name in names] == [2, 3, 3, None, 4]


def test_tokens_are_counted_of_the_whole_request():
    request = Request(
        "models/gemini-x",
        [Message("system", "a"), Message("user", "b")],
        temperature=1,
        extra={"safetySettings": []},
    )
    whole = DIALECT.encode_count_request(request)["generateContentRequest"]
    assert whole == {"model": "models/gemini-x", **DIALECT.encode_request(request)}
    vertex = GeminiGenerate(count_whole=False).encode_count_request(request)
    assert vertex.keys() == {"contents", "systemInstruction", "generationConfig"}
    assert DIALECT.decode_count_request({"generate_content_request": whole}).messages == request.messages


def test_vectors_are_asked_for_in_each_apis_way():
    request = EmbeddingRequest("e", ["a", "b"], 5, {"team": "x"}, {"title": "t"}, NAME, "document")
    losses = Losses()
    assert DIALECT.encode_embedding_request(request, losses)["requests"][1] == {
        "model": "models/e",
        "content": {"parts": [{"text": "b"}]},
        "taskType": "RETRIEVAL_DOCUMENT",
        "outputDimensionality": 5,
        "title": "t",
    }
    assert len(losses.warnings) == 1
    assert GeminiGenerate(embeddings_api="predict").encode_embedding_request(request) == {
        "instances": [
            {"task_type": "RETRIEVAL_DOCUMENT", "title": "t", "content": text} for text in ("a", "b")
        ],
        "parameters": {"outputDimensionality": 5},
    }
    with pytest.raises(Unsupported, match="inputs"):
        GeminiGenerate(embeddings_api="embedContent").encode_embedding_request(request)
    with pytest.raises(Unsupported, match=re.escape("inputs[0]")):
        DIALECT.encode_embedding_request(EmbeddingRequest("e", [[1, 2]]))


def test_vectors_for_different_things_in_one_request_are_refused():
    one = {"content": {"parts": [{"text": "a"}]}, "taskType": "CLUSTERING"}
    with pytest.raises(InvalidRequest, match=re.escape("requests[1]")):
        DIALECT.decode_embedding_request({"requests": [one, {**one, "taskType": "CLASSIFICATION"}]})
