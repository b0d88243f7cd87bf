"""The table of use cases in a store, from a chain file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmpipe.config.load import chain_from
from llmpipe.errors import ConfigError
from llmpipe.keys import KeyVault
from llmpipe.routing.repository import StoredUseCases
from llmpipe.routing.use_cases import PREFERENCES
from llmpipe.state import ProviderRow, open_state
from llmpipe.testing.simulator import Simulator

MASTER = "a master secret for tests, long enough"


def layered(**settings: Any) -> dict[str, Any]:
    return {
        "provider": {"use": "mock", "default": "the chain's own"},
        "middleware": [{"use": "stored_use_cases", **settings}],
    }


async def filled(store: str, table: str, *rows: ProviderRow) -> None:
    state = open_state(store)
    for row in rows:
        await state.providers(table).put(row)
    await state.aclose()


@pytest.mark.real_time
async def test_who_answers_stands_in_the_store_that_the_file_names(tmp_path: Path):
    store = f"sqlite:///{tmp_path / 'rows.db'}"
    await filled(store, "targets",
                 ProviderRow(name="mini", provider="mock", model="mini-1", use_cases=("tickets",)),
                 ProviderRow(name="big", provider="mock", model="big-1", use_cases=("draft",)))  # fmt: skip
    data = layered(store=store, table="targets", use_case="tickets", preferences={"tickets": ["mini-1"]})
    async with chain_from(data) as chain:
        [layer] = [one for one in chain.middleware if isinstance(one, StoredUseCases)]
        rows = layer.repository(chain.runtime)
        for case, name in (("tickets", "mini"), ("draft", "big")):
            chosen: Any = await rows.choose(case)
            assert chosen.target.name == name
        assert layer.use_case == "tickets"
        assert (await chain.complete("hi", tags={"use_case": "voice"})).text == "the chain's own"
        assert set(layer.preferences) == {*PREFERENCES, "tickets"}
        assert (layer.vault, layer.owns_vault) == (None, False)
        assert layer.repository(chain.runtime).problems == {}


@pytest.mark.real_time
async def test_the_keys_that_rows_name_are_those_of_the_files_vault(tmp_path: Path, monkeypatch: Any):
    pytest.importorskip("cryptography")
    monkeypatch.setenv("LLMPIPE_MASTER_KEY", MASTER)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    store = f"sqlite:///{tmp_path / 'all.db'}"
    vault = KeyVault(store, MASTER)
    await vault.put("openai", "sk-canary-of-rows", name="main")
    await vault.aclose()
    async with Simulator(keys=["sk-canary-of-rows"]) as simulator:
        row = ProviderRow(name="gpt", provider="openai", model="gpt-4o", key="main",
                          base_url=f"{simulator.url}/v1", is_default=True)  # fmt: skip
        await filled(store, "providers", row)
        data = {"vault": {"store": store}, **layered(store=store, vault=True)}
        async with chain_from(data) as chain:
            assert (await chain.complete("hi")).provider == "gpt"
            assert "canary" not in repr(chain) + str(chain.explain())
    assert [path.name for path in tmp_path.iterdir()] == ["all.db"]  # closed, both, with no log beside it


async def test_a_vault_that_the_chain_does_not_own_stays_open():
    class Vault:
        closed = 0

        async def aclose(self) -> None:
            self.closed += 1

    mine: Any = Vault()
    await StoredUseCases(vault=mine).aclose()
    assert mine.closed == 0
    await StoredUseCases(vault=mine, owns_vault=True).aclose()
    assert mine.closed == 1
    await StoredUseCases(owns_vault=True).aclose()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tabel": "x"}, "no setting 'tabel'; did you mean 'table'"),
        ({"make": "x"}, "no setting 'make'"),
        ({"owns_vault": True}, "no setting 'owns_vault'"),
        ({"vault": "main"}, r"vault is true where the keys .* \[vault\]"),
        ({"vault": True}, r"the file needs a table \[vault\]"),
        ({"preferences": ["a"]}, "preferences is a list"),
        ({"fresh": 0}, "fresh is seconds above 0, not 0"),
        ({"use_case": "poetry"}, "unknown use case 'poetry'; known are draft"),
        ({"store": 3}, "store"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_its_place(settings: dict[str, Any], told: str):
    with pytest.raises(ConfigError, match=told) as caught:
        chain_from(layered(**settings))
    assert "middleware[0]" in str(caught.value)


async def test_a_store_that_keeps_no_table_is_told_at_the_first_call():
    chain = chain_from(layered(store="file:///tmp/nowhere"))
    with pytest.raises(ConfigError, match="keeps no providers"):
        await chain.complete("hi")
