"""The bounded loop: ask the model, run the tools it asks for, tell it what came of them, until it answers.

The tools of a step run side by side. Whatever goes wrong with one is told to the model, see
`llmpipe.tools.run`. Each step is a call of its own through the chain, with its own retries and limits; a
failure of the chain ends the loop, with the steps that are done known to `on_step` and, of a stream, to
`LoopStream.result`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal

from attrs import field, fields, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.chain import Chain
from llmpipe.tools.function import Function, as_tool
from llmpipe.tools.result import LoopResult, Step
from llmpipe.tools.run import Runner
from llmpipe.tools.stream import LoopStream
from llmpipe.tools.talk import Talk
from llmpipe.types import Completion, NamedTool, Tool

__all__ = ("ToolLoop", "run_tools")

_CHOICES = (None, "auto", "none", "required")
_ON_MAX_STEPS = ("error", "answer", "stop")


def _tools(value: Any) -> tuple[Function | Tool, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ConfigError(f"tools are a {type(value).__name__}; expected a list of functions")
    tools = tuple(as_tool(item) for item in value)
    names = [one.name for one in tools]
    if again := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two tools are called {', '.join(again)}; give one of them another name")
    return tools


def _exceptions(value: Any) -> tuple[type[Exception], ...]:
    kinds = tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise ConfigError(f"raises has {kind!r}; expected classes of exceptions, such as PermissionError")
    return kinds


@frozen
class ToolLoop:
    """Lets the model of `chain` use `tools` until it answers: ``await ToolLoop(chain, tools).run("...")``.

    Attributes:
        chain: asked once for each step.
        tools: functions, of which `llmpipe.tools.tool` makes tools; or a `Tool` that nobody here answers for:
            when the model asks for such a one, the loop is over and the call is pending.
        tool_choice: of the first step, as in a `Request`. ``"required"`` or a `NamedTool` hold for that
            step only, because a model that must call a tool every time can never answer.
        max_steps: how often the model is asked, at most.
        on_max_steps: what happens when it still asks for tools then: ``error`` raises `StepsExceeded`,
            ``stop`` gives what there is, with the calls pending; ``answer`` asks the last time with tool
            choice ``none``, so that it answers with what it has.
        concurrency: tools that run at a time.
        tool_timeout: seconds each tool may take, unless it has a limit of its own; None for no limit.
        max_result_chars: characters of a result that the model is shown.
        raises: exceptions of tools that end the loop, instead of being told to the model.
        on_step: called with each `Step` when it is done; plain or async.

    Raises: ConfigError for what is no tool, two of one name, or a number out of range.
    """

    chain: Chain
    tools: tuple[Function | Tool, ...] = field(converter=_tools)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = field(default=None, kw_only=True)
    max_steps: int = field(default=8, kw_only=True)
    on_max_steps: Literal["error", "answer", "stop"] = field(default="error", kw_only=True)
    concurrency: int = field(default=8, kw_only=True)
    tool_timeout: float | None = field(default=60.0, kw_only=True)
    max_result_chars: int = field(default=100_000, kw_only=True)
    raises: tuple[type[Exception], ...] = field(default=(), converter=_exceptions, kw_only=True)
    on_step: Callable[[Step], Awaitable[None] | None] | None = field(default=None, kw_only=True)

    runner: Runner = field(init=False, repr=False, eq=False)
    specs: tuple[Tool, ...] = field(init=False, repr=False, eq=False)
    declared: frozenset[str] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        self._check()
        functions = {one.name: one for one in self.tools if isinstance(one, Function)}
        specs = tuple(one.tool if isinstance(one, Function) else one for one in self.tools)
        derived = {
            "runner": Runner(
                functions=functions,
                concurrency=self.concurrency,
                timeout=self.tool_timeout,
                max_result_chars=self.max_result_chars,
                raises=self.raises,
            ),
            "specs": specs,
            "declared": frozenset(spec.name for spec in specs if spec.name not in functions),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)  # frozen: this is part of the construction

    def _check(self) -> None:
        chain: Any = self.chain
        if not isinstance(chain, Chain):
            raise ConfigError(f"a tool loop asks a chain, not a {type(chain).__name__}")
        for name in ("max_steps", "concurrency", "max_result_chars"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected a whole number, at least 1")
        timeout: Any = self.tool_timeout
        if timeout is not None and (not isinstance(timeout, int | float) or not timeout > 0):
            raise ConfigError(f"tool_timeout is {timeout!r}; expected seconds, more than 0, or None")
        if self.on_max_steps not in _ON_MAX_STEPS:
            raise ConfigError(f"on_max_steps is {self.on_max_steps!r}; it takes {', '.join(_ON_MAX_STEPS)}")
        if self.on_max_steps == "answer" and self.max_steps < 2:
            raise ConfigError(
                "on_max_steps='answer' needs max_steps of 2 or more: the last step has no tools"
            )
        choice: Any = self.tool_choice
        if isinstance(choice, NamedTool):
            if choice.name not in [one.name for one in self.tools]:
                raise ConfigError(f"tool_choice names {choice.name!r}, which is not among the tools")
        elif choice not in _CHOICES:
            raise ConfigError(f"tool_choice is {choice!r}; it takes auto, none, required or a NamedTool")

    async def run(self, prompt: Any, /, **options: Any) -> LoopResult:
        """What the model says to `prompt`, in the end.

        Takes what `Chain.complete` takes; ``timeout`` is for the whole loop, tools included.

        Raises: StepsExceeded, DeadlineExceeded, whatever the chain raises, and what `raises` lists.
        """
        talk = Talk(self, prompt, options, stream=False)
        while talk.over is None:
            reply = await self.chain(talk.next_call())
            done = await reply.full()
            assert isinstance(done, Completion)
            await talk.answer(talk.heard(done))
        return talk.result()

    def stream(self, prompt: Any, /, **options: Any) -> LoopStream:
        """The same as it comes: ``async with loop.stream(...) as run:``, then iterate; see `LoopStream`."""
        return LoopStream(self.chain, Talk(self, prompt, options, stream=True))


_SETTINGS = frozenset(a.name for a in fields(ToolLoop) if a.init and a.name not in ("chain", "tools"))


async def run_tools(chain: Chain, prompt: Any, /, *, tools: Iterable[Any], **options: Any) -> LoopResult:
    """What the model of `chain` says to `prompt` with `tools` at hand.

    Keywords: the settings of `ToolLoop` and what `Chain.complete` takes. Raises: see `ToolLoop.run`.
    """
    settings = {key: options.pop(key) for key in tuple(options) if key in _SETTINGS}
    loop = ToolLoop(chain, tools, **settings)
    return await loop.run(prompt, **options)
