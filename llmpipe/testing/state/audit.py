# ruff: noqa: D102  a test's name is its sentence, and a helper's its meaning
"""What every audit trail keeps to: nothing lost, nothing twice, chains that verify."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from attrs import evolve

from llmpipe.state import Anchor, Audit, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained, fault
from llmpipe.testing.state.audit_script import AuditScript
from llmpipe.testing.state.harness import NAMES, Harness, fill

__all__ = ("AuditSuite",)

BODY = {"text": "é \x00 \"'\\ 長", "n": 2**53, "f": 0.1, "none": None, "yes": True, "list": [1, {"a": []}]}


def note(writer: str = "w", at: float = 1.0, **rest: Any) -> AuditRecord:
    return AuditRecord(**{"writer": writer, "seq": 0, "kind": "note", "at": at, "body": {}, **rest})


def begin(call: str, writer: str = "w", at: float = 1.0, **rest: Any) -> AuditRecord:
    return note(writer, at, kind="begin", call=call, **rest)


def end(call: str, writer: str = "w", at: float = 2.0, outcome: str = "ok", **rest: Any) -> AuditRecord:
    return note(writer, at, kind="end", call=call, outcome=outcome, **rest)


def chain(records: list[AuditRecord], after: AuditRecord | Anchor | None = None) -> list[AuditRecord]:
    """The records as they follow `after`, all of one writer."""
    last: AuditRecord | Anchor = after or Anchor()
    linked = []
    for record in records:
        last = chained(record, last)
        linked.append(last)
    return linked


async def verified(audit: Audit, writer: str) -> list[AuditRecord]:
    """All records of a writer, when their chain is whole."""
    found = await audit.query(AuditQuery(writer=writer), limit=100_000)
    found.sort(key=lambda record: record.seq)
    assert fault(found, await audit.anchor(writer)) is None
    return found


class AuditSuite:
    """The audit trail: append, heads and anchors, calls that have not ended, queries, pruning."""

    pytestmark = pytest.mark.asyncio

    async def test_a_new_writer_has_no_head_but_the_beginning(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        assert await audit.head("w") == Anchor(0, "")
        assert await audit.anchor("w") == Anchor(0, "")
        assert await audit.writers() == []
        assert await audit.query(AuditQuery()) == []
        assert await audit.unended() == []
        assert await audit.lost() == []
        await audit.append([])

    async def test_a_record_comes_back_as_it_was_and_its_chain_verifies(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = chain(
            [
                begin("c", at=1_700_000_000.123456, tenant="t", user="ü", body=BODY),
                end("c", at=0.1 + 0.2, outcome="cancelled"),
                note(at=5.0, body={"": ""}),
            ]
        )
        await audit.append(given)
        again = (await harness.reopen()).audit("a")
        assert await verified(again, "w") == given
        assert await again.head("w") == given[-1]

    async def test_appending_the_same_again_changes_nothing(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = chain([note(), begin("c"), end("c"), note()])
        await audit.append(given[:2])
        await audit.append(given[:2])
        await audit.append(given[1:])
        await audit.append([given[-1], given[-1]])
        assert await verified(audit, "w") == given
        assert await audit.unended() == []

    async def test_a_record_twice_in_one_batch_is_there_once(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        (record,) = chain([note()])
        await audit.append([record, record])
        assert await audit.query(AuditQuery()) == [record]

    async def test_another_record_in_a_place_that_is_taken_is_refused_and_nothing_of_its_batch_kept(
        self, harness: Harness
    ) -> None:
        audit = (await harness.open()).audit("a")
        given = chain([note(), begin("c")])
        await audit.append(given)
        other = chain([note(at=9.0), note(), note()])
        fresh = chain([begin("d", "v")])
        with pytest.raises(ValueError, match=r"."):
            await audit.append([*fresh, other[2], other[0]])
        assert await verified(audit, "w") == given
        assert await audit.writers() == ["w"]
        assert [record.call for record in await audit.unended()] == ["c"]

    async def test_a_batch_that_is_at_odds_with_itself_is_refused_whole(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        (one,), (other,) = chain([note()]), chain([note(at=9.0)])
        with pytest.raises(ValueError, match=r"."):
            await audit.append([one, other])
        assert await audit.query(AuditQuery()) == []

    async def test_writers_are_sorted_and_each_has_a_chain_of_its_own(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        batch = [record for name in NAMES for record in chain([note(name), note(name, 2.0)])]
        await audit.append(batch)
        assert await audit.writers() == sorted(NAMES)
        for name in NAMES:
            assert [record.seq for record in await verified(audit, name)] == [1, 2]

    # ------------------------------------------------------------ calls that have not ended

    async def test_calls_that_no_end_is_there_of_are_unended(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        first = chain([begin("c1"), begin("c2"), end("c1"), note(), begin("c3")])
        second = chain([begin("d1", "B"), end("c3", "B", outcome="crashed")])
        await audit.append([*first, *second])
        assert await audit.unended() == [second[0], first[1]]
        assert await audit.unended("w") == [first[1]]
        assert await audit.unended("nobody") == []

    async def test_an_end_that_comes_before_its_begin_ends_it_all_the_same(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        await audit.append(chain([end("c", "late", outcome="crashed")]))
        await audit.append(chain([begin("c")]))
        assert await audit.unended() == []

    async def test_a_writer_whose_lease_ends_over_open_calls_is_lost(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        for writer in ("b", "B", "done"):
            await audit.beat(writer, 100.0)
            await audit.append(chain([begin(f"c-{writer}", writer)]))
        await audit.append(chain([end("c-done", "done")], await audit.head("done")))
        assert await audit.lost() == []
        await harness.pass_time(80.0)
        await audit.beat("B", 100.0)
        await harness.pass_time(40.0)
        assert await audit.lost() == ["b"]
        await harness.pass_time(80.0)
        assert await audit.lost() == ["B", "b"]
        await audit.append(chain([end("c-b", "rescuer", outcome="crashed")]))
        assert await audit.lost() == ["B"]

    async def test_a_writer_that_has_ended_or_never_had_a_lease_is_lost_at_once(
        self, harness: Harness
    ) -> None:
        audit = (await harness.open()).audit("a")
        await audit.append([*chain([begin("c1", "never")]), *chain([begin("c2", "ended")])])
        await audit.beat("ended", 1000.0)
        assert await audit.lost() == ["never"]
        await audit.beat("ended", 0.0)
        assert await audit.lost() == ["ended", "never"]

    async def test_a_beat_makes_no_writer(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        await audit.beat("w", 0.0)
        assert await audit.writers() == []
        assert await audit.lost() == []

    # ------------------------------------------------------------ queries

    async def test_each_condition_of_a_query_chooses(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = [
            *chain([begin("c1", "v", 1.0, tenant="t", user="u"), end("c1", "v", 3.0, tenant="t", user="u")]),
            *chain(
                [begin("c2", "w", 2.0, tenant="T"), end("c2", "w", 3.0, "failed", tenant="T"), note("w", 4.0)]
            ),
        ]
        await audit.append(given)
        for conditions in (
            {"since": 2.0}, {"until": 3.0}, {"since": 2.0, "until": 3.0}, {"tenant": "t"}, {"tenant": ""},
            {"user": "u"}, {"user": ""}, {"outcome": "failed"}, {"outcome": ""}, {"kind": "note"},
            {"call": "c2"}, {"writer": "v"}, {"writer": "w", "kind": "end"}, {"tenant": "nobody"},
        ):  # fmt: skip
            query = AuditQuery(**conditions)
            wanted = [
                record
                for record in sorted(given, key=lambda each: (each.at, each.writer, each.seq))
                if query.since <= record.at < query.until
                and all(
                    getattr(record, name) == value
                    for name, value in conditions.items()
                    if name not in ("since", "until")
                )
            ]
            assert await audit.query(query) == wanted, conditions

    async def test_records_come_in_order_and_in_pages(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        random = Random(3)  # noqa: S311  nothing secret
        given = [
            record
            for writer in ("B", "a", "é")
            for record in chain([note(writer, float(random.randint(0, 4))) for _ in range(15)])
        ]
        await audit.append(given)
        wanted = sorted(given, key=lambda each: (each.at, each.writer, each.seq))
        assert await audit.query(AuditQuery()) == wanted
        pages: list[AuditRecord] = []
        while page := await audit.query(AuditQuery(), limit=7, after=pages[-1] if pages else None):
            assert len(page) <= 7
            pages += page
        assert pages == wanted

    # ------------------------------------------------------------ pruning

    async def test_pruning_moves_the_anchor_and_the_chain_still_verifies(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = chain([note(at=float(at)) for at in range(1, 7)])
        await audit.append(given)
        assert await audit.prune(4.0) == 3
        assert await audit.prune(4.0) == 0
        assert await audit.anchor("w") == Anchor(3, given[2].hash)
        assert await verified(audit, "w") == given[3:]
        assert await audit.head("w") == given[-1]

    async def test_a_writer_of_whom_nothing_is_left_goes_on_where_it_was(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = chain([note(), note()])
        await audit.append(given)
        assert await audit.prune(100.0) == 2
        assert await audit.head("w") == await audit.anchor("w") == Anchor(2, given[-1].hash)
        assert await audit.writers() == ["w"]
        more = chain([note()], await audit.head("w"))
        await audit.append(more)
        assert await verified(audit, "w") == more
        assert more[0].seq == 3

    async def test_pruning_stops_at_a_call_that_has_not_ended_and_at_a_newer_record(
        self, harness: Harness
    ) -> None:
        audit = (await harness.open()).audit("a")
        first = chain([note(), begin("c"), note(), note(at=50.0)])
        second = chain([note("v", 5.0), note("v", 20.0), note("v", 6.0)])  # a clock that went back
        await audit.append([*first, *second])
        assert await audit.prune(10.0) == 2
        assert await verified(audit, "w") == first[1:]
        assert await verified(audit, "v") == second[1:]
        assert await audit.unended() == [first[1]]
        await audit.append(chain([end("c", "rescuer", 51.0, "crashed")]))
        assert await audit.prune(10.0) == 2
        assert await verified(audit, "w") == first[3:]

    async def test_a_call_whose_end_was_pruned_has_ended_all_the_same(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        first = chain([begin("open"), begin("c")])
        await audit.append([*first, *chain([end("c", "rescuer", outcome="crashed")])])
        assert await audit.prune(10.0) == 1
        assert await verified(audit, "w") == first
        assert await audit.unended() == [first[0]]

    async def test_what_was_pruned_does_not_come_back(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        given = chain([begin("c"), end("c"), note(at=50.0)])
        await audit.append(given)
        await audit.prune(10.0)
        await audit.append(given)
        assert await verified(audit, "w") == given[2:]
        assert await audit.unended() == []

    # ------------------------------------------------------------ side by side, and beside a model

    async def test_trails_are_told_apart_by_name(self, harness: Harness) -> None:
        state = await harness.open()
        await state.audit("a").append(chain([begin("c")]))
        await state.audit("a").beat("w", 0.0)
        assert await state.audit("b").writers() == []
        assert await state.audit("b").lost() == []

    async def test_what_many_append_at_once_is_all_there_and_every_chain_verifies(
        self, harness: Harness
    ) -> None:
        sides = [(await harness.open()).audit("a"), (await harness.reopen()).audit("a")]
        chains = {
            f"w{number}": chain([note(f"w{number}", float(at), body=BODY) for at in range(20)])
            for number in range(25)
        }

        async def write(number: int) -> None:
            records = chains[f"w{number}"]
            for place in range(0, 20, 5):
                await sides[number % 2].append(records[place : place + 5])

        await fill(25, write)
        assert await sides[0].writers() == sorted(chains)
        for writer, records in chains.items():
            assert await verified(sides[1], writer) == records

    async def test_of_many_who_claim_one_place_at_once_one_has_it(self, harness: Harness) -> None:
        sides = [(await harness.open()).audit("a"), (await harness.reopen()).audit("a")]
        claims = [chain([note(body={"by": number}), note()]) for number in range(30)]

        async def claim(number: int) -> bool:
            try:
                await sides[number % 2].append(claims[number])
            except ValueError:
                return False
            return True

        kept = await fill(30, claim)
        assert sum(kept) == 1
        assert await verified(sides[0], "w") == claims[kept.index(True)]

    async def test_a_begin_and_its_end_in_two_batches_at_once_are_a_call_that_has_ended(
        self, harness: Harness
    ) -> None:
        sides = [(await harness.open()).audit("a"), (await harness.reopen()).audit("a")]
        calls = range(60)
        begins = chain([begin(f"c{number}") for number in calls])
        ends = chain([end(f"c{number}", "rescuer") for number in calls])
        await fill(120, lambda number: sides[number % 2].append([(begins, ends)[number % 2][number // 2]]))
        assert await sides[0].unended() == []
        assert await sides[1].lost() == []
        assert await sides[0].prune(10.0) == 120
        assert await sides[1].unended() == []

    async def test_what_is_appended_again_beside_pruning_does_not_come_back(self, harness: Harness) -> None:
        sides = [(await harness.open()).audit("a"), (await harness.reopen()).audit("a")]
        given = chain([note(at=float(at)) for at in range(60)])
        await sides[0].append(given)

        async def work(number: int) -> None:
            if number % 4 == 0:
                await sides[0].prune(float(number))
            else:
                await sides[1].append(given[:number])

        await fill(60, work)
        await sides[0].prune(58.0)
        assert await verified(sides[1], "w") == given[58:]
        assert await sides[0].anchor("w") == Anchor(58, given[57].hash)

    @pytest.mark.parametrize(
        "odd",
        [{"at": float("nan")}, {"at": float("inf")}, {"seq": 0}, {"seq": -1}, {"body": {"n": 2**70}}],
        ids=repr,
    )
    async def test_what_is_no_record_is_refused_and_nothing_is_kept(self, harness: Harness, odd: Any) -> None:
        audit = (await harness.open()).audit("a")
        with pytest.raises(ValueError, match="v"):
            await audit.append([*chain([note()]), note("v", **{"seq": 1, "hash": "h", **odd})])
        assert await audit.writers() == []
        for call in (audit.prune(float("nan")), audit.beat("w", float("nan"))):
            with pytest.raises(ValueError, match="not a number"):
                await call

    async def test_a_record_that_was_changed_is_found(self, harness: Harness) -> None:
        audit = (await harness.open()).audit("a")
        await audit.append(chain([note(at=float(at), body={"n": at}) for at in range(5)]))
        found = await verified(audit, "w")
        anchor = await audit.anchor("w")
        for place in range(5):
            wrong = [*found]
            wrong[place] = evolve(found[place], body={"n": 99})
            assert fault(wrong, anchor) == f"record {place + 1} of 'w' was changed"

    @pytest.mark.parametrize("seed", range(8))
    async def test_a_random_life_goes_as_in_the_model(self, harness: Harness, seed: int) -> None:
        await AuditScript(harness, seed).run(80)
