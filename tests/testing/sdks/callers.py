"""Five SDKs behind one face: a conversation that is kept in the SDK's own objects, as its users do."""

from __future__ import annotations

import base64
import json
from typing import Any, Protocol

import pytest
from attrs import define, field

from tests.testing.sdks.common import PLACE, PNG
from tests.testing.sdks.plan import Plan

__all__ = ("CALLERS", "Caller", "Said")

NAMES = ("weather", "forecast")
ANY = "any-model"


@define
class Said:
    """What an SDK made of an answer; calls are (id, name, arguments)."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str, str, dict[str, Any]]] = field(factory=list)
    finish: str = ""


class Caller(Protocol):
    """One conversation.

    `failure` is what the SDK raises for an error status, `broken` for an error in a stream; `words` says
    how a reply ends, in the SDK's words for stop, tool_calls and length.
    """

    failure: Any
    broken: Any
    words: tuple[str, str, str]

    def user(self, text: str, *, picture: bool = False) -> None: ...
    def results(self, told: dict[str, str]) -> None: ...
    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said: ...
    async def close(self) -> None: ...


class OpenAIChatCaller:
    words = ("stop", "tool_calls", "length")

    def __init__(self, url: str) -> None:
        openai: Any = pytest.importorskip("openai")
        self.failure, self.broken = openai.APIStatusError, openai.APIError
        self.client = openai.AsyncOpenAI(
            api_key="k", base_url=f"{url}/v1", max_retries=0, _strict_response_validation=True
        )
        self.history: list[Any] = [{"role": "system", "content": "Be brief."}]
        self.close = self.client.close

    def user(self, text: str, *, picture: bool = False) -> None:
        content: list[Any] = [{"type": "text", "text": text}]
        if picture:
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}})
        self.history.append({"role": "user", "content": content})

    def results(self, told: dict[str, str]) -> None:
        self.history += [{"role": "tool", "tool_call_id": key, "content": said} for key, said in told.items()]

    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said:
        asked: dict[str, Any] = {"model": ANY, "messages": self.history, "max_completion_tokens": 2000}
        if tools:
            function = {"parameters": PLACE, "strict": True}
            asked["tools"] = [{"type": "function", "function": {"name": n, **function}} for n in NAMES]
        if schema:
            asked["response_format"] = Plan
        if think:
            asked["reasoning_effort"] = "low"
        create = self.client.chat.completions
        if stream:
            async with create.stream(**asked, stream_options={"include_usage": True}) as events:
                async for _ in events:
                    pass
                done = await events.get_final_completion()
        else:
            done = await create.parse(**asked)
        message = done.choices[0].message
        assert done.usage.total_tokens > 0
        self.history.append(message)
        if schema:
            assert isinstance(message.parsed, Plan)
        calls = [(c.id, c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or []]
        thought = (message.model_extra or {}).get("reasoning_content") or "".join(
            detail.get("text") or detail.get("summary") or ""
            for detail in (message.model_extra or {}).get("reasoning_details") or []
        )
        return Said(message.content or "", thought, calls, done.choices[0].finish_reason)


class ResponsesCaller:
    words = ("completed", "completed", "incomplete")

    def __init__(self, url: str) -> None:
        openai: Any = pytest.importorskip("openai")
        self.failure, self.broken = openai.APIStatusError, openai.APIError
        self.client = openai.AsyncOpenAI(
            api_key="k", base_url=f"{url}/v1", max_retries=0, _strict_response_validation=True
        )
        self.history: list[Any] = []
        self.close = self.client.close

    def user(self, text: str, *, picture: bool = False) -> None:
        content: list[Any] = [{"type": "input_text", "text": text}]
        if picture:
            url = f"data:image/png;base64,{PNG}"
            content.append({"type": "input_image", "image_url": url, "detail": "auto"})
        self.history.append({"role": "user", "content": content})

    def results(self, told: dict[str, str]) -> None:
        self.history += [
            {"type": "function_call_output", "call_id": key, "output": said} for key, said in told.items()
        ]

    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said:
        asked: dict[str, Any] = {"model": ANY, "input": self.history, "instructions": "Be brief."}
        asked |= {"store": False, "max_output_tokens": 2000}
        if tools:
            function = {"type": "function", "parameters": PLACE, "strict": True}
            asked["tools"] = [{"name": name, **function} for name in NAMES]
        if schema:
            asked["text_format"] = Plan
        if think:
            asked["reasoning"] = {"effort": "low", "summary": "auto"}
            asked["include"] = ["reasoning.encrypted_content"]
        if stream:
            async with self.client.responses.stream(**asked) as events:
                last = [event async for event in events][-1]
                whole = last.type == "response.completed"  # of another end the SDK makes nothing
                done = await events.get_final_response() if whole else last.response
        else:
            done = await self.client.responses.parse(**asked)
        assert done.usage.total_tokens > 0
        self.history += done.output
        if schema:
            assert isinstance(done.output_parsed, Plan)
        said = Said(done.output_text, finish=done.status)
        for item in done.output:
            if item.type == "reasoning":
                said.thinking += "".join(part.text for part in item.summary or item.content or [])
            elif item.type == "function_call":
                said.calls.append((item.call_id, item.name, json.loads(item.arguments)))
        return said


class AnthropicCaller:
    words = ("end_turn", "tool_use", "max_tokens")

    def __init__(self, url: str) -> None:
        anthropic: Any = pytest.importorskip("anthropic")
        self.failure = self.broken = anthropic.APIStatusError
        self.client = anthropic.AsyncAnthropic(
            api_key="k", base_url=url, max_retries=0, _strict_response_validation=True
        )
        self.history: list[Any] = []
        self.close = self.client.close

    def user(self, text: str, *, picture: bool = False) -> None:
        content: list[Any] = [{"type": "text", "text": text}]
        if picture:
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            content.append({"type": "image", "source": source})
        self.history.append({"role": "user", "content": content})

    def results(self, told: dict[str, str]) -> None:
        content = [{"type": "tool_result", "tool_use_id": key, "content": said} for key, said in told.items()]
        self.history.append({"role": "user", "content": content})

    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said:
        asked: dict[str, Any] = {"model": ANY, "messages": self.history, "system": "Be brief."}
        asked["max_tokens"] = 2000
        if tools:
            asked["tools"] = [{"name": name, "input_schema": PLACE} for name in NAMES]
        if schema:
            asked["output_format"] = Plan
        if think:
            asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        if stream:
            async with self.client.messages.stream(**asked) as events:
                async for _ in events:
                    pass
                done = await events.get_final_message()
        else:
            done = await self.client.messages.parse(**asked)
        said = Said(finish=done.stop_reason)
        for block in done.content:
            if block.type == "thinking":
                said.thinking += block.thinking
            elif block.type == "text":
                said.text += block.text
            elif block.type == "tool_use":
                said.calls.append((block.id, block.name, block.input))
        assert done.usage.output_tokens > 0
        if schema:
            assert isinstance(done.parsed_output, Plan)
        content = [block.model_dump(exclude={"parsed_output"}, exclude_none=True) for block in done.content]
        self.history.append({"role": "assistant", "content": content})
        return said


class GoogleCaller:
    words = ("STOP", "STOP", "MAX_TOKENS")

    def __init__(self, url: str) -> None:
        genai: Any = pytest.importorskip("google.genai")
        self.types = genai.types
        self.failure = self.broken = genai.errors.APIError
        self.client = genai.Client(api_key="k", http_options=self.types.HttpOptions(base_url=url)).aio
        self.history: list[Any] = []
        self.names: dict[str, str] = {}
        self.close = self.client.aclose

    def user(self, text: str, *, picture: bool = False) -> None:
        parts = [self.types.Part(text=text)]
        if picture:
            parts.append(self.types.Part.from_bytes(data=base64.b64decode(PNG), mime_type="image/png"))
        self.history.append(self.types.UserContent(parts))

    def results(self, told: dict[str, str]) -> None:
        answer = self.types.FunctionResponse
        answers = [answer(id=k, name=self.names[k], response={"output": said}) for k, said in told.items()]
        parts = [self.types.Part(function_response=one) for one in answers]
        self.history.append(self.types.Content(role="user", parts=parts))

    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said:
        config: dict[str, Any] = {"system_instruction": "Be brief.", "max_output_tokens": 2000}
        if tools:
            functions = [{"name": name, "parameters_json_schema": PLACE} for name in NAMES]
            config["tools"] = [{"function_declarations": functions}]
        if schema:
            config |= {"response_mime_type": "application/json", "response_schema": Plan}
        if think:
            config["thinking_config"] = {"include_thoughts": True, "thinking_budget": 1024}
        asked: Any = {"model": ANY, "contents": self.history, "config": config}
        parts: list[Any] = []
        if stream:
            async for done in await self.client.models.generate_content_stream(**asked):
                # As the SDK's own chats do: one content for each chunk.
                self.history.append(done.candidates[0].content)
                parts += done.candidates[0].content.parts
        else:
            done = await self.client.models.generate_content(**asked)
            self.history.append(done.candidates[0].content)
            parts = done.candidates[0].content.parts
            assert not schema or isinstance(done.parsed, Plan)
        assert done.usage_metadata.total_token_count > 0
        said = Said(finish=done.candidates[0].finish_reason.name)
        for part in parts:
            if part.function_call:
                call = part.function_call
                self.names[call.id] = call.name
                said.calls.append((call.id, call.name, call.args))
            elif part.thought:
                said.thinking += part.text or ""
            else:
                said.text += part.text or ""
        return said


class CohereCaller:
    words = ("COMPLETE", "TOOL_CALL", "MAX_TOKENS")

    def __init__(self, url: str) -> None:
        cohere: Any = pytest.importorskip("cohere")
        self.failure = self.broken = pytest.importorskip("cohere.core.api_error").ApiError
        self.client = cohere.AsyncClientV2(api_key="k", base_url=url, max_retries=0)
        self.history: list[Any] = [{"role": "system", "content": "Be brief."}]

    async def close(self) -> None:
        await self.client.__aexit__(None, None, None)

    def user(self, text: str, *, picture: bool = False) -> None:
        content: list[Any] = [{"type": "text", "text": text}]
        if picture:
            content.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}})
        self.history.append({"role": "user", "content": content})

    def results(self, told: dict[str, str]) -> None:
        self.history += [{"role": "tool", "tool_call_id": key, "content": said} for key, said in told.items()]

    async def ask(
        self, *, stream: bool, tools: bool = False, schema: bool = False, think: bool = False
    ) -> Said:
        asked: dict[str, Any] = {"model": ANY, "messages": self.history, "max_tokens": 2000}
        if tools:
            function = {"parameters": PLACE}
            asked["tools"] = [{"type": "function", "function": {"name": n, **function}} for n in NAMES]
        if schema:
            asked["response_format"] = {"type": "json_object", "schema": Plan.model_json_schema()}
        if think:
            asked["thinking"] = {"type": "enabled", "token_budget": 1024}
        said = await self._streamed(asked) if stream else await self._whole(asked)
        if schema:
            Plan.model_validate_json(said.text)
        return said

    async def _whole(self, asked: dict[str, Any]) -> Said:
        done = await self.client.chat(**asked)
        message = done.message
        assert done.usage.tokens.output_tokens > 0
        self.history.append(message)
        said = Said(finish=done.finish_reason)
        for block in message.content or []:
            said.thinking += block.thinking if block.type == "thinking" else ""
            said.text += block.text if block.type == "text" else ""
        for call in message.tool_calls or []:
            said.calls.append((call.id, call.function.name, json.loads(call.function.arguments)))
        return said

    async def _streamed(self, asked: dict[str, Any]) -> Said:
        """Cohere's SDK does not put a stream together: its users do, and lose what they do not know of."""
        said, calls, last = Said(), {}, None
        async for event in self.client.chat_stream(**asked):
            if event.type in ("content-start", "content-delta"):
                said.text += event.delta.message.content.text or ""
                said.thinking += event.delta.message.content.thinking or ""
            elif event.type == "tool-call-start":
                call = event.delta.message.tool_calls
                calls[event.index] = [call.id, call.function.name, call.function.arguments or ""]
            elif event.type == "tool-call-delta":
                calls[event.index][2] += event.delta.message.tool_calls.function.arguments
            elif event.type == "message-end":
                last = event.delta
        assert last is not None
        if last.finish_reason == "ERROR":
            raise self.failure(status_code=200, body=last.error)
        said.finish = last.finish_reason
        content = [{"type": "thinking", "thinking": said.thinking}] if said.thinking else []
        content += [{"type": "text", "text": said.text}] if said.text else []
        wire = [
            {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}
            for key, name, arguments in calls.values()
        ]
        turn: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": wire}
        self.history.append({name: value for name, value in turn.items() if value})
        said.calls = [(key, name, json.loads(arguments)) for key, name, arguments in calls.values()]
        return said


CALLERS: dict[str, Any] = {
    "openai.chat": OpenAIChatCaller,
    "openai.responses": ResponsesCaller,
    "anthropic.messages": AnthropicCaller,
    "gemini.generate": GoogleCaller,
    "cohere.chat": CohereCaller,
}
