"""Every recorded exchange is read by the dialect that its API belongs to, or a reason says why not.

The table in the documentation is made from what stands here (``LLMPIPE_ACCEPT=1`` writes it).
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmpipe import dialects
from llmpipe.errors import LLMError
from llmpipe.types import Completion, Embeddings, Ranking, fold
from tests.dialects.recordings import Exchange, bytes_of, exchanges

ACCEPT = bool(os.environ.get("LLMPIPE_ACCEPT"))  # here, for tests run without such variables
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "coverage.md"
BEGIN, END = "<!-- made by tests/dialects/test_coverage.py -->", "<!-- end -->"

CHAT, EMBEDDINGS, RERANK, COUNT, MODELS = "chat", "embeddings", "rerank", "count", "models"
# By the whole name of an API, or else by what follows the provider's name.
COVERED: dict[str, tuple[str, str]] = {
    "chat": ("openai.chat", CHAT),
    "openai_chat": ("openai.chat", CHAT),
    "embeddings": ("openai.chat", EMBEDDINGS),
    "models": ("openai.chat", MODELS),
    "responses": ("openai.responses", CHAT),
    "openai_responses": ("openai.responses", CHAT),
    "messages": ("anthropic.messages", CHAT),
    "anthropic_messages": ("anthropic.messages", CHAT),
    "vertex.anthropic": ("anthropic.messages", CHAT),
    "anthropic.count_tokens": ("anthropic.messages", COUNT),
    "generate": ("gemini.generate", CHAT),
    "stream": ("gemini.generate", CHAT),
    "gemini.count_tokens": ("gemini.generate", COUNT),
    "vertex.count_tokens": ("gemini.generate", COUNT),
    "gemini.embed_batch": ("gemini.generate", EMBEDDINGS),
    "vertex.embed": ("gemini.generate", EMBEDDINGS),
    "gemini.models": ("gemini.generate", MODELS),
    "cohere.chat_v2": ("cohere.chat", CHAT),
    "cohere.embed_v2": ("cohere.chat", EMBEDDINGS),
    "rerank": ("cohere.chat", RERANK),
    "cohere.rerank_v2": ("cohere.chat", RERANK),
    "cohere.models_v1": ("cohere.chat", MODELS),
    "converse": ("bedrock.converse", CHAT),
    "converse_stream": ("bedrock.converse", CHAT),
    "ollama.native_chat": ("ollama.chat", CHAT),
}
NOT_COVERED: dict[str, str] = {
    "openai.responses_other": "fetches, counts and compacts stored responses; calls are stateless here",
    "openai.completions": "the interface before chat, which new models do not have",
    "local.completions": "the interface before chat",
    "openai.moderations": "no call to a language model",
    "mistral.ocr": "no call to a language model",
    "anthropic.complete": "the interface before messages, shut down",
    "anthropic.batches": "batches are jobs, not calls",
    "xai.batches": "batches are jobs, not calls",
    "bedrock.invoke": "each model's own format in Amazon's frame; converse is one format for all of them",
    "bedrock.invoke_stream": "as bedrock.invoke",
    "bedrock.count_tokens": "only Anthropic's models have it, in the frame of bedrock.invoke",
    "bedrock.guardrail": "checks a text apart from any call",
    "cohere.chat_v1": "replaced by v2",
    "cohere.embed_v1": "replaced by v2",
    "cohere.rerank_v1": "replaced by v2",
    "cohere.generate_v1": "replaced by chat",
    "cohere.tokenize_v1": "takes a text and not a request, so it cannot say what a call weighs",
    "gemini.cached_contents": "manages what is stored at Google; a request names it in its extra",
    "vertex.cached_contents": "as gemini.cached_contents",
    "gemini.interactions": "a stateful interface beside generateContent",
    "vertex.predict": "an image model's; embeddings by predict are read",
    "ollama.native_generate": "a prompt without messages; chat does the same",
    "ollama.native_embeddings": "the path before /api/embed",
}
FAILS = frozenset(("error-in-200", "finish:ERROR", "stream-cut"))
"""Features of exchanges that end in an error in spite of a 200."""
_READS = {
    EMBEDDINGS: "decode_embeddings",
    RERANK: "decode_ranking",
    COUNT: "decode_count",
    MODELS: "decode_models",
}


def place(api: str) -> tuple[str, str] | None:
    """Dialect and kind of an API; None for one that is not covered."""
    if api in NOT_COVERED:
        return None
    return COVERED[api] if api in COVERED else COVERED[api.partition(".")[2]]


ALL = exchanges(lambda exchange: True)


@pytest.mark.parametrize("exchange", [one for one in ALL if one.values[0]["api"] not in NOT_COVERED])
def test_a_recorded_exchange_is_read_by_its_dialect(exchange):
    name, kind = place(exchange["api"]) or ("", "")
    dialect: Any = dialects.get(name)
    if exchange["status"] != 200:
        error = dialect.decode_error(exchange["status"], exchange["response_headers"], bytes_of(exchange))
        assert isinstance(error, LLMError)
        assert error.status == exchange["status"]
        return
    told = exchange.get("features", FAILS if "error" in exchange["name"] else ())
    try:
        found = _read(dialect, kind, exchange)
    except LLMError:
        if FAILS.isdisjoint(told):
            raise
        return
    if kind == CHAT:
        assert isinstance(found, Completion)
        assert found.message.parts or found.finish_reason or found.extra["status"] == "queued"
    elif kind == EMBEDDINGS:
        assert isinstance(found, Embeddings)
        assert found.vectors
    elif kind == RERANK:
        assert isinstance(found, Ranking)
        assert found.results
    else:
        assert found


def _read(dialect: Any, kind: str, exchange: Exchange) -> Any:
    if kind != CHAT:
        read = getattr(dialect, _READS[kind])
        body = exchange["response"]
        return read(body) if kind in (COUNT, MODELS) else read(body, exchange["response_headers"])
    if "framing" not in exchange:
        return dialect.decode_reply(exchange["response"], exchange["response_headers"])
    kinds = {
        "sse": "text/event-stream",
        "ndjson": "application/x-ndjson",
        "json-array": "application/json",
        "aws-eventstream": "application/vnd.amazon.eventstream",
    }
    decoder = dialect.decoder(kinds[exchange["framing"]])
    binary = "body_base64" in exchange
    data = b64decode(exchange["body_base64"]) if binary else exchange["body"].encode()
    return fold([*decoder.feed(data), *decoder.close()])


def test_the_table_in_the_documentation_is_what_is_covered():
    counted = Counter(one.values[0]["api"] for one in ALL if not one.id.startswith("handmade/"))
    if len(counted) < 20:
        pytest.skip("the recordings are not at hand")
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    old, _, tail = rest.partition(END)
    new = table(counted)
    if ACCEPT:
        PAGE.write_text(f"{head}{BEGIN}\n{new}{END}{tail}", encoding="utf-8")
    else:
        assert old.strip() == new.strip(), "run this test with LLMPIPE_ACCEPT=1 and look at the page"


def table(counted: Counter[str]) -> str:
    """What is covered, by dialect; and what is not, with the reason."""
    lines = ["| dialect | kind | recorded at |", "| --- | --- | --- |"]
    by_place: dict[tuple[str, str], list[str]] = {}
    for api in sorted(counted):
        if (where := place(api)) is not None:
            by_place.setdefault(where, []).append(f"{api} {counted[api]}")
    lines += [
        f"| `{dialect}` | {kind} | {', '.join(apis)} |" for (dialect, kind), apis in sorted(by_place.items())
    ]
    lines += ["", "| not covered | exchanges | why |", "| --- | --- | --- |"]
    lines += [
        f"| {api} | {counted[api]} | {why} |" for api, why in sorted(NOT_COVERED.items()) if counted[api]
    ]
    return "\n".join(lines) + "\n"
