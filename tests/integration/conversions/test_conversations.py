"""Conversations with tools over several turns: a caller of one dialect, providers of others, and a switch.

Every turn goes from the caller's JSON to the provider's and back. At each provider: the calls and their
results belong together and stand in order, its own proofs of reasoning are there and nobody else's, and no
word of another wire.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve

from llmpipe.dialects.anthropic_messages import AnthropicMessages
from llmpipe.dialects.gemini_generate import GeminiGenerate
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.openai_chat import OpenAIChat
from llmpipe.dialects.openai_responses import OpenAIResponses
from llmpipe.types import (
    Completion,
    Message,
    Reasoning,
    ReasoningOptions,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    fold,
    unfold,
)

CALLERS: dict[str, Any] = {
    "openai.chat": OpenAIChat(),
    "openai.responses": OpenAIResponses(),
    "anthropic.messages": AnthropicMessages(),
}
PROVIDERS: dict[str, Any] = {
    "openai.chat": OpenAIChat(reasoning_field="reasoning_details"),
    "openai.responses": OpenAIResponses(),
    "anthropic.messages": AnthropicMessages(),
    "gemini.generate": GeminiGenerate(),
}
PORTABLE = ("anthropic.messages", "gemini.generate")
"""Whose proofs OpenRouter takes, in blocks that say whose they are."""
SYSTEM = "Be brief."
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
USAGE = Usage(10, 5)


def proof(name: str, turn: int) -> str:
    """What only that provider's wire may ever see again; base64, as Gemini insists on it."""
    return {"openai.chat": "chat", "openai.responses": "resp", "anthropic.messages": "anth"}.get(
        name, "gemi"
    ) + f"AAA{turn}"


def answer(name: str, turn: int, *said: Text | ToolCall) -> Completion:
    """A provider's answer with a thought that it proves, and words that are its own."""
    word = f"zebra_{name.partition('.')[2]}_{name.partition('.')[0]}"
    made = proof(name, turn)
    thought = {
        "openai.chat": Reasoning(
            "", None, made, {"type": "reasoning.encrypted", "format": "openai-responses-v1", "index": 0}, name
        ),
        "openai.responses": Reasoning(f"Hm {turn}.", None, made, {"item": {"id": f"rs_{turn}"}}, name),
        "anthropic.messages": Reasoning(f"Hm {turn}.", made, None, {}, name),
        "gemini.generate": Reasoning("", made, None, {}, name),
    }[name]
    parts = [
        evolve(part, extra={"item": {"id": f"{word}_{at}"}} if name == "openai.responses" else {word: at})
        if isinstance(part, Text) or name == "openai.responses"
        else part
        for at, part in enumerate(said)
    ]
    if name == "openai.chat":
        parts = [evolve(part, extra={}) if isinstance(part, Text) else part for part in parts]
    calls = any(isinstance(part, ToolCall) for part in said)
    return Completion(
        id=f"reply_{turn}",
        model="m",
        message=Message("assistant", [thought, *parts], dialect=name),
        finish_reason="tool_calls" if calls else "stop",
        usage=USAGE,
        extra={word: turn},
    )


def over_the_wire(dialect: Any, done: Completion, *, stream: bool, request: Request) -> Completion:
    """`done` as a server of that dialect sends it and a client of it reads it."""
    if not stream:
        body: Completion = dialect.decode_reply(orjson.loads(orjson.dumps(dialect.encode_reply(done))), {})
        return body
    encoder, decoder = dialect.encoder(request), dialect.decoder()
    data = b"".join(map(encoder.feed, unfold(done))) + encoder.close()
    events = [event for at in range(0, len(data), 11) for event in decoder.feed(data[at : at + 11])]
    return fold([*events, *decoder.close()])


class Conversation:
    """A caller, who keeps what he was told in his own words, and whoever answers him."""

    def __init__(self, caller: str, *, stream: bool) -> None:
        self.caller, self.stream = caller, stream
        self.history: list[Message] = [Message("system", SYSTEM), Message("user", "Paris and Rome?")]
        self.made: list[tuple[str, str]] = []  # who made which proof
        self.warnings: list[str] = []

    def turn(self, provider: str, number: int, *said: Text | ToolCall) -> Completion:
        """One turn; what came to the provider is checked."""
        here, there = CALLERS[self.caller], PROVIDERS[provider]
        asked = Request(
            "m",
            self.history,
            tools=[Tool("weather", "The weather", WEATHER)],
            max_tokens=3000,
            reasoning=ReasoningOptions("low"),
            stream=self.stream,
        )
        body = orjson.loads(orjson.dumps(here.encode_request(asked)))
        request = here.decode_request(body)
        losses = Losses()
        wire = orjson.loads(orjson.dumps(there.encode_request(request, losses)))
        self.warnings = list(losses.warnings)
        self.check(provider, wire, there.decode_request(wire))
        done = over_the_wire(there, answer(provider, number, *said), stream=self.stream, request=request)
        self.made.append((provider, proof(provider, number)))
        told = over_the_wire(here, done, stream=self.stream, request=request)
        self.history.append(told.message)
        return told

    def check(self, provider: str, wire: dict[str, Any], request: Request) -> None:
        text = orjson.dumps(wire).decode()
        assert "llmpipe:" not in text
        for name in PROVIDERS:
            if name not in (provider, self.caller):
                assert f"zebra_{name.partition('.')[2]}" not in text, name
        for maker, made in self.made:
            understood = maker == provider or (provider == "openai.chat" and maker in PORTABLE)
            if maker == "openai.chat" and self.caller != "openai.chat":
                understood = False  # its block (format and id) has no place in another dialect
                assert provider != maker or any("proof" in warning for warning in self.warnings)
            assert (made in text) is understood, (maker, made)
        calls = [(call.id, call.args["city"]) for message in request.messages for call in message.tool_calls]
        results = [p for m in request.messages for p in m.parts if isinstance(p, ToolResult)]
        mine = [call.args["city"] for message in self.history for call in message.tool_calls]
        assert [city for _, city in calls] == mine
        assert len({call_id for call_id, _ in calls}) == len(calls)
        assert [(one.id, one.text) for one in results] == [(key, f"{city}: 12") for key, city in calls]

    def results(self, told: Completion) -> None:
        """The tools answer."""
        for call in told.tool_calls:
            self.history.append(
                Message("tool", ToolResult(call.id, f"{call.args['city']}: 12", name=call.name))
            )


def call(number: int, city: str) -> ToolCall:
    return ToolCall(f"call_{number}", "weather", orjson.dumps({"city": city}).decode())


def talk(caller: str, first: str, second: str, *, stream: bool) -> Conversation:
    """Two calls, one call, an answer of another provider, and the first once more."""
    it = Conversation(caller, stream=stream)
    told = it.turn(first, 1, Text("Let me look."), call(1, "Paris"), call(2, "Rome"))
    assert (told.text, told.finish_reason) == ("Let me look.", "tool_calls")
    assert [one.args["city"] for one in told.tool_calls] == ["Paris", "Rome"]
    it.results(told)
    told = it.turn(first, 2, call(3, "Oslo"))
    it.results(told)
    told = it.turn(second, 3, Text("12 everywhere."))
    assert (told.text, told.finish_reason) == ("12 everywhere.", "stop")
    it.history.append(Message("user", "Sure?"))
    told = it.turn(first, 4, Text("Yes."))
    assert told.text == "Yes."
    return it


@pytest.mark.parametrize("stream", [False, True], ids=["full", "stream"])
@pytest.mark.parametrize("second", PROVIDERS)
@pytest.mark.parametrize("first", PROVIDERS)
@pytest.mark.parametrize("caller", CALLERS)
def test_a_conversation_survives_other_dialects_and_a_switch(caller, first, second, stream):
    talk(caller, first, second, stream=stream)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_provider_all_the_way_loses_nothing(caller, provider):
    """So that a warning means something: none comes of an ordinary conversation."""
    warnings = talk(caller, provider, provider, stream=False).warnings
    expected = ("the proof of a thought",) if provider == "openai.chat" != caller else ()
    assert [text for text in warnings if not any(one in text for one in expected)] == []
