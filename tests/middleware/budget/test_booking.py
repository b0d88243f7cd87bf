"""What a provider's invoice says is booked over what was estimated: once, and to the nano-dollar."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpipe.errors import ConfigError, StoreUnavailable
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.budget.booking import Booked, book
from llmpipe.middleware.budget.corrections import _split, corrections
from llmpipe.middleware.budget.invoice import InvoiceLine
from llmpipe.middleware.budget.journal import scopes_of_line
from llmpipe.middleware.budget.reconcile import CORRECTION, reconcile
from llmpipe.state import Draw, Ledger, Spend, open_state
from llmpipe.state.memory.ledger import MemoryLedger
from tests.middleware.budget.bank import NOON, Shaky

DAY, HOUR = 86_400.0, 3600.0
TODAY, TOMORROW = "2026-10-01", "2026-10-02"
RULES = (
    Rule(usd=1, period="day", per="account"),
    Rule(usd=1, period="month", per="model"),
    Rule(usd=1, period="total"),
)


def row(number: int, nano: int | None, **fields: Any) -> Spend:
    told = {"at": NOON, "provider": "p", "model": "m", "tenant": "acme", "estimated": True, **fields}
    return Spend(id=f"hold-{number}/1", nano=nano, **told)


def line(nano: int, request_id: str = "", **fields: Any) -> InvoiceLine:
    return InvoiceLine(
        **{"where": "line", "day": TODAY, "model": "m", **fields}, nano=nano, request_id=request_id
    )


async def keep(ledger: Ledger, rows: Sequence[Spend], rules: Sequence[Rule] = RULES) -> None:
    """Write them as a budget does: the journal, and the balances of the time at which each began."""
    for one in rows:
        began = one.at - one.seconds
        told = scopes_of_line(one)
        charges = []
        for rule in rules:
            if rule.applies(told, began):
                period = rule.period_at(began)
                charges.append(Draw(rule.account(told), period.start, one.nano or 0, ends=period.end))
        await ledger.settle(one.id, charges, [one])


async def booked(ledger: Ledger, lines: Sequence[InvoiceLine], **more: Any) -> Booked:
    told = {"rules": RULES, "provider": "p", "exported_at": NOON + 2 * DAY, **more}
    return await book(ledger, told.pop("rules"), lines, **told)


async def journal(ledger: Ledger) -> list[Spend]:
    return await ledger.spends(limit=10**6)


async def total(ledger: Ledger) -> int:
    return sum(one.nano or 0 for one in await journal(ledger))


async def spent(ledger: Ledger, rule: Rule, at: float = NOON, **scopes: str) -> int:
    (found,) = await ledger.balances([(rule.account(scopes), rule.period_at(at).start)])
    return found.spent


async def check_balances(ledger: Ledger, rules: Sequence[Rule] = RULES) -> None:
    """Each is what the journal's lines for it add up to."""
    sums: Counter[tuple[str, int]] = Counter()
    for one in await journal(ledger):
        for rule in rules:
            began = one.at - one.seconds
            sums[rule.account(scopes_of_line(one)), rule.period_at(began).start] += one.nano or 0
    found = await ledger.balances(list(sums))
    assert [one.spent for one in found] == list(sums.values())


# ------------------------------------------------------------ by request


async def test_what_was_estimated_becomes_what_was_billed_in_journal_and_budgets(tmp_path: Path):
    for url in ("memory://", f"sqlite:///{tmp_path / 'state.db'}"):
        state = open_state(url)
        ledger = state.ledger("budget")
        await keep(ledger, [row(1, 100, request_id="a"), row(2, 50, request_id="b", tenant="globex")])
        done = await booked(ledger, [line(70, "a"), line(58, "b")])
        assert [(one.request_id, one.nano, one.estimated) for one in done.corrections] == [
            ("a", -30, True),
            ("b", 8, True),
        ]
        assert await total(ledger) == 128
        assert [await spent(ledger, RULES[0], account=name) for name in ("acme", "globex")] == [70, 58]
        assert [await spent(ledger, rule, model="m") for rule in RULES[1:]] == [128, 128]
        lines = [one for one in await journal(ledger) if one.id.startswith(CORRECTION)]
        assert {(one.status, one.estimated, one.at, one.input_tokens) for one in lines} == {
            ("corrected", False, NOON, 0)
        }
        assert (
            reconcile(await journal(ledger), [line(70, "a"), line(58, "b")], tolerance_usd=0).exit_code == 0
        )
        (mine,) = [
            one for one in reconcile(await journal(ledger), [line(70, "a")]).rows if one.request_id == "a"
        ]
        assert (mine.journal, mine.estimated) == (70, 70)
        await state.aclose()


async def test_the_same_file_again_changes_nothing_and_a_later_one_books_the_difference():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a")])
    for billed, more in ((70, -30), (70, 0), (75, 5), (70, -5), (75, 5), (0, -75), (0, 0)):
        done = await booked(ledger, [line(billed, "a")])
        assert (done.nano, len(done.corrections)) == (more, int(more != 0))
        assert await total(ledger) == billed
        await check_balances(ledger)
    assert len({one.id for one in await journal(ledger)}) == 6


async def test_a_settlement_that_the_store_has_forgotten_is_not_booked_again():
    now = [0.0]
    ledger = MemoryLedger(lambda: now[0])
    await keep(ledger, [row(1, 100, request_id="a")])
    assert (await booked(ledger, [line(70, "a")])).nano == -30
    now[0] += 400 * DAY  # a store knows settlements for a while; the journal is what says that it is booked
    assert (await booked(ledger, [line(70, "a")])).corrections == ()
    assert await total(ledger) == 70


async def test_a_price_that_nobody_knew_is_known_from_the_invoice():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, None, request_id="a", estimated=False)])
    lines = [line(70, "a")]
    assert (await booked(ledger, lines)).nano == 70
    await check_balances(ledger)
    assert reconcile(await journal(ledger), lines, tolerance_usd=0).exit_code == 0


async def test_a_tolerance_leaves_what_is_within_it():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 100, request_id="b")])
    done = await booked(ledger, [line(90, "a"), line(89, "b")], tolerance_usd="0.00000001")
    assert [one.request_id for one in done.corrections] == ["b"]


async def test_another_providers_calls_are_not_touched():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 100, request_id="a", provider="other")])
    assert (await booked(ledger, [line(70, "a")])).nano == -30
    assert sum(one.nano or 0 for one in await journal(ledger) if one.provider == "other") == 100


# ------------------------------------------------------------ by day and model


async def test_calls_without_an_id_are_corrected_together_by_what_was_estimated():
    ledger = MemoryLedger()
    rows = [
        row(1, 300, tenant="acme"),
        row(2, 100, tenant="globex"),
        row(3, 500, tenant="exact", estimated=False),
        row(4, 40, request_id="a"),
    ]
    await keep(ledger, rows)
    done = await booked(ledger, [line(0, "a"), line(10, "x"), line(490, "y"), line(300, "z")])
    assert [(one.request_id, one.nano) for one in done.corrections] == [("a", -40), ("", -100)]
    assert [await spent(ledger, RULES[0], account=name) for name in ("acme", "globex", "exact")] == [
        225,
        75,
        500,
    ]
    await check_balances(ledger)
    assert (
        await booked(ledger, [line(0, "a"), line(10, "x"), line(490, "y"), line(300, "z")])
    ).corrections == ()


async def test_what_is_missing_goes_to_what_had_no_price_then_to_what_was_estimated():
    rows = [
        row(1, 300, tenant="acme"),
        row(2, 100, tenant="globex"),
        row(3, 500, tenant="exact", estimated=False),
    ]
    for more, shares in (([], [375, 125, 500, 0]), ([row(4, None, tenant="new")], [300, 100, 500, 100])):
        ledger = MemoryLedger()
        await keep(ledger, [*rows, *more])
        assert (await booked(ledger, [line(1000)])).nano == 100
        accounts = ("acme", "globex", "exact", "new")
        assert [await spent(ledger, RULES[0], account=name) for name in accounts] == shares
        await check_balances(ledger)


async def test_a_file_by_day_and_model_is_booked_once_for_each():
    ledger = MemoryLedger()
    rows = [
        row(1, 100, request_id="a"),
        row(2, 100, tenant="globex"),
        row(3, 50, model="n-20260101"),
        row(4, 60, at=NOON + DAY),
    ]
    await keep(ledger, rows)
    lines = [line(150), line(61, model="n"), line(60, day=TOMORROW)]
    done = await booked(ledger, lines, exported_at=NOON + 2 * DAY)
    assert [(one.day, one.model, one.nano) for one in done.corrections] == [
        (TODAY, "m", -50),
        (TODAY, "n-20260101", 11),
    ]
    assert await total(ledger) == 271
    await check_balances(ledger)
    assert (await booked(ledger, lines)).corrections == ()


async def test_a_day_that_was_not_over_when_the_file_was_made_is_left_but_for_requests_it_names():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 100), row(3, 30, request_id="later")])
    midnight = NOON + DAY / 2
    lines = [line(70, "a"), line(10, "x")]
    done = await booked(ledger, lines, exported_at=midnight + HOUR - 1)
    assert [one.request_id for one in done.corrections] == ["a"]
    assert {(one.request_id, one.why.partition(",")[0]) for one in done.left} == {
        ("", "its day was not over"),
        ("later", "the file does not have all of its day"),
    }
    assert (await booked(ledger, lines, exported_at=midnight + HOUR)).nano == -90 - 30
    assert await total(ledger) == 80


# ------------------------------------------------------------ what only one side has


async def test_what_the_file_does_not_have_costs_nothing_as_far_as_it_was_an_estimate():
    ledger = MemoryLedger()
    rows = [
        row(1, 100, request_id="never sent"),
        row(2, 90, request_id="told", estimated=False),
        row(3, 80, request_id="the day before", at=NOON - DAY),
        row(4, 70, request_id="over midnight", at=NOON - DAY / 2 + 5, seconds=10),
        row(5, 60),
        row(7, 25, estimated=False),
        row(6, 10, request_id="a"),
    ]
    await keep(ledger, rows)
    done = await booked(ledger, [line(10, "a")])
    assert {(one.request_id, one.nano) for one in done.corrections} == {("", -60), ("never sent", -100)}
    assert {(one.request_id, one.why) for one in done.left} == {
        ("told", "the provider told its usage, and the file does not have it"),
        ("over midnight", "the file does not have all of its day"),
    }
    await check_balances(ledger)


async def test_nothing_is_given_back_while_the_file_has_something_that_it_could_be():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="ours"), row(2, 60), row(3, 10, request_id="a")])
    lines = [line(10, "a"), line(160, "theirs", model="the same by another name")]
    done = await booked(ledger, lines)
    assert done.corrections == ()
    assert Counter(one.why.partition(",")[0] for one in done.left) == {
        "the journal has nothing of it": 1,
        "the file does not have it": 2,
    }


async def test_lines_of_somebody_else_are_not_ours():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 60)])
    done = await booked(ledger, [line(100, "a"), line(30, "x"), line(40, "y")])
    assert done.corrections == ()
    assert [one.why for one in done.left] == [
        "the file has 2 that the journal does not know by id, which has 1 without one"
    ]
    done = await booked(ledger, [line(100, "a"), line(30, "x", day=""), line(5, model="z")])
    assert done.corrections == ()
    assert await total(ledger) == 160


async def test_what_one_file_has_corrected_another_that_lacks_it_leaves():
    ledger = MemoryLedger()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 10, request_id="b")])
    await booked(ledger, [line(70, "a"), line(10, "b")])
    assert (await booked(ledger, [line(10, "b")])).corrections == ()


def test_a_file_of_tokens_has_nothing_to_book():
    with pytest.raises(ConfigError, match="no money"):
        corrections([], [InvoiceLine(where="1", input_tokens=1)], provider="p", exported_at=NOON)


# ------------------------------------------------------------ which balances


async def test_a_call_over_midnight_is_corrected_in_the_period_it_was_paid_from():
    ledger = MemoryLedger()
    midnight = NOON + DAY / 2
    await keep(ledger, [row(1, 100, request_id="a", at=midnight + 5, seconds=10)])
    await booked(ledger, [line(40, "a")])
    assert await spent(ledger, RULES[0], NOON, account="acme") == 40
    assert await spent(ledger, RULES[0], NOON + DAY, account="acme") == 0


async def test_a_refund_is_withheld_from_a_budget_that_is_newer_than_the_call():
    ledger = MemoryLedger()
    new = Rule(usd=1, period="day", name="new")
    await keep(ledger, [row(1, 100, request_id="a")])
    await keep(ledger, [row(2, 30, request_id="b")], (*RULES, new))
    done = await booked(ledger, [line(10, "a"), line(20, "b")], rules=(*RULES, new))
    # Of the new one 20 are spent in truth: its own call's estimate of 30 is not to become less than that.
    assert await spent(ledger, new) >= 20
    assert list(done.withheld) == [("new", new.period_at(NOON).start)]
    assert await spent(ledger, RULES[2]) == 30


async def test_a_budget_by_model_is_that_of_the_name_that_was_asked_for():
    ledger = MemoryLedger()
    rule = Rule(usd=1, period="day", per="model")
    dated = row(1, 100, request_id="a", model="m-2026-01-01")
    period = rule.period_at(NOON)
    await ledger.settle(dated.id, [Draw(rule.account({"model": "m"}), period.start, 100)], [dated])
    done = await booked(ledger, [line(40, "a", model="m-2026-01-01")], rules=[rule])
    assert done.withheld == {}
    assert await spent(ledger, rule, model="m") == 40
    assert await spent(ledger, rule, model="m-2026-01-01") == 0


async def test_a_rule_by_tags_that_the_journal_does_not_tell_is_named_and_not_moved():
    ledger = MemoryLedger()
    rule = Rule(usd=1, period="day", per="tag:team")
    await keep(ledger, [row(1, 100, request_id="a")])
    done = await booked(ledger, [line(40, "a")], rules=[rule, *RULES])
    assert done.untold == ("day:tag:team",)
    assert await spent(ledger, rule, **{"tag:team": ""}) == 0
    await check_balances(ledger)


# ------------------------------------------------------------ several at once, and stores that go


class _Slow(MemoryLedger):
    """In which others come between any two steps."""

    async def balances(self, keys: Any) -> Any:
        await asyncio.sleep(1)
        return await super().balances(keys)


@pytest.mark.parametrize("second", [70, 75])
async def test_two_who_book_at_once_book_once(second: int):
    ledger = _Slow()
    await keep(ledger, [row(1, 100, request_id="a"), row(2, 100, request_id="b")])
    first, other = [line(70, "a"), line(7, "b")], [line(second, "a"), line(7, "b")]
    done = await asyncio.gather(booked(ledger, first), booked(ledger, other))
    assert sum(one.nano for one in done) == await total(ledger) - 200
    assert await total(ledger) == second + 7  # the first's is settled first, and the other looks again
    await check_balances(ledger)


class _Leaving(Shaky):
    """Goes away at the second settlement: before it is done, or after."""

    async def settle(self, hold: str, charges: Sequence[Draw], rows: Sequence[Spend] = ()) -> bool:
        self.away = len(self.settled) == 1
        return await super().settle(hold, charges, rows)


@pytest.mark.parametrize("after", [False, True])
async def test_what_a_store_that_went_away_has_not_taken_is_booked_the_next_time(after: bool):
    ledger = _Leaving(after=after)
    await keep(ledger.kept, [row(n, 100, request_id=str(n)) for n in range(3)])
    lines = [line(10, str(n)) for n in range(3)]
    with pytest.raises(StoreUnavailable):
        await booked(ledger, lines)
    assert await total(ledger.kept) == (120 if after else 210)
    ledger.away = False
    ledger.settled.append("it is there again")
    await booked(ledger, lines)
    assert await total(ledger.kept) == 30
    await check_balances(ledger.kept)


# ------------------------------------------------------------ any journal, any invoice


@given(st.integers(-(10**18), 10**18), st.lists(st.integers(0, 10**15), min_size=1, max_size=9))
def test_a_sum_is_split_to_the_last_nano_and_nobody_gets_more_than_there_is(nano: int, weights: list[int]):
    parts = _split(nano, weights)
    assert sum(parts) == (nano if sum(weights) else 0)
    if abs(nano) <= sum(weights):
        assert all(abs(part) <= weight for part, weight in zip(parts, weights, strict=True))


_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["", "acme", "globex"]),
        st.sampled_from(["m", "n"]),
        st.integers(0, 40),  # hours of the two days
        st.one_of(st.none(), st.integers(0, 1000)),
        st.booleans(),  # estimated
        st.booleans(),  # has an id
        st.one_of(st.none(), st.integers(0, 1500)),  # its bill, if it has one
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(_CALLS, st.booleans())
async def test_after_any_invoice_of_ours_journal_bill_and_balances_agree(calls: list[Any], by_request: bool):
    ledger = MemoryLedger()
    rows, lines, bill = [], [], 0
    begin = NOON - DAY / 2
    for number, (tenant, model, hour, nano, estimated, has_id, billed) in enumerate(calls):
        at = begin + hour * HOUR + 60
        # What the provider told it bills; what was not sent, and so cost nothing, it does not.
        estimated = estimated and nano is not None
        exact = nano is not None and not estimated
        billed = nano if exact or nano == 0 else billed
        told = {"tenant": tenant, "model": model, "at": at, "estimated": estimated}
        rows.append(row(number, nano, **told, request_id=f"r{number}" if has_id else ""))
        bill += billed or 0
        if billed:
            day = TODAY if hour < 24 else TOMORROW
            lines.append(line(billed, f"r{number}" if by_request else "", day=day, model=model))
    if by_request:
        lines += [line(0, f"edge {day}", day=day) for day in (TODAY, TOMORROW)]  # of which all is in the file
    await keep(ledger, rows)
    done = await booked(ledger, lines, exported_at=NOON + 3 * DAY)
    await check_balances(ledger)
    if by_request:
        assert done.left == ()
        assert await total(ledger) == bill
    found = reconcile(await journal(ledger), lines, tolerance_usd=0)
    assert [one for one in found.rows if one.invoice and one.journal != one.invoice] == []
    assert all(one.spent >= 0 for one in await ledger.balances([("total:global", 0)]))
    before = await journal(ledger)
    assert (await booked(ledger, lines, exported_at=NOON + 3 * DAY)).corrections == ()
    assert await journal(ledger) == before
