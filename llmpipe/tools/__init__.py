"""Python functions as tools, and the bounded loop in which a model calls them until it answers."""

from llmpipe.tools.function import Function, tool
from llmpipe.tools.loop import ToolLoop, run_tools
from llmpipe.tools.result import LoopResult, Step, StepEnd, StepsExceeded, ToolEnd, ToolRun, ToolStart
from llmpipe.tools.stream import LoopStream

__all__ = (
    "Function",
    "LoopResult",
    "LoopStream",
    "Step",
    "StepEnd",
    "StepsExceeded",
    "ToolEnd",
    "ToolLoop",
    "ToolRun",
    "ToolStart",
    "run_tools",
    "tool",
)
