"""One random life of keys, providers and circuits, lived by all backends at the same time."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from llmpipe.state import Draw, ProviderRow, SealedKey, Trip
from tests.state.alike.sides import LONG, Asked, Side
from tests.state.alike.world import INF, LEASES, NAN, World

pytestmark = pytest.mark.real_time


async def test_a_life_of_keys_providers_and_circuits(world: World) -> None:
    one_of = world.one_of
    for number in range(150):
        odd = number % 8 == 7
        names = (world.name(), one_of("p", world.name()), one_of("", world.name()))
        match one_of("put", "put", "delete", "keys", "row", "row", "drop", "trip", "trip", "close", "time"):
            case "put":
                version = one_of(1, 2, 2**53) if not odd else one_of(2**63, -1, 1.5)
                key = SealedKey(
                    tenant=names[0],
                    provider=names[1],
                    name=names[2],
                    version=version,
                    master=world.name(),
                    data_key=one_of(b"", b"\0\xff"),
                    secret=b"s" * one_of(1, 1000),
                    hint=world.name(),
                    created_at=one_of(1.5, 1e18, -0.0) if not odd else one_of(NAN, INF, 1.0),
                )
                there = await world.ask("vault", "get", *names)
                expected = one_of(None, there, key, there and evolve(there, secret=b"other"))
                await world.ask("vault", "put", key, expected)
            case "delete":
                await world.ask("vault", "delete", *names)
            case "keys":
                await world.ask(
                    "vault", "keys", after=one_of(None, names), limit=one_of(1000, 3, 0, -1, 2**70)
                )
            case "row":
                row = ProviderRow(
                    name=names[0],
                    provider=names[1],
                    model=world.name(),
                    account=one_of("", names[2]),
                    key=world.name(),
                    use_cases=(world.name(), world.name()),
                    max_tokens=one_of(0, 5, 2**53) if not odd else 2**63,
                    is_default=one_of(True, False),
                    base_url=world.name(),
                )
                await world.ask("providers", "put", row)
            case "drop":
                await world.ask("providers", "delete", names[0])
            case "trip":
                trip = Trip(one_of(*LEASES), one_of(0, 3, 2**53) if not odd else one_of(-1, 2**63, 1.5))
                await world.ask("breakers", "trip", names[0], trip)
            case "close":
                await world.ask("breakers", "close", names[0])
            case "time":
                world.pass_time(100.0)
        await world.ask("vault", "keys")
        await world.ask("breakers", "read")
        await world.ask("providers", "revision")
        account = one_of(None, world.name())
        await world.ask_each("providers", f"rows({account!r})", _untimed(account))


def _untimed(account: str | None) -> Asked:
    """The rows but for their times, which are each store's own."""

    async def asked(side: Side) -> Any:
        rows = await side.providers.rows(account)
        return [
            (row.name, row.provider, row.model, row.account, row.use_cases, row.max_tokens, row.key)
            for row in rows
        ]

    return asked


async def test_a_name_too_long_to_be_kept_is_refused_and_the_store_goes_on(world: World) -> None:
    # Where names are in an index of PostgreSQL: 2,700 bytes that no compression makes fewer.
    name = "".join(world.random.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in LONG)
    for side in world.sides.others:
        try:
            await side.ledger.reserve(name, [Draw(name, 0, 1, 10)], 250.0)
        except ValueError:
            assert side.name == "PostgresState"
        assert await side.ledger.reserve("h", [Draw("a", 0, 1, 10)], 250.0) is None, side.name
