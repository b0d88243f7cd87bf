"""How a reply really ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import evolve

from llmpipe.tokens import estimate_request, estimate_tokens
from llmpipe.types import AnyRequest, Completion, Embeddings, Ranking, Usage

__all__ = ("Outcome", "Result", "Status")

Status = Literal["ok", "error", "cancelled", "abandoned"]
Result = Completion | Embeddings | Ranking


class Outcome:
    """What a yielding middleware is resumed with, exactly once, when its reply is over.

    Attributes:
        status: ``ok``; ``error`` (it broke after it had begun); ``cancelled`` (the consumer's task
            was); ``abandoned`` (the consumer, or a middleware further out, closed it early).
        error: what it broke with, or None.
        committed_at, ended_at: monotonic loop seconds.
    """

    __slots__ = ("_fold", "_request", "_result", "_usage", "committed_at", "ended_at", "error", "status")

    def __init__(  # noqa: PLR0917  made for every call, and keywords cost a third more
        self,
        status: Status = "ok",
        error: BaseException | None = None,
        result: Result | None = None,
        fold: Callable[[], Completion] | None = None,
        request: AnyRequest | None = None,
        committed_at: float = 0.0,
        ended_at: float = 0.0,
    ) -> None:
        self.status = status
        self.error = error
        self.committed_at = committed_at
        self.ended_at = ended_at
        self._result = result
        self._fold = fold
        self._request = request
        self._usage: Usage | None = None

    @property
    def ok(self) -> bool:
        """Whether the reply reached its end."""
        return self.status == "ok"

    @property
    def completion(self) -> Result:
        """The reply as it passed this layer: whole if `ok`, else what had arrived of it."""
        if self._result is None:
            self._result = Completion() if self._fold is None else self._fold()
        return self._result

    @property
    def usage(self) -> Usage:
        """Tokens used; what the provider said, or an estimate marked as such. Never missing."""
        if self._usage is None:
            result = self.completion
            told = result.usage
            # Anthropic's streams tell one token of output at the start, so what was told before the
            # finish is no count of what came.
            finished = self.status == "ok" or getattr(result, "finish_reason", None) is not None
            if told is not None and finished:
                self._usage = told
            else:
                self._usage = _estimate(self._request, result, told)
        return self._usage

    def __repr__(self) -> str:
        return f"Outcome({self.status!r}, {self.error!r})"


def _estimate(request: AnyRequest | None, result: Result, told: Usage | None) -> Usage:
    """Usage of a reply whose provider did not say: the estimator's count of what went and came."""
    output = 0
    if isinstance(result, Completion):
        message = result.message
        calls = "".join(call.name + call.arguments for call in message.tool_calls)
        output = sum(estimate_tokens(text) for text in (message.text, message.reasoning, calls) if text)
    if told is not None:  # the input was told at the start, the stream was cut before the output was
        output = max(output, told.output_tokens)
        if told.input_tokens:
            return evolve(told, output_tokens=output, source="estimated")
    return Usage(0 if request is None else estimate_request(request), output, source="estimated")
