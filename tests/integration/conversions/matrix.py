"""One cell of the matrix: a caller of one dialect, a provider of another, and what becomes of a feature."""

from __future__ import annotations

import copy
from typing import Any

import orjson
from attrs import evolve, frozen

from llmpipe import Chain, dialects
from llmpipe.errors import Unsupported
from llmpipe.providers.factory import provider
from llmpipe.testing.simulator import Simulator
from llmpipe.types import Completion, Image, Message, Part, Reasoning, Request, Text, ToolCall, ToolResult
from tests.integration.conversions.bodies import (
    BODIES,
    CITY,
    PNG,
    RESULTS,
    SYSTEM,
    URL,
    replayed,
)
from tests.integration.conversions.readers import Said, read_full, read_stream

__all__ = ("PROVIDERS", "Cell", "run")

PROVIDERS: dict[str, tuple[str, str | None, str]] = {
    "openai": ("openai", None, "gpt-4o-mini"),
    "openai (responses)": ("openai", "openai.responses", "gpt-4o-mini"),
    "anthropic": ("anthropic", None, "claude-sonnet-4-5"),
    "gemini": ("gemini", None, "gemini-2.5-flash"),
    "cohere": ("cohere", None, "command-a-03-2025"),
}
THOUGHT = "Let me see."
_CALLS = (
    ToolCall("call_1", "get_weather", '{"city":"Paris"}'),
    ToolCall("call_2", "get_weather", '{"city":"Rome"}'),
)
_TEXT = "It is 12 degrees in Paris – and 19 in Rome."
_JSON = '{"city":"Rome","people":2800000}'
_PROOFS: dict[str, tuple[Part, ...]] = {
    "openai (responses)": (Reasoning(THOUGHT, None, "cHJvb2Y=", {"id": "rs_1"}),),
    "anthropic": (Reasoning(THOUGHT, "cHJvb2Y="),),
    "gemini": (Reasoning(THOUGHT), Reasoning("", "cHJvb2Y=")),
}


@frozen
class Cell:
    """How it went: `refused` names the field where it was, else there are `warnings`, perhaps."""

    refused: str | None = None
    warnings: tuple[str, ...] = ()


class Model:
    """What stands behind the provider: gives a feature's answer, and keeps what it was asked."""

    def __init__(self, provider_name: str, feature: str) -> None:
        self.provider_name, self.feature = provider_name, feature
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Completion:
        self.asked.append(request)
        parts: tuple[Part, ...] = (Text(_TEXT),)
        if self.feature == "tools":
            parts = _CALLS[:1]
        elif self.feature == "parallel tools":
            parts = _CALLS
        elif self.feature == "JSON schema":
            parts = (Text(_JSON),)
        elif self.feature == "reasoning":
            parts = (*_PROOFS.get(self.provider_name, (Reasoning(THOUGHT),)), *parts)
        finish: Any = "tool_calls" if isinstance(parts[0], ToolCall) else "stop"
        return Completion(message=Message("assistant", parts), finish_reason=finish)


async def run(inbound: str, outbound: str, feature: str, *, stream: bool) -> Cell:
    """One call from socket to socket, checked at both ends."""
    kind, spoken, model = PROVIDERS[outbound]
    there = Model(outbound, feature)
    async with Simulator(answer=there, chunk_chars=7) as server:
        options = {} if spoken is None else {"dialect": spoken}
        version = {"gemini": "/v1beta", "cohere": ""}.get(kind, "/v1")
        core = provider(kind, api_key="sk-any-key", base_url=server.url + version, model=model, **options)
        async with Chain(core) as chain:
            body = copy.deepcopy(BODIES[inbound][feature])
            try:
                done, said, wire = await _call(chain, inbound, body, model, stream)
            except Unsupported as error:
                if "param" not in error.metadata or there.asked:
                    raise
                return Cell(refused=error.metadata["param"])
            _check_asked(feature, there.asked[0], done.warnings)
            _check_said(feature, said)
            if feature == "reasoning" and not stream:
                again = replayed(inbound, body, wire)
                await _call(chain, inbound, again, model, stream)
                _check_proof(outbound, there.asked[1])
            return Cell(warnings=done.warnings)


async def _call(
    chain: Chain, inbound: str, body: dict[str, Any], model: str, stream: bool
) -> tuple[Completion, Said, Any]:
    """What a gateway does with a body, and what its caller reads."""
    dialect = dialects.get(inbound)
    if inbound != "gemini.generate" and stream:
        body = {**body, "stream": True}
        if inbound == "openai.chat":
            body["stream_options"] = {"include_usage": True}
    request = evolve(dialect.decode_request(orjson.loads(orjson.dumps(body))), model=model, stream=stream)
    if not stream:
        done = await chain.complete(request)
        wire = orjson.loads(orjson.dumps(dialect.encode_reply(done)))
        return done, read_full(inbound, wire), wire
    encoder = dialect.encoder(request)
    async with chain.stream(request) as reply:
        data = b"".join([encoder.feed(event) async for event in reply]) + encoder.close()
        whole = reply.completion
    assert isinstance(whole, Completion)
    return whole, read_stream(inbound, data), data


def _check_asked(feature: str, asked: Request, warnings: tuple[str, ...]) -> None:
    """What came to the provider is what the caller meant."""
    assert SYSTEM in asked.system
    if feature != "reasoning":
        assert asked.max_tokens == 300
        assert asked.temperature == 0.5
    if "tool" in feature:
        (tool,) = asked.tools
        assert tool.name == "get_weather"
        assert tool.description == "The weather"
        assert set(tool.parameters["properties"]) == {"city", "days"}
        assert tool.parameters["required"] == ["city"]
        assert asked.tool_choice in (None, "auto")
    if feature == "tool results":
        _check_results(asked)
    if feature.startswith("image"):
        parts = [part for message in asked.messages for part in message.parts]
        (picture,) = [part for part in parts if isinstance(part, Image)]
        assert picture.data == PNG if feature == "image" else picture.url == URL, picture
        assert feature != "image" or picture.media_type == "image/png"
        assert any(isinstance(part, Text) and part.text == "What is this?" for part in parts)
    if feature == "JSON schema":
        form = asked.response_format
        if form is None or form.schema is None:
            assert any(warning.startswith("response_format") for warning in warnings), warnings
            assert '"people"' in asked.system
        else:
            assert set(form.schema["properties"]) == {"city", "people"}
            assert form.schema["required"] == CITY["required"]
    if feature == "reasoning":
        wanted = asked.reasoning is not None and asked.reasoning.enabled is not False
        assert wanted or any("reasoning" in warning for warning in warnings), warnings


def _check_results(asked: Request) -> None:
    """Both results are there, each with the call that it answers, in whatever ids."""
    calls = {call.id: call.args["city"] for message in asked.messages for call in message.tool_calls}
    results = [part for message in asked.messages for part in message.parts if isinstance(part, ToolResult)]
    assert sorted(calls.values()) == ["Paris", "Rome"]
    found = {calls[result.id]: result.text for result in results}
    for city, said in RESULTS.values():
        assert said in found[city], found


def _check_said(feature: str, said: Said) -> None:
    """What came to the caller is what the model said."""
    if feature in ("tools", "parallel tools"):
        expected = _CALLS[:1] if feature == "tools" else _CALLS
        assert said.calls == [(call.name, call.args) for call in expected]
        assert len(set(said.ids)) == len(expected)
        assert all(said.ids)
        assert said.finish == "tools"
    else:
        assert said.text == (_JSON if feature == "JSON schema" else _TEXT)
        assert said.finish == "stop"
    if feature == "reasoning":
        assert said.reasoning == THOUGHT
    assert min(said.tokens) > 0


def _check_proof(outbound: str, asked: Request) -> None:
    """The provider's own proof of its reasoning came back to it."""
    answered = [message for message in asked.messages if message.role == "assistant"][-1]
    assert answered.text == _TEXT
    thoughts = [part for part in answered.parts if isinstance(part, Reasoning)]
    proofs = [part.signature or part.encrypted for part in thoughts]
    if outbound in _PROOFS:
        assert "cHJvb2Y=" in proofs, thoughts
    else:
        assert not any(proofs)
