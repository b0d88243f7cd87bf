"""Rankings: ``POST /v2/rerank``, both directions. OpenRouter, Jina, Together and others speak it too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.checked import Fields, invalid
from llmpipe.dialects.cohere_chat.embeddings import usage_of_meta
from llmpipe.dialects.cohere_chat.errors import error_in
from llmpipe.dialects.cohere_chat.parts import NAME
from llmpipe.dialects.cohere_chat.usage import count_of
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.losses import Losses, native
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import Ranked, Ranking, RerankRequest, Usage

__all__ = ("decode_ranking", "decode_rerank_request", "encode_ranking", "encode_rerank_request")

_BODY = frozenset(("id", "model", "results", "usage"))
_ITEM = frozenset(("index", "relevance_score"))
_SHOWN = ("document", "relevant_spans")


def encode_rerank_request(request: RerankRequest, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body of a request to rank documents."""
    losses = Losses() if losses is None else losses
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["query"] = request.query
    body["documents"] = list(request.documents)
    if request.top_n is not None:
        body["top_n"] = request.top_n
    if request.metadata:
        losses.dropped("metadata", "Cohere has none")
    return {**native(request.extra, request.dialect, NAME, "", losses), **body}


def decode_rerank_request(body: dict[str, Any]) -> RerankRequest:
    """A caller's request. Documents are strings, or objects with a `text` and nothing else.

    Raises: InvalidRequest naming the field.
    """
    fields = Fields(body)
    query, documents = fields.need_text("query"), []
    for position, item in enumerate(fields.need("documents").items("documents") or ()):
        if type(item) is dict and item.keys() == {"text"}:
            item = item["text"]
        if type(item) is not str:
            raise invalid(f"documents[{position}]", "a string was expected", code="invalid_type")
        documents.append(item)
    model, top_n = fields.text("model") or "", fields.whole("top_n", 1)
    return RerankRequest(model, query, documents, top_n, extra=fields.unknown(), dialect=NAME)


def decode_ranking(body: Mapping[str, Any], headers: Mapping[str, str]) -> Ranking:
    """The ranking, the best first. Cohere bills searches and no tokens: those are in ``extra["meta"]``.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no ranking.
    """
    results = body.get("results")
    if body.get("error") or not isinstance(results, list):
        if body.get("message") or says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no results", code="no_results", phase="body")
    ranked = [_ranked(item, position) for position, item in enumerate(results)]
    if len({one.index for one in ranked}) < len(ranked):
        raise BadReply("the reply ranks a document twice", code="bad_ranking", phase="body")
    found = headers_of_interest(headers)
    return Ranking(
        results=tuple(sorted(ranked, key=lambda one: -one.score)),
        model=_text(body.get("model")),
        usage=_usage(body.get("usage")) or usage_of_meta(body),
        id=_text(body.get("id")),
        request_id=request_id_in(found),
        headers=found,
        extra=leftover(body, _BODY),
    )


def encode_ranking(ranking: Ranking, request: RerankRequest | None = None) -> dict[str, Any]:
    """The JSON body of a ranking; `request` is not needed for it."""
    results = [
        {
            "index": one.index,
            "relevance_score": one.score,
            **{name: one.extra[name] for name in _SHOWN if name in one.extra},
        }
        for one in ranking.results
    ]
    billed = {} if ranking.usage is None else {"billed_units": {"input_tokens": ranking.usage.input_tokens}}
    meta = ranking.extra.get("meta") or {"api_version": {"version": "2"}, **billed}
    return {"id": ranking.id, "results": results, "meta": meta}


def _ranked(item: object, position: int) -> Ranked:
    if not isinstance(item, dict):
        raise _bad(position, "is not an object")
    index, score = item.get("index"), item.get("relevance_score")
    if type(index) is not int or index < 0:
        raise _bad(position, f"has index {str(index)[:40]!r}")
    if type(score) not in (int, float) or not math.isfinite(score):  # type: ignore[arg-type]  # it is a number
        raise _bad(position, f"has relevance_score {str(score)[:40]!r}")
    return Ranked(index, float(score), leftover(item, _ITEM))  # type: ignore[arg-type]  # it is a number


def _usage(wire: object) -> Usage | None:
    """OpenRouter's: tokens, all of them input."""
    if not isinstance(wire, dict):
        return None
    tokens = count_of(wire.get("total_tokens", wire.get("prompt_tokens")))
    if tokens is None:
        return None
    return Usage(tokens, extra=leftover(wire, frozenset(("total_tokens", "prompt_tokens"))))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bad(position: int, problem: str) -> BadReply:
    return BadReply(f"results[{position}] of the ranking {problem}", code="bad_ranking", phase="body")
