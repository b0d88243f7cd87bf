"""What one attempt was, as a line of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any

import orjson

from llmpipe.middleware.canonical import key_of
from llmpipe.middleware.scopes import label
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.state import Ledger, Spend
from llmpipe.state.spends import Values
from llmpipe.types import AnyRequest, Request, Usage
from llmpipe.types import Cost as Charge

__all__ = (
    "MOST_CHARGED",
    "PREFIX_BYTES",
    "line_of",
    "nano_of",
    "prefix_of",
    "prompt_of",
    "read",
    "scopes_of_line",
)

PREFIX_BYTES = 4096
"""Of a request, what is taken for its beginning: about the 1,024 tokens from which providers cache."""

MOST_CHARGED = 10**15
"""Nano-USD, a million USD, for one attempt: whoever tells a usage above that is wrong."""

_MOST = 2**53 - 1  # tokens; a provider that tells more has no count, and stores take 64 bits
_NONE = Usage()
_tokens = attrgetter(
    "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens"
)
_PAGE = 1000


def line_of(  # noqa: PLR0917  made for every call, and keywords cost more
    hold: str,
    call: Call,
    attempt: Attempt,
    usage: Usage | None,
    nano: int | None,
    estimated: bool,
    digests: bool,
) -> Values:
    """The journal's line for `attempt`, which is over, of `call`; its id is the hold's and a number.

    Whatever a provider tells, its numbers are such as `check_spends` lets pass.
    """
    request, outcome = attempt.request, attempt.outcome
    told: Any = _tokens(_NONE if usage is None else usage)
    if max(told) > _MOST or min(told) < 0 or type(sum(told)) is not int:
        told = [*map(_count, told)]
    sent, got, cached, written, reasoned = told
    asked = getattr(request, "max_tokens", None)
    if asked is not None and (type(asked) is not int or not 0 <= asked <= _MOST):
        asked = _count(asked)
    result: Any = None if outcome is None else outcome.completion
    model = request_id = project = key = use_case = prompt = prefix = ""
    if result is not None:
        model, request_id = result.model, getattr(result, "request_id", "") or ""
    elif attempt.error is not None:
        request_id = getattr(attempt.error, "request_id", "") or ""
    if tags := call.tags:
        # As the balances have them, and no credential where somebody gives one.
        project, use_case = label(tags.get("project", "")), label(tags.get("use_case", ""))
        key = label(tags.get("key", ""))
    if digests:
        prompt, prefix = prompt_of(call, request), prefix_of(request)
    ended = attempt.ended_at
    if ended is None:
        ended = _now(call, attempt)
    return (  # as the fields of Spend stand
        f"{hold}/{attempt.number}",
        call.runtime.wall(),
        nano,
        estimated,
        call.id,
        call.tenant,
        call.user,
        project,
        key,
        use_case,
        attempt.provider,
        model or attempt.asked_model,
        attempt.status,
        sent,
        got,
        cached,
        written,
        reasoned,
        asked,
        ended - attempt.started_at,
        prompt,
        prefix,
        request_id,
    )


def _now(call: Call, attempt: Attempt) -> float:
    try:
        return call.runtime.now()
    except RuntimeError:  # it is dropped when no loop runs any more: how long it took nobody knows
        return attempt.started_at


def nano_of(charge: Charge) -> int:
    """Nano-USD of all of it, `MOST_CHARGED` at most."""
    return min(charge.input_nano + charge.output_nano, MOST_CHARGED)


def _count(told: Any) -> int:
    """A count as stores can keep it, whatever a provider tells."""
    try:
        return min(max(0, int(told)), _MOST)
    except (ValueError, OverflowError):  # NaN, infinity
        return 0


def prompt_of(call: Call, request: AnyRequest) -> str:
    """A digest of all that decides the answer to `request`, or "" for one that has no JSON."""
    found = key_of(call.evolve(request=request))
    return "" if found is None else found[:16].hex()


def prefix_of(request: AnyRequest) -> str:
    """A digest of the beginning of `request`: tools, then messages; "" for one that is shorter.

    Requests with the same one can share what a provider keeps of a prompt.
    """
    if not isinstance(request, Request):
        return ""
    taken, left = blake2b(request.model.encode("utf-8", "surrogatepass"), digest_size=16), PREFIX_BYTES
    for tool in request.tools:
        left = _take(taken, orjson.dumps([tool.name, tool.description, tool.parameters], _plain), left)
    for message in request.messages:
        if left <= 0:
            break
        data = f"\0{message.role}\0{message.text}".encode("utf-8", "surrogatepass")
        left = _take(taken, data, left)
    return "" if left > 0 else taken.hexdigest()


def _take(taken: Any, data: bytes, left: int) -> int:
    taken.update(data[: max(0, left)])
    return left - len(data)


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else list(value)


async def read(
    ledger: Ledger, *, since: float = 0.0, until: float = float("inf"), tenant: str | None = None
) -> list[Spend]:
    """All lines of the journal in that time, seconds since the epoch, page by page."""
    found: list[Spend] = []
    page: Sequence[Spend] = ()
    while True:
        after = page[-1] if page else None
        page = await ledger.spends(since=since, until=until, tenant=tenant, limit=_PAGE, after=after)
        found += page
        if len(page) < _PAGE:
            return found


def scopes_of_line(row: Spend) -> dict[str, str]:
    """The scopes that a line of the journal tells; of tags, that are ``project``, ``key``, ``use_case``."""
    return {
        "account": row.tenant,
        "project": row.project,
        "user": row.user,
        "key": row.key,
        "provider": row.provider,
        "model": row.model,
        "tag:project": row.project,
        "tag:key": row.key,
        "tag:use_case": row.use_case,
    }
