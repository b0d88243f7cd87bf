"""What a tool loop comes to: its steps, the tools that ran in each, and what all of it used."""

from __future__ import annotations

from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from attrs import field, frozen

from llmpipe.errors import LLMError
from llmpipe.types import Completion, Cost, Event, Message, ToolCall, ToolResult, Usage

__all__ = (
    "LoopEvent",
    "LoopResult",
    "Step",
    "StepEnd",
    "StepsExceeded",
    "Stopped",
    "ToolEnd",
    "ToolRun",
    "ToolStart",
)

Stopped = Literal["answer", "pending", "max_steps", "cut", "unfinished"]
"""Why a loop is over: the model answered; it asked for a tool that nobody here answers for; it was asked
as often as it may be; its tool calls were cut short or filtered, and none of them ran. ``unfinished``: it
is under way, or has failed, or was left."""


@frozen
class ToolRun:
    """One tool call and what came of it; `error` is what the tool raised, of which the model has the text."""

    call: ToolCall
    result: ToolResult
    seconds: float
    error: Exception | None = field(default=None, eq=False)


@frozen
class Step:
    """The model was asked once, from 1 on, and the tools ran that it asked for, in its order."""

    number: int
    completion: Completion
    runs: tuple[ToolRun, ...] = ()

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """The calls of this step that were not run."""
        done = {run.call.id for run in self.runs}
        return tuple(call for call in self.completion.tool_calls if call.id not in done)


@frozen
class LoopResult:
    """What a loop came to.

    Attributes:
        completion: the model's last reply, as it came.
        messages: the whole conversation, the last reply included: to go on, add to it and ask again.
        steps: every time the model was asked.
        stopped: why it is over, see `Stopped`.
    """

    completion: Completion
    messages: tuple[Message, ...]
    steps: tuple[Step, ...]
    stopped: Stopped = "answer"

    @property
    def text(self) -> str:
        """The text of the last reply."""
        return self.completion.text

    @property
    def pending(self) -> tuple[ToolCall, ...]:
        """Calls of the last step that were not run; the model wants a `ToolResult` for each of them."""
        return self.steps[-1].pending if self.steps else ()

    @property
    def runs(self) -> tuple[ToolRun, ...]:
        """The tools that ran, of all steps."""
        return tuple(run for step in self.steps for run in step.runs)

    @property
    def usage(self) -> Usage | None:
        """Tokens of all steps; None where one of them did not say."""
        total = Usage()
        for step in self.steps:
            if step.completion.usage is None:
                return None
            total += step.completion.usage
        return total

    @property
    def charge(self) -> Cost | None:
        """What all steps cost; None where the price of one is not known. Unknown is never zero."""
        total = Cost()
        for step in self.steps:
            if step.completion.charge is None:
                return None
            total += step.completion.charge
        return total

    @property
    def cost(self) -> Decimal | None:
        """USD of all steps, exact; None when unknown."""
        charge = self.charge
        return None if charge is None else charge.usd


class StepsExceeded(LLMError):
    """The model was asked as often as it may be, and still asks for tools; `partial` is the `LoopResult`."""

    type: ClassVar[str] = "MAX_STEPS"
    default_billed = "yes"


@frozen
class ToolStart:
    """A tool is about to run."""

    call: ToolCall


@frozen
class ToolEnd:
    """A tool has run."""

    run: ToolRun


@frozen
class StepEnd:
    """A step is over: the model has spoken, and its tools have run."""

    step: Step


LoopEvent: TypeAlias = Event | ToolStart | ToolEnd | StepEnd
