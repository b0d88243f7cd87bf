"""From a name to a provider: built in, or of an installed package."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from llmpipe.errors import ConfigError
from llmpipe.providers import factory
from llmpipe.providers.factory import provider_names
from llmpipe.providers.http import HTTPProvider
from llmpipe.providers.mock import MockProvider
from llmpipe.providers.profiles import PROFILES, Profile

provider: Any = factory.provider

HERE = "tests.providers.test_factory"

ACME = Profile("acme", "openai.chat", "https://llm.acme.example/v1", key_env="ACME_KEY")


def build(*, model: str = "m", **options: Any) -> MockProvider:
    return MockProvider(default=str(options), model=model)


def strict(*, model: str = "m") -> MockProvider:
    return MockProvider(default="ok", model=model)


def nobody(**options: Any) -> None:
    """Forgets to return what it made."""


NOTHING = 7


def _load(wild: EntryPoint, real: Any) -> Any:
    def load(self: EntryPoint) -> Any:
        if self == wild:
            raise ZeroDivisionError("it divides by zero")
        return real(self)

    return load


@pytest.fixture(autouse=True)
def _plugged_in(monkeypatch):
    points = EntryPoints(
        EntryPoint(name, f"{HERE}:{attribute}", factory.GROUP)
        for name, attribute in (
            ("acme", "ACME"),
            ("loose", "build"),
            ("strict", "strict"),
            ("nothing", "NOTHING"),
            ("missing", "NO_SUCH_NAME"),
            ("empty", "nobody"),
            ("openai", "strict"),  # a built-in kind cannot be taken over
        )
    )
    broken = EntryPoint("broken", "no_such_package_anywhere:x", factory.GROUP)
    wild = EntryPoint("wild", "tests.providers.test_factory:", factory.GROUP)
    monkeypatch.setattr(EntryPoint, "load", _load(wild, EntryPoint.load))
    monkeypatch.setattr(
        factory, "entry_points", lambda group: [*points, broken, wild] if group == factory.GROUP else []
    )


def test_the_known_kinds_are_listed():
    assert provider_names() == sorted(
        {*PROFILES, "mock", "acme", "loose", "strict", "nothing", "missing", "broken", "empty", "wild"}
    )


@pytest.mark.parametrize("kind", PROFILES)
def test_every_profile_makes_a_provider(kind):
    core = provider(kind, api_key="sk-test", base_url="https://host.example/v1", model="m")
    assert isinstance(core, HTTPProvider)
    assert core.name == kind


def test_a_kind_that_nobody_knows_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown provider 'opnai'; known: .*; did you mean 'openai'\?"):
        provider("opnai")
    with pytest.raises(
        ConfigError, match="known: acme, anthropic, azure, azure-anthropic, azure-deployments, broken"
    ):
        provider("zzz")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("openai/gpt-4o-mini", r'; the model goes beside it: provider\("openai", model="gpt-4o-mini"\)$'),
        ("OpenAI", "did you mean 'openai'"),
        (MockProvider(), "a MockProvider is a provider already; use it as it is"),
        (["openai"], "takes the name of a kind first, such as 'openai', not a list"),
    ],
)
def test_what_is_no_kind_is_told_with_what_would_be_right(kind: Any, says: str):
    with pytest.raises(ConfigError, match=says):
        provider(kind)


def test_a_missing_key_names_the_variable():
    for kind, name in (
        ("openai", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("acme", "ACME_KEY"),
    ):
        with pytest.raises(ConfigError, match=f"'{kind}' needs an API key: pass api_key=… or set {name}"):
            provider(kind)


def test_a_key_comes_from_the_argument_and_else_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    monkeypatch.setenv("ACME_KEY", "sk-of-acme")
    assert provider("openai")._at.key.reveal() == "sk-from-environment"
    assert provider("openai", api_key="sk-argument")._at.key.reveal() == "sk-argument"
    assert provider("acme")._at.key.reveal() == "sk-of-acme"
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(ConfigError, match="needs an API key"):
        provider("openai")


@pytest.mark.parametrize("key", ["", "   ", "sk-a\nb", "sk-ü", "sk-“quoted”", 7, b"sk-bytes"])
def test_a_key_that_cannot_be_one_is_refused_without_being_shown(key):
    with pytest.raises(ConfigError, match="API key") as caught:
        provider("openai", api_key=key)
    assert len(str(key).strip()) < 2 or str(key) not in str(caught.value)


def test_wrong_keywords_are_all_told_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        provider("openai", api_key="sk-x", modle="m", colour="red")
    assert str(caught.value).startswith(
        "provider 'openai' takes no 'modle'; did you mean 'model'?; no 'colour'; it takes"
    )
    assert "profile" not in str(caught.value)
    with pytest.raises(ConfigError, match="provider 'mock' takes no 'scrip'; did you mean 'script'"):
        provider("mock", scrip=["a"])
    with pytest.raises(ConfigError, match="provider 'strict' takes no 'api_key'; it takes model"):
        provider("strict", api_key="x")


def test_an_installed_profile_is_a_provider_like_any_other():
    core = provider("acme", api_key="sk-x", model="m")
    assert isinstance(core, HTTPProvider)
    assert (core.name, core.endpoint) == ("acme", "llm.acme.example")


def test_an_installed_factory_gets_the_options_as_they_are():
    assert provider("loose", model="big", colour="red").default == "{'colour': 'red'}"
    assert provider("strict", model="big").model == "big"


def test_an_installed_package_cannot_take_the_name_of_a_built_in_one():
    assert isinstance(provider("openai", api_key="sk-x"), HTTPProvider)


def test_what_does_not_load_says_where_it_is_from():
    with pytest.raises(
        ConfigError, match=f"provider 'nothing' {HERE}:NOTHING is a int; it must be a Profile"
    ):
        provider("nothing")
    with pytest.raises(ConfigError, match=f"provider 'missing' {HERE}:NO_SUCH_NAME does not load"):
        provider("missing")
    with pytest.raises(ConfigError, match="does not load: No module named 'no_such_package_anywhere'"):
        provider("broken")
    with pytest.raises(ConfigError, match=r"'wild' .* does not load: it divides by zero"):
        provider("wild")


def test_an_installed_factory_that_gives_no_provider_says_so():
    with pytest.raises(ConfigError, match="provider 'empty' gives a NoneType, which is no provider"):
        provider("empty")
