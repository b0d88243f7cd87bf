"""Counters, gauges and histograms, and their text for Prometheus."""

from __future__ import annotations

import re
from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.middleware.metrics.instruments import OTHER, Histogram, Registry

_LINE = re.compile(
    r"([a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"(?:,|(?=\})))*)\})?'
    r" (\+Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)"
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')


def parse(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The samples of a text in exposition format 0.0.4, read strictly."""
    assert text.endswith("\n")
    found = {}
    for line in text[:-1].split("\n"):
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP [a-z_]+ .*|TYPE [a-z_]+ (counter|gauge|histogram))", line)
            continue
        match = _LINE.fullmatch(line)
        assert match, line
        labels = [
            (key, value.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\"))
            for key, value in _PAIR.findall(match[2] or "")
        ]
        found[match[1], tuple(labels)] = float(match[3])
    return found


def test_a_child_is_the_same_object_for_the_same_labels():
    family = Registry().counter("a.b", "help", ("x",))
    family.of("1").value += 2
    family.of("1").value += 3
    family.of("2").value += 1
    assert {labels["x"]: child.value for labels, child in family.children()} == {"1": 5, "2": 1}
    assert family.total() == 6
    assert family.total(x="1") == 5


def test_beyond_the_limit_all_share_one_child():
    family = Registry(limit=3).counter("a", "help", ("x",))
    for number in range(1000):
        family.of(str(number)).value += 1
    values = {labels["x"]: child.value for labels, child in family.children()}
    assert values == {"0": 1, "1": 1, "2": 1, OTHER: 997}


def test_the_same_name_gives_the_same_family_and_another_kind_is_refused():
    registry = Registry()
    assert registry.counter("a", "help", ("x",)) is registry.counter("a", "other help", ("x",))
    with pytest.raises(ConfigError, match="is a counter with the labels"):
        registry.gauge("a", "help", ("x",))
    with pytest.raises(ConfigError, match="is a counter with the labels"):
        registry.counter("a", "help", ("y",))
    with pytest.raises(TypeError, match="takes the labels x"):
        registry.counter("a", "help", ("x",)).of("1", "2")


@pytest.mark.parametrize(
    ("name", "labels"), [("A", ()), ("a b", ()), ("1a", ()), ("a", ("b-c",)), ("a", ("__x",))]
)
def test_a_name_prometheus_would_not_take_is_refused(name: str, labels: tuple[str, ...]):
    with pytest.raises(ConfigError, match="is no name of a metric"):
        Registry().counter(name, "help", labels)


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(bounds: tuple[float, ...]):
    with pytest.raises(ConfigError, match="must ascend"):
        Registry().histogram("a", "help", bounds=bounds)


@pytest.mark.parametrize("prefix", ["1a", "a-b", "a b"])
def test_a_prefix_or_label_prometheus_would_not_take_is_refused(prefix: str):
    with pytest.raises(ConfigError, match="prefix"):
        Registry().prometheus(prefix)
    for label in (prefix, "le", "__a"):
        with pytest.raises(ConfigError, match="label"):
            Registry().prometheus("ok", {label: "x"})


def test_a_bound_belongs_to_its_own_bucket():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 7.5
    assert histogram.count == 5


def test_quantiles_lie_within_the_bucket_that_holds_them():
    histogram = Histogram((1.0, 2.0, 4.0))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.5, 1.5, 3.0):
        histogram.observe(value)
    assert histogram.quantile(0.5) == 1.5
    assert histogram.quantile(1.0) == 4.0
    histogram.observe(100.0)
    assert histogram.quantile(1.0) == 4.0


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.01, 1))
@example([0.0, 0.0, 0.0], 1.0)
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], q: float):
    bounds = (0.1, 1.0, 10.0, 100.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    guess = histogram.quantile(q)
    assert guess is not None
    rank = q * len(values)
    # The lowest value that at least a share q of all does not exceed.
    true = sorted(values)[max(1, ceil(rank)) - 1]
    place = next((i for i, bound in enumerate(bounds) if true <= bound), len(bounds))
    low = 0.0 if place == 0 else bounds[place - 1]
    high = bounds[place] if place < len(bounds) else bounds[-1]
    assert low <= guess <= high


def test_the_text_for_prometheus():
    registry = Registry()
    registry.counter("requests.total", "Calls\nof all.", ("model",)).of("gpt").value = 3
    registry.counter("cost", "USD.", exposed="cost_usd_total").of().value = 0.25
    registry.gauge("in_flight", "Now.").of().value = 2
    registry.histogram("wait", "Seconds.", bounds=(0.5, 1), exposed="wait_seconds").of().observe(0.75)
    assert registry.prometheus("app", {"region": "eu"}) == (
        "# HELP app_cost_usd_total USD.\n"
        "# TYPE app_cost_usd_total counter\n"
        'app_cost_usd_total{region="eu"} 0.25\n'
        "# HELP app_in_flight Now.\n"
        "# TYPE app_in_flight gauge\n"
        'app_in_flight{region="eu"} 2\n'
        "# HELP app_requests_total Calls\\nof all.\n"
        "# TYPE app_requests_total counter\n"
        'app_requests_total{region="eu",model="gpt"} 3\n'
        "# HELP app_wait_seconds Seconds.\n"
        "# TYPE app_wait_seconds histogram\n"
        'app_wait_seconds_bucket{region="eu",le="0.5"} 0\n'
        'app_wait_seconds_bucket{region="eu",le="1"} 1\n'
        'app_wait_seconds_bucket{region="eu",le="+Inf"} 1\n'
        'app_wait_seconds_sum{region="eu"} 0.75\n'
        'app_wait_seconds_count{region="eu"} 1\n'
    )
    assert Registry().prometheus() == ""


@given(st.lists(st.text(), max_size=5), st.text())
def test_no_label_value_breaks_a_line(values: list[str], constant: str):
    registry = Registry()
    for value in values:
        registry.counter("a", "help", ("x",)).of(value).value += 1
    text = registry.prometheus("p", {"c": constant.replace("\r", "")})
    if not values:
        return
    samples = parse(text)
    assert sum(samples.values()) == len(values)
    assert all(labels[1][1].isprintable() for _, labels in samples)
    for value in values:
        if value.isprintable() and len(value) <= 128:
            assert any(labels[1] == ("x", value) for _, labels in samples)


def test_a_snapshot_has_the_same_figures_as_plain_json():
    registry = Registry()
    registry.counter("a.b", "help", ("x",)).of("1").value = 2
    registry.histogram("h", "help", bounds=(1, 2)).of().observe(1.5)
    assert registry.snapshot() == {
        "a.b": {"kind": "counter", "help": "help", "values": [{"labels": {"x": "1"}, "value": 2}]},
        "h": {
            "kind": "histogram",
            "help": "help",
            "values": [
                {
                    "labels": {},
                    "count": 1,
                    "sum": 1.5,
                    "buckets": {"1": 0, "2": 1, "+Inf": 0},
                    "p50": 1.5,
                    "p95": pytest.approx(1.95),
                    "p99": pytest.approx(1.99),
                }
            ],
        },
    }
