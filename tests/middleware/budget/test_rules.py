"""What a rule says, what it refuses to say, and how it stands in a file."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmpipe.config.load import load_chain
from llmpipe.errors import BudgetExceeded, ConfigError
from llmpipe.middleware.budget import Budget, Rule
from llmpipe.middleware.budget.journal import scopes_of_line
from llmpipe.middleware.scopes import scopes_of
from llmpipe.pipeline.chain import Chain
from llmpipe.pipeline.registry import build
from llmpipe.runtime import Runtime
from llmpipe.types import Request
from tests.middleware.budget.bank import NOON, PRICES, balance, budget, ledger_of, mock, runtime, shaky

BAD_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"usd": 0}, "usd is dollars above 0"),
    "less than nothing": ({"usd": -1}, "usd is dollars above 0"),
    "not a number": ({"usd": float("nan")}, "usd is dollars above 0"),
    "without end": ({"usd": float("inf")}, "usd is dollars above 0"),
    "a text": ({"usd": "ten"}, "usd is dollars above 0"),
    "none": ({"usd": None}, "usd is dollars above 0"),
    "true": ({"usd": True}, "usd is dollars above 0"),
    "more than can be counted": ({"usd": 10**9}, "4000000 at most"),
    "less than can be counted": ({"usd": "1e-12"}, "less than can be counted"),
    "a year": ({"usd": 1, "period": "year"}, "hour, day, week, month, total"),
    "a timezone there is not": ({"usd": 1, "timezone": "Europe/Berlln"}, "did you mean 'Europe/Berlin'"),
    "a timezone that is a path": ({"usd": 1, "timezone": "../../etc/passwd"}, "there is no timezone"),
    "a timezone that is no text": ({"usd": 1, "timezone": 1}, "are texts"),
    "a scope there is not": ({"usd": 1, "per": ("acount",)}, "did you mean 'account'"),
    "a scope twice": ({"usd": 1, "per": ("user", "user")}, "each once"),
    "no scope": ({"usd": 1, "per": ()}, "per names scopes"),
    "an empty tag": ({"usd": 1, "per": ("tag:",)}, "there is no scope"),
    "a condition on nothing": ({"usd": 1, "when": {"modle": "x"}}, "did you mean 'model'"),
    "a condition on all": ({"usd": 1, "when": {"global": "x"}}, "a scope with values"),
    "a condition that is a list": ({"usd": 1, "when": {"model": ["a", "b"]}}, "a scope with values"),
    "no mapping": ({"usd": 1, "when": "model"}, "when is scopes to patterns"),
    "an action there is not": ({"usd": 1, "action": "warn"}, "block, downgrade or alert"),
    "a downgrade to nothing": ({"usd": 1, "action": "downgrade"}, "go together"),
    "a model without a downgrade": ({"usd": 1, "downgrade_to": "small"}, "go together"),
    "a share above all": ({"usd": 1, "alert_at": (0.8, 80)}, "shares above 0"),
    "a share of nothing": ({"usd": 1, "alert_at": 0}, "shares above 0"),
    "a share that is a text": ({"usd": 1, "alert_at": "0.8"}, "shares above 0"),
    "a share that is no number": ({"usd": 1, "alert_at": float("nan")}, "shares above 0"),
    "a day there is not": ({"usd": 1, "until": "2027-02-30"}, "until is a day"),
    "a moment": ({"usd": 1, "since": "2026-01-01T00:00:00"}, "since is a day"),
    "the last day of all": ({"usd": 1, "until": "9999-12-31"}, "until is a day"),
    "in the past": ({"usd": 1, "until": "2020-12-31"}, "it ended with 2020-12-31"),
    "backwards": ({"usd": 1, "since": "2099-02-01", "until": "2099-01-01"}, "until is before since"),
    "a name that is no text": ({"usd": 1, "name": 7}, "are texts"),
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_a_rule_that_can_never_hold_is_one_clear_error(case: str):
    settings, told = BAD_RULES[case]
    with pytest.raises(ConfigError) as caught:
        Rule(**settings)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_BUDGETS: dict[str, tuple[dict[str, Any], str]] = {
    "two of one name": ({"rules": (Rule(usd=1), Rule(usd=2))}, "two rules are called 'month:global'"),
    "no rule": ({"rules": ("10 USD",)}, "rules[0] is a Rule"),
    "no rules": ({"rules": 10}, "rules are a list"),
    "a price of nothing": ({"unknown_price": "ignore"}, "refuse or allow"),
    "no lease": ({"lease": 0}, "lease is seconds"),
    "a lease without end": ({"lease": float("inf")}, "lease is seconds"),
    "slack below nothing": ({"slack_usd": -1}, "slack_usd is dollars"),
    "slack without end": ({"slack_usd": float("inf")}, "slack_usd is dollars"),
    "slack that is no number": ({"slack_usd": float("nan")}, "slack_usd is dollars"),
    "no output": ({"output_tokens": 0}, "output_tokens is tokens"),
    "a downgrade to what nobody prices": (
        {"rules": (Rule(usd=1, action="downgrade", downgrade_to="house-model"),)},
        "nobody knows the price",
    ),
    "a price that is none": ({"prices": {"m": {"input": -1}}}, "zero or more"),
}


@pytest.mark.parametrize("case", BAD_BUDGETS)
def test_a_budget_that_cannot_work_is_one_clear_error(case: str):
    settings, told = BAD_BUDGETS[case]
    with pytest.raises(ConfigError) as caught:
        Budget(**settings)
    assert told in str(caught.value)


def test_a_downgrade_to_a_model_with_a_price_of_its_own_provider_is_taken():
    rule = Rule(usd=1, action="downgrade", downgrade_to="llama")
    Budget(rules=rule, prices={"ollama/llama": {"input": 0, "output": 0}})
    Budget(rules=Rule(usd=1, action="downgrade", downgrade_to="gpt-4o-mini"))
    Budget(rules=Rule(usd=1, action="downgrade", downgrade_to="nobodys"), unknown_price="allow")


def test_dollars_are_what_was_written():
    assert Rule(usd=0.1).nano == 100_000_000
    assert Rule(usd="0.000000001").nano == 1
    assert Rule(usd=Decimal("19.99")).nano == 19_990_000_000


def test_a_last_day_is_whole_even_where_clocks_change_on_it():
    """In Berlin 25 October 2026 has 25 hours."""
    rule = Rule(usd=1, since=date(2026, 10, 25), until="2099-10-25", timezone="Europe/Berlin")
    assert rule.holds[0] == 1_792_879_200
    short = Rule(usd=1, since="2026-01-01", until="2026-12-31", timezone="Europe/Berlin")
    assert short.holds[1] == 1_798_758_000 - 0  # 31 December ends at 23:00 UTC
    clocks = Rule(usd=1, until="2099-10-25", timezone="Europe/Berlin")
    assert (clocks.holds[1] - 4096479600.0) % 3600 == 0


def test_names_of_rules_and_values_of_scopes_are_never_taken_for_one_another():
    scopes = {"account": "acme", "user": "x"}
    one = Rule(usd=1, per="account", name="day").account(scopes)
    assert Rule(usd=1, name="day/account=acme").account(scopes) != one
    slash = Rule(usd=1, per=("account", "user"), name="d")
    one = slash.account({"account": "a/user=b", "user": ""})
    assert one != slash.account({"account": "a", "user": "b/user="})


def test_a_user_of_one_account_is_not_that_of_another():
    rule = Rule(usd=1, per="user")
    assert rule.account({"account": "a", "user": "bob"}) != rule.account({"account": "b", "user": "bob"})


# ------------------------------------------------------------ from a file

FILE = """
[provider]
use = "mock"
default = "fine"
name = "p"
model = "m"

[[middleware]]
use = "budget"
store = "memory://"
prices = { m = { input = 2, output = 10 }, small = { input = "0.2", output = 1.0 } }

[[middleware.rules]]
usd = 0.1
period = "day"
per = "account"
timezone = "Asia/Kolkata"

[[middleware.rules]]
name = "everything"
usd = "2500.50"
per = ["project", "tag:team"]
when = { model = "m*" }
action = "downgrade"
downgrade_to = "small"
alert_at = [0.5, 1]
since = 2026-01-01
until = 2099-12-31
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "chain.toml"
    path.write_text(text)
    return path


def test_rules_stand_in_a_file(tmp_path: Path):
    chain = load_chain(written(tmp_path, FILE))
    config: Any = chain.middleware[0]
    first, second = config.config.rules
    assert (first.nano, first.per, first.timezone) == (100_000_000, ("account",), "Asia/Kolkata")
    assert second.usd == Decimal("2500.50")
    assert (second.per, second.alert_at, second.downgrade_to) == (("project", "tag:team"), (0.5, 1), "small")
    assert (second.since, second.until) == ("2026-01-01", "2099-12-31")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("usd = 0.1", "usd = -1", "usd is dollars above 0"),
        ("usd = 0.1", 'usd = "much"', "usd is dollars above 0"),
        ('period = "day"', 'period = "fortnight"', "period"),
        ('per = "account"', 'per = "acount"', "did you mean 'account'"),
        ("alert_at = [0.5, 1]", 'alert_at = ["half"]', "alert_at"),
        ('downgrade_to = "small"', 'downgrade_to = "nobodys"', "nobody knows the price"),
        ('period = "day"', 'perid = "day"', "perid"),
        ("until = 2099-12-31", "until = 2001-12-31", "until is before since"),
        ('name = "everything"', 'name = "day:account"', "two rules are called"),
        ('store = "memory://"', "slack_usd = -1", "slack_usd"),
    ],
)
def test_a_wrong_rule_in_a_file_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str):
    assert old in FILE
    with pytest.raises(ConfigError) as caught:
        load_chain(written(tmp_path, FILE.replace(old, new)))
    assert told in str(caught.value)
    assert "middleware[0]" in str(caught.value)


def test_the_registry_knows_it():
    made: Any = build("budget", {"rules": [{"usd": 5, "period": "day"}]})
    assert made.rules[0].nano == 5 * 10**9


# ------------------------------------------------------------ what applies, and for how long it is remembered


async def test_what_is_remembered_of_a_rule_ends_with_its_period_and_its_days():
    now = NOON
    at = Runtime(seed=1, wall=lambda: now)
    config = budget(
        Rule(usd=1, period="hour", name="hour"),
        Rule(usd=1, period="total", since="2026-10-02", until="2099-01-01", name="later"),
    )
    call = Chain(mock(), runtime=at).new_call(Request(messages="hi"))
    for moment in (NOON, NOON + 3600, NOON + 12 * 3600, NOON, NOON + 40 * 86_400):
        plan = config.plans.of(call, "p", "m", moment)
        scopes = scopes_of(call, "p", "m")
        right = [(r.name, r.period_at(moment).start) for r in config.rules if r.applies(scopes, moment)]
        assert [(line.rule.name, line.key[1]) for line in plan.lines] == right
        assert plan.begins <= moment < plan.ends


async def test_calls_with_other_tags_have_other_plans():
    config = budget(Rule(usd=1, per="tag:team"), Rule(usd=1, per=("project", "key"), name="both"))
    chain = Chain(mock(default="x"), config, runtime=runtime())
    for tags in ({"team": "a"}, {"team": "b"}, {"team": "b", "project": "p"}, {"team": "b", "key": "k"}):
        await chain.complete("hi", tags=tags, max_tokens=5)
    plans = config.plans._found
    assert len({line.key for plan in plans.values() for line in plan.lines}) == 2 + 3


async def test_settings_can_be_changed_for_one_call():
    config = budget(Rule(usd="0.000001", period="day"))
    chain = Chain(mock(default="x"), config, runtime=runtime())
    with pytest.raises(BudgetExceeded) as caught:
        await chain.complete("hi", max_tokens=50)
    assert caught.value.code == "never_fits"
    more = {Budget: {"rules": (Rule(usd=1, period="day"),)}}
    assert (await chain.complete("hi", max_tokens=50, options=more)).text == "x"
    assert (await balance(chain, config))[0] > 0  # of the same name, so the same balance


async def test_status_refuses_a_scope_that_there_is_not_and_shows_what_may_apply():
    config = budget(Rule(usd=1, when={"model": "gpt*"}, name="gpt"), Rule(usd=1, name="all"))
    at = runtime()
    with pytest.raises(ConfigError, match="did you mean 'account'"):
        await config.status(at, acount="acme")
    assert [one.rule for one in await config.status(at)] == ["gpt", "all"]
    assert [one.rule for one in await config.status(at, model="claude")] == ["all"]
    assert [one.account for one in await config.status(at, tenant="acme", model="gpt-5")] == ["gpt", "all"]


async def test_the_price_of_a_model_is_asked_for_where_a_budget_limits():
    for rules, unknown, ends in (
        ((Rule(usd=1),), "refuse", "unknown_price"),
        ((Rule(usd=1, action="alert"),), "refuse", "ok"),
        ((Rule(usd=1),), "allow", "ok"),
        ((), "refuse", "ok"),
    ):
        config = Budget(rules=rules, prices=PRICES, unknown_price=unknown)
        chain = Chain(mock(default="x", model="nobodys"), config, runtime=runtime())
        if ends == "ok":
            await chain.complete("hi")
            assert [row.nano for row in await ledger_of(chain).spends()] == [None]
        else:
            with pytest.raises(BudgetExceeded, match="nobodys") as caught:
                await chain.complete("hi")
            assert caught.value.code == ends


@pytest.mark.parametrize(("own", "other"), [("memory://", "shaky://"), ("shaky://", "memory://")])
async def test_the_store_cannot_be_changed_for_one_call(own: str, other: str):
    """It decides how a chain is linked: what was held there would never be settled."""
    config = budget(Rule(usd=1), store=own)
    chain = Chain(mock(default="x"), config, runtime=runtime())
    shaky(chain.runtime, pause=0.1)
    with pytest.raises(ConfigError, match="store"):
        await chain.complete("hi", options={Budget: {"store": other}})
    await chain.complete("hi", options={Budget: {"store": own}})


async def test_a_tag_that_is_a_credential_is_a_digest_in_the_journal_as_in_the_balances():
    secret = "sk-proj-" + "abcdefghijklmnopqrstuvwxyz0123456789"
    config = budget(Rule(usd=1, per="project"))
    chain = Chain(mock(default="x"), config, runtime=runtime())
    await chain.complete("hi", tags={"project": secret, "use_case": secret, "key": secret})
    (row,) = await ledger_of(chain).spends()
    assert secret not in repr(row)
    assert await balance(chain, config, project=secret) == (row.nano, 0)
    assert (await config.forecast(chain.runtime, project=secret))["month:project"].spent == row.nano
    (status,) = await config.status(chain.runtime, project=secret)
    assert config.rules[0].account(scopes_of_line(row)) == status.account
