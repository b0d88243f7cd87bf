"""A detector: one way in which something is written, and what is known of it beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cached_property, partial

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact.checks import CONTEXT, Check
from llmpipe.middleware.redact.linear import Shape, analyse, reach
from llmpipe.middleware.redact.planes import Planes, Way, way
from llmpipe.middleware.redact.view import View

__all__ = ("Detector", "custom")

_MAX_STEPS = 20_000  # at one place of a text; about 0.2 ms there at the worst
_MAX_WIDTH = 10_000
_FEW = 256  # characters to a match: to ask the check about all of them takes less than a sieve does
# Always true, and has looked at the next character: at the end of a chunk a match is not decided yet.
_LOOKS_ON = r"(?>(?=[\s\S])|(?![\s\S]))"


@frozen(eq=False)
class Detector:
    """One way in which something of `kind` is written.

    `check` says which part of a match is a finding, if any is. A text in which there is one has at
    least so many `digits`, and passes `hint` if there is one; a `probe` is found in it, which begins
    with a digit; and unless it is `lettered` it has a character that is not `hints.DULL`. All of
    that is cheap to ask before.

    For texts made to be slow: each of `sieves` is a pattern that matches wherever a match is a finding,
    and hardly anywhere else, the finer behind the coarser; `inner` is how the pattern ends, which `re` is
    asked about once for all the beginnings before it; and `places` gives all places where there may be a
    finding, from one place of a text up to another. Where matches may begin within another that comes to
    nothing, it `runs_on`. A detector is not asked where the one is that is named as `instead`, which finds
    all that it finds.
    """

    kind: str
    pattern: str
    check: Check | None = field(default=None, repr=False)
    digits: int = 0
    hint: Callable[[str], bool] | None = field(default=None, repr=False)
    probe: str | None = field(default=None, repr=False)
    lettered: bool = False
    sieves: tuple[str, ...] = field(default=(), repr=False)
    inner: str | None = field(default=None, repr=False)
    places: Callable[[str, int, int], Iterator[int]] | None = field(default=None, repr=False)
    runs_on: bool = False
    instead: Detector | None = field(default=None, repr=False)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern, compiled at first use: importing compiles nothing."""
        return re.compile(self.pattern)

    @cached_property
    def back(self) -> Way | None:
        """From where the pattern can match, as `planes` says it; None where it takes too much."""
        back = way(self.pattern)
        if self.inner is not None:
            back = _through(self.pattern, self.inner)
        if back is None or not self.sieves:
            return back
        pattern, sieves = back, [sieve for text in self.sieves if (sieve := way(text)) is not None]

        def both(planes: Planes, ends: int) -> int:
            found = pattern(planes, ends)
            for sieve in sieves:
                if found.bit_count() * _FEW <= planes.length:
                    break
                found &= sieve(planes, ends)
            return found

        return both

    @cached_property
    def beginnings(self) -> bytes | None:
        """The characters a match begins with; None where that is not one of a few."""
        first = self.shape.first
        return None if first is None else "".join(sorted(first)).encode("ascii", "ignore") + b"?"

    @cached_property
    def reach(self) -> int:
        """Characters from the start of a match on that it may depend on."""
        return reach(self.pattern)

    @cached_property
    def shape(self) -> Shape:
        """What is proved of the pattern."""
        return analyse(self.pattern)


def _through(pattern: str, inner: str) -> Way:
    """From where `pattern` can match, which ends with `inner`."""
    before, after, regex = way(pattern.removesuffix(inner)), way(inner), re.compile(inner)
    assert before is not None
    assert after is not None

    def back(planes: Planes, ends: int) -> int:
        inner = after(planes, ends)
        found = before(planes, inner)
        if found.bit_count() <= 2 * inner.bit_count():  # to ask about each of them is cheaper
            return found
        return before(planes, planes.only(inner, partial(regex.match, planes.text)))

    return back


def custom(kind: str, pattern: str) -> Detector:
    """A detector of one's own.

    Raises: ConfigError for a kind that is no name, and for a pattern that is none, is not bounded,
    may take long, or matches nothing.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", kind):
        raise ConfigError(f"{kind!r} is no name for a kind; it takes small letters, digits and _, 32 at most")
    seen = View()
    seen.feed(pattern)  # letters are written in a pattern as they stand in a view
    shape = analyse(seen.text)
    if shape.steps > _MAX_STEPS or shape.max_width > _MAX_WIDTH:
        raise ConfigError(
            f"pattern of {kind!r} may take {shape.steps} steps at each character and match {shape.max_width} "
            f"of them; at most {_MAX_STEPS} and {_MAX_WIDTH} are allowed. Make its quantifiers possessive "
            f"({{1,64}}+) or smaller: {pattern!r}"
        )
    if re.search(seen.text, ""):
        raise ConfigError(f"pattern of {kind!r} matches the empty text: {pattern!r}")
    if shape.look_behind > CONTEXT:
        raise ConfigError(f"pattern of {kind!r} looks back more than {CONTEXT} characters: {pattern!r}")
    return Detector(kind, f"(?:{seen.text}){_LOOKS_ON}", lettered=True)
