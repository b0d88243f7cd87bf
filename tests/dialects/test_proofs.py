"""Proofs of reasoning: back to whoever made them, through whichever caller, and to nobody else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.dialects.proofs import seal, unseal
from llmpipe.types import (
    Completion,
    Extra,
    Finish,
    Message,
    Opaque,
    Part,
    Reasoning,
    ReasoningDelta,
    Request,
    Start,
    Text,
    TextDelta,
    ToolCall,
    ToolDelta,
    Usage,
    UsageUpdate,
    fold,
    unfold,
)

CHAT, MESSAGES = OpenAIChat(), AnthropicMessages()
BOTH: list[Any] = [CHAT, MESSAGES]
CALL = ToolCall("call_1", "f", '{"a":1}')
ANTHROPICS = Reasoning("Hm.", "sig-a", origin="anthropic.messages")
OMITTED = Reasoning("", "sig-a", origin="anthropic.messages")
REDACTED = Reasoning("", None, "enc-a", origin="anthropic.messages")
GEMINIS = Reasoning("", "sig-g", origin="gemini.generate")
OPENAIS = Reasoning("", None, "enc-o", origin="openai.responses")
BEDROCKS = Reasoning("Hm.", "sig-b", origin="bedrock.converse")
PROOFS = [ANTHROPICS, OMITTED, REDACTED, GEMINIS, OPENAIS, BEDROCKS]


def proof_of(part: Reasoning) -> tuple[Any, ...]:
    return part.text, part.signature, part.encrypted, part.origin


def thoughts(parts: tuple[Part, ...]) -> list[tuple[Any, ...]]:
    return [proof_of(part) for part in parts if isinstance(part, Reasoning)]


def completion(*parts: Part, dialect: str) -> Completion:
    return Completion("r", "m", Message("assistant", parts, dialect=dialect), "tool_calls", Usage(1, 2))


def given_back(dialect: Any, done: Completion) -> Message:
    """The history that a caller sends after that reply."""
    reply = orjson.loads(orjson.dumps(dialect.encode_reply(done)))
    if dialect is CHAT:
        message = reply["choices"][0]["message"]
    else:
        message = {"role": "assistant", "content": reply["content"]}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}, message], "max_tokens": 9}
    request = dialect.decode_request(body)
    assert request.dialect == dialect.name
    return request.messages[1]


@given(st.text(), st.sampled_from(["", "openai.chat", "gemini.generate", "plugin:x"]))
def test_what_is_sealed_is_unsealed_by_whoever_sealed_it(proof, origin):
    if origin not in ("", "openai.chat"):
        origin = origin.replace(":", ".")
    elif proof.startswith("llmpipe:"):
        return
    assert unseal(seal(proof, origin, "openai.chat"), "openai.chat") == (proof, origin or "openai.chat")


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("part", PROOFS)
def test_a_caller_gives_back_whole_what_any_provider_proved(dialect, part):
    done = completion(part, Text("So."), CALL, dialect=part.origin)
    message = given_back(dialect, done)
    assert message.dialect == dialect.name
    assert thoughts(message.parts) == [proof_of(part)]
    assert message.text == "So."
    assert message.tool_calls[0].id == "call_1"


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("part", PROOFS)
def test_a_caller_who_reads_a_stream_gives_back_the_same(dialect, part):
    """Here the caller is ours too: it folds the stream, and sends back what it was told."""
    encoder = dialect.encoder(Request("m", stream=True))
    events = list(unfold(completion(part, Text("So."), CALL, dialect=part.origin)))
    data = b"".join([encoder.feed(event) for event in events]) + encoder.close()
    decoder = dialect.decoder()
    got = fold([*decoder.feed(data), *([] if decoder.finished else decoder.close())])
    assert got.message.dialect == dialect.name
    body = dialect.encode_request(Request("m", [Message("user", "x"), got.message, Message("user", "y")]))
    message = dialect.decode_request(body).messages[1]
    assert thoughts(message.parts) == [proof_of(part)]
    assert message.text == "So."


@pytest.mark.parametrize("dialect", BOTH)
def test_a_signed_thought_that_comes_in_pieces_is_one_thought(dialect):
    events = [
        Start("r", "m", dialect="bedrock.converse"),
        ReasoningDelta("Let ", 0),
        ReasoningDelta("me see.", 0),
        ReasoningDelta("", 0, "sig", origin="bedrock.converse"),
        ReasoningDelta("", 0, "nature", origin="bedrock.converse"),
        TextDelta("So.", 1),
        Finish("stop"),
    ]
    encoder = dialect.encoder(Request("m", stream=True))
    data = b"".join([encoder.feed(event) for event in events]) + encoder.close()
    decoder = dialect.decoder()
    got = fold(decoder.feed(data))
    assert got.reasoning == "Let me see."
    body = dialect.encode_request(Request("m", [Message("user", "x"), got.message]))
    message = dialect.decode_request(body).messages[1]
    assert thoughts(message.parts) == [("Let me see.", "signature", None, "bedrock.converse")]


def test_a_signature_of_a_call_travels_by_the_calls_id_and_comes_back_before_it():
    second = ToolCall("call_2", "g", "{}")
    other = Reasoning("", "sig-2", origin="gemini.generate")
    seen = Reasoning("I see.")
    done = completion(seen, GEMINIS, CALL, other, second, dialect="gemini.generate")
    details = CHAT.encode_reply(done)["choices"][0]["message"]["reasoning_details"]
    assert details == [
        {
            "type": "reasoning.encrypted",
            "id": f"call_{at}",
            "format": "google-gemini-v1",
            "index": at,
            "data": proof,
        }
        for at, proof in ((1, "sig-g"), (2, "sig-2"))
    ]
    message = given_back(CHAT, done)
    assert [type(part).__name__ for part in message.parts] == [
        "Reasoning",
        "Reasoning",
        "ToolCall",
        "Reasoning",
        "ToolCall",
    ]
    assert thoughts(message.parts)[1:] == [proof_of(GEMINIS), proof_of(other)]


def test_in_a_stream_the_signature_waits_for_the_call_that_it_signs():
    encoder = CHAT.encoder(Request("m", stream=True))
    encoder.feed(Start("r", "m", dialect="gemini.generate"))
    assert encoder.feed(ReasoningDelta("", 0, "sig-g", origin="gemini.generate")) == b""
    chunks = encoder.feed(ToolDelta(1, "call_1", "f", "{}"))
    first, second = [orjson.loads(line[6:]) for line in chunks.split(b"\n\n") if line]
    assert first["choices"][0]["delta"]["reasoning_details"][0]["id"] == "call_1"
    assert second["choices"][0]["delta"]["tool_calls"][0]["id"] == "call_1"
    assert encoder.feed(ReasoningDelta("", 2, "sig-t", origin="gemini.generate")) == b""
    chunks = encoder.feed(TextDelta("So."))
    assert b"sig-t" in chunks
    assert b'"id":"call' not in chunks
    assert chunks.index(b"sig-t") < chunks.index(b"So.")
    assert encoder.feed(ReasoningDelta("", 3, "sig-end", origin="gemini.generate")) == b""
    assert b"sig-end" in encoder.close()


@pytest.mark.parametrize(
    ("form", "origin"),
    [
        ("anthropic-claude-v1", "anthropic.messages"),
        ("google-gemini-v1", "gemini.generate"),
        ("openai-responses-v1", "openai.chat"),  # OpenRouter's account at OpenAI made it
        ("xai-responses-v1", "openai.chat"),
        (None, "openai.chat"),
        (7, "openai.chat"),
    ],
)
def test_a_routers_format_says_whose_the_proof_is(form, origin):
    block = {"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": form, "index": 0}
    wire = {"role": "assistant", "content": "So.", "reasoning_details": [block]}
    done = CHAT.decode_reply({"choices": [{"message": wire, "finish_reason": "stop"}]}, {})
    [part] = [part for part in done.message.parts if isinstance(part, Reasoning)]
    assert (part.signature, part.origin) == ("s", origin)
    chunk = {"id": "r", "choices": [{"index": 0, "delta": wire, "finish_reason": "stop"}], "usage": None}
    decoder = CHAT.decoder()
    streamed = fold(decoder.feed(b"data: " + orjson.dumps(chunk) + b"\n\ndata: [DONE]\n\n"))
    assert thoughts(streamed.message.parts) == thoughts(done.message.parts)
    # Back to the router it goes as it came.
    body = CHAT.encode_request(Request("m", [done.message]))
    sent = body["messages"][0]["reasoning_details"]
    assert sent == [{name: value for name, value in block.items() if value is not None}]


def test_a_router_is_given_what_the_provider_behind_it_made_elsewhere():
    router = OpenAIChat(reasoning_field="reasoning_details")
    losses = Losses()
    history = Message("assistant", [ANTHROPICS, Text("So.")], dialect="anthropic.messages")
    body = router.encode_request(Request("m", [history]), losses)
    assert body["messages"][0]["reasoning_details"] == [
        {
            "type": "reasoning.text",
            "format": "anthropic-claude-v1",
            "index": 0,
            "text": "Hm.",
            "signature": "sig-a",
        }
    ]
    assert not losses
    theirs = Message("assistant", [GEMINIS, CALL], dialect="gemini.generate")
    [block] = router.encode_request(Request("m", [theirs]))["messages"][0]["reasoning_details"]
    assert (block["id"], block["data"]) == ("call_1", "sig-g")


@pytest.mark.parametrize("part", PROOFS)
@pytest.mark.parametrize("dialect", [OpenAIChat(), OpenAIChat(reasoning_field=None), AnthropicMessages()])
def test_nobody_is_sent_anothers_proof(part, dialect):
    if part.origin == dialect.name:
        return
    losses = Losses()
    history = Message("assistant", [part, Text("So.")], dialect=part.origin)
    body = dialect.encode_request(Request("m", [Message("user", "x"), history]), losses)
    wire = orjson.dumps(body)
    for proof in (part.signature, part.encrypted):
        assert proof is None or proof.encode() not in wire
    assert b"llmpipe:" not in wire
    assert b"So." in wire
    assert len(losses.warnings) == 1
    assert losses.warnings[0].startswith("messages[1].parts[0] dropped: ")


def test_a_foreign_thought_is_plain_reasoning_where_that_does_no_harm():
    history = Message("assistant", [ANTHROPICS, Text("So.")], dialect="anthropic.messages")
    body = OpenAIChat().encode_request(Request("m", [history]))
    assert body["messages"] == [{"role": "assistant", "content": "So.", "reasoning_content": "Hm."}]
    unsigned = AnthropicMessages(replay_unsigned_thinking=True)
    losses = Losses()
    theirs = Message("assistant", [BEDROCKS, Text("So.")], dialect="bedrock.converse")
    body = unsigned.encode_request(Request("m", [theirs]), losses)
    assert body["messages"][0]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": ""}
    assert losses.warnings == (
        "messages[0].parts[0].signature dropped: the proof of a thought is for bedrock.converse only",
    )


def test_anthropic_gets_its_own_proofs_back_through_any_caller():
    done = completion(ANTHROPICS, REDACTED, Text("So."), CALL, dialect="anthropic.messages")
    for dialect in BOTH:
        message = given_back(dialect, done)
        body = MESSAGES.encode_request(Request("m", [Message("user", "x"), message]))
        assert body["messages"][1]["content"] == [
            {"type": "thinking", "thinking": "Hm.", "signature": "sig-a"},
            {"type": "redacted_thinking", "data": "enc-a"},
            {"type": "text", "text": "So."},
            {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}},
        ]


def test_what_a_reply_proves_is_marked_with_its_origin():
    body = {
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "redacted_thinking", "data": "d"},
        ],
        "stop_reason": "end_turn",
    }
    done = MESSAGES.decode_reply(body, {})
    assert done.message.dialect == "anthropic.messages"
    assert [part.origin for part in done.message.parts] == ["anthropic.messages", "", "anthropic.messages"]


@pytest.mark.parametrize("dialect", BOTH)
def test_what_is_read_says_in_whose_words_it_is(dialect):
    request = dialect.decode_request(dialect.encode_request(Request("m", "x")))
    assert request.dialect == dialect.name
    assert {message.dialect for message in request.messages} == {dialect.name}
    encoder = dialect.encoder(request)
    data = encoder.feed(Start("r", "m")) + encoder.feed(TextDelta("a")) + encoder.feed(Finish("stop"))
    events = dialect.decoder().feed(data + encoder.close())
    assert [event.dialect for event in events if isinstance(event, Start)] == [dialect.name]


@pytest.mark.parametrize("dialect", BOTH)
def test_a_caller_is_not_shown_another_dialects_words(dialect):
    secret = {"inner": "words"}
    done = Completion(
        "r",
        "m",
        Message(
            "assistant",
            [
                Reasoning("Hm.", extra=secret),
                Text("So.", secret),
                ToolCall("a", "f", "{}", secret),
                Opaque("gemini.generate", secret),
            ],
            None,
            secret,
            "gemini.generate",
        ),
        "tool_calls",
        Usage(1, 2, extra=secret),
        extra={**secret, "stop_reason": "inner", "finish_reason": "inner"},
    )
    assert b"inner" not in orjson.dumps(dialect.encode_reply(done))
    encoder = dialect.encoder(Request("m", stream=True, extra={"stream_options": {"include_usage": True}}))
    events = [*unfold(done), Extra({"choice": secret}), Extra(secret, of="message"), UsageUpdate(done.usage)]
    data = b"".join([encoder.feed(event) for event in events]) + encoder.close()
    assert b"inner" not in data
    assert b"So." in data
