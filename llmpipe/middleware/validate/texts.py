"""What content filters read: every text of a request, with its path."""

from __future__ import annotations

from collections.abc import Iterator

from llmpipe.types import (
    Document,
    EmbeddingRequest,
    Part,
    Reasoning,
    Refusal,
    Request,
    RerankRequest,
    Text,
    ToolCall,
    ToolResult,
)

__all__ = ("texts_of",)


def texts_of(request: Request | EmbeddingRequest | RerankRequest) -> Iterator[tuple[str, str]]:
    """Every text a request carries, with its path: what a content filter reads."""
    if isinstance(request, EmbeddingRequest):
        yield from (
            (f"inputs[{at}]", text) for at, text in enumerate(request.inputs) if isinstance(text, str)
        )
    elif isinstance(request, RerankRequest):
        yield "query", request.query
        yield from ((f"documents[{at}]", text) for at, text in enumerate(request.documents))
    else:
        for at, message in enumerate(request.messages):
            for position, part in enumerate(message.parts):
                yield from _texts_of_part(f"messages[{at}].parts[{position}]", part)
        for at, tool in enumerate(request.tools):
            yield f"tools[{at}].description", tool.description


def _texts_of_part(path: str, part: Part) -> Iterator[tuple[str, str]]:
    if isinstance(part, (Text, Reasoning, Refusal)):
        yield path, part.text
    elif isinstance(part, ToolCall):
        yield f"{path}.arguments", part.arguments
    elif isinstance(part, ToolResult):
        for at, inner in enumerate(part.content):
            yield from _texts_of_part(f"{path}.content[{at}]", inner)
    elif isinstance(part, Document) and part.text is not None:
        yield path, part.text
