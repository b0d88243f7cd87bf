"""Events and the completion they amount to, whatever wire they came from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.types import (
    Audio,
    Completion,
    Extra,
    Finish,
    Image,
    Message,
    Opaque,
    Reasoning,
    Refusal,
    Start,
    Text,
    TextDelta,
    ToolCall,
    Usage,
    fold,
    is_content,
    merge_extra,
    unfold,
)
from llmpipe.types.frozen import EMPTY

words = st.text(max_size=8)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
extras = st.dictionaries(words, json, max_size=3)
parts = st.one_of(
    st.builds(Text, words, extras),
    st.builds(Reasoning, words, st.none() | words, st.none() | words, extras),
    st.builds(Refusal, words, extras),
    st.builds(ToolCall, words.filter(bool), words.filter(bool), words, extras),
    st.builds(Image, words, extra=extras),
    st.builds(Audio, words, extra=extras),
    st.builds(Opaque, words, extras),
)
completions = st.builds(
    Completion,
    id=words,
    model=words,
    message=st.builds(Message, st.just("assistant"), st.lists(parts, max_size=4), extra=extras),
    finish_reason=st.sampled_from(["stop", "length", None]),
    usage=st.none() | st.builds(Usage, st.integers(0, 9), st.integers(0, 9), extra=extras),
    provider=words,
    created=st.none() | st.floats(0, 1e9),
    request_id=st.none() | words,
    headers=st.dictionaries(words, words, max_size=2),
    extra=extras,
)


@given(completions)
def test_unfolding_and_folding_gives_the_completion_back(completion):
    assert fold(unfold(completion)) == completion


@given(completions)
def test_what_commits_a_reply_comes_before_its_end_and_nothing_but_usage_after_it(completion):
    kinds = [type(event) for event in unfold(completion)]
    assert kinds[0] is Start
    if completion.finish_reason is not None:
        assert {kind.__name__ for kind in kinds[kinds.index(Finish) + 1 :]} <= {"UsageUpdate"}


def test_extra_of_the_message_and_extra_of_the_reply_stay_apart_and_grow_alike():
    done = fold(
        [
            Start("r", extra={"citations": ["a"]}),
            Extra({"annotations": [1], "audio": {"id": "x"}}, of="message"),
            Extra({"citations": ["b"]}),
            TextDelta("hi"),
            Extra({"annotations": [2], "audio": {"expires_at": 9}}, Opaque("d", {}), of="message"),
            Finish("stop"),
        ]
    )
    assert done.extra == {"citations": ["a", "b"]}
    assert done.message.extra == {"annotations": [1, 2], "audio": {"id": "x", "expires_at": 9}}
    assert done.message.parts == (Text("hi"), Opaque("d", {}))


def test_a_message_without_extra_shares_the_one_empty_mapping():
    """Which is what makes a folded reply cheap to freeze."""
    assert fold([TextDelta("a")]).message.extra is EMPTY


@pytest.mark.parametrize("of", ["reply", "message"])
def test_extra_is_content_wherever_it_belongs(of):
    assert is_content(Extra({"a": 1}, of=of))


@given(extras, extras, extras)
def test_merging_keeps_what_was_there(first, second, third):
    before: dict[str, Any] = dict(first)
    merged = merge_extra(merge_extra({}, first), second)
    assert first == before
    assert merged.keys() == first.keys() | second.keys()
    assert (
        merge_extra(merge_extra(merge_extra({}, first), second), third).keys() == merged.keys() | third.keys()
    )
