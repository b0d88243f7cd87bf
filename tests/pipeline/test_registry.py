"""Middlewares by name, and their settings from plain values."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import Any

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


@pytest.mark.parametrize("wrong", [5, None, ["retry"]])
def test_a_name_that_is_no_text_is_refused(wrong):
    with pytest.raises(
        ConfigError, match=rf"here: the name .* is a {type(wrong).__name__}; expected a string"
    ):
        registry.build(wrong, {}, "here")


@pytest.mark.parametrize("wrong", [5, None, "attempts", [("attempts", 3)]])
def test_settings_that_are_no_mapping_are_refused_and_not_repeated(wrong):
    with pytest.raises(ConfigError, match=rf"here: middleware 'retry': .* not a {type(wrong).__name__}$"):
        registry.build("retry", wrong, "here")
    with pytest.raises(ConfigError, match=rf"not a {type(wrong).__name__}$"):
        registry.structured(registry.get("retry"), wrong)


def test_a_setting_whose_name_is_no_text_is_told_like_any_unknown_one():
    settings: dict[Any, Any] = {5: 1}
    with pytest.raises(ConfigError, match="no setting '5'"):
        registry.build("retry", settings)


@pytest.mark.parametrize("value", ["no_such_package_anywhere:x", "json:nothing_of_that_name"])
def test_a_middleware_of_a_broken_package_is_named_with_what_is_wrong(monkeypatch, value):
    broken = EntryPoint("broken", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(ConfigError, match=r"here: middleware 'broken' of .* cannot be loaded: .*no"):
        registry.build("broken", {}, "here")
