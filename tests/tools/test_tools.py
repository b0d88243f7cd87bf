"""Python functions as tools: their schema, and what is made of a model's arguments."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.errors import ConfigError
from llmpipe.tools import Function, tool
from llmpipe.tools.arguments import WrongArguments
from llmpipe.tools.content import content_of
from llmpipe.tools.docstring import described
from llmpipe.tools.function import as_tool
from llmpipe.tools.mismatch import mismatches
from llmpipe.types import Image, Text, Tool
from llmpipe.types.json_schema import schema_problems


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Stop:
    """A place on the way.

    Attributes:
        nights: how long one stays.
    """

    name: str
    nights: int = 1


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Extras(TypedDict):
    seat: int
    meal: NotRequired[str]


@attrs.frozen
class Even:
    number: int = attrs.field()

    @number.validator
    def _even(self, _: object, value: int) -> None:
        if value % 2:
            raise ValueError(f"{value} is odd; key sk-abcdefgh123")


@attrs.frozen
class Node:
    inner: Node | None = None


Meters = NewType("Meters", float)


def schema(hint: Any) -> Any:
    def function(value):
        pass

    function.__annotations__ = {"value": hint}
    return tool(function).tool.parameters["properties"]["value"]


def taking(hint: Any) -> Function:
    def function(value):
        return value

    function.__annotations__ = {"value": hint}
    return tool(function)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (None, {"type": "null"}),
        (Any, {}),
        (datetime, {"type": "string", "format": "date-time"}),
        (date, {"type": "string", "format": "date"}),
        (list, {"type": "array", "items": {}}),
        (dict, {"type": "object"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (tuple[int, ...], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, int], {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (Mapping[str, Any], {"type": "object", "additionalProperties": {}}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Color, {"type": "string", "enum": ["red", "blue"]}),
        (Literal[Color.RED], {"type": "string", "enum": ["red"]}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Annotated[int, 7, "how many"], {"type": "integer", "description": "how many"}),
        (Annotated[int, {"no": "hash"}], {"type": "integer"}),
        (Meters, {"type": "number"}),
        (
            Stop,
            {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "nights": {"type": "integer", "description": "how long one stays.", "default": 1},
                },
                "required": ["name"],
                "additionalProperties": False,
                "description": "A place on the way.",
            },
        ),
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number", "default": 0.0}},
                "required": ["x"],
                "additionalProperties": False,
            },
        ),
        (
            Extras,
            {
                "type": "object",
                "properties": {"seat": {"type": "integer"}, "meal": {"type": "string"}},
                "required": ["seat"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_a_hint_says_what_the_schema_is(hint: Any, expected: Any):
    made = schema(hint)
    assert made == expected
    assert schema_problems({"type": "object", "properties": {"value": made}}) == []


@pytest.mark.parametrize(
    ("hint", "named"),
    [
        (object, "object"),
        (bytes, "bytes"),
        (complex, "complex"),
        (dict[int, str], "dict[int, str]"),
        (tuple[int, str], "tuple[int, str]"),
        (list[object], "object"),
        (Literal[b"x"], "Literal"),
    ],
)
def test_a_hint_without_a_schema_is_refused_by_parameter_and_name(hint: Any, named: str):
    with pytest.raises(ConfigError, match=r"argument\.value: the type hint") as refused:
        schema(hint)
    assert named in str(refused.value)


def test_a_class_that_refers_to_itself_is_refused():
    with pytest.raises(ConfigError, match="Node refers to itself"):
        schema(Node)


def test_the_function_says_name_description_and_which_arguments_may_be_missing():
    @tool
    def plan(city: str, stops: list[Stop], color: Color = Color.RED, when: date | None = None) -> str:
        """Plan a trip.

        By train.

        Args:
            city: where it
                begins
            stops (list): on the way

        Returns: the plan.
        """
        return city

    spec = plan.tool
    assert (spec.name, spec.description) == ("plan", "Plan a trip.\n\nBy train.")
    assert spec.parameters["required"] == ["city", "stops"]
    assert spec.parameters["additionalProperties"] is False
    says = {name: value.get("description") for name, value in spec.parameters["properties"].items()}
    assert says == {"city": "where it begins", "stops": "on the way", "color": None, "when": None}
    assert spec.parameters["properties"]["color"]["default"] == "red"
    assert "default" not in spec.parameters["properties"]["when"]
    assert plan("Oslo", []) == "Oslo"  # it is still the function


def test_name_description_strictness_and_time_limit_can_be_given():
    made = tool(name="go", description="Go there.", strict=True, timeout=3)(lambda: None)
    assert (made.tool, made.timeout) == (
        Tool("go", "Go there.", {"type": "object", "properties": {}, "additionalProperties": False}, True),
        3,
    )


def test_methods_partials_and_callable_objects_are_tools_too():
    class Shop:
        def buy(self, what: str, count: int = 1) -> str:
            return what * count

        async def __call__(self, what: str) -> str:
            return what

    def two(a: int, b: int) -> int:
        return a + b

    shop = Shop()
    bound = tool(shop.buy)
    assert list(bound.tool.parameters["properties"]) == ["what", "count"]
    assert bound("ab", count=2) == "abab"
    assert tool(shop).is_async
    assert tool(shop).name == "Shop"
    half = tool(functools.partial(two, b=2), name="two")
    assert half.tool.parameters["required"] == ["a"]
    assert half(a=1) == 3


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda city: city, "argument 'city': has no type hint"),
        (lambda *cities: cities, "gives each argument by its name"),
        (lambda **cities: cities, "gives each argument by its name"),
        (7, "not of a int"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(function: Any, match: str):
    with pytest.raises(ConfigError, match=match):
        tool(name="it")(function)


def test_a_hint_that_cannot_be_read_is_said_to_be():
    def lost(x: Elsewhere) -> None:  # type: ignore[name-defined]  # noqa: F821  that is the test
        pass

    with pytest.raises(ConfigError, match="'Elsewhere' is not defined"):
        tool(lost)


@pytest.mark.parametrize("name", ["", "two words", "a.b", "x" * 65, "ö"])
def test_a_name_that_providers_refuse_is_refused(name: str):
    with pytest.raises(ConfigError, match="the name of a tool"):
        Function(Tool(name), print)


def test_what_is_listed_may_be_a_function_a_tool_or_neither():
    def hello() -> str:
        return "hi"

    made = tool(hello)
    assert as_tool(made) is made
    assert as_tool(hello).name == "hello"
    assert as_tool(Tool("theirs")) == Tool("theirs")
    for wrong, match in ((7, "a int is no tool"), (Stop, "the class Stop"), ({"name": "x"}, "a dict")):
        with pytest.raises(ConfigError, match=match):
            as_tool(wrong)


# -- arguments


@pytest.mark.parametrize(
    ("hint", "given", "made"),
    [
        (float, 3, 3.0),
        (list[Stop], [{"name": "Oslo"}], [Stop("Oslo")]),
        (Point, {"x": 1}, Point(1.0)),
        (Extras, {"seat": 1}, {"seat": 1}),
        (Extras, {"seat": 1, "meal": "soup"}, {"seat": 1, "meal": "soup"}),
        (Color, "blue", Color.BLUE),
        (set[int], [1, 1], {1}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (date, "2026-01-31", date(2026, 1, 31)),
        (datetime | None, "2026-01-31T10:00:00+00:00", datetime.fromisoformat("2026-01-31T10:00:00+00:00")),
        (datetime | None, None, None),
        (int | str, "7", "7"),
        (int | str, 7, 7),
        (Stop | Point, {"x": 2}, Point(2.0)),
        (list[int | None], [1, None], [1, None]),
        (dict[str, Stop], {"a": {"name": "b", "nights": 2}}, {"a": Stop("b", 2)}),
        (Any, {"a": [1]}, {"a": [1]}),
        (Meters, 2, 2.0),
        (Annotated[Literal["a"], "x"], "a", "a"),
    ],
)
def test_arguments_become_what_the_hints_say(hint: Any, given: Any, made: Any):
    value = taking(hint).arguments({"value": given})["value"]
    assert value == made
    assert type(value) is type(made)


@pytest.mark.parametrize(
    ("hint", "given", "told"),
    [
        (str, 3, "value: must be a string, and is an integer"),
        (int, "3", "value: must be an integer, and is a string"),
        (int, True, "value: must be an integer, and is a boolean"),
        (int, 3.5, "value: must be an integer, and is a number"),
        (float, True, "value: must be a number, and is a boolean"),
        (bool, "no", "value: must be a boolean, and is a string"),
        (list[str], "abc", "value: must be an array, and is a string"),
        (
            list[Stop],
            [{"name": "a"}, {"nam": 1}],
            "value[1].name: is missing; value[1].nam: is not known here; ",
        ),
        (dict[str, int], {"a": "b"}, "value.a: must be an integer, and is a string"),
        (Stop, "Oslo", "value: must be an object, and is a string"),
        (Color, "green", "value: must be one of 'red', 'blue'"),
        (Literal["a", "b"], "c", "value: must be one of 'a', 'b'"),
        (Literal["a", 1], True, "value: must be one of 'a', 1"),
        (tuple[int, int], [1], "value: must have at least 2 items, and has 1"),
        (int | str, [], "value: must be an integer or a string"),
        (Stop | None, {"name": 3}, "value.name: must be a string, and is an integer"),
        (date, "soon", "value: Invalid isoformat string: 'soon'"),
        (Even, {"number": 3}, "value"),
    ],
)
def test_a_model_is_told_where_its_arguments_are_wrong_and_what_would_be_right(
    hint: Any, given: Any, told: str
):
    with pytest.raises(WrongArguments) as wrong:
        taking(hint).arguments({"value": given})
    assert str(wrong.value).startswith(told)


def test_all_that_is_wrong_is_told_at_once():
    @tool
    def book(city: str, nights: int) -> None: ...

    with pytest.raises(WrongArguments) as wrong:
        book.arguments({"town": "Oslo"})
    assert str(wrong.value) == (
        "city: is missing; nights: is missing; town: is not known here; known are: city, nights"
    )


def test_a_function_with_a_schema_by_hand_gets_the_arguments_as_they_are_once_they_fit():
    by_hand = Function(
        Tool(
            "find",
            parameters={
                "type": "object",
                "properties": {
                    "n": {"type": ["integer", "null"], "minimum": 1, "exclusiveMaximum": 10},
                    "q": {"$ref": "#/$defs/query"},
                    "k": {"const": "x"},
                },
                "required": ["n"],
                "$defs": {"query": {"type": "string", "minLength": 2, "maxLength": 3}},
            },
        ),
        print,
    )
    assert by_hand.arguments({"n": 3, "q": "ab", "other": 1}) == {"n": 3, "q": "ab", "other": 1}
    with pytest.raises(WrongArguments) as wrong:
        by_hand.arguments({"n": 10, "q": "abcd", "k": "y"})
    assert str(wrong.value) == "n: must be less than 10; q: must have at most 3 characters; k: must be 'x'"


def test_a_schema_that_refers_to_itself_for_ever_ends():
    endless = {"$ref": "#"}
    assert [*mismatches({}, endless)] == ["the arguments: is nested too deep"]


# Values of each hint, and the hint: what fits the schema is structured, and whatever is not JSON of the
# hint is told of in words and raises nothing else.
HINTS = [
    str,
    int,
    float,
    bool,
    list[int],
    dict[str, float],
    Stop,
    Point,
    Extras,
    Color,
    int | str | None,
    date,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "x", "seat", "y", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(hint=st.sampled_from(HINTS), value=JSON)
def test_whatever_a_model_writes_is_taken_or_refused_in_words(hint: Any, value: Any):
    function = taking(hint)
    try:
        made = function.arguments({"value": value})
    except WrongArguments as wrong:
        assert "value" in str(wrong)  # noqa: PT017  either is right; which, the other tests say
    else:
        assert not [*mismatches({"value": value}, function.tool.parameters)]
        assert "value" in made


@given(hint=st.sampled_from([str, int, bool, list[int], Stop, Point, Color]), data=st.data())
def test_the_json_of_a_value_of_a_hint_is_that_value_again(hint: Any, data: st.DataObject):
    small = st.integers(-(2**63), 2**63 - 1)  # what orjson can write
    values = {
        int: small,
        list[int]: st.lists(small),
        Stop: st.builds(Stop, st.text(), small),
        Point: st.builds(Point, st.floats(allow_nan=False, allow_infinity=False), st.just(1.0)),
    }
    made = data.draw(values[hint] if hint in values else st.from_type(hint))
    wire = orjson.loads(orjson.dumps(attrs.asdict(made) if attrs.has(hint) else made))
    assert taking(hint).arguments({"value": wire})["value"] == made


# -- the shape of a schema


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (None, "parameters: is a NoneType"),
        ({"city": {"type": "string"}}, "parameters: has no type"),
        ({"type": "string"}, "parameters.type: is 'string'; arguments are an object"),
        (
            {"type": "object", "properties": ["city"]},
            "parameters.properties: is a list; expected schemas by name",
        ),
        (
            {"type": "object", "properties": {"a": "string"}},
            "parameters.properties.a: is a str; expected a schema",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "str"}}},
            "parameters.properties.a.type: is 'str'; it takes",
        ),
        (
            {"type": "object", "properties": {"a": {"type": []}}},
            "parameters.properties.a.type: is an empty list",
        ),
        ({"type": "object", "required": "a"}, "parameters.required: must be a list of names"),
        (
            {"type": "object", "properties": {}, "required": ["a"], "additionalProperties": False},
            "parameters.required: names 'a', which is not among the properties",
        ),
        (
            {"type": "object", "properties": {"a": {"enum": []}}},
            "parameters.properties.a.enum: must be a list",
        ),
        (
            {"type": "object", "properties": {"a": {"anyOf": {}}}},
            "parameters.properties.a.anyOf: must be a list",
        ),
        ({"type": "object", "properties": {"a": {"items": 3}}}, "parameters.properties.a.items: is a int"),
        (
            {"type": "object", "properties": {"a": {"minItems": -1}}},
            "parameters.properties.a.minItems: is -1",
        ),
        (
            {"type": "object", "properties": {"a": {"minimum": "1"}}},
            "parameters.properties.a.minimum: is '1'",
        ),
        (
            {"type": "object", "properties": {"a": {"description": 1}}},
            "parameters.properties.a.description: is a int",
        ),
        ({"type": "object", 3: 4}, "parameters: has a key that is no string"),
    ],
)
def test_parameters_that_are_no_json_schema_are_one_clear_error(parameters: Any, told: str):
    with pytest.raises(ConfigError, match="tool 'x': its parameters are no JSON Schema: ") as refused:
        as_tool(Tool("x", parameters=parameters))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"type": "object"},
        {"anyOf": [{"type": "object"}]},
        {"type": "object", "properties": {"a": True, "b": {"type": ["string", "null"], "x-mine": 1}}},
        {"type": "object", "properties": {"a": {"items": [{"type": "string"}], "additionalItems": False}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "integer"}}},
    ],
)
def test_what_json_schema_allows_is_let_pass(parameters: Any):
    assert schema_problems(parameters) == []


@given(value=JSON)
def test_no_json_at_all_breaks_the_check_of_a_schema(value: Any):
    problems = schema_problems({"type": "object", "properties": value, "anyOf": value, "required": value})
    assert all(isinstance(path, str) and isinstance(problem, str) for path, problem in problems)


def test_a_schema_nested_without_end_is_refused():
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(500):
        deep = {"type": "object", "properties": {"a": deep}}
    assert any("nested more than 64 deep" in problem for _, problem in schema_problems(deep))


# -- what a tool returns


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ("text", "text"),
        (None, "null"),
        ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}'),
        (["a", "b"], '["a","b"]'),
        ([], "[]"),
        (Stop("Oslo"), '{"name":"Oslo","nights":1}'),
        ([Point(1, 2)], '[{"x":1,"y":2}]'),
        ({3: Color.RED}, '{"3":"red"}'),
        ({"b", "a"}, '["a","b"]'),
        (date(2026, 1, 31), '"2026-01-31"'),
        (Image(url="https://x/y.png"), (Image(url="https://x/y.png"),)),
        (["see", Image(url="u"), {"n": 1}], [Text("see"), Image(url="u"), Text('{"n":1}')]),
        ("x" * 12, "xxxxxxxxxxxx"),
        ("x" * 30, "xxxxxxxxxxxxxxxxxxxx… [cut: 10 more characters]"),
        ([Text("y" * 30)], [Text("yyyyyyyyyyyyyyyyyyyy… [cut: 10 more characters]")]),
    ],
)
def test_what_a_tool_returns_is_text_parts_or_json(answer: Any, content: Any):
    assert (
        content_of(answer, max_chars=20 if "x" in str(answer) or "y" in str(answer)[:20] else 200) == content
    )


def test_what_has_no_json_is_refused_by_its_type():
    with pytest.raises(TypeError, match="a object, is no JSON: a object has no JSON"):
        content_of(object(), 100)


def test_a_docstring_without_sections_is_all_description():
    def plain() -> None:
        """Only words: these."""

    assert described(plain) == ("Only words: these.", {})
    assert described((7.0).__class__.__call__)[1] == {}
