"""Everything a dashboard shows, in one call, as plain JSON.

::

    at, uptime            wall seconds; seconds since the first call was counted
    totals                of all time: requests, ok, failed, cancelled, abandoned, in_flight, attempts,
                          input_tokens, output_tokens, total_tokens, cost_usd, saved_usd, fallbacks, coalesced
    latency               seconds of calls that ended well: count, mean, p50, p95, p99 (null without any)
    windows               "1m", "5m", "1h", each: seconds (as long as it has been running, at most), requests,
                          requests_per_second, failed, error_rate, input_tokens, output_tokens,
                          tokens_per_second, cost_usd, cost_usd_per_hour, latency, and
                          providers: the same of each
    providers             by name: requests, ok, failed, cancelled, abandoned, error_rate, attempts,
                          input_tokens, output_tokens, cost_usd, latency, and models: the same of each
    errors                by_type (`LLMError.type`), by_word (`error_types`)
    cost                  usd, by_model, by_tenant (with `Cost`), unknown (attempts without a price)
    circuits              provider, endpoint, model, state, calls, failures, rejected, retry_after, reason
    routers               by router, by target: state, in_flight, reason
    queues                by limit: waiting, oldest_wait, in_flight, keys
    cache                 by cache: hits, stale, misses, stored, hit_rate
    alerts                firing (rule, key, severity, summary, since), sinks (name, queued, sent, dropped, …)
    resources             of `resources.Sample`, or null
    loop                  lag, worst (seconds), or null

An error rate is failed / (ok + failed), 0 without any; what was cancelled or abandoned is neither. A
window is up to five seconds longer than it says, one of an hour up to a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import asdict

from llmpipe.middleware.metrics.book import Book
from llmpipe.middleware.metrics.instruments import Family, Histogram
from llmpipe.middleware.metrics.others import queues
from llmpipe.middleware.metrics.resources import Resources
from llmpipe.middleware.metrics.ring import Sums
from llmpipe.runtime import Runtime

__all__ = ("dashboard",)

_WINDOWS = {"1m": 60.0, "5m": 300.0, "1h": 3600.0}


def dashboard(book: Book, runtime: Runtime) -> dict[str, Any]:
    """The figures of `book` and of what else keeps state on `runtime`. On its loop."""
    book.collect(runtime)
    now = runtime.now()
    if now >= book.due:  # nobody may have called since the last sums were due to be written down
        book.turn(now)
    sums = book.sums()
    began = now if book.ring.began is None else book.ring.began
    return {
        "at": runtime.wall(),
        "uptime": now - began,
        "totals": _totals(book, sums[""]),
        "latency": _latency(book.duration, status="ok"),
        "windows": {
            name: _window(book, sums, min(seconds, now - began), now - seconds)
            for name, seconds in _WINDOWS.items()
        },
        "providers": _providers(book),
        "errors": {"by_type": _by(book.errors, "type"), "by_word": _by(book.errors, "error_type")},
        "cost": _cost(book, runtime),
        "circuits": _circuits(runtime, now),
        "routers": {
            router: {
                target: {"state": health.state, "in_flight": health.in_flight, "reason": health.reason}
                for target, health in list(ward.healths.items())
            }
            for router, ward in runtime.states("router").items()
        },
        "queues": {
            name: {
                "waiting": sum(key.waiting for key in keys),
                "oldest_wait": max((key.oldest_wait for key in keys), default=0.0),
                "in_flight": sum(key.in_flight for key in keys),
                "keys": len(keys),
            }
            for name, keys in queues(runtime)
        },
        "cache": {name: _cache(shelf) for name, shelf in runtime.states("cache").items()},
        "alerts": _alerts(runtime),
        **_machine(runtime),
    }


def _totals(book: Book, sums: Sums) -> dict[str, Any]:
    return {
        **_counts(sums),
        "in_flight": len(book.active),
        "attempts": book.attempts.total(),
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "total_tokens": sums.input_tokens + sums.output_tokens,
        "cost_usd": sums.cost_usd,
        "saved_usd": book.saved.value,
        "fallbacks": book.fallbacks.value,
        "coalesced": book.coalesced.value,
    }


def _counts(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "ok": sums.ok,
        "failed": sums.failed,
        "cancelled": sums.cancelled,
        "abandoned": sums.abandoned,
    }


def _window(book: Book, sums: Mapping[str, Sums], seconds: float, since: float) -> dict[str, Any]:
    then = book.ring.before(since)
    empty = Sums()
    parts = {name: _rates(book, total.since(then.get(name, empty)), seconds) for name, total in sums.items()}
    return {"seconds": seconds, **parts.pop(""), "providers": parts}


def _rates(book: Book, sums: Sums, seconds: float) -> dict[str, Any]:
    per = 1.0 / seconds if seconds else 0.0
    histogram = Histogram(book.bounds)
    histogram.counts = list(sums.durations)
    latency = {f"p{q}": histogram.quantile(q / 100) for q in (50, 95, 99)}
    return {
        "requests": sums.requests,
        "requests_per_second": sums.requests * per,
        "failed": sums.failed,
        "error_rate": _share(sums.failed, sums.ok + sums.failed),
        "input_tokens": sums.input_tokens,
        "output_tokens": sums.output_tokens,
        "tokens_per_second": (sums.input_tokens + sums.output_tokens) * per,
        "cost_usd": sums.cost_usd,
        "cost_usd_per_hour": sums.cost_usd * per * 3600,
        "latency": latency,
    }


def _providers(book: Book) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    targets = {
        (labels["provider"], labels["model"])
        for family in (book.requests, book.attempts)
        for labels, child in family.children()
        if child.value
    }
    for provider, model in sorted(targets):
        if provider not in found:
            found[provider] = {**_part(book, provider=provider), "models": {}}
        found[provider]["models"][model] = _part(book, provider=provider, model=model)
    return found


def _part(book: Book, **labels: str) -> dict[str, Any]:
    ended = {status: book.requests.total(status=status, **labels) for status in _STATUSES}
    sums = {_STATUSES[status]: value for status, value in ended.items()}
    return {
        "requests": sum(sums.values()),
        **sums,
        "error_rate": _share(sums["failed"], sums["ok"] + sums["failed"]),
        "attempts": book.attempts.total(**labels),
        "input_tokens": book.tokens.total(kind="input", **labels),
        "output_tokens": book.tokens.total(kind="output", **labels),
        "cost_usd": book.cost.total(**labels),
        "latency": _latency(book.duration, status="ok", **labels),
    }


_STATUSES = {"ok": "ok", "error": "failed", "cancelled": "cancelled", "abandoned": "abandoned"}


def _latency(family: Family[Histogram], **wanted: str) -> dict[str, Any]:
    merged: Histogram | None = None
    for labels, child in family.children():
        if wanted.items() <= labels.items():
            if merged is None:
                merged = Histogram(child.bounds)
            merged.counts = [a + b for a, b in zip(merged.counts, child.counts, strict=True)]
            merged.sum += child.sum
    if merged is None or not merged.count:
        return {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None}
    quantiles = {f"p{q}": merged.quantile(q / 100) for q in (50, 95, 99)}
    return {"count": merged.count, "mean": merged.sum / merged.count, **quantiles}


def _by(family: Family[Any], label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, child in family.children():
        found[labels[label]] = found.get(labels[label], 0) + child.value
    return {name: value for name, value in sorted(found.items()) if value}


def _cost(book: Book, runtime: Runtime) -> dict[str, Any]:
    tenants: dict[str, float] = {}
    unknown = 0
    names = list(runtime.states("cost"))
    if names:
        from llmpipe.middleware.cost import Cost  # noqa: PLC0415  loaded, where there is its state

        for name in names:
            totals = Cost.totals(runtime, name)
            unknown += totals.all.unknown
            for tenant, total in totals.by_tenant.items():
                tenants[tenant] = tenants.get(tenant, 0.0) + float(total.usd)
    by_model = {model: usd for model, usd in _by(book.cost, "model").items() if usd}
    return {"usd": book.cost.total(), "by_model": by_model, "by_tenant": tenants, "unknown": unknown}


def _circuits(runtime: Runtime, now: float) -> list[dict[str, Any]]:
    found = []
    for board in runtime.states("breaker").values():
        for stats in board.stats(now):
            key = stats.key if isinstance(stats.key, tuple) and len(stats.key) == 3 else ("", "", stats.key)
            found.append(
                {
                    "provider": str(key[0]),
                    "endpoint": str(key[1]),
                    "model": str(key[2]),
                    "state": stats.state,
                    "calls": stats.calls,
                    "failures": stats.failures,
                    "rejected": stats.rejected,
                    "retry_after": stats.retry_after,
                    "reason": stats.reason,
                }
            )
    return found


def _cache(shelf: Any) -> dict[str, Any]:
    answered = shelf.hits + shelf.stale
    return {
        "hits": shelf.hits,
        "stale": shelf.stale,
        "misses": shelf.misses,
        "stored": shelf.stored,
        "hit_rate": _share(answered, answered + shelf.misses),
    }


def _alerts(runtime: Runtime) -> dict[str, Any]:
    desks: Iterable[Any] = list(runtime.states("alerts").values())
    return {
        "firing": [
            {
                "rule": case.rule.name,
                "key": case.key,
                "severity": case.rule.severity,
                "summary": case.summary,
                "since": case.since,
            }
            for desk in desks
            for case in desk.cases
            if case.active
        ],
        "sinks": [asdict(post.status) for desk in desks for post in desk.posts.values()],
    }


def _machine(runtime: Runtime) -> dict[str, Any]:
    found: Resources | None = runtime.states("resources").get("")
    latest = None if found is None else found.latest
    lags = list(runtime.states("lag").values())
    return {
        "resources": None if latest is None else asdict(latest),
        "loop": {"lag": lags[0].seconds, "worst": lags[0].worst} if lags else None,
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
