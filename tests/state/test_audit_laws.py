"""The laws of the audit trail at its store (A1, A2, A4), and that no byte of a chain changes unseen.

Every store that keeps trails is held to them, through two clients of it, one of which may go at any time.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import asdict, evolve
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from llmpipe.state import Anchor, AuditQuery, AuditRecord
from llmpipe.state.hash_chain import chained, digest, fault
from tests.state.stores import OnStore, Store, kept_in

writers = st.sampled_from(["v", "w"])


def record(writer: str, kind: str, call: str, at: float = 1.0, **rest: Any) -> AuditRecord:
    return AuditRecord(writer=writer, seq=0, kind=kind, at=at, call=call, body={"n": 1}, **rest)


class Trail(OnStore):
    """The model is the list of all that was ever written, and how many of each writer are gone."""

    @initialize()
    def begin_trail(self) -> None:
        self.audit = self.place.thing("audit")
        self.all: list[AuditRecord] = []
        self.gone = {"v": 0, "w": 0}
        self.alive: dict[str, float] = {}
        self.calls = 0

    def of(self, writer: str) -> list[AuditRecord]:
        return [one for one in self.all if one.writer == writer]

    def kept(self) -> list[AuditRecord]:
        return [one for one in self.all if one.seq > self.gone[one.writer]]

    def unended(self) -> list[AuditRecord]:
        ended = {one.call for one in self.all if one.kind == "end"}
        return [one for one in self.all if one.kind == "begin" and one.call not in ended]

    def write(self, *records: AuditRecord) -> None:
        batch: list[AuditRecord] = []
        for one in records:
            mine = [*self.of(one.writer), *(two for two in batch if two.writer == one.writer)]
            batch.append(chained(one, mine[-1] if mine else Anchor()))
        self.do(self.audit.append(batch))
        self.all += batch

    @rule(writer=writers, at=st.integers(0, 9))
    def begin(self, writer: str, at: int) -> None:
        self.calls += 1
        self.write(record(writer, "begin", f"c{self.calls}", at), record(writer, "note", "", at))

    @rule(writer=writers, at=st.integers(0, 9), pick=st.integers(0, 9))
    def end(self, writer: str, at: int, pick: int) -> None:
        if found := self.unended():
            self.write(record(writer, "end", found[pick % len(found)].call, at, outcome="ok"))

    @rule(pick=st.integers(0, 99), other=st.booleans())
    def append_again(self, pick: int, other: bool) -> None:
        if not self.all:
            return
        again = self.all[pick % len(self.all)]
        if other and again in self.kept():
            head = self.do(self.audit.head(again.writer))
            fresh = chained(record(again.writer, "begin", "never"), head)
            with pytest.raises(ValueError, match="another"):
                self.do(self.audit.append([fresh, evolve(again, hash="0" * 64)]))
        else:
            self.do(self.audit.append([again, again]))

    @rule(writer=writers, lease=st.sampled_from([0, 5, 20]))
    def beat(self, writer: str, lease: int) -> None:
        self.do(self.audit.beat(writer, self.scaled(lease)))
        self.alive[writer] = self.now + lease

    @rule(seconds=st.integers(1, 9))
    def pass_time(self, seconds: int) -> None:
        self.let_pass(seconds)

    @precondition(lambda self: self.place.again)
    @rule(number=st.integers(0, 1))
    def one_client_goes_and_another_comes(self, number: int) -> None:
        self.place.replace(number)

    @rule(before=st.integers(0, 10))
    def prune(self, before: int) -> None:
        count = 0
        for writer in self.gone:
            for one in self.of(writer)[self.gone[writer] :]:
                if one.at >= before or one in self.unended():
                    break
                self.gone[writer] += 1
                count += 1
        assert self.do(self.audit.prune(before)) == count

    @invariant()
    def every_chain_is_there_without_a_gap_and_verifies(self) -> None:
        """A1, A4."""
        for writer, gone in self.gone.items():
            found = sorted(self.do(self.audit.query(AuditQuery(writer=writer))), key=lambda one: one.seq)
            assert found == self.of(writer)[gone:]
            anchor = self.do(self.audit.anchor(writer))
            assert anchor.seq == gone
            assert fault(found, anchor) is None
            written = self.of(writer)
            if written:
                last = Anchor(written[-1].seq, written[-1].hash)
                head = self.do(self.audit.head(writer))
                assert Anchor(head.seq, head.hash) == last
                assert fault(found, anchor, known=last) is None
        assert self.do(self.audit.writers()) == sorted({one.writer for one in self.all})

    @invariant()
    def what_has_not_ended_is_known_and_who_is_lost(self) -> None:
        """A2."""
        wanted = sorted(self.unended(), key=lambda one: (one.writer, one.seq))
        assert self.do(self.audit.unended()) == wanted
        lost = {one.writer for one in wanted if self.alive.get(one.writer, 0.0) <= self.now}
        assert self.do(self.audit.lost()) == sorted(lost)

    @invariant()
    def queries_find_what_is_kept(self) -> None:
        ends = AuditQuery(kind="end", outcome="ok", since=2.0, until=7.0)
        wanted = [one for one in self.kept() if one.kind == "end" and 2 <= one.at < 7]
        assert self.do(self.audit.query(ends)) == sorted(
            wanted, key=lambda one: (one.at, one.writer, one.seq)
        )


@kept_in("memory", "file", "sqlite", "postgresql")
def test_trails_keep_their_laws(store: Store) -> None:
    store.check(Trail)


# ------------------------------------------------------------ the chain itself


def a_chain(length: int = 6, after: Anchor | None = None) -> list[AuditRecord]:
    last: AuditRecord | Anchor = after or Anchor()
    linked = []
    for number in range(length):
        kind = ("begin", "end", "note")[number % 3]
        body = {"text": "é", "n": number, "list": [1.5, None, True], "deep": {"k": "v"}}
        last = chained(
            AuditRecord(
                writer="w", seq=0, kind=kind, at=1.5 + number, call=f"c{number}", tenant="t", user="u",
                outcome="ok" if kind == "end" else "", body=body,
            ),
            last,
        )  # fmt: skip
        linked.append(last)
    return linked


def written(records: list[AuditRecord]) -> bytes:
    return b"\n".join(orjson.dumps(asdict(one)) for one in records)


def read(data: bytes) -> list[AuditRecord]:
    return [AuditRecord(**orjson.loads(line)) for line in data.split(b"\n")]


def test_no_byte_of_a_chain_is_changed_unseen():
    """Whatever still reads as records, and as others than were written, is found."""
    records = a_chain(3)
    data, found, unread = written(records), 0, 0
    for place in range(len(data)):
        for bit in (0x01, 0x04, 0x20, 0x80):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                others = read(changed)
            except (orjson.JSONDecodeError, TypeError):
                unread += 1
                continue
            if others == records and written(others) == data:
                continue  # a byte that says the same, such as the exponent's letter of a number
            assert fault(others, Anchor()) is not None, changed
            found += 1
    assert found > 1000
    assert unread > 100


OTHER: dict[str, Any] = {
    "writer": "x", "seq": 9, "kind": "other", "at": 99.5, "call": "x", "tenant": "x", "user": "x",
    "outcome": "x", "body": {"text": "é"}, "previous": "0" * 64, "hash": "0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER)
def test_each_field_is_held_by_the_hash_even_where_the_record_says_its_own_anew(name):
    records = a_chain()
    for place in range(len(records) - 1):
        wrong = [*records]
        wrong[place] = evolve(records[place], **{name: OTHER[name]})
        assert fault(wrong, Anchor()) is not None
        if name != "hash":  # whoever changes a record and its hash breaks the next one's link
            wrong[place] = evolve(wrong[place], hash=digest(wrong[place]))
            assert fault(wrong, Anchor()) is not None


@given(st.data())
def test_a_record_cut_out_moved_or_doubled_is_found(data):
    records = a_chain()
    place = data.draw(st.integers(0, len(records) - 2))
    other = data.draw(st.integers(0, len(records) - 1).filter(lambda each: each != place))
    cut = records[:place] + records[place + 1 :]
    doubled = [*records[: place + 1], *records[place:]]
    moved = [*records]
    moved[place], moved[other] = moved[other], moved[place]
    for wrong in (cut, doubled, moved):
        assert fault(wrong, Anchor()) is not None


def test_an_end_that_was_cut_off_is_found_by_a_hash_that_was_noted():
    records = a_chain()
    noted = Anchor(records[-1].seq, records[-1].hash)
    assert fault(records, Anchor(), known=noted) is None
    assert fault(records[:-1], Anchor()) is None
    assert "had been written" in str(fault(records[:-1], Anchor(), known=noted))
    assert "had been written" in str(fault([], Anchor(), known=noted))


def test_a_chain_that_was_written_anew_is_found_by_a_hash_that_was_noted():
    records, noted = a_chain(), Anchor(3, a_chain()[2].hash)
    last: AuditRecord | Anchor = Anchor()
    forged = []
    for one in records:
        last = chained(evolve(one, user="somebody else"), last)
        forged.append(last)
    assert fault(forged, Anchor()) is None
    assert "noted" in str(fault(forged, Anchor(), known=noted))


def test_what_was_pruned_was_noted_as_it_was_or_is_found():
    records = a_chain()
    anchor = Anchor(3, records[2].hash)
    assert fault(records[3:], anchor) is None
    assert fault(records[3:], anchor, known=Anchor(2, records[1].hash)) is None  # gone
    assert fault(records[3:], anchor, known=anchor) is None
    assert "noted" in str(fault(records[3:], anchor, known=Anchor(3, "0" * 64)))
    assert fault(records[3:], Anchor(3, "0" * 64)) is not None
    assert fault(records[3:], Anchor()) is not None
    assert fault([], Anchor()) is None


def test_what_no_hash_could_be_made_of_is_a_fault_and_no_crash():
    records = a_chain(3)
    for body in ({"n": 2**80}, {"s": "\ud800"}, {"o": object()}):
        wrong = [records[0], evolve(records[1], body=body), records[2]]
        assert fault(wrong, Anchor()) == "record 2 of 'w' was changed"


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="time"):
        chained(record("w", "note", "", wrong), Anchor())
    whole = a_chain(2)
    assert fault([evolve(whole[0], at=wrong), whole[1]], Anchor()) == "record 1 of 'w' was changed"


def test_what_json_cannot_say_in_a_body_reads_as_the_nothing_that_is_stored():
    given = chained(evolve(record("w", "note", ""), body={"n": float("nan"), "t": (1, 2)}), Anchor())
    stored = read(written([given]))
    assert stored[0].body == {"n": None, "t": [1, 2]}
    assert fault(stored, Anchor()) is None
