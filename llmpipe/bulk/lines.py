"""The file of requests: one JSON object a line, in the form that OpenAI's or Anthropic's batches have.

::

    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}
    {"custom_id": "2", "params": {…}}

`url` is one of ``/v1/chat/completions``, ``/v1/responses``, ``/v1/embeddings`` and ``/v1/messages``; `params`
are the body of the last. Whom a request goes to is the chain's business and not the file's.

Sources: https://platform.openai.com/docs/guides/batch,
https://docs.claude.com/en/docs/build-with-claude/batch-processing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
from attrs import evolve, frozen

from llmpipe import dialects
from llmpipe.errors import ConfigError, LLMError
from llmpipe.types import Completion, EmbeddingRequest, Embeddings, Request

__all__ = ("Line", "check_lines", "read_lines")

_URLS = {
    "/v1/chat/completions": "openai.chat",
    "/v1/embeddings": "openai.chat",
    "/v1/messages": "anthropic.messages",
    "/v1/responses": "openai.responses",
}
_MAX_LINE = 64 * 1024 * 1024  # bytes
_SHOWN = 20  # problems that one error tells


@frozen
class Line:
    """One request; `url` is what it was written for, and its answer is."""

    custom_id: str
    url: str
    request: Request | EmbeddingRequest

    def encoded(self, reply: Completion | Embeddings) -> dict[str, Any]:
        """The JSON body of the answer. Raises: Unsupported for what its format cannot say."""
        dialect: Any = dialects.get(_URLS[self.url])
        if isinstance(reply, Completion):
            body: dict[str, Any] = dialect.encode_reply(reply)
        else:
            body = dialect.encode_embeddings(reply, self.request)
        return body

    def refusal(self, error: LLMError) -> tuple[int, dict[str, Any]]:
        """Status and JSON body of a failure."""
        status, _, body = dialects.get(_URLS[self.url]).encode_error(error)
        return status, body


def read_lines(path: Path, shard: tuple[int, int] = (0, 1)) -> Iterator[Line]:
    """The requests of one of several shards, in the order of the file.

    Raises: ConfigError for a line that is no request, and for a file that cannot be read.
    """
    for number, told in _objects(path):
        if isinstance(told, str):
            raise ConfigError(f"{path}: line {number}: {told}")
        if _mine(told, shard):
            line = _line(told)
            if isinstance(line, str):
                raise ConfigError(f"{path}: line {number}: {line}")
            yield line


def check_lines(path: Path, shard: tuple[int, int] = (0, 1)) -> set[str]:
    """Look all of the file through; the ids of the requests that the shard has.

    Raises: ConfigError with everything that is wrong, up to twenty lines of it.
    """
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, told in _objects(path):
        if isinstance(told, str):
            problems.append(f"line {number}: {told}")
        elif _mine(told, shard):
            line = _line(told)
            if isinstance(line, str):
                problems.append(f"line {number}: {line}")
            elif line.custom_id in seen:
                before = seen[line.custom_id]
                problems.append(f"line {number}: custom_id {line.custom_id!r} is that of line {before} too")
            else:
                seen[line.custom_id] = number
        if len(problems) > _SHOWN:
            break
    if problems:
        more = ["and more"] if len(problems) > _SHOWN else []
        raise ConfigError("\n".join(f"{path}: {problem}" for problem in [*problems[:_SHOWN], *more]))
    return {*seen}


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Each line that is not blank, with its number; or what is wrong with it."""
    try:
        with path.open("rb") as file:
            number = 0
            while text := file.readline(_MAX_LINE + 1):
                number += 1
                if len(text) > _MAX_LINE:
                    raise ConfigError(f"{path}: line {number} is longer than {_MAX_LINE} bytes")
                if text.strip():
                    yield number, _object(text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _object(text: bytes) -> dict[str, Any] | str:
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return f"this is not JSON: {error}"
    return told if isinstance(told, dict) else "this is not a JSON object"


def _mine(told: dict[str, Any], shard: tuple[int, int]) -> bool:
    index, count = shard
    return count == 1 or crc32(str(told.get("custom_id")).encode("utf-8", "replace")) % count == index


def _line(told: dict[str, Any]) -> Line | str:
    """The request; or what is wrong with it."""
    custom_id = told.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return "custom_id is missing: text that no other line has"
    anthropic = "params" in told
    url = told.get("url", "/v1/messages" if anthropic else "/v1/chat/completions")
    body = told.get("params" if anthropic else "body")
    if not isinstance(url, str) or url not in _URLS:
        return f"url is one of {', '.join(_URLS)}, not {url!r}"
    if told.get("method", "POST") != "POST":
        return f"method is POST, not {told['method']!r}"
    if not isinstance(body, dict):
        return f"{'params' if anthropic else 'body'} is missing: the JSON object of the request"
    dialect: Any = dialects.get(_URLS[url])
    try:
        if url == "/v1/embeddings":
            return Line(custom_id, url, dialect.decode_embedding_request(body))
        return Line(custom_id, url, evolve(dialect.decode_request(body), stream=False))
    except LLMError as error:
        return error.message
