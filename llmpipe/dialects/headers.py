"""The response headers that mean something to us, whatever mapping they come in."""

from __future__ import annotations

from collections.abc import Mapping

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
    names = tuple(headers)
    wanted = _wanted.get(names)
    if wanted is None:
        wanted = _of_interest(names)
    if len(names) != len(headers) and (getall := getattr(headers, "getall", None)) is not None:
        # aiohttp's, in which some name stands twice: most often it is Set-Cookie.
        return {low: ", ".join(getall(name)) for name, low in wanted}
    result = {low: headers[name] for name, low in wanted}
    if len(result) == len(wanted):
        return result
    return {low: value for low, value in lower_case(headers).items() if _is_of_interest(low)}


# A server sends the same names in the same order nearly each time, and most mean nothing to us. Bounded,
# and emptied when full, so that no peer can make it grow or keep it filled.
_wanted: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {}
_MAX_WANTED = 128
_MAX_CHARS = 4096


def _of_interest(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Of `names`, those of interest, each with itself in lower case."""
    found = tuple([(name, low) for name in names if _is_of_interest(low := name.lower())])
    if sum(map(len, names)) <= _MAX_CHARS:
        if len(_wanted) >= _MAX_WANTED:
            _wanted.clear()
        _wanted[names] = found
    return found


def _is_of_interest(low: str) -> bool:
    return low in _NAMES or low.startswith(_PREFIXES)


def request_id(headers: Mapping[str, str]) -> str | None:
    """The id under which the provider knows this exchange, or None."""
    return request_id_in(lower_case(headers))


def request_id_in(low: Mapping[str, str]) -> str | None:
    """The same, of headers that are by lower-case name already: all of them, or those of interest."""
    for name in _REQUEST_IDS:
        if value := low.get(name):
            return value
    return None
