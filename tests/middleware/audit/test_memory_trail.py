"""The trail in memory takes what a writer goes on with at once, and looks at it when it is asked."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from llmpipe.middleware.audit.record import linked
from llmpipe.runtime import at_once
from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained, fault, place
from llmpipe.state.memory.audit import MemoryAudit


def record(kind: str = "note", call: str = "", writer: str = "w", at: float = 1.0) -> AuditRecord:
    return AuditRecord(writer=writer, seq=0, kind=kind, at=at, call=call, body={"n": 1})


def records_of(trail: MemoryAudit) -> list[AuditRecord]:
    return at_once(trail.query(AuditQuery(since=float("-inf"))))


@pytest.mark.parametrize(
    "odd",
    [
        {"at": float("nan")}, {"at": float("inf")}, {"body": {"n": 2**70}}, {"body": {"s": "\ud800"}},
        {"body": {"o": object()}}, {"seq": 0}, {"seq": -1}, {"seq": 3.0}, {"seq": 2, "hash": "another"},
        {"seq": 2**63}, {"writer": "v", "seq": 0},
    ],
)  # fmt: skip
def test_what_is_no_record_is_refused_in_a_chain_that_goes_on_too(odd: dict[str, Any]) -> None:
    trail = MemoryAudit()
    first = chained(record(), Anchor())
    at_once(trail.append([first]))
    second = chained(record(), first)
    third = evolve(chained(record(), second), **odd)
    with pytest.raises(ValueError, match=r"."):
        at_once(trail.append([second, third]))
    assert records_of(trail) == [first]


def test_what_a_writer_has_chained_is_kept_at_once_and_nothing_that_does_not_go_on() -> None:
    trail, plain = MemoryAudit(), MemoryAudit()
    first = chained(record("begin", "a"), Anchor())
    second = chained(record("begin", "b"), first)
    third = chained(record("end", "a"), second)
    other = chained(record("end", "a"), first)
    assert not trail.extend([first])  # of a chain that is not there
    at_once(trail.append([first]))
    assert not trail.extend([third])
    assert not trail.extend([chained(record(writer="v"), Anchor())])
    assert trail.extend([second, third])
    assert not trail.extend([other])
    at_once(plain.append([first, second, third]))
    assert records_of(trail) == records_of(plain) == [first, second, third]
    assert at_once(trail.unended()) == at_once(plain.unended()) == [second]


def test_a_chain_that_was_pruned_to_its_end_goes_on_behind_its_anchor() -> None:
    trail = MemoryAudit()
    first = chained(record(), Anchor())
    second = chained(record(), first)
    at_once(trail.append([first]))
    assert at_once(trail.prune(2.0)) == 1
    assert not trail.extend([second])  # the long way knows
    at_once(trail.append([second]))
    assert records_of(trail) == [second]
    assert fault([second], at_once(trail.anchor("w"))) is None


def test_a_record_that_is_chained_in_its_place_is_the_one_that_a_copy_is() -> None:
    first = chained(record("begin", "a"), Anchor())
    copied, placed = record("end", "a"), record("end", "a")
    place(placed, first)
    assert placed == chained(copied, first)
    assert copied == record("end", "a")  # which is as it was
    assert fault([first, placed], Anchor()) is None
    odd = AuditRecord(writer="w", seq=0, kind="note", at=1.0, body={"n": 2**70})
    with pytest.raises(TypeError):
        place(odd, placed)
    assert odd.hash == ""
    assert repr(odd)


def test_who_is_linked_anew_is_copied_for_a_store_may_have_it_already() -> None:
    first, other = chained(record("begin", "a"), Anchor()), chained(record("begin", "b"), Anchor())
    new, had = record("end", "a"), chained(record("end", "a"), first)
    before = evolve(had)
    again, *_ = linked([had], other)
    assert had == before
    assert again == chained(had, other) != had
    assert linked([new], first) == [had]
    assert new.hash == had.hash


def test_the_largest_number_there_is_has_none_after_it() -> None:
    trail = MemoryAudit()
    last = evolve(record(), seq=2**63 - 1, hash="h")
    at_once(trail.append([last]))
    with pytest.raises(ValueError, match="seq"):
        at_once(trail.append([evolve(record(), seq=2**63, hash="i")]))


def test_records_of_two_writers_in_one_batch_go_to_the_chains_of_both() -> None:
    trail = MemoryAudit()
    chains: dict[str, list[AuditRecord]] = {"v": [], "w": []}
    for _ in range(3):
        batch = []
        for writer, chain in chains.items():
            last: AuditRecord | Anchor = chain[-1] if chain else Anchor()
            chain.append(chained(record(writer=writer), last))
            batch.append(chain[-1])
        at_once(trail.append(batch))
    for writer, chain in chains.items():
        found = at_once(trail.query(AuditQuery(writer=writer)))
        assert found == chain
        assert fault(found, Anchor()) is None


def test_a_record_of_another_writer_whose_number_would_fit_goes_to_its_own_chain() -> None:
    trail = MemoryAudit()
    v1, w1 = (chained(record(writer=writer), Anchor()) for writer in "vw")
    w2 = chained(record(writer="w"), w1)
    at_once(trail.append([v1, w1, w2]))
    v2, w3 = chained(record(writer="v"), v1), chained(record(writer="w"), w2)
    at_once(trail.append([v2, w3]))
    assert at_once(trail.query(AuditQuery(writer="v"))) == [v1, v2]
    assert at_once(trail.query(AuditQuery(writer="w"))) == [w1, w2, w3]
    assert (at_once(trail.head("v")), at_once(trail.head("w"))) == (v2, w3)


STEPS = st.lists(
    st.tuples(st.sampled_from("vw"), st.sampled_from(["begin", "end", "note"]), st.sampled_from("abc")),
    max_size=30,
)


@given(STEPS, st.sampled_from([0, 7, 100]), st.integers(1, 5), st.randoms(use_true_random=False))
def test_it_knows_the_same_whether_it_is_asked_all_the_time_or_in_the_end(
    steps: list[tuple[str, str, str]], before: int, size: int, random: Random
) -> None:
    often, seldom = MemoryAudit(lambda: 1.0), MemoryAudit(lambda: 1.0)
    heads: dict[str, AuditRecord | Anchor] = {"v": Anchor(), "w": Anchor()}
    records = []
    for number, (writer, kind, call) in enumerate(steps):
        records.append(chained(record(kind, call, writer, float(number)), heads[writer]))
        heads[writer] = records[-1]
    batches = [records[place : place + size] for place in range(0, len(records), size)]
    random.shuffle(batches)  # they need not come in order
    for batch in batches:
        for trail in (often, seldom):
            at_once(trail.append(batch))
        at_once(often.unended())
        at_once(often.lost())
    ended = {one.call for one in records if one.kind == "end"}
    wanted = [one for one in records if one.kind == "begin" and one.call not in ended]
    wanted.sort(key=lambda one: (one.writer, one.seq))
    for round_ in range(2):  # what is pruned, and known of it, is the same too
        assert at_once(seldom.lost()) == at_once(often.lost()) == sorted({one.writer for one in wanted})
        assert at_once(seldom.unended()) == at_once(often.unended()) == wanted
        if not round_:
            assert at_once(seldom.prune(before)) == at_once(often.prune(before))
            assert records_of(seldom) == records_of(often)


@pytest.mark.parametrize("order", [[[2], [3, 4], [1], [5]], [[1], [2, 3], [5], [4]], [[1], [2], [4, 5], [3]]])
def test_what_comes_out_of_order_hides_nothing_of_what_came_before(order: list[list[int]]) -> None:
    begun: list[AuditRecord] = []
    for call in "abcde":
        begun.append(chained(record("begin", call), begun[-1] if begun else Anchor()))
    trail = MemoryAudit()
    for batch in order:
        at_once(trail.append([begun[number - 1] for number in batch]))
    assert at_once(trail.unended()) == begun
    at_once(trail.append([chained(record("end", call, "other"), Anchor()) for call in "a"]))
    assert at_once(trail.unended()) == begun[1:]
    assert at_once(trail.prune(5.0)) == 2
