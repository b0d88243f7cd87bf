"""What a type checker knows of the provider that a name gives; mypy reads this file, and it runs."""

from __future__ import annotations

from typing import assert_type, get_args

import pytest

from llmpipe import provider
from llmpipe.errors import Unsupported
from llmpipe.pipeline.provider import Provider
from llmpipe.providers.factory import BuiltIn
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.mock import MockProvider
from llmpipe.providers.profiles import PROFILES


def test_the_names_that_type_checkers_know_are_those_there_are():
    assert set(get_args(BuiltIn)) == set(PROFILES)
    assert list(get_args(BuiltIn)) == sorted(get_args(BuiltIn))


async def test_a_provider_that_is_built_in_counts_tokens():
    core = assert_type(provider("groq", api_key="k", model="m"), HTTPProvider)
    assert isinstance(core, HTTPProvider)
    with pytest.raises(Unsupported, match="counts no tokens"):
        await core.count_tokens("hi")
    await core.aclose()


def test_a_mock_has_its_requests():
    core = assert_type(provider("mock", default="hi"), MockProvider)
    assert core.requests == []


def test_of_a_name_that_is_not_known_beforehand_it_is_a_provider():
    name: str = "mock"
    core = assert_type(provider(name, default="hi"), Provider)
    assert isinstance(core, MockProvider)
