"""A router from what the environment has."""

from __future__ import annotations

import pytest

from llmpipe.config import environment
from llmpipe.errors import ConfigError

BOTH = {
    "OPENAI_API_KEY": "sk-one-key",
    "ANTHROPIC_API_KEY": "sk-ant-other",
    "OPENAI_MODEL": "gpt-4o-mini",
    "ANTHROPIC_MODEL": "claude-haiku-4-5",
}


def test_every_provider_with_a_key_is_a_target_and_the_primary_comes_first():
    router = environment.router(environment={**BOTH, "PRIMARY_LLM_PROVIDER": "anthropic"})
    assert {route.name: (route.priority, route.asked_model) for route in router.routes} == {
        "openai": (1, "gpt-4o-mini"),
        "anthropic": (0, "claude-haiku-4-5"),
    }
    assert "sk-" not in repr(router) + repr(router.routes)


def test_without_failover_there_is_the_primary_alone():
    told = {**BOTH, "PRIMARY_LLM_PROVIDER": "anthropic", "ENABLE_LLM_FAILOVER": "false"}
    assert [route.name for route in environment.router(environment=told).routes] == ["anthropic"]


def test_models_may_be_given_in_code():
    keys = {name: value for name, value in BOTH.items() if name.endswith("_KEY")}
    router = environment.router({"openai": "a", "anthropic": "b"}, environment=keys)
    assert [route.asked_model for route in router.routes] == ["a", "b"]
    (route,) = environment.router(environment={"OPENAI_API_KEY": "sk-one-key"}).routes
    assert route.asked_model == ""  # the caller's then


def test_the_environment_is_that_of_the_process(monkeypatch):
    for name, value in BOTH.items():
        monkeypatch.setenv(name, value)
    assert len(environment.router().routes) == 2


@pytest.mark.parametrize(
    ("told", "models", "says"),
    [
        ({}, {}, "no provider has a key in the environment; looked for ANTHROPIC_API_KEY"),
        ({"OPENAI_API_KEY": "  "}, {}, "no provider has a key"),
        ({**BOTH, "PRIMARY_LLM_PROVIDER": "opnai"}, {}, "unknown provider 'opnai'; did you mean 'openai'"),
        ({**BOTH, "PRIMARY_LLM_PROVIDER": "groq"}, {}, "'groq', which has no key .*; set GROQ_API_KEY"),
        ({**BOTH, "ENABLE_LLM_FAILOVER": "maybe"}, {}, "must be true or false, not 'maybe'"),
        ({**BOTH, "ANTHROPIC_MODEL": ""}, {}, "'anthropic' has no model .*; set ANTHROPIC_MODEL"),
        (BOTH, {"gemni": "x"}, "unknown provider 'gemni'; did you mean 'gemini'"),
    ],
)
def test_what_cannot_be_is_told_without_a_key(told, models, says):
    with pytest.raises(ConfigError, match=says) as caught:
        environment.router(models, environment=told)
    assert "sk-" not in str(caught.value)


def test_settings_are_the_routers():
    router = environment.router(environment=BOTH, strategy="lowest_latency", name="mine")
    assert router.name == "mine"
    assert "lowest_latency" in repr(router)
