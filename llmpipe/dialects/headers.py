"""The response headers that mean something to us, whatever mapping they come in."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

__all__ = ("headers_of_interest", "lower_case", "request_id", "request_id_in")

# In order of preference: a gateway in front of a provider adds its own id beside the provider's.
_REQUEST_IDS = (
    "x-request-id",  # OpenAI and most who speak its protocol
    "request-id",  # Anthropic
    "x-ms-request-id",  # Azure
    "apim-request-id",  # Azure API Management
    "x-amzn-requestid",  # AWS
    "x-generation-id",  # OpenRouter
    "mistral-correlation-id",
    "x-vercel-id",
    "cf-ray",  # Cloudflare, in front of many
)
_NAMES = frozenset(
    (
        *_REQUEST_IDS,
        "date",
        "retry-after",
        "retry-after-ms",
        "x-ms-retry-after-ms",
        "x-should-retry",
        "openai-model",
        "openai-processing-ms",
        "openai-version",
    )
)
_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit-")


def lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` by lower-case name; values of a repeated header joined by commas (RFC 9110, 5.3)."""
    result: dict[str, str] = {}
    for name, value in headers.items():
        low = name.lower()
        result[low] = f"{result[low]}, {value}" if low in result else value
    return result


def headers_of_interest(headers: Mapping[str, str]) -> dict[str, str]:
    """Request ids, rate limits, retry hints and the server's date, by lower-case name."""
    result: dict[str, str] = {}
    for name, value in headers.items():
        low = _if_of_interest(name)
        if low is not None:
            result[low] = f"{result[low]}, {value}" if low in result else value
    return result


@lru_cache(maxsize=256)  # servers send the same names each time, and most mean nothing to us
def _if_of_interest(name: str) -> str | None:
    """`name` in lower case, or None if it means nothing to us."""
    low = name.lower()
    return low if low in _NAMES or low.startswith(_PREFIXES) else None


def request_id(headers: Mapping[str, str]) -> str | None:
    """The id under which the provider knows this exchange, or None."""
    return request_id_in(lower_case(headers))


def request_id_in(low: Mapping[str, str]) -> str | None:
    """The same, of headers that are by lower-case name already: all of them, or those of interest."""
    for name in _REQUEST_IDS:
        if value := low.get(name):
            return value
    return None
