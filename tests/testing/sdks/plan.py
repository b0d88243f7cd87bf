"""What structured output is asked for. Skips whoever imports it without pydantic, which all the SDKs need."""

from __future__ import annotations

from typing import Any, Literal

import pytest

pydantic: Any = pytest.importorskip("pydantic")

__all__ = ("Plan", "Step")


class Step(pydantic.BaseModel):  # type: ignore[misc]  # imported only where it is
    """A part of a plan."""

    text: str
    kind: Literal["think", "act"]


class Plan(pydantic.BaseModel):  # type: ignore[misc]  # the same
    """What structured output is asked for: lists, choices, and what may be null."""

    title: str
    steps: list[Step]
    cost: float
    done: bool
    note: str | None
