"""Counters, gauges and histograms in memory, and their text for Prometheus.

A family has a dotted name (``retry.attempts``), a kind and the names of its labels; its children,
one for each set of label values, are plain objects that the hot path keeps and writes to. A family
never has more children than it may: what comes later is counted under ``_other``, so that a label
whose values a caller invents fills no memory.

The text is the exposition format 0.0.4 of Prometheus ("Exposition formats", prometheus.io):
dots become underscores, counters end in ``_total``, histograms bring ``_bucket``, ``_sum`` and
``_count``. Values may be read from another thread while a loop writes them.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Generic, TypeVar

from llmpipe.errors import ConfigError
from llmpipe.secret import scrub

__all__ = (
    "Counter",
    "Family",
    "Gauge",
    "Histogram",
    "OTHER",
    "Registry",
    "SECONDS",
    "check_bounds",
    "check_names",
)

OTHER = "_other"
"""The label value of everything beyond a family's limit."""

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds of buckets for durations: from a cache hit to a long reasoning answer."""

_NAME = re.compile(r"[a-z][a-z0-9_.]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_PREFIX = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?")
_MAX_LABEL_CHARS = 128


class Counter:
    """A number that only grows. Add to `value`."""

    __slots__ = ("value",)
    kind: ClassVar = "counter"

    def __init__(self) -> None:
        self.value: float = 0


class Gauge:
    """A number that goes up and down. Set `value`."""

    __slots__ = ("value",)
    kind: ClassVar = "gauge"

    def __init__(self) -> None:
        self.value: float = 0


class Histogram:
    """How often values fell into buckets. `bounds` are upper bounds, themselves included, ascending."""

    __slots__ = ("bounds", "counts", "sum")
    kind: ClassVar = "histogram"

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def quantile(self, q: float) -> float | None:
        """About the value that a share `q` of all is below, spread evenly within its bucket.

        None where nothing was observed; the last bound where it lies beyond that.
        """
        counts = list(self.counts)
        rank = q * sum(counts)
        if not rank:
            return None
        below, low = 0, 0.0
        for bound, count in zip(self.bounds, counts, strict=False):
            if below + count >= rank:
                return min(bound, low + (bound - low) * (rank - below) / count)  # it may be rounded up
            below, low = below + count, bound
        return self.bounds[-1]


C = TypeVar("C", Counter, Gauge, Histogram)


class Family(Generic[C]):
    """All children of one name. Made by a `Registry`."""

    __slots__ = ("_children", "_limit", "_make", "exposed", "help", "kind", "labels", "name")

    def __init__(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...],
        *,
        kind: str,
        exposed: str,
        make: Callable[[], C],
        limit: int,
    ) -> None:
        self.kind = kind
        self.name = name
        self.help = about
        self.labels = labels
        self.exposed = exposed
        self._make: Callable[[], C] = make
        self._limit = limit
        self._children: dict[tuple[str, ...], C] = {}

    def of(self, *values: str) -> C:
        """The child with these label values, in the order of `labels`; beyond the limit, the common one."""
        child = self._children.get(values)
        if child is None:
            if len(values) != len(self.labels):
                raise TypeError(f"{self.name} takes the labels {', '.join(self.labels) or '(none)'}")
            values = tuple(map(_printable, values))
            child = self._children.get(values)
            if child is None and len(self._children) >= self._limit:
                values = (OTHER,) * len(values)
                child = self._children.get(values)
            if child is None:
                child = self._children[values] = self._make()
        return child

    def clear(self) -> None:
        """Forget all children."""
        self._children.clear()

    def children(self) -> Iterator[tuple[dict[str, str], C]]:
        """All children with their labels, as they are now."""
        for values, child in list(self._children.items()):
            yield dict(zip(self.labels, values, strict=True)), child

    def total(self, **labels: str) -> float:
        """The sum of the children that have these labels; of a histogram, of its observations."""
        found: list[Any] = [child for had, child in self.children() if labels.items() <= had.items()]
        return sum(child.sum if isinstance(child, Histogram) else child.value for child in found)


class Registry:
    """The families of one runtime.

    Args: limit is how many children a family may have.
    """

    def __init__(self, *, limit: int = 2000) -> None:
        self._limit = limit
        self._families: dict[str, Family[Any]] = {}

    def counter(
        self, name: str, about: str, labels: Iterable[str] = (), *, exposed: str = ""
    ) -> Family[Counter]:
        """The counters of that name; `exposed` is what Prometheus calls them, where the usual will not do."""
        return self._family(Counter, name, about, labels, exposed=exposed)

    def gauge(self, name: str, about: str, labels: Iterable[str] = (), *, exposed: str = "") -> Family[Gauge]:
        """The gauges of that name."""
        return self._family(Gauge, name, about, labels, exposed=exposed)

    def histogram(
        self,
        name: str,
        about: str,
        labels: Iterable[str] = (),
        *,
        bounds: Sequence[float] = SECONDS,
        exposed: str = "",
    ) -> Family[Histogram]:
        """The histograms of that name, with these upper bounds of buckets.

        Raises: ConfigError for bounds that do not ascend.
        """
        fixed = tuple(bounds)
        check_bounds(fixed)
        return self._family(Histogram, name, about, labels, exposed=exposed, make=lambda: Histogram(fixed))

    def _family(
        self,
        child: type[Counter | Gauge | Histogram],
        name: str,
        about: str,
        labels: Iterable[str],
        *,
        exposed: str,
        make: Callable[[], Any] | None = None,
    ) -> Family[Any]:
        kind = child.kind
        found = self._families.get(name)
        labels = tuple(labels)
        if found is None:
            if not _NAME.fullmatch(name) or not all(map(_LABEL.fullmatch, labels)):
                raise ConfigError(f"{name!r} with the labels {labels} is no name of a metric")
            exposed = exposed or name.replace(".", "_")
            if kind == "counter" and not exposed.endswith("_total"):
                exposed += "_total"
            found = self._families[name] = Family(
                name, about, labels, kind=kind, exposed=exposed, make=make or child, limit=self._limit
            )
        elif (found.kind, found.labels) != (kind, labels):
            raise ConfigError(f"{name} is a {found.kind} with the labels {found.labels} already")
        return found

    def __len__(self) -> int:
        return len(self._families)

    def families(self) -> list[Family[Any]]:
        """All families, by name."""
        return [family for _, family in sorted(self._families.items())]

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """All of it as plain JSON: for each name its kind, help and values with labels."""
        return {
            family.name: {
                "kind": family.kind,
                "help": family.help,
                "values": [{"labels": labels, **_reading(child)} for labels, child in family.children()],
            }
            for family in self.families()
        }

    def prometheus(self, prefix: str = "llmpipe", labels: Mapping[str, str] | None = None) -> str:
        """The text for Prometheus; `labels` are put on every line.

        Raises: ConfigError for a prefix or label name that Prometheus does not take.
        """
        check_names(prefix, labels or {})
        lines: list[str] = []
        for family in self.families():
            name = f"{prefix}_{family.exposed}" if prefix else family.exposed
            about = family.help.replace("\\", "\\\\").replace("\n", "\\n")
            lines += (f"# HELP {name} {about}", f"# TYPE {name} {family.kind}")
            for own, child in family.children():
                lines.extend(_lines(name, {**(labels or {}), **own}, child))
        return "\n".join(lines) + "\n" if lines else ""


def check_bounds(bounds: Sequence[float]) -> None:
    """Raises: ConfigError for bounds of buckets that are none or do not ascend."""
    if not bounds or any(low >= high for low, high in pairwise(bounds)):
        raise ConfigError(f"the bounds of buckets must ascend, and there must be one; not {tuple(bounds)}")


def check_names(prefix: str, labels: Mapping[str, str]) -> None:
    """Raises: ConfigError for a prefix or label name that Prometheus does not take."""
    if not _PREFIX.fullmatch(prefix):
        raise ConfigError(f"prefix {prefix!r}: letters, digits and _, and no digit at the start")
    for label in labels:
        if not _LABEL.fullmatch(label) or label == "le":
            raise ConfigError(
                f"label {label!r}: letters, digits and _, no digit or __ at the start, and not le"
            )


def _reading(child: Counter | Gauge | Histogram) -> dict[str, Any]:
    if not isinstance(child, Histogram):
        return {"value": child.value}
    counts = list(child.counts)
    return {
        "count": sum(counts),
        "sum": child.sum,
        "buckets": dict(zip([*map(_number, child.bounds), "+Inf"], counts, strict=True)),
        "p50": child.quantile(0.5),
        "p95": child.quantile(0.95),
        "p99": child.quantile(0.99),
    }


def _lines(name: str, labels: Mapping[str, str], child: Counter | Gauge | Histogram) -> Iterator[str]:
    if not isinstance(child, Histogram):
        yield f"{name}{_braces(labels)} {_number(child.value)}"
        return
    below = 0
    for bound, count in zip([*child.bounds, float("inf")], list(child.counts), strict=True):
        below += count
        yield f"{name}_bucket{_braces({**labels, 'le': _number(bound)})} {below}"
    yield f"{name}_sum{_braces(labels)} {_number(child.sum)}"
    yield f"{name}_count{_braces(labels)} {below}"


def _braces(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    whole = int(value) if value == value // 1 and abs(value) < 1e15 else None
    return repr(value if whole is None else whole)


def _printable(value: str) -> str:
    """A label value without a credential that breaks no line and has an end: callers make them up."""
    value = scrub(value)
    if len(value) > _MAX_LABEL_CHARS:
        value = value[: _MAX_LABEL_CHARS - 1] + "…"
    if value.isprintable():
        return value
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value)
