"""What the simulator does wrong, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from attrs import Factory, field, frozen

from llmpipe.errors import ConfigError
from llmpipe.types import AnyRequest

__all__ = ("Fault", "Rule", "choose")

_COUNTS = (
    "headers_delay",
    "first_delay",
    "between_delay",
    "cut_at",
    "reset_at",
    "cut_after",
    "reset_after",
    "malformed_after",
    "error_after",
)


@frozen(kw_only=True)
class Fault:
    """One way to misbehave. What is not set goes right; several may be set together.

    Attributes:
        status: answer with this status instead of a reply, with `headers` and, where given, `body`
            instead of the dialect's own error.
        silent: accept the request and never answer.
        headers_delay, first_delay, between_delay: seconds before the head of the response, before
            the first token of a stream, before each later one.
        cut_at, reset_at: close (FIN) or reset (RST) the connection after that many bytes of body.
        cut_after, reset_after: the same after that many whole events of a stream.
        malformed_after: after that many events send a line that is not JSON.
        error_after: after that many events send the dialect's error event, and end.
        unfinished: end the stream properly, but without the dialect's own end.
        bytes_per_second: of the body.
        error_body: answer a full call with status 200 and an error as its body.
    """

    status: int | None = None
    headers: Mapping[str, str] = Factory(dict)
    body: bytes | None = None
    silent: bool = False
    headers_delay: float = 0.0
    first_delay: float = 0.0
    between_delay: float = 0.0
    cut_at: int | None = None
    reset_at: int | None = None
    cut_after: int | None = None
    reset_after: int | None = None
    malformed_after: int | None = None
    error_after: int | None = None
    unfinished: bool = False
    bytes_per_second: float | None = None
    error_body: bool = False

    def __attrs_post_init__(self) -> None:
        if self.status is not None and not 100 <= self.status <= 999:
            raise ConfigError(f"status must be an HTTP status, not {self.status}")
        if self.bytes_per_second is not None and not self.bytes_per_second > 0:
            raise ConfigError(f"bytes_per_second must be above 0, not {self.bytes_per_second}")
        for name in _COUNTS:
            if not (getattr(self, name) or 0) >= 0:  # NaN is neither
                raise ConfigError(f"{name} must not be below 0, and is {getattr(self, name)}")


def _rate(rule: Rule, attribute: object, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"rate must lie between 0 and 1, not {value}")


@frozen
class Rule:
    """When a fault happens: every condition must hold; the first rule that matches decides.

    Attributes:
        fault: what happens.
        first, last: numbers of the requests it covers, from 1; None for no bound.
        since, until: seconds after the simulator began.
        rate: chance of each such request, by the simulator's seed.
        when: a test of the request itself.
    """

    fault: Fault
    first: int = 1
    last: int | None = None
    since: float = 0.0
    until: float | None = None
    rate: float = field(default=1.0, validator=_rate)
    when: Callable[[AnyRequest], bool] | None = None

    def matches(self, number: int, seconds: float, request: AnyRequest, random: Random) -> bool:
        """Whether the fault happens to request `number`, `seconds` after the beginning."""
        return (
            self.first <= number
            and (self.last is None or number <= self.last)
            and self.since <= seconds
            and (self.until is None or seconds < self.until)
            and (self.when is None or self.when(request))
            and (self.rate >= 1 or random.random() < self.rate)
        )


def choose(
    rules: tuple[Rule, ...], number: int, seconds: float, request: AnyRequest, random: Random
) -> Fault | None:
    """The fault of the first rule that matches, or None."""
    for rule in rules:
        if rule.matches(number, seconds, request, random):
            return rule.fault
    return None
