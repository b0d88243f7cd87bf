"""One answer as several: who gets which part of it, to the last token and nano-USD."""

from __future__ import annotations

from collections.abc import Sequence

from llmpipe.errors import BadReply
from llmpipe.pipeline.share import split
from llmpipe.state.freeze import freeze
from llmpipe.types import Cost, EmbeddingRequest, Embeddings, Usage
from llmpipe.types.copying import replace

__all__ = ("charges_of", "shared_out")


def shared_out(
    result: Embeddings, requests: Sequence[EmbeddingRequest], weights: Sequence[int]
) -> list[Embeddings]:
    """The part of `result` that answers each of the `requests`, in their order.

    Usage and charge are shared out as the `weights`, and their sums are the whole: so they are marked as
    estimated only where that was. Nobody can change what another one has.

    Raises: BadReply (code ``batch_size``) where there is not one vector for each input.
    """
    if len(requests) == 1:
        return [result]
    inputs = sum(len(request.inputs) for request in requests)
    if len(result.vectors) != inputs:
        raise BadReply(
            f"{len(result.vectors)} vectors for {inputs} inputs of {len(requests)} calls",
            code="batch_size",
            phase="body",
        )
    usages = _usages(result.usage, weights)
    charges = charges_of(result.charge, weights)
    headers, extra = freeze(result.headers)[0], freeze(result.extra)[0]
    parts, begin = [], 0
    for request, usage, charge in zip(requests, usages, charges, strict=True):
        end = begin + len(request.inputs)
        vectors = result.vectors[begin:end]
        parts.append(
            replace(result, vectors=vectors, usage=usage, charge=charge, headers=headers, extra=extra)
        )
        begin = end
    return parts


def _usages(usage: Usage | None, weights: Sequence[int]) -> list[Usage | None]:
    if usage is None:
        return [None] * len(weights)
    # Apart, so that a part of the input is never more than the input it is a part of.
    fresh = usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens
    columns = [
        split(total, weights)
        for total in (
            fresh,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens - usage.reasoning_tokens,
            usage.reasoning_tokens,
        )
    ]
    return [
        Usage(new + cached + written, said + thought, cached, written, thought, usage.source)
        for new, cached, written, said, thought in zip(*columns, strict=True)
    ]


def charges_of(charge: Cost | None, weights: Sequence[int]) -> list[Cost | None]:
    """`charge` shared out as the `weights`, to the nano-USD."""
    if charge is None or len(weights) == 1:
        return [charge] * len(weights)
    pairs = zip(split(charge.input_nano, weights), split(charge.output_nano, weights), strict=True)
    return [Cost(input_nano, output_nano, charge.estimated) for input_nano, output_nano in pairs]
