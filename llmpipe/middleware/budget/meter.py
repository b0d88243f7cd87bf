"""Cuts a stream that goes far beyond what was held for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from llmpipe.errors import BudgetExceeded
from llmpipe.tokens import estimate_tokens
from llmpipe.types import Event, Finish, ReasoningDelta, RefusalDelta, TextDelta, ToolDelta, UsageUpdate

__all__ = ("FACTOR", "Meter", "SLACK")

FACTOR = 2.5
"""How many times what was held a stream must have brought. The estimate errs high, by 2.1 in one of twenty
Chinese or Greek texts, and an honest answer of exactly `max_tokens` is never cut."""

SLACK = 64
"""Tokens above that; a short estimate errs by more."""


class Meter:
    """A stage that counts what comes, by what the provider tells or else by estimate, and ends it.

    So a provider that ignores `max_tokens` costs at most the output of `FACTOR` times what was asked, of
    `SLACK` tokens, of the `SLACK` characters between two looks, and of one event. Behind its finish nothing
    is cut any more: all of it has come, and is paid for.

    Args: allowed says how many tokens may come, of all attempts so far; it may grow.
    """

    __slots__ = ("_allowed", "_chars", "_estimate", "_finished", "_look_at", "_pieces", "_told")

    def __init__(self, allowed: Callable[[], int]) -> None:
        self._allowed = allowed
        self._pieces: list[str] = []
        self._chars = self._estimate = self._told = 0
        self._look_at = SLACK
        self._finished = False

    def see(self, events: Sequence[Event]) -> None:
        """Count them. Raises: BudgetExceeded."""
        texts = [event.text for event in events if type(event) is TextDelta]
        if len(texts) != len(events):
            texts += [self._text(event) for event in events if type(event) is not TextDelta]
        self._chars += sum(map(len, texts))
        self._pieces += texts
        if (self._chars > self._look_at or self._told > self._look_at) and not self._finished:
            self._look()

    def feed(self, event: Event) -> Iterable[Event]:
        """The event itself. Raises: BudgetExceeded."""
        self.see((event,))
        return (event,)

    def flush(self) -> Iterable[Event]:
        """Nothing is held back."""
        return ()

    def _text(self, event: Event) -> str:
        if isinstance(event, ReasoningDelta | RefusalDelta):
            return event.text
        if isinstance(event, ToolDelta):
            return event.arguments
        if isinstance(event, UsageUpdate):
            self._told = event.usage.output_tokens
        if isinstance(event, Finish):
            self._finished = True
        return ""

    def _look(self) -> None:
        """Count; and say at how many characters to look again: not before it could be too much."""
        self._estimate += estimate_tokens("".join(self._pieces))
        self._pieces.clear()
        most = int(FACTOR * self._allowed()) + SLACK
        # The provider's count goes before ours, as long as it is one of all that came.
        came = max(self._told, self._estimate) if self._told < self._estimate // 4 else self._told
        if came > most:
            raise BudgetExceeded(
                f"the stream was cut: about {came} tokens came, {self._allowed()} were asked for at most "
                "and held; the provider does not keep to max_tokens",
                code="cut",
                sent=True,
                billed="yes",
                phase="stream",
                rescue="none",
                metadata={"tokens": came, "held_tokens": self._allowed()},
            )
        # No character is estimated at more than 3.1 tokens, so a quarter of them cannot be too much.
        self._look_at = self._chars + max(SLACK, (most - came) // 4)
