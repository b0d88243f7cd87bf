"""Keys that a chain file leaves in a vault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmpipe.config import load
from llmpipe.errors import AuthenticationFailed, ConfigError
from llmpipe.keys import KeyVault
from llmpipe.testing.simulator import Simulator

pytest.importorskip("cryptography")

chain_from: Any = load.chain_from
MASTER = "a master secret for tests, long enough"


@pytest.fixture(autouse=True)
def _master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMPIPE_MASTER_KEY", MASTER)


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'keys.db'}"


async def stored(store: str, key: str, **names: str) -> None:
    vault = KeyVault(store, MASTER)
    await vault.put("openai", key, **names)
    await vault.aclose()


def asking(url: str, store: str, key: Any, **vault: Any) -> dict[str, Any]:
    return {
        "vault": {"store": store, **vault},
        "provider": {"use": "openai", "base_url": f"{url}/v1", "model": "gpt-4o-mini", "api_key": key},
    }


@pytest.mark.real_time
async def test_the_key_of_a_provider_is_looked_up_in_the_vault_of_the_file(store, tmp_path):
    await stored(store, "sk-canary-of-all")
    await stored(store, "sk-canary-of-acme", tenant="acme")
    async with Simulator(keys=["sk-canary-of-acme"]) as simulator:
        async with chain_from(asking(simulator.url, store, {"vault": "openai", "tenant": "acme"})) as chain:
            assert (await chain.complete("hi")).text
            assert "canary" not in repr(chain) + str(chain.explain())
        assert [path.name for path in tmp_path.iterdir()] == ["keys.db"]  # closed, with no log beside it
        async with chain_from(asking(simulator.url, store, {"vault": "openai"})) as chain:
            with pytest.raises(AuthenticationFailed):
                await chain.complete("hi")


@pytest.mark.real_time
async def test_a_file_of_toml_with_a_master_secret_of_its_own(store, tmp_path):
    await stored(store, "sk-good")
    async with Simulator(keys=["sk-good"]) as simulator:
        path = tmp_path / "chain.toml"
        path.write_text(
            f'provider = "main"\n[vault]\nstore = "{store}"\nmaster = ["another master secret, long too", '
            f'"{MASTER}"]\n[providers.main]\nuse = "openai"\nmodel = "m"\nbase_url = "{simulator.url}/v1"\n'
            'api_key = { vault = "openai", env = "NO_SUCH_VARIABLE", fresh = 5 }\n'
        )
        async with load.load_chain(path) as chain:
            assert (await chain.complete("hi")).text


async def test_no_such_key_is_told_with_where_one_could_be(store):
    chain = chain_from(asking("http://127.0.0.1:1", store, {"vault": "openai", "env": "OPENAI_API_KEY"}))
    async with chain:
        with pytest.raises(AuthenticationFailed, match=r"set OPENAI_API_KEY, or store one in the vault"):
            await chain.complete("hi")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vault": None}, r"provider: keys lie in a vault, so the file needs a table \[vault\]"),
        ({"vault": {}}, "provider: vault: store is missing"),
        ({"vault": {"store": "memory://", "mastr": "x"}}, "vault: no setting 'mastr'; did you mean 'master'"),
        ({"vault": {"store": "memory://", "max_age_days": "x"}}, "vault: max_age_days is a number"),
        ({"vault": {"store": "redis://nowhere/0"}}, "redis:// keeps no vault"),
        ({"vault": {"store": "memory://", "master": "short"}}, "master"),
        ({"api_key": {}}, "api_key: `vault` is the provider under which"),
        ({"api_key": {"vault": "openai", "tennant": "a"}}, "no setting 'tennant'; did you mean 'tenant'"),
        ({"api_key": {"vault": "openai", "tenant": 7}}, "api_key: tenant is text, not a int"),
        ({"api_key": {"vault": "openai", "fresh": -1}}, "fresh is seconds above 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(change, says):
    if "redis" in str(change):
        pytest.importorskip("llmpipe_redis")
    file = asking("http://127.0.0.1:1", "memory://", change.get("api_key", {"vault": "openai"}))
    if "vault" in change:
        file["vault"] = change["vault"]
    with pytest.raises(ConfigError, match=says) as caught:
        chain_from(file)
    assert MASTER not in str(caught.value)


def test_without_a_master_secret_it_says_how_to_make_one(monkeypatch):
    monkeypatch.delenv("LLMPIPE_MASTER_KEY")
    with pytest.raises(ConfigError, match="set LLMPIPE_MASTER_KEY; make one: openssl rand"):
        chain_from(asking("http://127.0.0.1:1", "memory://", {"vault": "openai"}))


def test_a_file_is_explained_without_any_key(monkeypatch, tmp_path, capsys):
    from llmpipe.cli import main

    monkeypatch.delenv("LLMPIPE_MASTER_KEY")
    path = tmp_path / "chain.toml"
    path.write_text(
        '[vault]\nstore = "memory://"\n[provider]\nuse = "openai"\napi_key = { vault = "openai" }\n'
    )
    assert main(["explain", str(path)]) == 0
    assert "openai" in capsys.readouterr().out
