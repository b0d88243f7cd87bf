"""The suite that a middleware's author runs on it: `await conform(lambda: MyMiddleware(...))`.

It plays every call shape through every way a call can go, and cancels each at every place where it
can be cancelled: the number of places is not listed anywhere but found, by running on until a run
comes to its end undisturbed. All of it on a loop in virtual time, repeatable by its seed.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from random import Random
from types import ModuleType
from typing import Any, cast

from attrs import Factory, define, evolve, frozen

from llmpipe.errors import ConfigError
from llmpipe.pipeline.linker import Middleware
from llmpipe.pipeline.outcome import Result
from llmpipe.runtime import Runtime
from llmpipe.testing.conform_cases import (
    ANSWERS,
    CASES,
    Case,
    chunkings,
    default_requests,
    parse,
    script,
    whole_shape,
)
from llmpipe.testing.conform_laws import LAWS, Violation, judge
from llmpipe.testing.conform_run import Seen, run_case
from llmpipe.types import AnyRequest, Completion, Request, fold

__all__ = ("CASES", "ConformError", "LAWS", "Report", "Violation", "conform")

Make = Callable[[], Middleware]

_MOST_STEPS = 2000  # a call that suspends more often than this is not swept to its end
_UNSWEPT = ("another", "hurried", "patient", "again")  # ways whose places of cancellation others have too


@frozen
class Report:
    """What `conform` did: how many calls, how many of them cancelled, and at how many places."""

    middleware: str
    seed: int
    calls: int
    cancellations: int
    places: int


class ConformError(AssertionError):
    """A middleware breaks the laws of the pipeline.

    Attributes:
        laws: the names of the laws that were broken, each once, in the order of `LAWS`.
        violations: every one that was seen.
    """

    def __init__(self, report: Report, violations: Sequence[Violation]) -> None:
        self.report = report
        self.violations = tuple(violations)
        self.laws = tuple(law for law in LAWS if any(found.law == law for found in violations))
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> Iterator[str]:
        ran = self.report
        yield (
            f"{ran.middleware} breaks {len(self.laws)} of {len(LAWS)} laws "
            f"(seed {ran.seed}, {ran.calls} calls, {ran.cancellations} of them cancelled)"
        )
        for law in self.laws:
            found = [violation for violation in self.violations if violation.law == law]
            yield f"\n  {law}: {LAWS[law]}"
            yield f"    {found[0].case}: {found[0].told}"
            others = list(dict.fromkeys(v.case for v in found if v.case != found[0].case))
            more = f" and {len(others) - 3} more" if others[3:] else ""
            if others:
                yield f"    so do {', '.join(others[:3])}{more}"
            if not found[0].case.startswith("chunking"):
                yield f'    to see it again: conform(..., seed={ran.seed}, only="{found[0].case}")'


async def conform(
    middleware: Middleware | Make,
    *,
    requests: Iterable[AnyRequest] = (),
    answers: Iterable[str] = ANSWERS,
    balance: Callable[..., float] | None = None,
    seed: int = 0,
    pairs: int = 12,
    only: str = "",
) -> Report:
    """Hold `middleware` to the laws of the pipeline, which `LAWS` lists.

    Args:
        middleware: a function that makes a new one for each case (a class will do), or one that
            keeps no state between calls.
        requests: what is asked; by default a chat request, one for embeddings, and one to rerank. Each
            chat request is tried whole and as a stream.
        answers: texts that the provider answers; the first one everywhere, the others to see that
            chunking does not matter.
        balance: gives a number that must be the same again after each case, such as the permits in
            use. It is called with the case's `Runtime` if it takes an argument.
        seed: what chance is drawn from; the same seed runs the same cases.
        pairs: how many calls of each sweep are cancelled a second time while they clean up.
        only: run only the cases whose name (`CASES`) begins with this, or one case that an error named.

    Raises: ConfigError when there is nothing to run, ConformError when a law is broken; it names
    every law and a case that shows it.
    """
    __tracebackhide__ = True  # pytest then shows the report and not this function
    if inspect.isclass(middleware) or not hasattr(middleware, "priority"):
        make = cast("Make", middleware)
    else:
        make = partial(_same, cast("Middleware", middleware))
    if balance is not None and not inspect.signature(balance).parameters:
        balance = partial(_without_runtime, balance)
    asked = tuple(requests) or default_requests()
    suite = _Suite(make, asked, tuple(answers), balance, seed, pairs, only)
    # In a thread, because each case has a loop of its own, and a thread runs one at a time.
    await asyncio.to_thread(suite.run)
    report = Report(suite.name, seed, suite.calls, suite.cancellations, suite.places)
    raised = {found.told for found in suite.violations if found.law == "quiet"}
    violations = [found for found in suite.violations if found.law != "any-task" or found.told not in raised]
    if not suite.judged:
        raise ConfigError(f"no case begins with {only!r}; cases are {', '.join(CASES)}")
    if violations:
        raise ConformError(report, violations)
    return report


def _same(item: Middleware) -> Middleware:
    return item


def _without_runtime(balance: Callable[[], float], _: Runtime) -> float:
    return balance()


@define
class _Suite:
    make: Make
    requests: tuple[AnyRequest, ...]
    answers: tuple[str, ...]
    balance: Callable[[Runtime], float] | None
    seed: int
    pairs: int
    only: str
    name: str = ""
    buffers: bool = False
    timers: int = 0
    calls: int = 0
    judged: int = 0
    cancellations: int = 0
    places: int = 0
    violations: list[Violation] = Factory(list)
    _expected: dict[tuple[str, str], Result | None] = Factory(dict)

    def run(self) -> None:
        item: Any = self.make()
        rings = item.rings() if callable(getattr(item, "rings", None)) else (item,)
        self.name = getattr(item, "__qualname__", type(item).__qualname__)
        self.buffers = any("buffers" in getattr(ring, "traits", ()) for ring in rings)
        for request in self.requests:
            self.timers = self._shared_timers(request)
            if "@" in self.only:
                self._one(parse(self.only), request)
                continue
            for name in CASES:
                if name.startswith(self.only) and _fits(name, request):
                    self._case(parse(name), request)
            if not self.only and isinstance(request, Request):
                self._chunkings(request)

    def _one(self, case: Case, request: AnyRequest) -> None:
        if _fits(str(case), request):
            self._judged(case, request, order=self._order(case))

    def _case(self, case: Case, request: AnyRequest) -> None:
        """The case undisturbed, in two orders; then cancelled at each place, and at some pairs of them."""
        self._judged(case, request)
        self._judged(case, request, order=self.seed)
        if case.way in _UNSWEPT:
            return
        random = Random(f"{self.seed}{case}")  # noqa: S311  a choice of cases
        steps = self._sweep(case, request)
        self.places += steps
        for _ in range(min(self.pairs, steps * steps)):
            first = random.randint(1, steps)
            twice = evolve(case, cancels=(first, first + random.randint(1, 4)))
            self._judged(twice, request, order=self._order(twice))

    def _sweep(self, case: Case, request: AnyRequest) -> int:
        """Cancel at the first place, the second, and so on, until a run ends before it is reached."""
        for place in range(1, _MOST_STEPS):
            # A scope is another way to be cancelled; every third place shows whether it makes a difference.
            for mode in ("early", "late", "scope") if place % 3 == 0 else ("early", "late"):
                seen = self._judged(evolve(case, cancels=(place,), mode=mode), request)
            if seen.steps < place:
                return place - 1
        return _MOST_STEPS

    def _order(self, case: Case) -> int | None:
        return self.seed if len(case.cancels) > 1 else None

    def _judged(self, case: Case, request: AnyRequest, order: int | None = None) -> Seen:
        seen = self._play(case, request, self.answers[0], order)
        self.judged += 1
        expected = None
        if case.script in ("ok", "empty"):
            expected = self._whole(case, request)
        found = judge(case, seen, expected, buffers=self.buffers, timers=self.timers)
        self.violations.extend(found)
        return seen

    def _shared_timers(self, request: AnyRequest) -> int:
        """How many timers are left after two calls, if three leave no more."""
        shape = whole_shape(request)
        two, three = (
            len(self._play(Case(shape, "ok", way), request, self.answers[0], None).timers)
            for way in ("read", "again")
        )
        return two if two == three else 0

    def _whole(self, case: Case, request: AnyRequest) -> Result | None:
        """What the full call gives when nothing disturbs it."""
        shape = whole_shape(request)
        key = (f"{shape}/{case.script}", repr(request))
        if key not in self._expected:
            whole = Case(shape, case.script, "read")
            self._expected[key] = self._play(whole, request, self.answers[0], None).result
        return self._expected[key]

    def _play(self, case: Case, request: AnyRequest, answer: str, order: int | None) -> Seen:
        if isinstance(request, Request):
            request = evolve(request, stream=case.shape == "stream")
        lines = script(case, answer), script(evolve(case, script="ok"), answer)
        self.calls += 1
        self.cancellations += bool(case.cancels)
        return run_case(case, self.make, request, lines, seed=self.seed, order=order, balance=self.balance)

    def _chunkings(self, request: Request) -> None:
        """Every answer, cut in many ways, must come out as the same text."""
        random = Random(self.seed)  # noqa: S311  a choice of cuts
        case = Case("stream", "ok", "read")
        for number, answer in enumerate(self.answers):
            if len(answer) < 2:
                continue
            whole = self._play(Case("full", "ok", "read"), request, answer, None).result
            for how, pieces in chunkings(answer, random):
                self.calls += 1
                streamed = evolve(request, stream=True)
                seen = run_case(case, self.make, streamed, (pieces, pieces), seed=self.seed)
                told = _difference(seen, whole)
                if told:
                    self.violations.append(Violation("chunking", f"chunking of answer {number} {how}", told))


def _fits(name: str, request: AnyRequest) -> bool:
    shape = name.partition("/")[0]
    return ("full" if shape == "stream" else shape) == whole_shape(request)


def _difference(seen: Seen, whole: Result | None) -> str:
    if seen.error is not None or not isinstance(whole, Completion):
        return f"{seen.error!r}" if seen.error is not None and whole is not None else ""
    cut = fold(seen.events)
    if (cut.text, cut.tool_calls, cut.finish_reason) == (whole.text, whole.tool_calls, whole.finish_reason):
        return ""
    return f"{cut.text!r} instead of {whole.text!r}"


class _Module(ModuleType):
    """This module, which can be called: ``llmpipe.testing.conform`` names it and its main function."""

    async def __call__(self, *args: Any, **options: Any) -> Report:
        return await conform(*args, **options)


sys.modules[__name__].__class__ = _Module
