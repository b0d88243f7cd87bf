"""Middlewares by name, and their settings from plain values."""

from __future__ import annotations

import pytest
from attrs import fields, resolve_types

from llmpipe.errors import ConfigError
from llmpipe.pipeline import registry


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_every_setting_of_every_built_in_has_a_type_that_a_file_can_be_checked_against(name):
    made = registry.get(name)
    assert all(not isinstance(field.type, str) for field in fields(resolve_types(made)))


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_wrong_setting_of_any_built_in_is_told(name):
    with pytest.raises(
        ConfigError, match=rf"here: middleware '{name}': no setting 'nmae'; did you mean 'name'"
    ):
        registry.build(name, {"nmae": "x"}, "here")
    with pytest.raises(ConfigError, match=rf"middleware '{name}'.*expected int, not str"):
        registry.build(name, {"priority": "high", **_NEEDED.get(name, {})})


_NEEDED: dict[str, dict[str, object]] = {"fallback": {"targets": []}, "migration": {"old": print}}


def test_what_a_migration_needs_to_be_told_can_stand_in_a_file():
    class Old:
        name, endpoint, model = "old", "", "m"

        async def __call__(self, call):
            raise NotImplementedError

    made = registry.build("migration", {"old": Old(), "share": 0.25, "min_attempt": 1})
    assert (made.share, made.min_attempt) == (0.25, 1.0)  # type: ignore[attr-defined]  # it is a Migration
