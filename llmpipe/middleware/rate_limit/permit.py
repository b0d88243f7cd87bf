"""What one call has taken from its limits."""

from __future__ import annotations

from typing import Protocol

from llmpipe.middleware.rate_limit.ramp import Ramp

__all__ = ("Amounts", "Issuer", "Permit")

Amounts = tuple[float, float, float, float]
"""Requests, tokens, input tokens, output tokens: in the order of the kinds in `buckets`."""


class Issuer(Protocol):
    """Who gives permits and takes them back: a gate."""

    ramp: Ramp
    requests_taken: float
    tokens_taken: float

    @property
    def counts_tokens(self) -> bool:
        """Whether it has a limit of tokens."""
        ...

    def correct(self, more: Amounts, now: float) -> None:
        """Take so much more, or give it back where negative."""
        ...

    def leave(self, held: float | None) -> None:
        """One call less in flight, after so many seconds in flight; None for one that was not sent."""
        ...


class Permit:
    """Reserved amounts and a place in flight. Settled or cancelled once; the second time nothing happens."""

    __slots__ = ("_gate", "_open", "amounts", "epoch", "requests_before", "taken_at", "tokens_before")

    def __init__(self, gate: Issuer, amounts: Amounts, now: float) -> None:
        self._gate = gate
        self._open = True
        self.amounts = amounts
        self.taken_at = now
        self.epoch = gate.ramp.epoch
        # What was ever taken, this included: what comes on top is what a provider's reply cannot know of.
        self.requests_before, self.tokens_before = gate.requests_taken, gate.tokens_taken

    def settle(
        self, now: float, input_tokens: float | None = None, output_tokens: float | None = None
    ) -> None:
        """The call is over. Tokens are corrected to those given; None leaves what was reserved."""
        if not self._open:
            return
        self._open = False
        gate = self._gate
        if gate.counts_tokens:
            _, _, reserved_in, reserved_out = self.amounts
            more_in = 0.0 if input_tokens is None else input_tokens - reserved_in
            more_out = 0.0 if output_tokens is None else output_tokens - reserved_out
            gate.correct((0.0, more_in + more_out, more_in, more_out), now)
        gate.leave(now - self.taken_at)

    def cancel(self, now: float) -> None:
        """Nothing was sent: give all of it back."""
        if not self._open:
            return
        self._open = False
        requests, tokens, inputs, outputs = self.amounts
        self._gate.correct((-requests, -tokens, -inputs, -outputs), now)
        self._gate.leave(None)
