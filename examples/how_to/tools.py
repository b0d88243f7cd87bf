"""A model that calls tools: what it asks for, what it is told, and its answer."""

# region use
import asyncio
import json
from collections.abc import Callable
from typing import Any

from llmpipe import Chain, InvalidRequest, Message, MockProvider, Tool, ToolCall, ToolResult


def weather(city: str) -> dict[str, Any]:
    return {"city": city, "celsius": 3, "sky": "rain"}


WEATHER = Tool(
    "weather",
    "The weather in a city, now.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
FUNCTIONS: dict[str, Callable[..., Any]] = {"weather": weather}


def run_tool(asked: ToolCall) -> ToolResult:
    try:
        answer = FUNCTIONS[asked.name](**asked.args)
    except (InvalidRequest, KeyError, TypeError) as mistake:  # the model's; told of it, it may do better
        return ToolResult(asked.id, f"{type(mistake).__name__}: {mistake}", is_error=True)
    return ToolResult(asked.id, json.dumps(answer))


async def ask(chain: Chain, question: str) -> str:
    messages = [Message("user", question)]
    for _ in range(5):  # a model that asks for ever is stopped
        done = await chain.complete(messages, tools=[WEATHER])
        if not done.tool_calls:
            return done.text
        messages.append(done.message)  # what it asked for belongs to the conversation
        messages += [Message("tool", run_tool(asked)) for asked in done.tool_calls]
        print("told:", messages[-1].parts[0])
    raise RuntimeError("five rounds, and no answer")


# endregion use


async def main() -> None:
    from llmpipe import Completion

    def asks_for(*calls: ToolCall) -> Completion:
        return Completion(message=Message("assistant", calls), finish_reason="tool_calls")

    model = MockProvider(
        [
            asks_for(ToolCall("call-1", "weather", '{"town": "Oslo"}')),  # not what the tool takes
            asks_for(ToolCall("call-2", "weather", '{"city": "Oslo"}')),
            "Take an umbrella.",
        ]
    )
    async with Chain(model) as chain:
        print(await ask(chain, "What do I need in Oslo?"))


asyncio.run(main())
