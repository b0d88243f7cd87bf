"""Rankings, of which OpenAI has none: Cohere's format, which OpenRouter, Together, vLLM and others have.

Sources: https://docs.together.ai/docs/together-and-llamarank; docs/serving/openai_compatible_server.md in
vllm-project/vllm; llama.cpp's tools/server/README.md; Fireworks' as langchain-fireworks reads it
(rerank.py); and recorded traffic of OpenRouter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmpipe.dialects.cohere_chat import rerank as cohere
from llmpipe.dialects.losses import Losses, native
from llmpipe.dialects.openai_chat.errors import error_in
from llmpipe.dialects.openai_chat.words import NAME
from llmpipe.types import Ranking, RerankRequest

__all__ = ("decode_ranking", "encode_rerank_request")


def encode_rerank_request(request: RerankRequest, losses: Losses | None = None) -> dict[str, Any]:
    """The JSON body of a request to rank documents."""
    losses = Losses() if losses is None else losses
    body: dict[str, Any] = {"model": request.model} if request.model else {}
    body["query"] = request.query
    body["documents"] = list(request.documents)
    if request.top_n is not None:
        body["top_n"] = request.top_n
    if request.metadata:
        losses.dropped("metadata", "requests for rankings have none")
    return {**native(request.extra, request.dialect, NAME, "", losses), **body}


def decode_ranking(body: Mapping[str, Any], headers: Mapping[str, str]) -> Ranking:
    """The ranking, the best first. Fireworks calls the results `data`.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no ranking.
    """
    if body.get("error"):
        raise error_in(body, headers=headers, phase="body")
    if "results" not in body and "data" in body:
        body = {**body, "results": body["data"]}
        del body["data"]
    return cohere.decode_ranking(body, headers)
