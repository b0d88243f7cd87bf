"""What could be saved, read from the journal of what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import ceil

from attrs import define, field, frozen

from llmpipe.pricing import PriceTable
from llmpipe.state import Spend

__all__ = ("Advice", "advise")

_PREFIX_TOKENS = 1024  # from so many on providers keep the beginning of a prompt
_ROOM = 1.25  # what is left above the 95th percentile where a smaller max_tokens is advised
_Group = tuple[str, ...]


@frozen(kw_only=True)
class Advice:
    """One thing to change.

    Attributes:
        kind: ``model``, ``cache``, ``max_tokens`` or ``prompt_cache``.
        what: what it is about: a use case, a model.
        text: what to do, and what that rests on.
        saving: nano-USD that would have been saved over the journal that was read; 0 where what it
            frees is room in budgets.
        calls: how many attempts it rests on.
    """

    kind: str
    what: str
    text: str
    saving: int
    calls: int


@define
class _Use:
    """How one model did in one use case."""

    rows: list[Spend] = field(factory=list)

    @property
    def success(self) -> float:
        return sum(row.status == "ok" for row in self.rows) / len(self.rows)

    @property
    def mean(self) -> float:
        return sum(row.nano or 0 for row in self.rows) / len(self.rows)


def advise(
    spends: Iterable[Spend],
    *,
    prices: PriceTable | None = None,
    min_calls: int = 50,
    margin: float = 0.02,
) -> list[Advice]:
    """What the journal says could be done for less, most saved first.

    Args:
        prices: for what a provider's cache would save; the packaged ones by default.
        min_calls: attempts that a comparison needs on each side.
        margin: by how much the share of successes of a cheaper model may be lower, 0 to 1.
    """
    rows = [row for row in spends if row.status in ("ok", "error")]
    found = [
        *_models(rows, min_calls, margin),
        *_repeated(rows),
        *_oversized(rows, min_calls),
        *_prefixes(rows, prices or PriceTable(), min_calls),
    ]
    return sorted(found, key=lambda one: (-one.saving, one.kind, one.what))


def _models(rows: Sequence[Spend], min_calls: int, margin: float) -> Iterable[Advice]:
    """A cheaper model that was used for the same, and did it about as well."""
    cases: dict[str, dict[_Group, _Use]] = defaultdict(lambda: defaultdict(_Use))
    for row in rows:
        if row.use_case and row.nano is not None:
            cases[row.use_case][row.provider, row.model].rows.append(row)
    for case, uses in cases.items():
        known = {name: use for name, use in uses.items() if len(use.rows) >= min_calls}
        for name, use in known.items():
            good = [
                other
                for other in known
                if known[other].mean < use.mean and known[other].success >= use.success - margin
            ]
            if not good:
                continue
            best = min(good, key=lambda other: known[other].mean)
            saving = round((use.mean - known[best].mean) * len(use.rows))
            yield Advice(
                kind="model",
                what=case,
                text=f"use {'/'.join(best)} in place of {'/'.join(name)}: "
                f"{known[best].success:.1%} of {len(known[best].rows)} attempts succeeded, "
                f"against {use.success:.1%} of {len(use.rows)}",
                saving=saving,
                calls=len(use.rows) + len(known[best].rows),
            )


def _repeated(rows: Sequence[Spend]) -> Iterable[Advice]:
    """The same request again and again: a cache would answer all but the first."""
    groups: dict[_Group, dict[_Group, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.prompt and row.status == "ok" and row.nano is not None:
            groups[row.use_case, row.provider, row.model][row.tenant, row.prompt].append(row.nano)
    for (case, provider, model), prompts in groups.items():
        again = [nanos[1:] for nanos in prompts.values() if len(nanos) > 1]
        if not again:
            continue
        count = sum(map(len, again))
        yield Advice(
            kind="cache",
            what=case or f"{provider}/{model}",
            text=f"put a Cache before it: {count} of its requests had been asked before by the same tenant",
            saving=sum(map(sum, again)),
            calls=count,
        )


def _oversized(rows: Sequence[Spend], min_calls: int) -> Iterable[Advice]:
    """A max_tokens far above what comes: it costs nothing, and holds room that others could use."""
    groups: dict[_Group, list[Spend]] = defaultdict(list)
    for row in rows:
        if row.asked_tokens and row.status == "ok":
            groups[row.use_case, row.provider, row.model].append(row)
    for (case, provider, model), of_it in groups.items():
        if len(of_it) < min_calls:
            continue
        outputs = sorted(row.output_tokens for row in of_it)
        high = outputs[ceil(0.95 * len(outputs)) - 1]
        asked = sorted(row.asked_tokens or 0 for row in of_it)[len(of_it) // 2]
        enough = max(16, ceil(high * _ROOM))
        if asked >= 2 * enough:
            yield Advice(
                kind="max_tokens",
                what=case or f"{provider}/{model}",
                text=f"ask for {enough} max_tokens in place of {asked}: 95 of 100 replies have {high} "
                "at most, and budgets and limits hold what is asked for",
                saving=0,
                calls=len(of_it),
            )


def _prefixes(rows: Sequence[Spend], prices: PriceTable, min_calls: int) -> Iterable[Advice]:
    """Requests that begin alike, of which the provider keeps little."""
    groups: dict[_Group, list[Spend]] = defaultdict(list)
    for row in rows:
        if row.prefix and row.status == "ok" and row.input_tokens >= _PREFIX_TOKENS:
            groups[row.provider, row.model, row.prefix].append(row)
    for (provider, model, _), of_it in groups.items():
        calls = len(of_it)
        tokens = sum(row.input_tokens for row in of_it)
        cached = sum(row.cached_input_tokens for row in of_it)
        price = prices.find(provider, model)
        if calls < min_calls or cached * 2 >= _PREFIX_TOKENS * calls or price is None:
            continue
        rates = price.rates
        if rates.input is None or rates.cached_input is None or rates.cached_input >= rates.input:
            continue
        could = _PREFIX_TOKENS * (calls - 1) - cached
        yield Advice(
            kind="prompt_cache",
            what=f"{provider}/{model}",
            text=f"{calls} requests begin with the same {_PREFIX_TOKENS} tokens or more, and "
            f"{cached / tokens:.0%} of their input came from the provider's cache: put what changes last, "
            "and mark the rest with cache_control where the provider wants that",
            saving=max(0, could * (rates.input - rates.cached_input) // 1_000_000),
            calls=calls,
        )
