"""What one server of Google's generateContent does in its own way, as data."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ("Quirks",)


@frozen
class Quirks:
    """How one server differs from the others. The defaults are the Gemini API's.

    Attributes:
        json_schema: whether schemas are sent as they are (``parametersJsonSchema``,
            ``responseJsonSchema``: the Gemini API and Vertex AI today); False reduces them to
            the older ``parameters`` and ``responseSchema``, for servers that know no others.
        thinking: how an effort is asked for: ``level`` (Gemini 3 and later), ``budget`` (Gemini 2.5),
            or ``auto``: by the name of the request's model.
        signatures: when a tool call that Gemini did not sign is sent with the documented value that
            skips the check: ``auto`` for models of which Gemini demands one (3 and later), or always,
            or never.
        call_ids: whether calls and their results are sent with the ids that they have; False for
            servers that refuse them. Ids that we made up are never sent.
        labels: whether a request's metadata is sent, as ``labels``: Vertex AI only.
        embeddings_api: ``batchEmbedContents`` (Gemini API), ``predict`` (Vertex AI) or
            ``embedContent``, which takes one input (Vertex AI's ``gemini-embedding-2``).
        count_whole: whether tokens are counted of a whole ``generateContentRequest``, as the Gemini
            API wants it; False sends its fields, as Vertex AI does.
        max_event_bytes: bound of one event of a stream.
    """

    json_schema: bool = True
    thinking: Literal["auto", "level", "budget"] = "auto"
    signatures: Literal["auto", "always", "never"] = "auto"
    call_ids: bool = True
    labels: bool = False
    embeddings_api: Literal["batchEmbedContents", "predict", "embedContent"] = "batchEmbedContents"
    count_whole: bool = True
    max_event_bytes: int = 32 * 1024 * 1024
