"""Which targets can do what a request asks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import fields

from llmpipe.errors import ConfigError, Unsupported
from llmpipe.pipeline.asked import EMULATED, asked_of, in_words
from llmpipe.pipeline.checks import called, nearest
from llmpipe.pipeline.provider import Capabilities
from llmpipe.routing.lane import Lane
from llmpipe.tokens import estimate_request
from llmpipe.types import AnyRequest, Request

__all__ = ("Fit", "required")

_FIELDS = frozenset(a.name for a in fields(Capabilities))
_MUCH = 2.0  # the estimate errs high, by up to that for some scripts; beyond it nothing fits


def required(told: str | Iterable[str]) -> frozenset[str]:
    """The fields of `Capabilities` that are looked at: ``auto`` is all, ``none`` is none, or names.

    Raises: ConfigError for a name that is no field.
    """
    if isinstance(told, str):
        if told in ("auto", "none"):
            return _FIELDS if told == "auto" else frozenset()
        told = (told,)
    if not isinstance(told, Iterable):
        raise ConfigError(f"require is 'auto', 'none' or names of capabilities, not {called(told)}")
    names = frozenset(told)
    for name in names - _FIELDS:
        raise ConfigError(
            f"require names {name!r}, which is no capability{nearest(str(name), ['auto', 'none', *_FIELDS])}"
        )
    return names


class Fit:
    """Chooses among `lanes` those that can do what a request asks; `looked_at` are the fields that count.

    What nobody says of a target counts as a maybe. What can be emulated (`EMULATED`) is a wish: who
    cannot do it is asked only where nobody can.
    """

    __slots__ = ("_able", "_contexts", "_lacking", "_lanes", "_looked_at")

    def __init__(self, lanes: Sequence[Lane], looked_at: frozenset[str]) -> None:
        self._lanes = tuple(lanes)
        self._looked_at = looked_at
        self._able: dict[frozenset[str], tuple[Lane, ...]] = {}
        self._lacking = tuple(self._lacks(lane) for lane in lanes)
        self._contexts = "context_tokens" in looked_at and any(lane.context for lane in lanes)

    def _lacks(self, lane: Lane) -> frozenset[str]:
        can = lane.route.can
        if can is None:
            return frozenset()
        return frozenset(name for name in self._looked_at if getattr(can, name) is False)

    def lanes(self, request: AnyRequest) -> Sequence[Lane]:
        """Those that can answer `request`, at least one. Raises: Unsupported, with what each lacks."""
        asked = asked_of(request)
        able: Sequence[Lane] | None = self._lanes
        if asked:
            able = self._able.get(asked)
            if able is None:
                able = self._able[asked] = self._those_that_can(asked)
            if not able:
                raise self._refusal(asked)
        assert able is not None
        if self._contexts and isinstance(request, Request):
            return self._large_enough(able, request)
        return able

    def _those_that_can(self, asked: frozenset[str]) -> tuple[Lane, ...]:
        for needed in (asked, asked - EMULATED):
            pairs = zip(self._lanes, self._lacking, strict=True)
            able = tuple(lane for lane, lacking in pairs if not needed & lacking)
            if able:
                return able
        return ()

    def _large_enough(self, lanes: Sequence[Lane], request: Request) -> Sequence[Lane]:
        """Those whose context holds the request; where none does by our estimate, those that still may."""
        tokens = estimate_request(request) + (request.max_tokens or 0)
        sizes = [lane.context for lane in lanes]
        if all(size is None or size >= tokens for size in sizes):
            return lanes
        for limit in (tokens, tokens / _MUCH):
            large = [lane for lane, size in zip(lanes, sizes, strict=True) if size is None or size >= limit]
            if large:
                return large
        told = "; ".join(f"{lane.name} holds {size}" for lane, size in zip(lanes, sizes, strict=True))
        raise Unsupported(
            f"no target has room for the about {tokens} tokens of this request: {told}; "
            f"shorten it, or add a target with a larger context",
            phase="validate",
            code="no_target",
            rescue="context",
        )

    def _refusal(self, asked: frozenset[str]) -> Unsupported:
        told = []
        for lane, lacking in zip(self._lanes, self._lacking, strict=True):
            words = ", ".join(in_words(name) for name in sorted((asked & lacking) - EMULATED))
            told.append(f"{lane.name} has no {words}")
        return Unsupported(
            f"no target can do what this request asks: {'; '.join(told)}", phase="validate", code="no_target"
        )
