"""What lies in the bucket, and what it costs."""

from __future__ import annotations

import asyncio

import pytest

from llmpipe.cli import main
from llmpipe.errors import StoreDamaged, StoreUnavailable
from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.files.lines import read_line
from llmpipe.state.hash_chain import chained, fault

pytestmark = pytest.mark.real_time


def a_chain(count: int, after: AuditRecord | Anchor | None = None, **rest: object) -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    records = []
    for number in range(last.seq, last.seq + count):
        fields = {"writer": "w", "kind": "note", "at": float(number), "body": {"n": number}, **rest}
        last = chained(AuditRecord(seq=0, **fields), last)
        records.append(last)
    return records


def keys(harness) -> list[str]:
    found = harness.server.client().list_objects_v2(Bucket="trail", Prefix=harness.prefix + "/")
    return [each["Key"].removeprefix(harness.prefix + "/") for each in found.get("Contents", ())]


async def test_a_batch_is_one_object_of_lines_under_its_first_number(harness):
    audit = (await harness.open()).audit("audit")
    records = a_chain(5)
    await audit.append(records[:3])
    await audit.append(records[3:])
    first = "audit/records/w/0000000000000000001.jsonl"
    assert keys(harness) == [first, "audit/records/w/0000000000000000004.jsonl", "conditional.txt"]
    body = harness.server.client().get_object(Bucket="trail", Key=f"{harness.prefix}/{first}")["Body"].read()
    head, *lines = [read_line(line) for line in body.splitlines()]
    assert head["llmpipe"] == "audit"
    assert [line["record"]["hash"] for line in lines] == [record.hash for record in records[:3]]


async def test_those_who_append_together_share_a_put_of_each_writer(harness):
    audit = (await harness.open()).audit("audit")
    records = a_chain(64)
    await audit.append(a_chain(1, writer="first"))
    harness.server.requests()
    await asyncio.gather(*[audit.append([record]) for record in records])
    puts = [line for line in harness.server.requests() if line.startswith("PUT")]
    assert 1 <= len(puts) <= 3
    assert await audit.query(AuditQuery(writer="w")) == records


async def test_the_next_batch_costs_one_request(harness):
    audit = (await harness.open()).audit("audit")
    records = a_chain(4)
    await audit.append(records[:2])
    harness.server.requests()
    await audit.append(records[2:])
    (request,) = harness.server.requests()
    assert request.startswith("PUT")


async def test_what_is_known_is_not_read_again_and_is_passed_over_in_leaps(harness, monkeypatch):
    audit = (await harness.open()).audit("audit")
    chains = {writer: a_chain(6, writer=writer) for writer in ("a", "b", "c")}
    for records in chains.values():
        for record in records:
            await audit.append([record])
    other = (await harness.reopen()).audit("audit")
    real = other._here().trail.store.page

    async def page(prefix: str, after: str = "") -> object:
        """As if the store gave two keys at once."""
        found = await real(prefix, after)
        return type(found)(found.keys[:2], found.more or len(found.keys) > 2)

    monkeypatch.setattr(other._here().trail.store, "page", page)
    assert await other.writers() == ["a", "b", "c"]
    harness.server.requests()
    (more,) = a_chain(1, chains["b"][-1], writer="b")
    await audit.append([more])
    assert await other.head("b") == more
    assert await other.writers() == ["a", "b", "c"]
    assert await other.query(AuditQuery(writer="c")) == chains["c"]
    requests = harness.server.requests()
    gets = [line for line in requests if line.startswith("GET") and ".jsonl" in line.split()[1]]
    assert len(gets) == 1 + 6  # the one that was new, and those that the query asked for
    assert len([line for line in requests if "list-type" in line]) < 22


async def test_a_query_reads_no_batch_that_is_known_to_be_of_another_time(harness):
    audit = (await harness.open()).audit("audit")
    records = a_chain(10)
    for record in records:
        await audit.append([record])
    harness.server.requests()
    assert await audit.query(AuditQuery(since=3.0, until=5.0)) == records[3:5]
    assert len([line for line in harness.server.requests() if ".jsonl" in line]) == 2


async def test_a_page_reads_little_more_than_it_has_however_long_the_trail(harness):
    audit, records = (await harness.open()).audit("audit"), a_chain(1200)
    for place in range(0, 1200, 20):
        await audit.append(records[place : place + 20])
    harness.server.requests()
    assert await audit.query(AuditQuery(), limit=50, after=records[99]) == records[100:150]
    assert len([line for line in harness.server.requests() if ".jsonl" in line]) <= 32  # of 60
    found: list[AuditRecord] = []
    while page := await audit.query(AuditQuery(), limit=300, after=found[-1] if found else None):
        found += page
    assert found == records


async def test_pruning_deletes_whole_objects_and_leaves_one_anchor(harness):
    audit = (await harness.open()).audit("audit")
    records = a_chain(9)
    for place in (0, 3, 6):
        await audit.append(records[place : place + 3])
    assert await audit.prune(2.0) == 2
    assert await audit.prune(5.0) == 3
    anchor = "audit/anchors/w/0000000000000000005.jsonl"
    batches = [f"audit/records/w/{first:019d}.jsonl" for first in (4, 7)]
    assert keys(harness) == [anchor, *batches, "conditional.txt"]
    again = (await harness.reopen()).audit("audit")
    assert await again.query(AuditQuery()) == records[5:]
    assert fault(records[5:], await again.anchor("w")) is None
    assert await again.prune(100.0) == 4
    assert keys(harness) == ["audit/anchors/w/0000000000000000009.jsonl", "conditional.txt"]
    assert await audit.head("w") == Anchor(9, records[-1].hash)


async def test_what_a_crash_has_left_of_pruning_goes_at_the_next(harness, monkeypatch):
    state = await harness.open()
    audit, records = state.audit("audit"), a_chain(6)
    for place in (0, 2, 4):
        await audit.append(records[place : place + 2])

    async def dies(key: str) -> None:
        raise StoreUnavailable("the process is gone")

    monkeypatch.setattr(audit._here().trail.store, "delete", dies)
    with pytest.raises(StoreUnavailable):
        await audit.prune(4.0)
    assert len(keys(harness)) == 5
    again = (await harness.reopen()).audit("audit")
    assert await again.query(AuditQuery()) == records[4:]
    assert await again.prune(4.0) == 0
    assert len(keys(harness)) == 3
    assert await again.query(AuditQuery()) == records[4:]


@pytest.mark.parametrize("harm", ["change", "cut", "other writer", "something else"])
async def test_an_object_that_is_not_as_it_was_written_is_damaged(harness, harm):
    audit = (await harness.open()).audit("audit")
    await audit.append(a_chain(3))
    await audit.append(a_chain(3, writer="v"))
    s3, key = harness.server.client(), f"{harness.prefix}/audit/records/w/{1:019d}.jsonl"
    data: bytes = s3.get_object(Bucket="trail", Key=key)["Body"].read()
    harmed = {
        "change": data.replace(b'"n":1', b'"n":7'),
        "cut": data[:-5],
        "other writer": s3.get_object(Bucket="trail", Key=key.replace("/w/", "/v/"))["Body"].read(),
        "something else": b"my diary\n",
    }[harm]
    s3.put_object(Bucket="trail", Key=key, Body=harmed)
    with pytest.raises(StoreDamaged, match="records/w/"):
        await audit.query(AuditQuery())


async def test_an_object_that_is_gone_is_found_by_verifying(harness, capsys):
    audit = (await harness.open()).audit("audit")
    for record in a_chain(5):
        await audit.append([record])
    url = harness.url()
    assert await asyncio.to_thread(main, ["audit", "verify", url]) == 0
    assert "5 records, nothing was changed" in capsys.readouterr().out
    key = f"{harness.prefix}/audit/records/w/{3:019d}.jsonl"
    harness.server.client().delete_object(Bucket="trail", Key=key)
    assert await asyncio.to_thread(main, ["audit", "verify", url]) == 1
    assert "record 4 of 'w' follows record 2" in capsys.readouterr().out


async def test_the_middleware_writes_a_trail_that_the_command_shows_and_prunes(harness, capsys):
    await harness.open()
    url = harness.url()
    chain = Chain(MockProvider(default="hi"), Audit(store=url, writer="gateway"))
    async with chain:
        await asyncio.gather(*[chain.complete("hello", tenant="acme") for _ in range(20)])
    assert await asyncio.to_thread(main, ["audit", "show", url, "--tenant", "acme", "--outcome", "ok"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20
    assert await asyncio.to_thread(main, ["audit", "verify", url]) == 0
    assert "gateway: 40 records" in capsys.readouterr().out
    assert await asyncio.to_thread(main, ["audit", "prune", url, "--days", "1e-9"]) == 0
    assert "40 records dropped" in capsys.readouterr().out


async def test_calls_of_a_writer_that_died_are_ended_in_its_chain(harness):
    audit = (await harness.open()).audit("audit")
    begins = a_chain(3, kind="begin", call="c")
    await audit.append(begins)
    await audit.beat("w", 60.0)
    other = (await harness.reopen()).audit("audit")
    assert await other.lost() == []
    await harness.pass_time(62.0)
    assert await other.lost() == ["w"]
    ends = a_chain(1, await other.head("w"), kind="end", call="c", outcome="crashed")
    await other.append(ends)
    assert await other.lost() == []
    with pytest.raises(ValueError, match="is another one"):  # it was thought dead, and comes back
        await audit.append(a_chain(1, begins[-1], kind="end", call="c", outcome="ok"))
    assert await audit.head("w") == ends[0]


def test_a_state_goes_on_in_another_loop(harness_url):
    state, records = harness_url, a_chain(4)
    for place in (0, 2):
        asyncio.run(state.audit("audit").append(records[place : place + 2]))

    async def look() -> list[AuditRecord]:
        found = await state.audit("audit").query(AuditQuery())
        await state.aclose()
        return found

    assert asyncio.run(look()) == records


@pytest.fixture
def harness_url(server):
    from llmpipe_s3 import open_s3

    return open_s3(f"s3://trail/loops?endpoint={server.endpoint}&region=us-east-1&timeout=60")
