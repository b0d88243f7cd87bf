"""What the SDKs are asked for, and a model that keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmpipe.testing.simulator import Fault, Rule, Simulator
from llmpipe.testing.simulator.answers import plain_answer
from llmpipe.types import Completion, Message, Part, Request, ToolResult

__all__ = (
    "BOTH",
    "CLAUDE",
    "COMMAND",
    "EMBED",
    "GEMINI",
    "GPT",
    "HELLO",
    "PDF",
    "PLACE",
    "PNG",
    "Model",
    "refusing",
    "results",
    "saying",
)

GPT, CLAUDE, GEMINI, COMMAND = "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash", "command-a-03-2025"
EMBED = "text-embedding-3-small"
HELLO = "Say hello"
BOTH = "What is it like, both now and tomorrow?"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = "JVBERi0xLjQKJSVFT0YK"
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"place": {"type": "string"}},
    "required": ["place"],
    "additionalProperties": False,
}


class Model:
    """What stands behind a simulator: the plain answer or `script`'s, and all that it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.script: Callable[[Request], Completion] = plain_answer

    def __call__(self, request: Request) -> Completion:
        self.asked.append(request)
        return self.script(request)

    @property
    def parts(self) -> list[Part]:
        """All parts of the last request's messages, in order."""
        return [part for message in self.asked[-1].messages for part in message.parts]


def saying(*parts: Part, finish: Any = "stop") -> Callable[[Request], Completion]:
    """A script that says `parts` to everything."""
    return lambda request: Completion(message=Message("assistant", parts), finish_reason=finish)


def results(request: Request) -> dict[str, str]:
    """The results of calls in a request, by the call's id."""
    parts = [part for message in request.messages for part in message.parts]
    return {part.id: part.text for part in parts if isinstance(part, ToolResult)}


def refusing(simulator: Simulator, status: int) -> None:
    """Let `simulator` answer everything with `status`, and a hint to wait three seconds."""
    simulator.rules = (Rule(Fault(status=status, headers={"retry-after": "3"})),)
