"""What `conform` runs a middleware through: requests, scripts, ways to consume, moments to cancel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random
from typing import Literal

from attrs import frozen

from llmpipe.errors import InvalidRequest, ServiceUnavailable, StreamBroken
from llmpipe.providers.mock import Line, Step, Wait
from llmpipe.types import (
    AnyRequest,
    Completion,
    EmbeddingRequest,
    Embeddings,
    Finish,
    Message,
    Ranked,
    Ranking,
    Request,
    RerankRequest,
    Usage,
)

__all__ = (
    "ANSWERS",
    "CASES",
    "Case",
    "Shape",
    "Unheard",
    "chunkings",
    "default_requests",
    "parse",
    "script",
    "whole_shape",
)

Shape = Literal["full", "stream", "embeddings", "rerank"]
Mode = Literal["early", "late", "scope"]


class Unheard(Exception):
    """An error that no middleware has heard of."""


@frozen
class Case:
    """One call, and how it goes.

    Attributes:
        shape: ``full``, ``stream``, ``embeddings`` or ``rerank``.
        script: what the provider does, see `script`.
        way: what the caller does: ``read`` it to its end; ``abandoned`` after the first event;
            ``unread``; opened in one task and read in ``another``; ``slow``: read ten days later;
            ``closed`` by a second task in the middle of a read; ``again``: the same call a second
            time; ``hurried``: with half a second to its deadline; ``patient``: with ten days;
            ``company``: a second, equal call at the same time, which is left in peace.
        cancels: the suspensions, counted from 1 over all tasks of the call, at which it is cancelled.
        mode: ``early``: as soon as the task is suspended; ``late``: when what it waits for has
            happened, in the same turn; ``scope``: by an anyio cancel scope, at every turn anew.
    """

    shape: Shape
    script: str
    way: str
    cancels: tuple[int, ...] = ()
    mode: Mode = "early"

    def __str__(self) -> str:
        at = "".join(f"@{place}" for place in self.cancels)
        return f"{self.shape}/{self.script}/{self.way}{at}{f'+{self.mode}' if self.mode != 'early' else ''}"


def parse(text: str) -> Case:
    """The case whose `str` is `text`. Raises ValueError for anything else."""
    name, _, mode = text.partition("+")
    name, *places = name.split("@")
    if name not in CASES or mode not in ("", "late", "scope"):
        raise ValueError(
            f"no case {text!r}; cases are {', '.join(CASES)}, and @7, @7@9, +late, +scope behind them"
        )
    shape, script, way = name.split("/")
    return Case(shape, script, way, tuple(map(int, places)), mode or "early")  # type: ignore[arg-type]  # from CASES


def _matrix() -> Iterator[str]:
    scripts = {
        "full": ("ok", "empty", "error", "refused", "unavailable", "recovering"),
        "stream": ("ok", "empty", "error", "refused", "unavailable", "recovering", "broken", "burst"),
        "embeddings": ("ok", "error", "refused", "unavailable", "recovering"),
        "rerank": ("ok", "error", "unavailable"),
    }
    ways = {
        "full": ("unread", "another", "slow", "again", "hurried", "patient", "company"),
        "stream": (
            "abandoned", "unread", "another", "slow", "closed", "again", "hurried", "patient", "company",
        ),
        "embeddings": ("unread", "another", "again", "hurried", "patient", "company"),
        "rerank": ("again", "company"),
    }  # fmt: skip
    for shape, names in scripts.items():
        yield from (f"{shape}/{name}/read" for name in names)
        yield from (f"{shape}/ok/{way}" for way in ways[shape])


CASES: tuple[str, ...] = tuple(_matrix())
"""The cases without a cancellation, by name: what a test may be parametrised with."""

_PIECES = ("Rain falls on the hills ", "and on the town, ", "and nobody minds it much.")

ANSWERS: tuple[str, ...] = (
    "".join(_PIECES),
    "Write to jane.doe@example.com or ring +44 20 7946 0958; the card is 4111 1111 1111 1111.",
    "Keys: sk-abcdefghijklmnopqrstuvwx and AKIAABCDEFGHIJKLMNOP. Address: 192.168.0.1, ::1.",
    '{"name": "Zoë", "tags": ["naïve", "\\u00e9"], "nested": {"n": [1, 2.5e-3, null, true]}}',
    "```python\nprint('👩\u200d👩\u200d👧 e\u0301 \U0001f1ec\U0001f1e7')\r\n```\n\n  \t trailing space ",
)
"""Texts whose chunking must not matter: prose, personal data, secrets, JSON, code and long graphemes."""


def default_requests() -> tuple[AnyRequest, ...]:
    """A chat request, one for embeddings, and one to rerank."""
    return (
        Request("conform-1", "Tell me about the rain.", max_tokens=200, metadata={"topic": "rain"}),
        EmbeddingRequest("conform-embed-1", ("rain", "snow")),
        RerankRequest("conform-rerank-1", "Which is wet?", ("rain", "dust")),
    )


def whole_shape(request: AnyRequest) -> Shape:
    """The shape of a call that asks for all of the reply at once."""
    if isinstance(request, EmbeddingRequest):
        return "embeddings"
    return "rerank" if isinstance(request, RerankRequest) else "full"


def script(case: Case, answer: str) -> Line:
    """What the provider answers to the call of `case`; with the waits at which it can be cancelled."""
    broken: BaseException
    match case.script:
        case "error":
            return Unheard("nobody has heard of this")
        case "refused":
            return InvalidRequest("the request is wrong and stays wrong")
        case "unavailable" | "recovering":
            return ServiceUnavailable("try again later")
        case "broken" | "burst":
            broken = StreamBroken("the connection was lost") if case.script == "broken" else Unheard("burst")
            return (Wait(1.0), *_pieces(answer)[:3], broken)
        case "empty" if case.shape == "stream":
            return (Wait(1.0), Finish("stop"))
        case "empty":
            return Completion(message=Message("assistant", ()), finish_reason="stop")
    if case.shape == "rerank":
        return Ranking((Ranked(1, 0.75), Ranked(0, 0.25)), "conform-rerank-1", Usage(2))
    if case.shape == "embeddings":
        return _vectors
    return (Wait(1.0), *_pieces(answer))


def _vectors(request: AnyRequest) -> Embeddings:
    """One for each input, as providers do: a middleware may send those of several calls together."""
    assert isinstance(request, EmbeddingRequest)
    vectors = tuple([(0.5, 1.0) if item == "rain" else (0.25, 0.0) for item in request.inputs])
    return Embeddings(vectors, "conform-embed-1", Usage(len(vectors)))


def _pieces(answer: str) -> tuple[Step, ...]:
    """`answer` in three pieces with ten seconds between them, each long enough to be given out."""
    third = max(1, -(-len(answer) // 3))
    pieces: list[Step] = []
    for at in range(0, len(answer), third):
        pieces += [answer[at : at + third], Wait(10.0)]
    return tuple(pieces[:-1])


def chunkings(text: str, random: Random) -> Iterator[tuple[str, Sequence[str]]]:
    """`text` cut in many ways, each with a name: evenly, at every place once or twice, at random."""
    for size in (1, 2, 3, 5, 8, 13):
        yield f"by {size}", [text[at : at + size] for at in range(0, len(text), size)]
    for trial in range(6):
        cuts = sorted(random.sample(range(1, len(text)), min(len(text) - 1, random.randint(1, 12))))
        yield f"at random ({trial})", [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
