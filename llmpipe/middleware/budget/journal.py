"""What one attempt was, as a line of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import orjson

from llmpipe.middleware.canonical import key_of
from llmpipe.middleware.scopes import label
from llmpipe.pipeline.call import Attempt, Call
from llmpipe.state import Ledger, Spend
from llmpipe.types import AnyRequest, Request, Usage
from llmpipe.types import Cost as Charge

__all__ = ("MOST_CHARGED", "PREFIX_BYTES", "line_of", "prefix_of", "prompt_of", "read", "scopes_of_line")

PREFIX_BYTES = 4096
"""Of a request, what is taken for its beginning: about the 1,024 tokens from which providers cache."""

MOST_CHARGED = 10**15
"""Nano-USD, a million USD, for one attempt: whoever tells a usage above that is wrong."""

_MOST = 2**53 - 1  # tokens; a provider that tells more has no count, and stores take 64 bits
_NONE = Usage()
_PAGE = 1000


def line_of(
    hold: str, call: Call, attempt: Attempt, usage: Usage | None, charge: Charge | None, *, digests: bool
) -> Spend:
    """The journal's line for `attempt`, which is over, of `call`; its id is the hold's and a number."""
    tags, runtime, request = call.tags, call.runtime, attempt.request
    used = _NONE if usage is None else usage
    told = (
        used.input_tokens,
        used.output_tokens,
        used.cached_input_tokens,
        used.cache_write_tokens,
        used.reasoning_tokens,
    )
    if max(told) > _MOST or min(told) < 0:
        told = (_count(told[0]), _count(told[1]), _count(told[2]), _count(told[3]), _count(told[4]))
    asked = getattr(request, "max_tokens", None)
    ended = attempt.ended_at
    outcome = attempt.outcome
    result: Any = None if outcome is None else outcome.completion
    return Spend(
        id=f"{hold}/{attempt.number}",
        at=runtime.wall(),
        nano=None if charge is None else min(charge.input_nano + charge.output_nano, MOST_CHARGED),
        estimated=charge is not None and charge.estimated,
        call=call.id,
        tenant=call.tenant,
        user=call.user,
        project=str(tags.get("project", "")) if tags else "",
        key=label(tags.get("key", "")) if tags else "",
        use_case=str(tags.get("use_case", "")) if tags else "",
        provider=attempt.provider,
        model=(result.model if result is not None else "") or attempt.asked_model,
        status=attempt.status,
        input_tokens=told[0],
        output_tokens=told[1],
        cached_input_tokens=told[2],
        cache_write_tokens=told[3],
        reasoning_tokens=told[4],
        asked_tokens=asked if asked is None or 0 <= asked <= _MOST else _count(asked),
        seconds=(runtime.now() if ended is None else ended) - attempt.started_at,
        prompt=prompt_of(call, request) if digests else "",
        prefix=prefix_of(request) if digests else "",
        request_id=getattr(result, "request_id", "") or "",
    )


def _count(told: int) -> int:
    return told if 0 <= told <= _MOST else min(max(0, told), _MOST)


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
