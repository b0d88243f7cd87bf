"""A caller's JSON, read field by field: what is wrong is named by its path, in the dialect's own words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given

from llmpipe.dialects.anthropic_messages.fields import Fields as AnthropicFields
from llmpipe.dialects.checked import Fields
from llmpipe.errors import InvalidRequest
from tests.dialects.strategies import json_objects, json_values, names

GETTERS = {
    "text": str,
    "need_text": str,
    "flag": bool,
    "whole": int,
    "number": (int, float),
    "table": dict,
    "items": list,
}


@pytest.mark.parametrize("getter", GETTERS)
@pytest.mark.parametrize("kind", [Fields, AnthropicFields])
@given(value=json_values, rest=json_objects, name=names)
def test_a_getter_takes_its_own_type_out_or_names_the_path(getter, kind, value, rest, name):
    fields = kind({**rest, name: value}, "messages[0]")
    whole_float = getter == "whole" and isinstance(value, float) and value.is_integer()
    right = isinstance(value, GETTERS[getter]) and isinstance(value, bool) == (getter == "flag")
    if right or whole_float:
        assert getattr(fields, getter)(name) == value
        assert fields.rest == {key: item for key, item in rest.items() if key != name}
        return
    with pytest.raises(InvalidRequest) as caught:
        getattr(fields, getter)(name)
    error = caught.value
    assert error.metadata == {"param": f"messages[0].{name}"}
    assert str(error).startswith(f"messages[0].{name}: ")
    assert (error.sent, error.phase, error.health) == (False, "validate", "ignore")


@pytest.mark.parametrize("fields", [{}, {"a": None}])
@pytest.mark.parametrize("getter", GETTERS)
def test_null_is_absent_and_only_what_is_needed_has_to_be_there(fields, getter):
    if getter == "need_text":
        with pytest.raises(InvalidRequest, match=r"^a: is required$") as caught:
            Fields(fields).need_text("a")
        assert caught.value.code == "missing_required_parameter"
    else:
        assert getattr(Fields(fields), getter)("a") is None


KIND, MISSING, VALUE = "invalid_type", "missing_required_parameter", "invalid_value"
Read = Callable[[type[Fields]], object]


def wrong(read: Read, kind: type[Fields]) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequest) as caught:
        read(kind)
    return caught.value.message, caught.value.code


@pytest.mark.parametrize(
    ("read", "path", "expected", "found"),
    [
        (lambda kind: kind([], "x"), "x", "an object", "a list"),
        (lambda kind: kind(None), "body", "an object", "null"),
        (lambda kind: kind({"a": 1}).text("a"), "a", "a string", "an integer"),
        (lambda kind: kind({"a": "x"}).nested("a"), "a", "an object", "a string"),
        (lambda kind: kind({"a": {"b": 1}}).nested("a").flag("b"), "a.b", "true or false", "an integer"),
        (lambda kind: kind({"a": True}).whole("a"), "a", "an integer", "a boolean"),
        (lambda kind: kind({"a": math.nan}).number("a"), "a", "a finite number", "a number"),
    ],
)
def test_a_wrong_type_is_told_in_the_words_of_the_dialect_and_only_ours_have_codes(
    read, path, expected, found
):
    assert wrong(read, Fields) == (f"{path}: {expected} was expected, not {found}", KIND)
    assert wrong(read, AnthropicFields) == (f"{path}: Input should be {expected}, not {found}", None)


def test_what_is_missing_or_out_of_bounds_is_told_alike():
    def missing(kind: type[Fields]) -> object:
        return kind({"a": {}}).nested("a").need_text("b")

    assert wrong(missing, Fields) == ("a.b: is required", MISSING)
    assert wrong(missing, AnthropicFields) == ("a.b: Field required", None)
    low, high = (
        (lambda kind: kind({"a": -1}).whole("a", 0)),
        (lambda kind: kind({"a": 3}).number("a", 0, 2.5)),
    )
    for kind, code in ((Fields, VALUE), (AnthropicFields, None)):
        assert wrong(low, kind) == ("a: must be at least 0, not -1", code)
        assert wrong(high, kind) == ("a: must be at most 2.5, not 3", code)


def test_a_whole_number_may_be_written_as_a_float_and_be_larger_than_any_float():
    assert Fields({"a": 16.0}).whole("a") == 16
    assert type(Fields({"a": 16.0}).whole("a")) is int
    assert Fields({"a": 10**400}).number("a") == 10**400


def test_what_nobody_took_is_left_over_without_nulls():
    fields = Fields({"a": 1, "b": None, "c": [2]})
    assert fields.take("a") == 1
    assert fields.unknown() == {"c": [2]}
    assert fields.rest == {"b": None, "c": [2]}
