"""Values with the keys taken out, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.keys import sanitize_object
from llmpipe.keys.masking import _Sanitizer
from llmpipe.secret import Secret
from tests.keys.kit import CANARY


def steps(value: Any) -> int:
    """How many things are looked at."""
    walk = _Sanitizer()
    walk.of(value, 0, "")
    return walk._seen


@pytest.mark.parametrize(
    "name",
    [
        "apiKey", "api_key", "API-KEY", "x-api-key", "openaiApiKey", "OPENAI_APIKEY", "client_secret",
        "accessToken", "token", "tokens", "password", "db.password", "Authorization", "Set-Cookie",
        "aws_secret_access_key", "auth", "jwt", "passphrase", "credentials", "private key", "secret",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [v], lambda v: {"a": {"b": (v,)}}, lambda v: MappingProxyType({"x": v})]
)
def test_what_a_name_says_is_secret_is_masked_however_deep(name, wrap):
    told = json.dumps(sanitize_object({"outer": [{name: wrap("hunter2hunter2hunter2")}]}))
    assert "hunter2hunter" not in told
    assert name in told
    if "pass" in name or "ookie" in name:
        assert "***" in told
        assert "hunte" not in told


def test_what_only_sounds_like_a_secret_stays():
    value = {
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "cached_tokens": 5, "max_tokens": 100},
        "keyboard": "qwerty-is-what-it-is",
        "monkey": "a long enough text",
        "secretary": "a long enough text",
        "text": "nothing to see",
        "pi": 3.14,
        "none": None,
        "yes": True,
        "password": None,
    }
    assert sanitize_object(value) == value


def test_the_example_of_the_specification():
    assert sanitize_object({"apiKey": "sk-1234567890", "data": {"secret": "hidden"}}) == {
        "apiKey": "sk-12...90",
        "data": {"secret": "***"},
    }


def test_keys_are_found_in_texts_names_and_reprs():
    class Config:
        def __repr__(self) -> str:
            return f"Config(key={CANARY})"

    value = {
        "text": f"the key is {CANARY}, they say",
        CANARY: 1,
        ("tuple", CANARY): 2,
        "object": Config(),
        "bytes": CANARY.encode(),
        "set": {CANARY},
        "held": Secret(CANARY),
        "error": ValueError(CANARY),
        "number": {"password": 123456, "token": b"raw-bytes-of-it"},
    }
    told = repr(sanitize_object(value))
    assert CANARY[:12] not in told
    assert "123456" not in told
    assert "raw-bytes" not in told


def test_a_value_that_holds_itself_ends():
    ring: dict[str, Any] = {"text": "fine"}
    ring["self"] = ring
    ring["list"] = [ring, [ring]]
    assert sanitize_object(ring) == {"text": "fine", "self": "...", "list": ["...", ["..."]]}


def test_a_value_that_is_shared_a_billion_times_takes_as_long_as_it_is_large():
    value: Any = ["x"]
    for _ in range(45):
        value = [value, value, value]
    assert steps(value) < 300
    value = {"a": "x"}
    for _ in range(45):
        value = {"a": value, "secret": value}
    assert steps(value) < 1000


def test_the_work_grows_with_the_size():
    def of(size: int) -> Any:
        return {f"name-{n}": [{"text": "x", "apiKey": "k" * 20}] * 1 for n in range(size)}

    assert steps(of(2000)) <= 2.01 * steps(of(1000))


def test_something_without_end_ends():
    class Endless(Mapping):
        def __getitem__(self, name):
            return Endless()

        def __iter__(self):
            return iter("ab")

        def __len__(self):
            return 2

    walk = _Sanitizer()
    walk._seen = 990_000  # as if after most of the way
    walk.of(Endless(), 0, "")
    assert walk._seen < 1_100_000


def test_deep_nesting_is_cut_and_raises_nothing():
    value: Any = CANARY
    for _ in range(100_000):
        value = [value]
    told = repr(sanitize_object(value))
    assert "..." in told
    assert CANARY not in told


def test_what_fails_when_it_is_looked_at_is_named_only():
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError(CANARY)

    class Broken(dict):
        def items(self):
            raise RuntimeError(CANARY)

    class Loud(str):
        __slots__ = ()

        def __str__(self) -> str:
            return CANARY

    class Count(int):
        def __repr__(self) -> str:
            return CANARY

    told = sanitize_object([Bad(), Broken(a=1), Loud("quiet"), {Loud("n"): Loud("v")}, Count(3), {Bad(): 1}])
    assert told[:4] == ["<Bad>", "<Broken>", "quiet", {"n": "v"}]
    assert told[5] == {"<Bad>": 1}
    assert CANARY not in repr(told)
    assert type(told[2]) is str


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just(CANARY),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["a", "apiKey", "text", "token"]), inner),
    max_leaves=30,
)


@given(VALUES)
def test_no_value_shows_a_key_and_the_shape_stays(value):
    told = sanitize_object(value)
    assert CANARY[:12] not in json.dumps(told)
    assert type(told) is type(value)
    if isinstance(value, list | dict):
        assert len(told) == len(value)


@given(VALUES)
def test_the_value_itself_is_left_as_it_is(value):
    before = json.dumps(value)
    sanitize_object(value)
    assert json.dumps(value) == before
