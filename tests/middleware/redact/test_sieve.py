"""Texts that a search for what hurts has come to: none of their many beginnings is looked at by itself."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from benchmarks.redact import HURTING
from llmpipe.middleware.redact import Scanner
from llmpipe.middleware.redact.patterns import BUILT_IN
from llmpipe.middleware.redact.sieve import Beginnings
from llmpipe.testing.hostile import repeated


def operations(scanner: Scanner, text: str) -> int:
    """Operations of byte code to search `text`, with all that is made once made."""
    scanner._spans(list(scanner.detectors), text)
    count = 0

    def inside(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return inside

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return inside

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        scanner._spans(list(scanner.detectors), text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("kind", "unit"), HURTING)
def test_a_text_that_hurts_takes_few_operations_more_for_each_character(kind, unit):
    """To ask `re` and a check at each beginning takes sixty and more."""
    scanner = Scanner([kind], base64=False)
    once, twice = operations(scanner, repeated(unit, 20_000)), operations(scanner, repeated(unit, 40_000))
    assert twice - once < 2 * 20_000


@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_text_of_another_kind_hurts_no_more(kind):
    scanner = Scanner([kind], base64=False)
    units = [unit for other, unit in HURTING if other != kind]
    once, twice = operations(scanner, "".join(units) * 20), operations(scanner, "".join(units) * 40)
    assert twice - once < 2 * 20 * len("".join(units))


def test_what_runs_on_is_not_searched_where_few_characters_can_begin_it():
    """One `eyJ` in sixteen characters, and behind each of them `re` goes on over a thousand."""
    jwt = next(detector for detector in BUILT_IN["api_key"] if detector.runs_on)
    text = repeated("eyJ0aaaaaaaaaaa-", 4_000)
    beginnings = Beginnings(text, 0, len(text))
    count = beginnings.count(jwt)
    assert count * 16 <= len(text)
    assert beginnings.dense(jwt, count)
