"""A stream that is taken up again where it broke."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmpipe.errors import LLMError
from llmpipe.middleware.continue_.seam import Given, Seam
from llmpipe.middleware.fallback import ask
from llmpipe.pipeline.outcome import Outcome
from llmpipe.pipeline.relay import Relay, batch
from llmpipe.tokens import estimate_tokens
from llmpipe.types import (
    Completion,
    Event,
    Message,
    Reasoning,
    Refusal,
    Request,
    Text,
    ToolCall,
    Usage,
    UsageUpdate,
)
from llmpipe.types.copying import replace

if TYPE_CHECKING:
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.linker import Handler
    from llmpipe.pipeline.outcome import Result, Status
    from llmpipe.pipeline.reply import Reply
    from llmpipe.pipeline.target import Target

__all__ = ("Continued", "Settings", "going_on")

_REASONS: dict[type, str] = {ToolCall: "tool_call", Refusal: "refusal"}


class Settings(Protocol):
    """What of the middleware's settings a stream needs."""

    @property
    def attempts(self) -> int:
        """How often the reply of one call may be taken up again."""
        ...

    @property
    def min_attempt(self) -> float:
        """Seconds to the deadline below which it is not."""
        ...

    def candidates(self, call: Call, error: LLMError, *, anew: bool) -> Sequence[Target]:
        """Who may go on, in order."""
        ...


class Continued(Relay):
    """Reads the reply to `call`, and when it breaks the reply of another target that goes on from there."""

    __slots__ = (
        "_asked",
        "_call",
        "_call_next",
        "_given",
        "_later",
        "_over",
        "_request",
        "_seam",
        "_settings",
        "_spent",
    )

    def __init__(
        self, reply: Reply, call: Call, request: Request, call_next: Handler, settings: Settings
    ) -> None:
        super().__init__(reply)
        self._call = call
        self._call_next = call_next
        self._settings = settings
        self._asked = self._request = request  # by the caller; of the reply that is being read
        self._spent: Usage | None = None
        self._given = Given()
        self._seam: Seam | None = None
        self._over = False
        self._later: list[tuple[Reply, dict[str, Any]]] = []

    async def read(self) -> Sequence[Event]:
        """The next events, of whichever target gives them."""
        while not self._over:
            try:
                events = await batch(self.reply)
            except LLMError as error:
                if not await self._taken_up(error):
                    raise
                assert self._spent is not None
                return (UsageUpdate(self._spent),)
            if not events:
                self._over = True
                return self._rest()
            if self._seam is None:
                self._given.note(events)
                return events
            if joined := self._seam.join(events):
                return joined
        return ()

    async def drain(self) -> Sequence[Event]:
        """End the reply, all content of which was delivered; what came of it after that."""
        events = await super().drain()
        return events if self._seam is None else [*self._seam.join(events), *self._rest()]

    def _rest(self) -> Sequence[Event]:
        """The usage of all streams together, where the last one did not tell its own."""
        if self._seam is None or self._seam.told:
            return ()
        return (UsageUpdate(_sum(self._spent, _usage("ok", self.reply.completion, self._request))),)

    def amend(self, completion: Completion) -> Completion:
        """What the reply amounts to: flagged, where it was taken up, and with the warnings of all streams."""
        if not self._later:
            return completion
        warnings = [*completion.warnings]
        for reply, told in self._later:
            warnings.append(
                f"the stream of {told['from']} broke after {told['chars']} characters ({told['error']}); "
                f"{told['to']} went on from there"
            )
            warnings += getattr(reply.completion, "warnings", ())
        extra = {**completion.extra, "continued": [told for _, told in self._later]}
        return replace(completion, warnings=tuple(warnings), extra=extra)

    # ------------------------------------------------------------ taking it up

    async def _taken_up(self, error: LLMError) -> bool:
        """Whether another target goes on; from then on its reply is the one that is read."""
        reason = self._reason(error) or await self._go_on(error)
        if reason:
            self._call.note("stream.not_continued", reason=reason, error=error.type)
        return not reason

    async def _go_on(self, error: LLMError) -> str:
        """Ask who can, until one goes on. Why none did, ``""`` when one does."""
        text = self._text(error.partial)
        request, anew = going_on(self._asked, text)
        call = self._call.evolve(request=request)
        targets = self._settings.candidates(self._call, error, anew=anew)
        failures: list[tuple[str, LLMError]] = []
        reason = "failed" if targets else "prefill"
        for place, target in enumerate(targets, 1):
            if call.remaining() < self._settings.min_attempt:
                reason = "deadline"
                break
            label = _label(target.name, target.model or request.model)
            try:
                reply = await self._ask(target, call, spare=place < len(targets))
            except LLMError as failure:
                failures.append((label, failure))
                continue
            self._join(reply, error, text, request, label)
            for _, survived in failures:
                survived.survived()
            return ""
        if failures:
            error.metadata["continue"] = [
                {"target": label, "type": failed.type, "message": str(failed)} for label, failed in failures
            ]
        return reason

    async def _ask(self, target: Target, call: Call, *, spare: bool) -> Reply:
        if target is (call.target or call.provider):
            return await self._call_next(call if spare is call.spare else call.evolve(spare=spare))
        return await ask(target, call, self._call_next, spare=spare)

    def _join(self, reply: Reply, error: LLMError, text: str, request: Request, label: str) -> None:
        """Read `reply` from now on; `text` is what had been said."""
        self._spent = _sum(self._spent, _usage("error", error.partial, self._request))
        self.reply, self._request = reply.adopt(), request
        self._given.text = text
        self._seam = Seam(self._given, self._spent)
        told = {
            "from": _label(error.provider or "", error.model or ""),
            "to": label,
            "error": error.type,
            "chars": len(text),
        }
        self._later.append((reply, told))
        error.survived()
        self._call.note("stream.continued", **told)

    def _reason(self, error: LLMError) -> str:
        """Why the reply cannot be taken up, ``""`` where it can."""
        partial = error.partial
        if error.rescue not in ("any", "credential"):
            return "error"
        if not isinstance(partial, Completion) or partial.finish_reason is not None:
            return "finished"
        for part in partial.message.parts:
            if not isinstance(part, (Text, Reasoning)):
                return _REASONS.get(type(part), "content")
        wanted = self._asked.response_format
        if wanted is not None and wanted.type != "text" and self._text(partial).strip():
            return "format"
        taken_up = sum(note.kind == "stream.continued" for note in self._call.ledger.notes)
        return "attempts" if taken_up >= self._settings.attempts else ""

    def _text(self, partial: Completion) -> str:
        """All that the caller has been given of the text, `partial` being the last stream's."""
        left_out = 0 if self._seam is None else self._seam.left_out
        return self._given.text + partial.text[left_out:]


def going_on(request: Request, text: str) -> tuple[Request, bool]:
    """The request for the rest of a reply that began with `text`, and whether that is all of it anew.

    The text stands as the assistant's at the end, without its last white space, which Anthropic refuses
    there. Reasoning is not asked for again: Anthropic takes no beginning of an answer together with it.
    """
    said = text.rstrip()
    if not said:
        return request, True
    *before, last = request.messages
    if last.role == "assistant":  # the caller's own beginning of the answer
        messages = (*before, replace(last, parts=(*last.parts, Text(said))))
    else:
        messages = (*request.messages, Message("assistant", said))
    limit = request.max_tokens
    if limit is not None:
        limit = max(1, limit - estimate_tokens(said))
    return replace(request, messages=messages, max_tokens=limit, reasoning=None), False


def _usage(status: Status, result: Result, request: Request) -> Usage:
    """Tokens of one of the streams, told or estimated."""
    return Outcome(status, None, result, None, request).usage


def _sum(before: Usage | None, usage: Usage) -> Usage:
    return usage if before is None else before + usage


def _label(provider: str, model: str) -> str:
    return f"{provider}/{model}" if model else provider
