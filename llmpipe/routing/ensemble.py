"""Several models answer one request; what they say becomes one reply.

The members are asked side by side, whole replies even for a streamed call, within `deadline`. Then the
answers are combined:

==============  ==========================================================================
``synthesis``   the judge writes one answer from all of them; for a streamed call it streams
``vote``        the answer that most of them gave, of equals the one of the first member
``judge``       the answer that the judge finds best
==============  ==========================================================================

Of one answer nothing need be combined, and an empty one (filtered, or cut) is none beside others. Where an
answer has tool calls they are voted on, because tool calls cannot be blended. A judge that fails, or says
no number, or for whom no time is left, is replaced by the vote, with a warning, unless `strict`.

What the reply's figures are: `usage` is the sum of what all members and the judge used, and `charge` of
what they cost, None where one of them is not known. Their attempts stand in the call's ledger, so `Cost`
in the chain round the ensemble prices each of them, and its sum takes the place of ours. There is a line
for each member in ``extra["ensemble"]``, and one in `warnings` for each that failed.

==================  ========================================================================
note                detail
==================  ========================================================================
``ensemble.lost``   ``member``, ``error`` type (``LATE``: no answer in time, ``SPARED``: not needed)
``ensemble.voted``  ``reason``: why there was a vote instead of a synthesis or a judgement
==================  ========================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal, TypedDict, Unpack

from attrs import field, frozen

from llmpipe.errors import ConfigError, LLMError, Timeout, Unsupported
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.reply import Reply
from llmpipe.pipeline.target import Target
from llmpipe.routing.answers import Answer
from llmpipe.routing.circle import once_on_the_way
from llmpipe.routing.combining import Round
from llmpipe.routing.members import Asked, ask_all
from llmpipe.types import Completion, Request

__all__ = ("Ensemble",)

MAX_MEMBERS = 5
MAX_ASKED = 30  # requests of one call, when ensembles stand in ensembles: five of five, and their judges
_COMBINE = ("synthesis", "vote", "judge")


class _Settings(TypedDict, total=False):
    combine: Literal["synthesis", "vote", "judge"]
    judge: Target | None
    deadline: float
    quorum: int
    enough: int | None
    strict: bool
    key: Callable[[Completion], object] | None
    name: str
    model: str


def _members(value: Any) -> tuple[Any, ...]:
    members = tuple(value)
    if not members:
        raise ConfigError("an ensemble needs members: Ensemble(openai, claude)")
    if len(members) > MAX_MEMBERS:
        raise ConfigError(f"an ensemble has {MAX_MEMBERS} members at most, not {len(members)}")
    for place, member in enumerate(members):
        _check_target(member, f"member {place + 1}")
    return members


def _check_target(target: Any, what: str) -> None:
    parts = ("name", "endpoint", "model")
    if isinstance(target, type) or not callable(target) or not all(hasattr(target, part) for part in parts):
        kind = f"the class {target.__name__}" if isinstance(target, type) else f"a {type(target).__name__}"
        raise ConfigError(f"{what} of the ensemble is {kind}, not a provider or chain")


@frozen(init=False, kw_only=True)
class Ensemble:
    """A target that asks its members together: ``Chain(Ensemble(openai, claude, combine="vote"))``.

    Attributes:
        targets: providers or chains, five at most; one may stand there twice, to be asked twice. Each
            answers with its own model; one that has none gets the caller's.
        combine: ``synthesis``, ``vote`` or ``judge``; see the module.
        judge: who writes the synthesis, or judges; by default the first member that answered.
        deadline: seconds for the members; who has not answered by then is cancelled. The judge's time comes
            on top.
        quorum: answers there must be; with fewer the ensemble fails.
        enough: answers that are enough, so that the members still at work are cancelled; None waits for all.
        strict: a judge that fails fails the ensemble.
        key: what makes two answers the same, for a vote; by default their text without case, spacing and
            final stop, and their tool calls.

    Raises: an LLMError of its members where fewer than `quorum` answered, the one that tells most about a
    later try, with all of them in its ``metadata["ensemble"]``; ConfigError for no member or too many, or
    a circle.
    """

    targets: tuple[Any, ...] = field(converter=_members)
    combine: Literal["synthesis", "vote", "judge"] = "synthesis"
    judge: Any = None
    deadline: float = 60.0
    quorum: int = 1
    enough: int | None = None
    strict: bool = False
    key: Callable[[Completion], object] | None = None
    name: str = "ensemble"
    model: str = ""

    endpoint: ClassVar[str] = ""
    nests: ClassVar[bool] = True

    def __init__(self, *members: Target, targets: Any = (), **settings: Unpack[_Settings]) -> None:
        # People list the members; a configuration, and `evolve`, name the field.
        self.__attrs_init__(targets=(*members, *targets), **settings)

    def __attrs_post_init__(self) -> None:
        if self.combine not in _COMBINE:
            raise ConfigError(f"ensemble: combine is {self.combine!r}; it takes {', '.join(_COMBINE)}")
        if self.judge is not None:
            _check_target(self.judge, "the judge")
        deadline: Any = self.deadline
        if not isinstance(deadline, int | float) or not deadline > 0:
            raise ConfigError(f"ensemble: deadline is {deadline!r}; expected seconds, more than 0")
        for name, number in (("quorum", self.quorum), ("enough", self.enough)):
            if number is not None and not 1 <= number <= len(self.targets):
                raise ConfigError(
                    f"ensemble: {name} is {number}; expected 1 to {len(self.targets)}, its members"
                )
        if self.enough is not None and self.enough < self.quorum:
            raise ConfigError(
                f"ensemble: enough is {self.enough}, which is less than the quorum {self.quorum}"
            )
        if (count := _asked_by(self)) > MAX_ASKED:
            raise ConfigError(
                f"ensemble: one call would be {count} requests, ensembles within counted; {MAX_ASKED} at most"
            )
        for target in (*self.targets, self.judge):
            if any(inner is self for inner in _within(target)):
                raise ConfigError("ensemble: a member leads back to the ensemble itself")

    async def __call__(self, call: Call) -> Reply:
        """The combined reply, once its first content is in hand."""
        request = call.request
        if not isinstance(request, Request):
            raise Unsupported(
                f"an ensemble answers chat requests, not {type(request).__name__}",
                sent=False,
                phase="validate",
            )
        with once_on_the_way(self, call.id) as once:  # not the ledger's, for each member has its own
            if not once:
                raise ConfigError("ensemble: a member leads back to the ensemble itself")
            asked = [Asked(_label(place, self.targets), target) for place, target in enumerate(self.targets)]
            await ask_all(asked, call, deadline=self.deadline, quorum=self.quorum, enough=self.enough)
            for one in asked:
                if one.lost:
                    call.note("ensemble.lost", member=one.label, error=one.lost)
            answers = [Answer(one.label, one.completion) for one in asked if one.completion is not None]
            if len(answers) < self.quorum:
                raise self._failure(asked, answers)
            for one in asked:
                if isinstance(one.error, LLMError):
                    one.error.survived()
            telling = [answer for answer in answers if answer.says] or answers
            entered = len(call.ledger.attempts)
            return await Round(self, call, request, asked, telling, entered).combined()

    def _failure(self, asked: list[Asked], answers: list[Answer]) -> LLMError:
        errors = [one.error for one in asked if isinstance(one.error, LLMError)]
        best = min(
            errors,
            key=lambda error: (not error.retryable, error.retry_after is None),
            default=Timeout(f"of {len(asked)} members {len(answers)} answered within {self.deadline:g} s"),
        )
        best.metadata["ensemble"] = [one.told() for one in asked]
        if answers and best.partial is None:
            best.partial = answers[0].completion
        return best

    async def aclose(self) -> None:
        """Close the members and the judge."""
        targets = {id(target): target for target in (*self.targets, self.judge) if target is not None}
        async with AsyncExitStack() as stack:  # one that fails to close keeps no other from closing
            for target in targets.values():
                stack.push_async_callback(target.aclose)


def _asked_by(target: Any, above: tuple[Any, ...] = ()) -> int:
    """Requests that one call of `target` is, when nothing fails."""
    if target is None or any(target is one for one in above):
        return 0
    above = (*above, target)
    if isinstance(target, Ensemble):
        members = sum(_asked_by(member, above) for member in target.targets)
        if target.combine == "vote" or len(target.targets) == 1:
            return members
        return members + (1 if target.judge is None else _asked_by(target.judge, above))
    layers = getattr(target, "middleware", ())
    inner = [getattr(target, "provider", None), *getattr(target, "targets", ())]
    inner += [one for layer in layers for one in getattr(layer, "targets", ())]
    return max(1, *(_asked_by(one, above) for one in inner))


def _label(place: int, targets: tuple[Any, ...]) -> str:
    """Provider and model; and its place, where another is called the same."""
    target = targets[place]
    label = f"{target.name}/{target.model}" if target.model else str(target.name)
    same = [other for other in targets if (other.name, other.model) == (target.name, target.model)]
    return f"{label}#{place + 1}" if len(same) > 1 else label


def _within(target: Any) -> Iterator[Any]:
    """`target` and all that it leads to; each once."""
    waiting, seen = [target], set[int]()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [*getattr(one, "targets", ()), getattr(one, "judge", None), getattr(one, "provider", None)]
        for layer in getattr(one, "middleware", ()):
            waiting += getattr(layer, "targets", ())
