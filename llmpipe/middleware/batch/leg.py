"""One request of a batch: for whom it is sent, what their guards say of it, and what each has had of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from attrs import define, evolve, field

from llmpipe.errors import BadReply, LLMError
from llmpipe.middleware.batch.sharing import charges_of, shared_out
from llmpipe.middleware.charging import usage_of
from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.share import Share
from llmpipe.types import EmbeddingRequest, Embeddings
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.outcome import Result

__all__ = ("Leg", "Member", "Parted")


@define(eq=False)
class Member:
    """A call on board.

    Attributes:
        weight: its estimated tokens, by which usage and cost are shared out.
        done: set when there is `part`, what it gets, or `error`, why it gets nothing.
        legs: the requests that were sent for it.
        told: what its guards have said of an attempt at a target that was not made then.
    """

    call: Call
    weight: int
    done: asyncio.Future[None]
    legs: list[Leg] = field(factory=list)
    told: tuple[tuple[str, str, str], Call | LLMError] | None = None
    part: Embeddings | None = None
    error: BaseException | None = None

    @property
    def request(self) -> EmbeddingRequest:
        """What it asks."""
        return cast("EmbeddingRequest", self.call.request)


class Parted(Exception):
    """The guards of the members want different things, so they cannot be one request any more.

    None of our errors, so that nothing between retries it, or sends it elsewhere.
    """

    def __init__(self, groups: list[list[Member]]) -> None:
        super().__init__("a batch is sent as several requests")
        self.groups = groups


class Leg:
    """One request for `members`. Its ledger is its own; each member gets its attempts copied, in part.

    Attributes: task is the one that makes the request.
    """

    task: asyncio.Task[None]

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.ledger = Ledger()
        self._owns: dict[str, list[Call]] = {}  # by the mark of an attempt: each member's call for it
        self._shares: dict[int, list[Attempt]] = {}
        for member in members:
            member.legs.append(self)

    def joint(self) -> Call:
        """One call for all: the latest deadline, the highest priority, all inputs in order."""
        calls = [member.call for member in self.members]
        first = calls[0]
        deadlines = [call.deadline for call in calls if call.deadline is not None]
        return first.evolve(
            request=_joined(first.request, [member.request for member in self.members]),
            deadline=max(deadlines) if len(deadlines) == len(calls) else None,
            priority=max(call.priority for call in calls),
            ledger=self.ledger,
            guards=(self._admit,) if any(call.guards or call.barriers for call in calls) else (),
            barriers=(),
            holds=(),
        )

    # ------------------------------------------------------------ before an attempt

    async def _admit(self, attempt: Call) -> Call:
        """Ask every member's own guards, each of its own part; what goes on, with what they changed.

        Raises: Parted where one is refused, or where they do not all want the same request; what the guard
        of the only one raises.
        """
        members = self.members
        owns, refused = [], []
        for member in members:
            try:
                owns.append(await _asked(member, attempt))
            except LLMError as error:
                if len(members) == 1:
                    raise
                member.told = attempt.target_key, error
                refused.append(member)
        admitted = [member for member in members if member not in refused]
        groups = _alike(admitted, owns)
        if len(groups) + len(refused) > 1:
            for member, own in zip(admitted, owns, strict=True):
                member.told = attempt.target_key, own  # asked again, they would hold money twice
            self.ledger.note("batch.parted", calls=len(members), into=len(groups) + len(refused))
            # Each by itself: why one is refused is not for the others to see.
            raise Parted([*groups, *([member] for member in refused)])
        mark = f"batch{len(self._owns) + 1}"
        self._owns[mark] = owns
        request = _joined(owns[0].request, [cast("EmbeddingRequest", own.request) for own in owns])
        return attempt.evolve(request=request, holds=(*attempt.holds, mark))

    # ------------------------------------------------------------ after it

    def part_of(self, result: Embeddings) -> list[Embeddings]:
        """Each member's part of `result`. Raises BadReply where there is not one vector for each input."""
        return shared_out(
            result, [member.request for member in self.members], [member.weight for member in self.members]
        )

    def copy(self, member: Member, error: BaseException | None) -> None:
        """Write into the ledger of a member's call what was done for it.

        `error` is why it leaves before the end, if it does: an attempt that is under way then ends so.
        """
        call, ledger, place = member.call, member.call.ledger, self.members.index(member)
        ledger.notes.extend(self.ledger.notes)
        for attempt in self.ledger.attempts:
            over = attempt.ended_at is not None
            own = self._own(attempt, place)
            copy = evolve(
                self._shares_of(attempt)[place] if over else attempt,
                number=len(ledger.attempts) + 1,
                request=own.request,
                holds=own.holds,
            )
            if not over and error is not None:
                copy.fail(error, call.runtime.now())
            ledger.attempts.append(copy)

    def _own(self, attempt: Attempt, place: int) -> Call:
        """A member's call for that attempt: as its guards left it, or else with the part that is its own."""
        for mark in attempt.holds:
            if mark in self._owns:
                return self._owns[mark][place]
        member = self.members[place]
        return member.call.evolve(request=replace(attempt.request, inputs=member.request.inputs))

    def _shares_of(self, attempt: Attempt) -> list[Attempt]:
        """An attempt that is over as each of the members sees it. Worked out once."""
        shares = self._shares.get(attempt.number)
        if shares is None:
            weights = [member.weight for member in self.members]
            charges, outcomes = charges_of(attempt.charge, weights), self._outcomes(attempt.outcome)
            usage = usage_of(attempt) if len(weights) > 1 else None
            shares = self._shares[attempt.number] = [
                evolve(
                    attempt,
                    charge=charge,
                    outcome=outcome,
                    share=None if usage is None else Share(usage, weights, place),
                )
                for place, (charge, outcome) in enumerate(zip(charges, outcomes, strict=True))
            ]
        return shares

    def _outcomes(self, told: Outcome | None) -> list[Outcome | None]:
        """How an attempt ended, as each sees it: with the own part of the reply."""
        members = self.members
        if told is None or len(members) == 1:
            return [told] * len(members)
        results: Sequence[Result] = [Embeddings()] * len(members)
        if isinstance(told.completion, Embeddings):
            # Not what was asked, it is no part of anybody's answer; what it has cost is.
            with suppress(BadReply):
                results = self.part_of(told.completion)
        return [
            Outcome(
                told.status,
                told.error,
                result,
                None,
                member.call.request,
                told.committed_at,
                told.ended_at,
            )
            for member, result in zip(members, results, strict=True)
        ]


async def _asked(member: Member, attempt: Call) -> Call:
    """The call of a member for that attempt, as its guards leave it. Raises what they raise."""
    call, request = member.call, replace(attempt.request, inputs=member.request.inputs)
    told, member.told = member.told, None
    if told is not None and told[0] == attempt.target_key:
        if isinstance(told[1], LLMError):
            raise told[1]
        return told[1]
    own = attempt.evolve(
        request=request,
        id=call.id,
        started_at=call.started_at,
        user=call.user,
        priority=call.priority,
        deadline=call.deadline,
        guards=call.guards,
        barriers=call.barriers,
        holds=call.holds,
        ledger=call.ledger,
    )
    for guard in call.guards:
        own = await guard(own)
    for barrier in own.barriers:
        await barrier(own)
    return own


def _alike(members: Sequence[Member], owns: Sequence[Call]) -> list[list[Member]]:
    """The members in groups that can still be one request, by what their guards have made of it."""
    groups: list[tuple[object, list[Member]]] = []
    for member, own in zip(members, owns, strict=True):
        request = cast("EmbeddingRequest", own.request)
        shape = (replace(request, inputs=()), len(request.inputs) == len(member.request.inputs))
        found = next((group for known, group in groups if known == shape and shape[1]), None)
        if found is None:
            groups.append((shape, [member]))
        else:
            found.append(member)
    return [group for _, group in groups]


def _joined(request: object, parts: Sequence[EmbeddingRequest]) -> EmbeddingRequest:
    inputs = tuple(item for part in parts for item in part.inputs)
    return replace(cast("EmbeddingRequest", request), inputs=inputs)
