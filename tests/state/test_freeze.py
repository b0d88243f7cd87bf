"""Frozen copies: equal, unchangeable, and still what encoders and copiers take."""

from __future__ import annotations

import copy
import pickle
from array import array
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.state.freeze import freeze
from llmpipe.types import Completion, Cost, Message, Text, ToolCall, Usage, fold, merge_extra, unfold
from llmpipe.types.frozen import FrozenDict, FrozenList

json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
DICT_CHANGES = [
    ("clear", ()),
    ("pop", ("a",)),
    ("popitem", ()),
    ("setdefault", ("b", 1)),
    ("update", ({"b": 1},)),
    ("__setitem__", ("a", 2)),
    ("__delitem__", ("a",)),
    ("__ior__", ({"b": 1},)),
]
LIST_CHANGES = [
    ("append", (1,)),
    ("clear", ()),
    ("extend", ([1],)),
    ("insert", (0, 1)),
    ("pop", ()),
    ("remove", (1,)),
    ("reverse", ()),
    ("sort", ()),
    ("__setitem__", (0, 2)),
    ("__delitem__", (0,)),
    ("__iadd__", ([1],)),
    ("__imul__", (2,)),
]


@given(json)
def test_a_frozen_copy_is_equal_encodes_the_same_and_thaws(value):
    frozen, size = freeze(value)
    assert frozen == value
    assert size > 0 or value == {}
    assert orjson.dumps(frozen) == orjson.dumps(value)
    assert pickle.loads(pickle.dumps(frozen)) == value
    thawed = copy.deepcopy(frozen)
    assert thawed == value
    assert type(thawed) not in (FrozenDict, FrozenList)


@pytest.mark.parametrize(("name", "args"), DICT_CHANGES)
def test_a_frozen_dict_refuses_every_change(name, args):
    frozen = FrozenDict(a=1)
    with pytest.raises(TypeError, match="copy what you change"):
        getattr(frozen, name)(*args)
    assert frozen == {"a": 1}


@pytest.mark.parametrize(("name", "args"), LIST_CHANGES)
def test_a_frozen_list_refuses_every_change(name, args):
    frozen = FrozenList([1])
    with pytest.raises(TypeError, match="copy what you change"):
        getattr(frozen, name)(*args)
    assert frozen == [1]


def test_no_mutator_of_dict_or_list_is_forgotten():
    harmless = {"copy", "get", "items", "keys", "values", "fromkeys", "count", "index"}
    for frozen, plain in ((FrozenDict, dict), (FrozenList, list)):
        public = {name for name in vars(plain) if not name.startswith("_")} - harmless
        assert {name for name in public if vars(frozen).get(name) is None} == set()


def test_a_copy_can_be_changed():
    for frozen in (FrozenDict(a=[1]), FrozenDict(a={"b": 1})):
        changed = {**frozen, "c": 1}
        changed["d"] = 2
        copy.copy(frozen)["e"] = 1
    thawed: Any = copy.copy(FrozenList([1]))
    thawed.append(2)
    assert merge_extra({}, freeze({"a": {"b": [1]}})[0]) == {"a": {"b": [1]}}


def test_a_completion_freezes_to_its_last_leaf():
    done: Any = Completion(
        message=Message("assistant", [Text("hi", {"a": [1]}), ToolCall("1", "f", "{}", {"b": {}})]),
        usage=Usage(1, 2, extra={"c": {"d": 1}}),
        charge=Cost(1, 2),
        extra={"e": [{"f": 1}]},
        warnings=("w",),
    )
    frozen, size = freeze(done)
    assert frozen == done
    assert size > 1000
    for leaf in (
        frozen.message.parts[0].extra,
        frozen.message.parts[1].extra["b"],
        frozen.usage.extra["c"],
        frozen.extra["e"][0],
    ):
        with pytest.raises(TypeError):
            leaf["new"] = 1
    assert fold(unfold(frozen)).message == done.message


def test_what_has_a_buffer_is_copied_and_other_mappings_become_dicts():
    floats = array("d", [1.0])
    values: dict[str, Any] = {"floats": floats, "view": MappingProxyType({"a": 1})}
    frozen, _ = freeze(values)
    floats[0] = 2.0
    assert frozen["floats"][0] == 1.0
    assert frozen["view"] == {"a": 1}
