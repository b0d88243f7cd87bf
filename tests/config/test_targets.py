"""Chain files that name several targets: by name, in ensembles and routers, by use case and by needs."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmpipe.config import load
from llmpipe.errors import ConfigError
from llmpipe.middleware.continue_ import Continue
from llmpipe.middleware.fallback import Fallback
from llmpipe.middleware.migration import Migration
from llmpipe.pipeline.chain import Chain
from llmpipe.routing.ensemble import Ensemble
from llmpipe.routing.router import Router
from llmpipe.routing.selector import ModelSelector
from llmpipe.routing.use_cases import PREFERENCES, UseCases
from llmpipe.types import Request

chain_from: Any = load.chain_from
load_chain: Any = load.load_chain


def mock(name: str, **more: Any) -> dict[str, Any]:
    return {"use": "mock", "name": name, "model": f"{name}-1", "default": f"from {name}", **more}


CLAUDE = {"use": "anthropic", "model": "claude-haiku-4-5", "api_key": "k"}
NAMED = {"a": mock("a"), "b": mock("b"), "claude": CLAUDE}


def built(middleware: dict[str, Any], **more: Any) -> Any:
    return chain_from({"providers": NAMED, "provider": "a", "middleware": [middleware], **more}).middleware[0]


async def test_a_name_stands_for_one_target_wherever_it_is_used():
    chain = chain_from(
        {
            "providers": NAMED,
            "provider": "a",
            "middleware": [
                {"use": "fallback", "providers": ["b", "claude"]},
                {"use": "continue", "providers": ["claude"], "attempts": 2},
                {"use": "migration", "old": "b", "share": 0.5},
            ],
        }
    )
    kinds = {type(one): one for one in chain.middleware}
    fallback, again, migration = kinds[Fallback], kinds[Continue], kinds[Migration]
    assert chain.provider.name == "a"
    assert [target.name for target in fallback.targets] == ["b", "anthropic"]
    assert (again.targets[0], again.attempts) == (fallback.targets[1], 2)
    assert (migration.old, migration.share) == (fallback.targets[0], 0.5)


async def test_use_cases_stand_in_a_file():
    entries = [
        {"provider": "a", "use_cases": ["draft", "tickets"]},
        {"provider": {**mock("c")}, "use_cases": ["draft"], "account": "acme", "max_tokens": 5},
        {"provider": "b", "default": True, "active": False},
    ]
    chain = chain_from(
        {
            "providers": NAMED,
            "provider": "b",
            "middleware": [{"use": "use_cases", "entries": entries, "preferences": {"tickets": ["a-1"]}}],
        }
    )
    table = chain.middleware[0]
    assert isinstance(table, UseCases)
    assert set(table.preferences) == {*PREFERENCES, "tickets"}
    for tenant, case, said in (
        ("", "draft", "a"),
        ("acme", "draft", "c"),
        ("", "tickets", "a"),
        ("", "voice", "b"),
    ):
        done = await chain.complete(Request("", "hi"), tenant=tenant, tags={"use_case": case})
        assert done.text == f"from {said}"


async def test_a_model_selector_stands_in_a_file():
    made = built(
        {
            "use": "model_selector",
            "rank": ["quality", "price"],
            "needs": {"tags": ["eu"], "max_cost_usd": 0.5, "min_quality": 2},
            "cards": [
                {"provider": "a", "quality": 3, "tags": ["eu"], "context_tokens": 10_000},
                {"provider": "b", "quality": 9, "model": "b-9"},
            ],
        }
    )
    assert isinstance(made, ModelSelector)
    assert [(card.model, card.quality, card.tags) for card in made.cards] == [
        ("a-1", 3, frozenset({"eu"})),
        ("b-9", 9, frozenset()),
    ]
    assert made.rank == ("quality", "price")
    assert Decimal(str(made.needs.max_cost_usd)) == Decimal("0.5")


async def test_an_ensemble_and_a_router_are_targets_like_any_other():
    chain = chain_from(
        {
            "providers": {
                **NAMED,
                "panel": {"use": "ensemble", "providers": ["a", "b", "a"], "combine": "vote", "quorum": 2},
                "own": {"use": "chain", "provider": "b", "middleware": [{"use": "retry", "attempts": 2}]},
            },
            "provider": {
                "use": "router",
                "strategy": "priority",
                "health": {"down_after": 5},
                "checks": False,
                "layers": [{"use": "retry", "attempts": 7}],
                "providers": ["panel", {"provider": "own", "weight": 2, "priority": 1, "name": "second"}],
            },
        }
    )
    router = chain.provider
    assert isinstance(router, Router)
    panel, own = router.targets
    assert isinstance(panel, Ensemble)
    assert (panel.combine, panel.quorum, len(panel.targets)) == ("vote", 2, 3)
    assert isinstance(own, Chain)
    assert [one.name for one in own.middleware] == ["retry"]
    assert (router.routes[1].name, router.routes[1].weight) == ("second", 2)
    assert (await chain.complete("hi")).text == "from a"
    await chain.aclose()


def test_a_file_of_any_kind_says_it(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        """
        provider = "panel"

        [providers.a]
        use = "mock"
        default = "a"

        [providers.panel]
        use = "ensemble"
        providers = ["a", { use = "mock", default = "b" }]
        judge = "a"
        """
    )
    chain = load_chain(path)
    assert chain.provider.judge is chain.provider.targets[0]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"providers": ["a"]}, "chain: providers is a list; expected tables by name"),
        ({"providers": {"x": mock("x", modle=1)}}, "chain: providers.x: provider 'mock' takes no 'modle'"),
        (
            {"provider": "cluade"},
            "provider: no provider is called 'cluade' in [providers]; known: a, b, claude",
        ),
        ({"provider": "cluade"}, "did you mean 'claude'?"),
        ({"provider": {"use": "ensembl"}}, "provider: unknown provider 'ensembl'; did you mean 'ensemble'?"),
        ({"providers": {"x": "x"}}, "providers.x: provider 'x' leads to itself: x -> x"),
        (
            {
                "providers": {
                    "x": {"use": "ensemble", "providers": ["y"]},
                    "y": {"use": "chain", "provider": "x"},
                }
            },
            "leads to itself: x -> y -> x",
        ),
        ({"provider": {"use": "ensemble"}}, "provider: an ensemble needs members"),
        ({"provider": {"use": "ensemble", "providers": []}}, "provider: providers is empty"),
        (
            {"provider": {"use": "ensemble", "providers": ["a"], "combin": "vote"}},
            "provider: ensemble: no setting 'combin'; did you mean 'combine'?",
        ),
        ({"provider": {"use": "ensemble", "providers": ["a"], "combine": "blend"}}, "provider: "),
        (
            {"provider": {"use": "ensemble", "providers": ["a"], "judge": "nobody"}},
            "provider.judge: no provider",
        ),
        ({"provider": {"use": "ensemble", "providers": ["a"], "deadline": "soon"}}, "@ $.deadline"),
        ({"provider": {"use": "router"}}, "provider: providers is empty; a router needs at least one"),
        ({"provider": {"use": "router", "providers": []}}, "provider: providers is empty"),
        ({"provider": {"use": "router", "providers": "a"}}, "provider: providers is a str; expected a list"),
        (
            {"provider": {"use": "router", "providers": ["a"], "strategy": "cheapst"}},
            "provider: ",
        ),
        (
            {"provider": {"use": "router", "providers": ["a"], "strateg": "cheapest"}},
            "provider: router: no setting 'strateg'; did you mean 'strategy'?",
        ),
        (
            {"provider": {"use": "router", "providers": [{"provider": "a", "wait": 2}]}},
            "provider.providers[0]: route: no setting 'wait'; did you mean 'weight'?",
        ),
        (
            {"provider": {"use": "router", "providers": [{"provider": "a", "weight": "2"}]}},
            "providers[0]: route 'a'",
        ),
        ({"provider": {"use": "router", "providers": ["a"], "health": {"rest": -1}}}, "provider.health: "),
        (
            {"provider": {"use": "router", "providers": ["a"], "layers": [{"use": "rety"}]}},
            "provider.layers[0]: ",
        ),
        (
            {"provider": {"use": "chain", "middlewre": []}},
            "provider: unknown 'middlewre'; did you mean 'middleware'?",
        ),
        (
            {"provider": {"use": "chain", "middleware": [{"use": "retry", "attempts": 0}]}},
            "provider.middleware[0]: middleware 'retry'",
        ),
        ({"middleware": [{"use": "fallback", "providers": []}]}, "middleware[0]: providers is empty"),
        ({"middleware": [{"use": "fallback", "providers": ["a", "a"]}]}, "middleware[0]: "),
        (
            {"middleware": [{"use": "continue", "providers": [7]}]},
            "middleware[0].providers[0]: expected a table",
        ),
        ({"middleware": [{"use": "migration"}]}, "middleware[0]: middleware 'migration': `old` is missing"),
        ({"middleware": [{"use": "use_case"}]}, "unknown middleware 'use_case'; known: "),
        ({"middleware": [{"use": "use_case"}]}, "did you mean 'use_cases'?"),
        ({"middleware": [{"use": "use_cases"}]}, "middleware[0]: entries is empty"),
        (
            {"middleware": [{"use": "use_cases", "entries": [{"use": "mock"}]}]},
            "entries[0]: expected a table with",
        ),
        (
            {"middleware": [{"use": "use_cases", "entries": [{"provider": "a", "use_cases": ["drft"]}]}]},
            "known are draft, summary, complex, vision, general, voice; did you mean 'draft'?",
        ),
        (
            {"middleware": [{"use": "use_cases", "entries": [{"provider": "a", "acount": "x"}]}]},
            "middleware[0].entries[0]: entry: no setting 'acount'; did you mean 'account'?",
        ),
        (
            {"middleware": [{"use": "use_cases", "entries": [{"provider": "a", "max_tokens": "5"}]}]},
            "middleware[0].entries[0]: expected",
        ),
        (
            {"middleware": [{"use": "use_cases", "entries": [{"provider": "no"}]}]},
            "entries[0].provider: no provider",
        ),
        ({"middleware": [{"use": "model_selector", "cards": []}]}, "middleware[0]: cards is empty"),
        (
            {"middleware": [{"use": "model_selector", "cards": [{"provider": "a", "quality": "best"}]}]},
            "middleware[0].cards[0]: quality is a str; expected a number",
        ),
        (
            {"middleware": [{"use": "model_selector", "cards": [{"provider": "a"}], "rank": "prize"}]},
            "middleware[0]: ",
        ),
        (
            {
                "middleware": [
                    {"use": "model_selector", "cards": [{"provider": "a"}], "needs": {"features": ["tool"]}}
                ]
            },
            "no capability 'tool'",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(data: dict[str, Any], says: str):
    if isinstance(data.get("providers", {}), dict):
        data = {**data, "providers": {**NAMED, **data.get("providers", {})}}
    with pytest.raises(ConfigError) as caught:
        chain_from(data)
    assert says in str(caught.value)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("chain: ") for line in lines), lines
    assert len(lines) == len(set(lines)) <= 2


def test_everything_that_is_wrong_is_told_at_once_and_once():
    with pytest.raises(ConfigError) as caught:
        chain_from(
            {
                "providers": {"x": {"use": "nope"}, "y": mock("y", z=1)},
                "provider": {"use": "ensemble", "providers": ["x", "y", "w"]},
                "middleware": [
                    {"use": "fallback", "providers": ["x"]},
                    {"use": "use_cases", "entries": [{}]},
                ],
            }
        )
    assert [line.split(": ", 2)[1] for line in str(caught.value).splitlines()] == [
        "providers.x",
        "providers.y",
        "provider.providers[2]",
        "middleware[1].entries[0]",
    ]


def test_no_key_is_in_an_error():
    secret = "sk-canary-0123456789abcdef"
    for data in (
        {"providers": {"x": {"use": "openai", "api_key": secret, "modle": "m"}}},
        {"provider": {"use": "router", "providers": [{"provider": "no", "api_key": secret}]}},
        {
            "middleware": [
                {"use": "use_cases", "entries": [{"provider": {"use": "opnai", "api_key": secret}}]}
            ]
        },
    ):
        with pytest.raises(ConfigError) as caught:
            chain_from(data)
        assert secret not in str(caught.value)
