"""When a stream breaks in the middle, ask a target to go on from the text so far. Opt-in.

The text that the caller has been given is sent as the beginning of the assistant's answer, and what comes
back goes on in the same reply: one start, one finish, one text, the usage of both. The reply says so, in
its `warnings` and in ``extra["continued"]``. Where the stream cannot be taken up its own error is
raised, with all that had come in `error.partial`, as without this middleware.

It is taken up when nothing but text, and reasoning before it, had been given out, and only by a target whose
`capabilities.prefill` says that it goes on from such a beginning, with the model that is asked for; any other
would answer anew in the middle of a sentence. Where no text had begun the request is asked anew, and any
target will do.

===========================  =================================================================
note                         detail
===========================  =================================================================
``stream.continued``         ``from`` and ``to`` (provider/model), ``error`` type, ``chars`` so far
``stream.not_continued``     ``error`` type; ``reason``: error (not one that another target could help),
                             finished, tool_call, refusal, content (that is no text), format (JSON was
                             asked for), attempts, deadline, prefill (nobody can), failed
===========================  =================================================================

Source: https://platform.claude.com/docs/en/build-with-claude/prompt-engineering/prefill-claudes-response
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.continue_.continued import Continued
from llmpipe.middleware.names import names
from llmpipe.middleware.numeric import check_numbers
from llmpipe.pipeline import bands
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.provider import capabilities_of
from llmpipe.pipeline.relay import relayed
from llmpipe.types import Request

if TYPE_CHECKING:
    from llmpipe.errors import LLMError
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.reply import Reply
    from llmpipe.pipeline.target import Target

__all__ = ("Continue",)

_closing: ContextVar[frozenset[int]] = ContextVar("llmpipe_continue_closing", default=frozenset())


class _Settings(TypedDict, total=False):
    attempts: int
    models: str | Iterable[str]
    min_attempt: float
    name: str
    priority: int


def _targets(value: Any) -> tuple[Any, ...]:
    targets = tuple(value)
    for place, target in enumerate(targets):
        if not callable(target) or not all(hasattr(target, part) for part in ("name", "endpoint", "model")):
            raise ConfigError(
                f"continue target {place + 1} is a {type(target).__name__}, not a provider or chain"
            )
        if any(target is other for other in targets[:place]):
            raise ConfigError(f"continue target {target.name!r} is given twice")
        if not _prefills(target, target.model):
            which = f" with model {target.model!r}" if _prefills(target, "") else ""
            raise ConfigError(
                f"continue target {target.name!r} cannot go on from the beginning of an answer{which}: "
                f"capabilities.prefill is not set"
            )
    return targets


@frozen(init=False, kw_only=True)
class Continue:
    """Asks a target to go on with a stream that broke: ``Continue(claude)``, ``Continue(a, b, attempts=2)``.

    Attributes:
        targets: providers or chains, asked in this order, the one that broke last; each must be able to go on
            from the beginning of an answer. None given: the target that broke, if it can.
        attempts: how many times the reply of one call is taken up again. 0: never.
        models: patterns of models that may go on, such as ``"claude-haiku-4-5*"``, of those that the targets
            say can. None given: all.
        min_attempt: seconds to the deadline below which nobody is asked.

    Raises: the error that broke the stream, see the module; ConfigError for a target that says it cannot.
    """

    targets: tuple[Any, ...] = field(default=(), converter=_targets)
    attempts: int = 1
    models: tuple[str, ...] = field(default=(), converter=names)
    min_attempt: float = 0.5
    name: str = "continue"
    priority: int = bands.ROUTE + 50

    why: ClassVar[str] = (
        "inside fallback, whose targets need not be able to go on; outside retry and limits, which whoever "
        "goes on passes"
    )
    traits: ClassVar[frozenset[str]] = frozenset({"continues"})

    def __init__(
        self, *alternatives: Target, targets: Iterable[Target] = (), **settings: Unpack[_Settings]
    ) -> None:
        # People list the targets; `evolve` names the field.
        self.__attrs_init__(targets=(*alternatives, *targets), **settings)

    def __attrs_post_init__(self) -> None:
        check_numbers(self, f"{self.name}:")
        if self.attempts < 0:
            raise ConfigError(f"{self.name}: attempts must be at least 0, not {self.attempts}")
        if self.min_attempt < 0:
            raise ConfigError(f"{self.name}: min_attempt is seconds, not below 0")

    async def __call__(self, call: Call, call_next: Handler) -> Reply:
        """The reply, taken up again where it breaks."""
        reply = await call_next(call)
        cfg, request = call.opt(self), call.request
        if not (cfg.attempts and reply.streamed and isinstance(request, Request)):
            return reply
        source = Continued(reply, call, request, call_next, cfg)
        return relayed(source).amend(source.amend)

    def candidates(self, call: Call, error: LLMError, *, anew: bool) -> Sequence[Target]:
        """Who may go on with a reply that `error` broke, in order; `anew`: when nothing was said yet."""
        own: Any = call.target or call.provider
        found: list[tuple[bool, Target]] = []
        for target in self.targets or (own,):
            model = call.target_key[2] if target is own else target.model or call.request.model
            broke = (target.name, model) == (error.provider, error.model)
            if broke and not error.retryable:
                continue
            known = not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)
            if anew or (known and _prefills(target, model)):
                found.append((broke, target))
        return [target for _, target in sorted(found, key=lambda one: one[0])]

    async def aclose(self) -> None:
        """Close the targets."""
        mark = id(self.targets)
        if mark in _closing.get():
            return  # a chain that goes on with itself is closing already
        token = _closing.set(_closing.get() | {mark})
        try:
            async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
                for target in self.targets:
                    stack.push_async_callback(target.aclose)
        finally:
            _closing.reset(token)

    # ------------------------------------------------------------ what explain() asks

    def worst_attempts(self, inner: int) -> int:
        """How many attempts a call may make when one target takes `inner`."""
        return inner * (1 + self.attempts * max(1, len(self.targets)))

    def worst_seconds(self, inner: float) -> float:
        """How long it may take when each target takes `inner`."""
        return inner * (1 + self.attempts * max(1, len(self.targets)))


def _prefills(target: Any, model: str) -> bool:
    """Whether `target` says that it goes on from an assistant message at the end, with `model`."""
    while isinstance(target, Chain):
        target = target.provider
    can = capabilities_of(target, model)
    return can is not None and can.prefill
