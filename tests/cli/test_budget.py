"""`llmpipe budget`, over a file that a chain has kept its budgets in."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmpipe.cli import main
from llmpipe.config.load import load_chain
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.types import Completion, Message

CHAIN = """
[provider]
use = "mock"
default = "fine"
name = "openai"
model = "gpt-4o-mini"

[[middleware]]
use = "budget"
store = "sqlite:///{path}"

[[middleware.rules]]
usd = 0.01
period = "day"
per = "account"
"""


@pytest.fixture
def kept(tmp_path: Path) -> tuple[str, str]:
    """A chain's file, and the URL of its store, in which four calls stand."""
    file, url = tmp_path / "chain.toml", f"sqlite:///{tmp_path / 'state.db'}"
    file.write_text(CHAIN.replace("{path}", str(tmp_path / "state.db")))

    async def calls() -> None:
        async with load_chain(file) as chain:
            for tenant in ("acme", "acme", "[red]globex", ""):
                await chain.complete("hi", max_tokens=50, tenant=tenant)

    asyncio.run(calls())
    return str(file), url


def test_status_shows_each_account_that_has_spent(kept: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["budget", "status", "--chain", kept[0]]) == 0
    out = capsys.readouterr().out
    assert "day:account/account=acme" in out
    assert "[red]globex" in out
    assert main(["budget", "status", "--chain", kept[0], "--json"]) == 0
    found = {one["account"]: one for one in json.loads(capsys.readouterr().out)}
    assert len(found) == 3
    assert found["day:account/account=acme"]["spent"] == 2 * found["day:account/account="]["spent"] > 0


def test_status_of_models_goes_by_the_names_they_were_asked_for_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Providers answer with a date behind the name."""
    file = tmp_path / "chain.toml"
    text = CHAIN.replace('per = "account"', 'per = "model"').replace("{path}", str(tmp_path / "state.db"))
    file.write_text(text)
    dated = Completion(message=Message("assistant", "fine"), model="gpt-4o-mini-2024-07-18")

    async def call() -> None:
        (ring,) = load_chain(file).middleware
        async with Chain(MockProvider(default=dated, name="openai", model="gpt-4o-mini"), ring) as chain:
            await chain.complete("hi", max_tokens=50)

    asyncio.run(call())
    assert main(["budget", "status", "--chain", str(file), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["account"] == "day:model/model=gpt-4o-mini"
    assert found["spent"] > 0


def test_forecast_says_what_will_be_spent(kept: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["budget", "forecast", "--chain", kept[0]]) == 0
    assert "run rate" in capsys.readouterr().out
    assert main(["budget", "forecast", "--chain", kept[0], "--json"]) == 0
    assert all(one["projected"] >= one["spent"] for one in json.loads(capsys.readouterr().out))


def test_the_journal_and_advice_read_the_store(kept: tuple[str, str], capsys: pytest.CaptureFixture[str]):
    assert main(["budget", "journal", "--store", kept[1], "--account", "acme", "--json"]) == 0
    assert [row["tenant"] for row in json.loads(capsys.readouterr().out)] == ["acme", "acme"]
    assert main(["budget", "journal", "--store", kept[1], "--last", "1"]) == 0
    assert "openai/gpt-4o-mini" in capsys.readouterr().out
    assert main(["budget", "journal", "--store", kept[1], "--until", "2020-01-01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["budget", "advise", "--store", kept[1]]) == 0
    assert "Nothing to save" in capsys.readouterr().out
    assert main(["budget", "advise", "--store", kept[1], "--min-calls", "2"]) == 0
    assert "ask for 16 max_tokens in place of 50" in capsys.readouterr().out


def test_reconcile_ends_with_1_where_they_differ(
    kept: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["budget", "journal", "--store", kept[1], "--json"]) == 0
    nano = sum(row["nano"] for row in json.loads(capsys.readouterr().out))
    today = datetime.now(UTC).date().isoformat()
    for usd, status in ((nano / 1e9, 0), (5, 1)):
        file = tmp_path / "costs.csv"
        file.write_text(f"Day,Model,Cost\n{today},gpt-4o-mini,{usd:.9f}\n")
        columns = [f"--column={name}" for name in ("day=Day", "model=Model", "usd=Cost")]
        options = ["--store", kept[1], "--provider", "openai", "--tolerance", "0", *columns]
        assert main(["budget", "reconcile", str(file), *options]) == status
        assert ("1 differ" in capsys.readouterr().out) == bool(status)
        assert main(["budget", "reconcile", str(file), *options, "--json"]) == status
        capsys.readouterr()


def test_reconcile_books_when_it_is_told_to_and_once(
    kept: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["budget", "journal", "--store", kept[1], "--json"]) == 0
    nano = sum(row["nano"] for row in json.loads(capsys.readouterr().out))
    today = datetime.now(UTC).date()
    file = tmp_path / "costs.csv"
    file.write_text(f"usage_date_utc,model,cost_usd\n{today},gpt-4o-mini,{(nano + 4000) / 1e9:.9f}\n")
    words = ["budget", "reconcile", str(file), "--store", kept[1], "--provider", "openai", "--tolerance", "0"]
    assert main(words) == 1
    assert "left as it is" in capsys.readouterr().out  # the day is not over
    words += ["--exported", f"{today + timedelta(days=1)}T02:00"]
    for _ in range(2):
        assert main(words) == 1
        assert "1 corrections, 0.000004 USD in all, would be booked" in capsys.readouterr().out
    told = ("1 corrections are booked, 0.000004 USD", "0 corrections are booked, 0.00 USD")
    for out in told:
        assert main([*words, "--book", "--chain", kept[0]]) == 0
        assert out in capsys.readouterr().out
    assert main(["budget", "status", "--chain", kept[0], "--json"]) == 0
    assert sum(one["spent"] for one in json.loads(capsys.readouterr().out)) == nano + 4000
    assert main(["budget", "journal", "--store", kept[1], "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["nano"] for row in rows) == nano + 4000
    assert {row["tenant"] for row in rows if row["status"] == "corrected"} == {"acme", "[red]globex", ""}
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["corrections"] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["journal"], "ends with its process"),
        (["journal", "--store", "nowhere://x"], "no state backend"),
        (["journal", "--store", "sqlite:////nonexistent/folder/x.db"], "folder"),
        (["journal", "--store", "sqlite:////tmp/x.db", "--since", "yesterday"], "2026-12-31"),
        (["status", "--chain", "/nonexistent.toml"], "cannot be read"),
        (["reconcile", "/nonexistent.csv", "--provider", "p", "--store", "sqlite:///x"], "cannot be read"),
        (["reconcile", "x", "--provider", "p", "--column", "usd"], "FIELD=NAME"),
        (["reconcile", "x", "--provider", "p", "--tolerance", "little"], "tolerance"),
        (["reconcile", "x", "--provider", "p", "--tolerance", "nan"], "tolerance"),
        (["reconcile", "x", "--provider", "p", "--book"], "--chain, which has the rules"),
        (
            ["reconcile", "x", "--provider", "p", "--book", "--chain", "c", "--account", "a"],
            "without --account",
        ),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main(["budget", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_a_chain_without_a_budget_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "chain.toml"
    file.write_text("[[middleware]]\nuse = 'retry'\n")
    assert main(["budget", "status", "--chain", str(file)]) == 2
    assert "which budget? it has none" in capsys.readouterr().err
