"""What callers of each dialect send, written by hand from the providers' references.

One body for each dialect and feature; `replayed` adds the answer to a conversation as such a caller
gives it back.
"""

from __future__ import annotations

import copy
from typing import Any

__all__ = ("BODIES", "CITY", "DIALECTS", "FEATURES", "PNG", "RESULTS", "SYSTEM", "URL", "replayed")

DIALECTS = ("openai.chat", "openai.responses", "anthropic.messages", "gemini.generate")
FEATURES = (
    "text", "tools", "parallel tools", "tool results", "image", "image URL", "JSON schema", "reasoning",
)  # fmt: skip

SYSTEM = "Be brief."
PROMPT = "What is it like in Paris and in Rome?"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
URL = "https://pictures.example/cat.png"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Where"}, "days": {"type": "integer"}},
    "required": ["city"],
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
RESULTS = {"call_a": ("Paris", "12 degrees"), "call_b": ("Rome", "19 degrees")}


def _chat() -> dict[str, dict[str, Any]]:
    system, user = {"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}
    base = {"model": "m", "messages": [system, user], "max_completion_tokens": 300, "temperature": 0.5}
    function = {"name": "get_weather", "description": "The weather", "parameters": WEATHER}
    tools = {"tools": [{"type": "function", "function": function}], "tool_choice": "auto"}
    calls = [
        {
            "id": key,
            "type": "function",
            "function": {"name": "get_weather", "arguments": f'{{"city":"{city}"}}'},
        }
        for key, (city, _) in RESULTS.items()
    ]
    told = [{"role": "tool", "tool_call_id": key, "content": said} for key, (_, said) in RESULTS.items()]
    history = [system, user, {"role": "assistant", "content": None, "tool_calls": calls}, *told]

    def picture(url: str) -> list[dict[str, Any]]:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
        return [system, {"role": "user", "content": parts}]

    schema = {"name": "city", "schema": CITY, "strict": True}
    return {
        "text": base,
        "tools": base | tools,
        "parallel tools": base | tools | {"parallel_tool_calls": True},
        "tool results": base | tools | {"messages": history},
        "image": base | {"messages": picture(f"data:image/png;base64,{PNG}")},
        "image URL": base | {"messages": picture(URL)},
        "JSON schema": base | {"response_format": {"type": "json_schema", "json_schema": schema}},
        "reasoning": {name: base[name] for name in ("model", "messages")} | {"reasoning_effort": "low"},
    }


def _responses() -> dict[str, dict[str, Any]]:
    base = {
        "model": "m", "instructions": SYSTEM, "input": PROMPT, "max_output_tokens": 300, "temperature": 0.5
    }  # fmt: skip
    tool = {"type": "function", "name": "get_weather", "description": "The weather", "parameters": WEATHER}
    tools = {"tools": [tool], "tool_choice": "auto"}
    calls = [
        {
            "type": "function_call",
            "call_id": key,
            "name": "get_weather",
            "arguments": f'{{"city":"{city}"}}',
        }
        for key, (city, _) in RESULTS.items()
    ]
    told = [
        {"type": "function_call_output", "call_id": key, "output": said} for key, (_, said) in RESULTS.items()
    ]
    history = [{"role": "user", "content": PROMPT}, *calls, *told]

    def picture(url: str) -> list[dict[str, Any]]:
        parts = [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": url, "detail": "auto"},
        ]
        return [{"role": "user", "content": parts}]

    form = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    return {
        "text": base,
        "tools": base | tools,
        "parallel tools": base | tools | {"parallel_tool_calls": True},
        "tool results": base | tools | {"input": history},
        "image": base | {"input": picture(f"data:image/png;base64,{PNG}")},
        "image URL": base | {"input": picture(URL)},
        "JSON schema": base | {"text": form},
        "reasoning": {name: base[name] for name in ("model", "instructions", "input")}
        | {"reasoning": {"effort": "low"}, "store": False, "include": ["reasoning.encrypted_content"]},
    }


def _anthropic() -> dict[str, dict[str, Any]]:
    user = {"role": "user", "content": PROMPT}
    base = {"model": "m", "system": SYSTEM, "messages": [user], "max_tokens": 300, "temperature": 0.5}
    tool = {"name": "get_weather", "description": "The weather", "input_schema": WEATHER}
    tools = {"tools": [tool], "tool_choice": {"type": "auto"}}
    calls = [
        {"type": "tool_use", "id": key, "name": "get_weather", "input": {"city": city}}
        for key, (city, _) in RESULTS.items()
    ]
    told = [
        {"type": "tool_result", "tool_use_id": key, "content": said} for key, (_, said) in RESULTS.items()
    ]
    history = [user, {"role": "assistant", "content": calls}, {"role": "user", "content": told}]

    def picture(source: dict[str, Any]) -> list[dict[str, Any]]:
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
        return [{"role": "user", "content": parts}]

    data = {"type": "base64", "media_type": "image/png", "data": PNG}
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    return {
        "text": base,
        "tools": base | tools,
        "parallel tools": base | tools,
        "tool results": base | tools | {"messages": history},
        "image": base | {"messages": picture(data)},
        "image URL": base | {"messages": picture({"type": "url", "url": URL})},
        "JSON schema": base | {"output_config": {"format": {"type": "json_schema", "schema": CITY}}},
        "reasoning": {name: base[name] for name in ("model", "system", "messages")} | thinking,
    }


def _gemini() -> dict[str, dict[str, Any]]:
    user = {"role": "user", "parts": [{"text": PROMPT}]}
    base: dict[str, Any] = {
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "contents": [user],
        "generationConfig": {"maxOutputTokens": 300, "temperature": 0.5},
    }
    function = {"name": "get_weather", "description": "The weather", "parametersJsonSchema": WEATHER}
    tools = {
        "tools": [{"functionDeclarations": [function]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
    }
    calls = [
        {"functionCall": {"id": key, "name": "get_weather", "args": {"city": city}}}
        for key, (city, _) in RESULTS.items()
    ]
    told = [
        {"functionResponse": {"id": key, "name": "get_weather", "response": {"result": said}}}
        for key, (_, said) in RESULTS.items()
    ]
    history = [user, {"role": "model", "parts": calls}, {"role": "user", "parts": told}]

    def picture(part: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "parts": [{"text": "What is this?"}, part]}]

    form = {"responseMimeType": "application/json", "responseJsonSchema": CITY}
    thinking = {"thinkingConfig": {"thinkingBudget": 1024, "includeThoughts": True}}
    return {
        "text": base,
        "tools": base | tools,
        "parallel tools": base | tools,
        "tool results": base | tools | {"contents": history},
        "image": base | {"contents": picture({"inlineData": {"mimeType": "image/png", "data": PNG}})},
        "image URL": base | {"contents": picture({"fileData": {"mimeType": "image/png", "fileUri": URL}})},
        "JSON schema": base | {"generationConfig": {**base["generationConfig"], **form}},
        "reasoning": base | {"generationConfig": thinking},
    }


BODIES: dict[str, dict[str, dict[str, Any]]] = {
    "openai.chat": _chat(),
    "openai.responses": _responses(),
    "anthropic.messages": _anthropic(),
    "gemini.generate": _gemini(),
}


def replayed(dialect: str, body: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """`body` with the whole reply `answer` and another question, as the caller's own tools put them there."""
    body, more = copy.deepcopy(body), "And then?"
    if dialect == "openai.chat":
        body["messages"] += [answer["choices"][0]["message"], {"role": "user", "content": more}]
    elif dialect == "openai.responses":
        asked = body["input"]
        first = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        body["input"] = [*first, *answer["output"], {"role": "user", "content": more}]
    elif dialect == "anthropic.messages":
        body["messages"] += [
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": more},
        ]
    else:
        body["contents"] += [
            answer["candidates"][0]["content"],
            {"role": "user", "parts": [{"text": more}]},
        ]
    return body
