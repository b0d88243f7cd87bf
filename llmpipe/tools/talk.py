"""One conversation of a tool loop, step by step: what is asked next, and what is made of the reply."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, fields

from llmpipe.errors import ConfigError, DeadlineExceeded, LLMError
from llmpipe.pipeline.checks import refuse_single, seconds
from llmpipe.runtime import Alarm
from llmpipe.tools.result import LoopResult, Step, StepsExceeded, Stopped, ToolRun
from llmpipe.types import Completion, Message, Part, Request, Tool, ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.chain import Chain
    from llmpipe.tools.run import Runner

__all__ = ("Rules", "Talk", "request_of")

_REQUEST_FIELDS = frozenset(a.name for a in fields(Request))
# The call was cut or taken back, so what stands in its arguments is not all that was meant.
_CUT = frozenset(("length", "content_filter", "refusal", "error"))


class Rules(Protocol):
    """What a conversation goes by; see `llmpipe.tools.loop.ToolLoop`."""

    @property
    def chain(self) -> Chain:
        """Asked once for each step."""
        ...

    @property
    def specs(self) -> tuple[Tool, ...]:
        """The tools, as the model sees them."""
        ...

    @property
    def declared(self) -> frozenset[str]:
        """Names of those that nobody here answers for."""
        ...

    @property
    def runner(self) -> Runner:
        """Runs the others."""
        ...

    @property
    def tool_choice(self) -> Any:
        """Of the first step."""
        ...

    @property
    def max_steps(self) -> int:
        """How often the model is asked, at most."""
        ...

    @property
    def on_max_steps(self) -> str:
        """``error``, ``answer`` or ``stop``."""
        ...

    @property
    def on_step(self) -> Callable[[Step], Any] | None:
        """Called with each step."""
        ...


def request_of(prompt: Any, options: Mapping[str, Any]) -> tuple[Request, dict[str, Any]]:
    """The request that `prompt` is with the fields among `options`, and the rest of these."""
    changes = {key: value for key, value in options.items() if key in _REQUEST_FIELDS}
    rest = {key: value for key, value in options.items() if key not in _REQUEST_FIELDS}
    if isinstance(prompt, Request):
        return evolve(prompt, **changes), rest
    if not isinstance(prompt, str | Message | Mapping):
        refuse_single(prompt, "a prompt is a Request, a text, a message or a list of messages")
    return Request(messages=prompt, **changes), rest


class Talk:
    """The state of one run of a `ToolLoop`; used once, by one task.

    Attributes:
        over: why it is over, or None.
    """

    def __init__(self, loop: Rules, prompt: Any, options: Mapping[str, Any], *, stream: bool) -> None:
        request, self._options = request_of(prompt, options)
        declared = {tool.name for tool in request.tools}
        tools = (*request.tools, *loop.specs)
        if len({tool.name for tool in tools}) != len(tools):
            if both := sorted(declared & {tool.name for tool in loop.specs}):
                raise ConfigError(f"the request and the loop both have a tool called {', '.join(both)}")
            raise ConfigError("the request has two tools of one name")
        self._loop = loop
        self._declared = declared | loop.declared
        self._choice = loop.tool_choice if request.tool_choice is None else request.tool_choice
        self._request = evolve(request, tools=tools, stream=stream)
        self._messages: list[Message] = [*request.messages]
        self._steps: list[Step] = []
        timeout = self._options.pop("timeout", None)
        self._runtime = loop.chain.runtime
        self._deadline = None if timeout is None else self._runtime.now() + seconds(timeout)
        self._heard: Completion | None = None
        self.over: Stopped | None = None

    def next_call(self) -> Call:
        """The call that asks the model once more."""
        request = evolve(self._request, messages=tuple(self._messages), tool_choice=self._tool_choice())
        timeout = None
        if self._deadline is not None:
            timeout = self._deadline - self._runtime.now()
            if timeout <= 0:
                raise self._late()
        return self._loop.chain.new_call(request, timeout=timeout, **self._options)

    def _tool_choice(self) -> Any:
        number = len(self._steps) + 1
        if number == self._loop.max_steps and self._loop.on_max_steps == "answer" and self._request.tools:
            return "none"
        # What forces a tool forces it in the first step only: forced for ever, a model could never answer.
        forced = self._choice not in (None, "auto", "none")
        return None if forced and number > 1 else self._choice

    def heard(self, done: Completion) -> tuple[ToolCall, ...]:
        """Take the model's reply, and give the tool calls to run now."""
        if done.tool_calls:
            done = self._told_apart(done)
        self._heard = done
        self._messages.append(done.message)  # as it came: providers want their signatures back
        asked = done.tool_calls
        if not asked:
            self.over = "answer"
        elif done.finish_reason in _CUT:
            self.over = "cut"
        elif len(self._steps) + 1 >= self._loop.max_steps:
            self.over = "max_steps"
        else:
            if any(call.name in self._declared for call in asked):
                self.over = "pending"
            return tuple(call for call in asked if call.name not in self._declared)
        return ()

    def _told_apart(self, done: Completion) -> Completion:
        """`done` with an id of its own for each tool call that has none, or one that was there before.

        Small servers count from 0 in every reply; others refuse a conversation in which an id stands twice.
        """
        seen = {call.id for message in self._messages for call in message.tool_calls} | {""}
        parts: list[Part] = []
        for part in done.message.parts:
            if isinstance(part, ToolCall):
                if part.id in seen:
                    part = evolve(part, id=self._runtime.new_id("call_"))
                seen.add(part.id)
            parts.append(part)
        if all(part is other for part, other in zip(parts, done.message.parts, strict=True)):
            return done
        return evolve(done, message=evolve(done.message, parts=tuple(parts)))

    async def answer(self, calls: tuple[ToolCall, ...]) -> Step:
        """Run `calls`, which ends the step.

        Raises: StepsExceeded where the model has been asked as often as it may be; DeadlineExceeded.
        """
        if self._deadline is None:
            step = await self._step(calls)
        else:
            with Alarm(self._deadline, self._late):
                step = await self._step(calls)
        if self.over == "max_steps" and self._loop.on_max_steps != "stop":
            raise StepsExceeded(
                f"after {step.number} steps the model still asks for tools; raise max_steps, or let "
                f"on_max_steps='answer' make it answer with what it has",
                partial=self.result(),
                model=step.completion.model or None,
                provider=step.completion.provider or None,
            )
        return step

    async def _step(self, calls: tuple[ToolCall, ...]) -> Step:
        runs: dict[int, ToolRun] = {}
        try:
            if calls:
                await self._loop.runner(calls, runs, self._runtime)
        except BaseException:  # goes on: what the model said, and what ran, is known all the same
            self._enter(runs)
            self.over = None
            raise
        step = self._enter(runs)
        if self._loop.on_step is not None:
            told = self._loop.on_step(step)
            if inspect.isawaitable(told):
                await told
        return step

    def _enter(self, runs: Mapping[int, ToolRun]) -> Step:
        assert self._heard is not None
        made = tuple(run for _, run in sorted(runs.items()))
        self._messages += [Message("tool", run.result) for run in made]
        step = Step(len(self._steps) + 1, self._heard, made)
        self._steps.append(step)
        return step

    def _late(self) -> LLMError:
        return DeadlineExceeded(
            f"the tool loop was out of time after {len(self._steps)} steps",
            partial=self.result() if self._steps else None,
        )

    def result(self) -> LoopResult:
        """What it has come to, so far."""
        done, steps = self._heard or Completion(), tuple(self._steps)
        if self._heard is not None and (not steps or steps[-1].completion is not done):
            steps = (*steps, Step(len(steps) + 1, done))  # its tools have not run
            return LoopResult(done, tuple(self._messages), steps, "unfinished")
        return LoopResult(done, tuple(self._messages), steps, self.over or "unfinished")
