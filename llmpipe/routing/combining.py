"""From the answers of an ensemble to the one reply, with the figures of all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from attrs import evolve, frozen

from llmpipe.errors import BadReply, LLMError
from llmpipe.pipeline.call import Call
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.reply import Reply
from llmpipe.routing.answers import Answer, best_of, choice_in, judgement, synthesis
from llmpipe.routing.members import SPARED, Asked, OwnLedger, charge_of
from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import Completion, Cost, Event, Request, Usage, UsageUpdate

__all__ = ("Round", "Rules")

_NOTHING = Cost()


class Rules(Protocol):
    """What a round goes by; see `llmpipe.routing.ensemble.Ensemble`."""

    @property
    def combine(self) -> str:
        """``synthesis``, ``vote`` or ``judge``."""
        ...

    @property
    def judge(self) -> Any:
        """Who writes the synthesis, or judges."""
        ...

    @property
    def strict(self) -> bool:
        """Whether a judge that fails fails the ensemble."""
        ...

    @property
    def key(self) -> Any:
        """What makes two answers the same."""
        ...


@frozen
class Round:
    """One call's members, asked, and their answers, at least one."""

    rules: Rules
    call: Call
    request: Request
    asked: Sequence[Asked]
    answers: Sequence[Answer]
    entered: int
    """Attempts in the call's ledger before the judge's."""

    async def combined(self) -> Reply:
        """The one reply. Raises: what the judge raises, where the rules are strict."""
        rules, answers = self.rules, self.answers
        if len(answers) == 1 or rules.combine == "vote":
            return self._vote()
        if self.call.remaining() <= 0:
            return self._vote("deadline")
        if any(answer.completion.tool_calls for answer in answers):
            return self._vote("tool calls")
        try:
            if rules.combine == "synthesis":
                return await self._synthesis()
            return await self._judgement()
        except LLMError as error:
            if rules.strict:
                raise
            error.survived()
            return self._vote(error.type, lost=self._judged())

    def _judged(self) -> Cost | None:
        """What a judge cost that failed."""
        return charge_of(self.call.ledger.attempts[self.entered :])

    def _vote(
        self, instead: str = "", judged: Completion | None = None, lost: Cost | None = _NOTHING
    ) -> Reply:
        """The answer that most gave; `instead` says why there is a vote where none was asked for."""
        warnings: tuple[str, ...] = ()
        if instead:
            self.call.note("ensemble.voted", reason=instead)
            warnings = (f"ensemble: voted instead of {self.rules.combine}: {instead}",)
        return self._chosen(best_of(self.answers, self.rules.key), judged, warnings, lost)

    async def _judgement(self) -> Reply:
        reply = await self._ask(evolve(judgement(self.request, self.answers), stream=False))
        done = await reply.full()
        assert isinstance(done, Completion)
        place = choice_in(done.text, len(self.answers))
        if place is not None:
            return self._chosen(self.answers[place], done)
        if self.rules.strict:
            raise BadReply(
                f"the judge named none of the {len(self.answers)} answers", partial=done, billed="yes"
            )
        return self._vote("no choice", done)

    async def _synthesis(self) -> Reply:
        request = synthesis(self.request, self.answers)
        reply = await self._ask(request)
        used = self._used()
        if not request.stream:
            # Read to its end here, so that its attempt is settled with its own usage before the sum stands
            # in the reply: Cost would take that for the usage of an attempt that is open.
            done = await reply.full()
            assert isinstance(done, Completion)
            usage = None if used is None or done.usage is None else used + done.usage
            return Reply.of(self._amended(request, used, self._spent(), evolve(done, usage=usage)))
        if used is not None:
            reply.pipe(_Adding(used))
        return reply.amend(partial(self._amended, request, used, self._spent()))

    async def _ask(self, request: Request) -> Reply:
        """The judge's reply; by default the first member that answered judges."""
        target = self.rules.judge or next(one.target for one in self.asked if one.completion is not None)
        request = evolve(request, model=target.model or request.model)
        chain = Chain(target, OwnLedger(), runtime=self.call.runtime)
        return await chain(self.call.evolve(target=None, provider=target, request=request))

    # ------------------------------------------------------------ the figures

    def _amended(
        self, request: Request, used: Usage | None, spent: Cost | None, done: Completion
    ) -> Completion:
        """A synthesis with the figures of all. The usage it told has been added to as it passed."""
        usage = done.usage if used is not None else None
        if usage is None and used is not None:
            usage = used + Usage(estimate_request(request), estimate_tokens(done.text), source="estimated")
        charge = None if spent is None or done.charge is None else spent + done.charge
        return self._signed(done, usage, charge)

    def _chosen(
        self,
        best: Answer,
        judged: Completion | None = None,
        warnings: tuple[str, ...] = (),
        lost: Cost | None = _NOTHING,
    ) -> Reply:
        used, spent = self._used(), self._spent()
        spent = None if spent is None or lost is None else spent + lost
        if judged is not None:
            used = None if used is None or judged.usage is None else used + judged.usage
            spent = None if spent is None or judged.charge is None else spent + judged.charge
        return Reply.of(self._signed(best.completion, used, spent, best.label, warnings))

    def _signed(
        self,
        done: Completion,
        usage: Usage | None,
        charge: Cost | None,
        winner: str = "",
        warnings: tuple[str, ...] = (),
    ) -> Completion:
        told: dict[str, Any] = {"combine": self.rules.combine, "members": [one.told() for one in self.asked]}
        if winner:
            told["winner"] = winner
        lost = [
            f"ensemble: {one.label} did not answer: {one.lost}"
            for one in self.asked
            if one.lost not in ("", SPARED)
        ]
        return evolve(
            done,
            usage=usage,
            charge=charge,
            warnings=(*done.warnings, *warnings, *lost),
            extra={**done.extra, "ensemble": told},
        )

    def _used(self) -> Usage | None:
        """Tokens of all members that answered; None where one did not say."""
        total = Usage()
        for one in self.asked:
            if one.completion is not None:
                if one.completion.usage is None:
                    return None
                total += one.completion.usage
        return total

    def _spent(self) -> Cost | None:
        """What all members cost, those that failed too; None where one's is not known."""
        total = Cost()
        for one in self.asked:
            charge = one.charge
            if charge is None:
                return None
            total += charge
        return total


class _Adding:
    """A stage that adds what the members used to what the synthesis says it used."""

    def __init__(self, used: Usage) -> None:
        self._used = used

    def feed(self, event: Event) -> tuple[Event, ...]:
        """`event`; where it tells usage, the sum of all."""
        return (UsageUpdate(self._used + event.usage),) if type(event) is UsageUpdate else (event,)

    def flush(self) -> tuple[Event, ...]:
        """Nothing is held back."""
        return ()
