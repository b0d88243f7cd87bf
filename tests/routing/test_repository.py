"""The provider table in a store: who answers, how soon a change is seen, and what an outage does."""

from __future__ import annotations

import asyncio
import logging

import pytest
from attrs import evolve

from llmpipe.errors import ConfigError, InvalidRequest, StoreUnavailable
from llmpipe.keys import KeyVault
from llmpipe.middleware.credentials import FetchedKeys
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.routing.repository import ProviderRepository, StoredUseCases, target_of
from llmpipe.runtime import Runtime
from llmpipe.state import ProviderRow
from llmpipe.state.memory import MemoryState
from llmpipe.state.memory.vault import MemoryProviders


class Table(MemoryProviders):
    """A table that counts, takes its time, and can be out of reach."""

    offers = frozenset({"providers"})

    def __init__(self) -> None:
        super().__init__()
        self.down, self.takes = False, 0.0
        self.revisions = self.reads = 0

    def providers(self, name: str) -> Table:
        return self

    async def _reached(self) -> None:
        await asyncio.sleep(self.takes)
        if self.down:
            raise StoreUnavailable("the store is away")

    async def rows(self, account=None):
        self.reads += 1
        await self._reached()
        return await super().rows(account)

    async def revision(self):
        self.revisions += 1
        await self._reached()
        return await super().revision()

    async def put(self, row):
        await self._reached()
        await super().put(row)


def make(row: ProviderRow, vault) -> MockProvider:
    if row.provider == "broken":
        raise ConfigError("no such kind")
    return Target(default=row.name, name=row.name, model=row.model)


class Target(MockProvider):
    """Says how often it was closed."""

    closed = connections_in_use = 0

    async def aclose(self) -> None:
        self.closed += 1


def row(name: str, model: str = "m", *cases: str, **more) -> ProviderRow:
    return ProviderRow(name=name, provider="mock", model=model, use_cases=cases, **more)


ROWS = (
    row("mini", "gpt-4o-mini", "draft", "general", is_default=True),
    row("gpt", "gpt-4o", "vision", "draft"),
    row("haiku", "claude-haiku-4-5", "draft"),
    row("acme-gpt", "gpt-4o", "draft", account="acme"),
    row("asleep", "claude-sonnet-4-5", "complex", is_active=False),
)


class Setup:
    def __init__(self, table: Table | None = None, **settings) -> None:
        self.table = table or Table()
        self.runtime = Runtime(seed=1)
        self.runtime.state("store", "memory://", lambda: self.table)
        self.layer = StoredUseCases(make=make, **settings)
        self.own = MockProvider(default="the chain's own")
        self.chain = Chain(self.own, self.layer, runtime=self.runtime)
        self.repository = self.layer.repository(self.runtime)

    async def fill(self, *rows: ProviderRow) -> Setup:
        for each in rows or ROWS:
            await MemoryProviders.put(self.table, each)
        return self

    async def ask(self, use_case: str = "", tenant: str = "", model: str = "") -> str:
        tags = {"use_case": use_case} if use_case else {}
        return (await self.chain.complete("hi", tags=tags, tenant=tenant, model=model)).text


@pytest.mark.parametrize(
    ("case", "tenant", "model", "answers"),
    [
        ("draft", "", "", "haiku"),  # which the use case prefers
        ("draft", "acme", "", "acme-gpt"),  # the account's own goes before that
        ("draft", "other", "", "haiku"),
        ("vision", "acme", "", "gpt"),
        ("complex", "", "", "mini"),  # the default, for the row is not active
        ("", "", "", "mini"),
        ("draft", "acme", "gpt-4o", "acme-gpt"),
        ("draft", "", "gpt-4o", "gpt"),
        ("", "", "unknown-model", "the chain's own"),
    ],
)
async def test_rows_answer_in_the_order_of_the_specification(case, tenant, model, answers):
    it = await Setup().fill()
    assert await it.ask(case, tenant, model) == answers


async def test_those_that_are_no_default_go_before_those_that_are():
    it = await Setup().fill(row("a", "x", "draft", is_default=True), row("b", "y", "draft"))
    assert await it.ask("draft") == "b"


async def test_an_empty_table_leaves_the_chains_own_target():
    it = Setup()
    assert await it.ask("draft") == "the chain's own"
    await it.repository.put(ROWS[2])
    assert await it.ask("draft") == "haiku"
    assert await it.repository.delete("haiku") is True
    assert await it.repository.delete("haiku") is False
    assert await it.ask("draft") == "the chain's own"


async def test_the_use_case_of_calls_without_one_is_a_setting():
    it = await Setup(use_case="vision").fill()
    assert [await it.ask(), await it.ask("draft")] == ["gpt", "haiku"]
    with pytest.raises(InvalidRequest, match="unknown use case"):
        await it.ask("poetry")


async def test_rows_are_read_once_and_the_revision_once_a_second():
    it = await Setup().fill()
    for _ in range(100):
        await it.ask("draft")
    assert it.table.reads == 1
    for _ in range(2000):
        await it.ask("draft")
        await asyncio.sleep(0.1)
    assert it.table.reads == 1
    assert it.table.revisions <= 205
    for _ in range(1010):
        await it.ask("draft")
        await asyncio.sleep(0.1)
    assert it.table.reads == 2  # five minutes are over
    await asyncio.sleep(61)
    asked = it.table.revisions
    await asyncio.sleep(3600)
    assert it.table.revisions == asked  # nobody calls


async def test_a_change_of_ones_own_is_seen_by_the_next_call():
    it = await Setup().fill()
    assert await it.ask("vision") == "gpt"
    await it.repository.put(evolve(ROWS[1], is_active=False))
    assert await it.ask("vision") == "mini"
    begun = it.runtime.now()
    await it.repository.put(row("eye", "gpt-4o", "vision"))
    assert await it.ask("vision") == "eye"
    assert it.runtime.now() == begun


async def test_a_change_of_somebody_else_is_seen_within_a_second():
    it = await Setup().fill()
    await it.ask()
    await asyncio.sleep(0.5)
    await it.table.delete("haiku")
    await it.ask()
    await asyncio.sleep(1.01)
    assert await it.ask("draft") == "gpt"


async def test_a_change_while_nobody_called_is_seen_by_the_first_call():
    it = await Setup().fill()
    await it.ask()
    await asyncio.sleep(200)
    await it.table.delete("haiku")
    it.table.takes = 0.5
    asked = it.table.revisions
    assert set(await asyncio.gather(*(it.ask("draft") for _ in range(50)))) == {"gpt"}
    assert it.table.revisions <= asked + 4


async def test_the_first_calls_read_the_table_once():
    it = await Setup().fill()
    it.table.takes = 1.0
    assert set(await asyncio.gather(*(it.ask("draft") for _ in range(50)))) == {"haiku"}
    assert it.table.reads == 1


async def test_a_store_out_of_reach_leaves_the_last_known_rows_and_no_call_waits(caplog):
    it = await Setup().fill()
    await it.ask()
    it.table.down, it.table.takes = True, 2.0
    with caplog.at_level(logging.INFO, "llmpipe.routing"):
        begun = it.runtime.now()
        for _ in range(40):
            assert await it.ask("draft") == "haiku"
            await asyncio.sleep(10)
        assert it.runtime.now() - begun == pytest.approx(400)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await asyncio.sleep(3600)
        assert await it.ask("draft") == "haiku"
        it.table.down, it.table.takes = False, 0.0
        await it.table.delete("haiku")
        await asyncio.sleep(4)
        assert await it.ask("draft") == "gpt"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_table_that_was_never_read_is_an_error_until_it_is():
    it = await Setup().fill()
    it.table.down = True
    with pytest.raises(StoreUnavailable, match="away"):
        await it.ask("draft")
    it.table.down = False
    assert await it.ask("draft") == "haiku"


async def test_a_change_that_the_store_does_not_take_is_an_error():
    it = await Setup().fill()
    await it.ask()
    it.table.down = True
    with pytest.raises(StoreUnavailable):
        await it.repository.put(row("eye", "gpt-4o", "vision"))
    assert await it.ask("vision") == "gpt"


async def test_a_row_that_is_no_use_is_left_out_and_named_and_the_others_stand(caplog):
    it = await Setup().fill(
        *ROWS,
        evolve(ROWS[0], name="broken", provider="broken", use_cases=("draft",)),
        row("odd", "z", "poetry", "vision"),
        row("none", "z", "vision", max_tokens=0),
    )
    assert await it.ask("vision") == "gpt"
    assert set(it.repository.problems) == {"broken", "none", "odd"}
    assert it.repository.problems["broken"] == "no such kind"
    assert "poetry" in it.repository.problems["odd"]
    assert len(caplog.records) == 3
    await it.table.put(row("more", "z", "draft"))
    await asyncio.sleep(2)
    assert len(caplog.records) == 3  # they were told of before
    for wrong in (row("x", "z", "poetry"), row("x", "z", max_tokens=0)):
        with pytest.raises(ConfigError, match="row 'x'"):
            await it.repository.put(wrong)


async def test_a_row_that_stays_keeps_its_target_and_one_that_goes_is_closed_when_it_is_idle():
    it = await Setup().fill()
    await it.ask()
    before = {name: target for name, (_, target) in it.repository._targets.items()}
    await it.repository.put(evolve(ROWS[1], use_cases=("draft",), max_tokens=7))
    await it.repository.put(evolve(ROWS[2], model="claude-haiku-5"))
    after = {name: target for name, (_, target) in it.repository._targets.items()}
    assert after["gpt"] is before["gpt"]
    assert after["haiku"] is not before["haiku"]
    before["haiku"].connections_in_use = 1
    for _ in range(80):
        await it.ask()
        await asyncio.sleep(1)
    assert before["haiku"].closed == 0
    before["haiku"].connections_in_use = 0
    await asyncio.sleep(2)
    assert before["haiku"].closed == 1
    await it.runtime.aclose()
    assert [target.closed for target in after.values()] == [1] * 4
    assert before["haiku"].closed == 1


async def test_many_changes_at_once_end_in_what_the_table_says():
    it = await Setup().fill()
    it.table.takes = 0.01
    await asyncio.gather(
        *(it.repository.put(row(f"r{n % 7}", f"model-{n}", "voice")) for n in range(60)),
        *(it.ask("draft") for _ in range(60)),
    )
    kept = {name: each.model for name, (each, _) in it.repository._targets.items()}
    assert kept == {each.name: each.model for each in await it.repository.rows() if each.is_active}


# -- targets and their keys


MASTER = "an unguessable master secret"


async def keys_of(target) -> str:
    assert isinstance(target.keys, FetchedKeys)
    await target.keys.fetch()
    return target.keys.all[0].secret.reveal()


async def test_a_rows_key_is_the_environments_then_the_vaults(monkeypatch):
    pytest.importorskip("cryptography")
    vault = KeyVault("memory://", MASTER)
    await vault.put("openai", "sk-of-all-vault", name="main")
    await vault.put("openai", "sk-of-acme-vault", tenant="acme", name="main")
    ours = ProviderRow(name="gpt", provider="openai", model="gpt-4o", key="main")
    theirs = evolve(ours, name="gpt-acme", account="acme")
    assert await keys_of(target_of(ours, vault)) == "sk-of-all-vault"
    assert await keys_of(target_of(theirs, vault)) == "sk-of-acme-vault"
    assert await keys_of(target_of(evolve(theirs, account="other"), vault)) == "sk-of-all-vault"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-env-0")
    assert await keys_of(target_of(ours, vault)) == "sk-of-the-env-0"
    assert await keys_of(target_of(theirs, vault)) == "sk-of-acme-vault"  # not somebody else's
    assert target_of(ours, None).keys is None
    assert (target_of(ours, None).name, target_of(ours, None).model) == ("gpt", "gpt-4o")
    with pytest.raises(ConfigError, match="pass a vault"):
        target_of(theirs, None)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="set OPENAI_API_KEY, or pass a vault"):
        target_of(ours, None)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        target_of(evolve(ours, key=""), vault)


def test_a_row_says_where_its_provider_is():
    local = ProviderRow(
        name="local", provider="openai-compatible", model="m", base_url="http://localhost:1/v1"
    )
    assert target_of(local, None).endpoint == "localhost:1"
    with pytest.raises(ConfigError, match="unknown provider"):
        target_of(evolve(local, provider="opanai"), None)


def test_a_chain_with_a_table_is_ready_for_keys_that_are_looked_up():
    assert "credentials" in [one.name for one in Chain(MockProvider(), StoredUseCases()).middleware]


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="fresh"):
        ProviderRepository(Runtime(), MemoryState(), fresh=0)
    with pytest.raises(ConfigError, match=r"keeps no providers|no state backend"):
        ProviderRepository(Runtime(), "redis://localhost")


class Slow(Table):
    """Gives rows as they were a second ago."""

    async def rows(self, account=None):
        found = await super().rows(account)
        await asyncio.sleep(1)
        return found


async def test_a_change_between_the_revision_and_the_rows_is_read_again():
    it = await Setup(Slow()).fill()
    first = asyncio.create_task(it.ask("draft"))
    await asyncio.sleep(0.5)
    await it.table.delete("haiku")
    assert await first == "haiku"
    await asyncio.sleep(2.1)
    assert await it.ask("draft") == "gpt"


async def test_a_change_of_ones_own_is_seen_though_another_reading_is_under_way():
    it = await Setup(Slow()).fill()
    await it.ask()
    await asyncio.sleep(0.5)
    await MemoryProviders.put(it.table, row("other", "z", "voice"))
    await asyncio.sleep(0.7)  # the task reads
    await it.repository.put(row("eye", "z", "vision", max_tokens=5))
    await it.repository.delete("gpt")
    assert await it.ask("vision") == "eye"
    await MemoryProviders.put(it.table, row("more", "z", "voice"))
    await asyncio.sleep(0.9)
    await it.repository.delete("eye")
    assert await it.ask("vision") == "mini"
