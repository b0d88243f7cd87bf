"""A detector: one way in which something is written, and what is known of it beforehand."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.middleware.redact.checks import CONTEXT, Check
from llmpipe.middleware.redact.linear import Shape, analyse, reach
from llmpipe.middleware.redact.view import View

__all__ = ("Detector", "custom")

_MAX_STEPS = 20_000  # at one place of a text; about 0.2 ms there at the worst
_MAX_WIDTH = 10_000
# Always true, and has looked at the next character: at the end of a chunk a match is not decided yet.
_LOOKS_ON = r"(?>(?=[\s\S])|(?![\s\S]))"


@frozen(eq=False)
class Detector:
    """One way in which something of `kind` is written.

    `check` says which part of a match is a finding, if any is. A text in which there is one has at
    least so many `digits`, and passes `hint` if there is one; a `probe` is found in it, which begins
    with a digit; and unless it is `lettered` it has a character that is not `hints.DULL`. All of
    that is cheap to ask before. Where a match was refused, `skip` says up to where all others are:
    of the text, from the place of the match, a place after it.
    """

    kind: str
    pattern: str
    check: Check | None = field(default=None, repr=False)
    digits: int = 0
    hint: Callable[[str], bool] | None = field(default=None, repr=False)
    probe: str | None = field(default=None, repr=False)
    lettered: bool = False
    skip: Callable[[str, int], int] | None = field(default=None, repr=False)

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The pattern, compiled at first use: importing compiles nothing."""
        return re.compile(self.pattern)

    @cached_property
    def reach(self) -> int:
        """Characters from the start of a match on that it may depend on."""
        return reach(self.pattern)

    @cached_property
    def shape(self) -> Shape:
        """What is proved of the pattern."""
        return analyse(self.pattern)


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
