"""A model that calls tools: what it asks for, what it is told, and its answer."""

# region use
import asyncio
from typing import Annotated, Any, Literal

from llmpipe import Chain, Message, MockProvider, ToolCall
from llmpipe.tools import ToolLoop, ToolStart, tool


@tool
async def weather(city: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict[str, Any]:
    """The weather in a city, now.

    Args:
        city: its name in English
    """
    return {"city": city, unit: 3, "sky": "rain"}


def add(a: float, b: Annotated[float, "what is added to it"]) -> float:  # a plain function will do
    """The sum of two numbers."""
    return a + b


async def ask(chain: Chain, question: str) -> None:
    loop = ToolLoop(chain, [weather, add], max_steps=5)
    done = await loop.run(question)
    for step in done.steps:
        for run in step.runs:
            print(step.number, run.call.name, run.call.arguments, "->", run.result.text)
    print(done.text)
    print(f"{len(done.steps)} steps, {len(done.messages)} messages, cost {done.cost}")


async def watch(chain: Chain, question: str) -> None:
    async with ToolLoop(chain, [weather]).stream(question) as run:
        async for event in run:
            if isinstance(event, ToolStart):
                print(f"[{event.call.name} …]", end=" ")
            elif text := getattr(event, "text", ""):
                print(text, end="")
    print()


# endregion use


async def main() -> None:
    from llmpipe import Completion

    def asks_for(*calls: ToolCall) -> Completion:
        return Completion(message=Message("assistant", calls), finish_reason="tool_calls")

    model = MockProvider(
        [
            asks_for(ToolCall("call-1", "weather", '{"town": "Oslo"}')),  # not what the tool takes
            asks_for(
                ToolCall("call-2", "weather", '{"city": "Oslo"}'),
                ToolCall("call-3", "add", '{"a": 1, "b": 2}'),
            ),
            "Take an umbrella.",
            asks_for(ToolCall("call-4", "weather", '{"city": "Oslo"}')),
            "It rains, still.",
        ]
    )
    async with Chain(model) as chain:
        await ask(chain, "What do I need in Oslo?")
        await watch(chain, "And now?")


asyncio.run(main())
