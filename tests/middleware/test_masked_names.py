"""A name is masked alike the first time and every other, and what is remembered is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware import masked_names
from llmpipe.middleware.log.fields import clipped
from llmpipe.middleware.masked_names import MAX_NAMES, masked_name, scrubbed_name
from llmpipe.secret import scrub

KEY = "sk-canary0123456789abcdef"


@pytest.mark.parametrize("length", [0, 1, 199, 200, 201, 5000])
def test_a_name_is_masked_and_cut_the_first_time_and_every_other(length: int) -> None:
    name = (f"jane.doe@example.com {KEY} " * 250)[:length]
    assert [masked_name(name) for _ in range(3)] == [clipped(name, 1000)] * 3
    assert [scrubbed_name(name) for _ in range(3)] == [scrub(name)] * 3


@given(st.text())
def test_any_text_is_masked_as_it_is_without_a_memory(name: str) -> None:
    assert (masked_name(name), scrubbed_name(name)) == (clipped(name, 1000), scrub(name))


def test_what_is_remembered_is_bounded_and_no_long_name_is() -> None:
    masked_names._masked.cache_clear()
    for number in range(50):
        masked_name("x" * 201 + str(number))
    assert masked_names._masked.cache_info().currsize == 0
    for number in range(2 * MAX_NAMES):
        masked_name(f"user {number}")
        scrubbed_name(f"tag {number}")
    assert masked_names._masked.cache_info().currsize == MAX_NAMES
    assert masked_names._scrubbed.cache_info().currsize == MAX_NAMES
