"""A seal is made of a row's values as SQLite gives them back, whatever they were when they were written."""

from __future__ import annotations

import sqlite3
from enum import IntEnum, StrEnum
from typing import Any

import pytest

from llmpipe.state.sqlite.seals import real, seal, whole


class Text(StrEnum):
    A = "a"


class Number(IntEnum):
    TWO = 2


class Name(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "another"


@pytest.mark.parametrize(
    "value",
    [None, 0, -(2**63), 1.5, real(-0.0), "", "a'\n\0", b"\0\xff", True, False, Text.A, Number.TWO, Name("n")],
)
def test_a_row_that_was_written_is_whole_and_one_that_was_changed_is_not(value: Any) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE rows (name, value, seal)")
    row = ("key", value)
    db.execute("INSERT INTO rows VALUES (?, ?, ?)", (*row, seal(*row)))
    (read,) = db.execute("SELECT * FROM rows")
    assert whole(read)
    for other in ("other", 7, 7.0, None, b"other"):
        assert not whole((read[0], other, read[2])) or other == value
        assert not whole((other, read[1], read[2]))
    db.close()
