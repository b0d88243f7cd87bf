"""A call and what all its copies share."""

from __future__ import annotations

import asyncio

import pytest
from attrs import define, evolve, fields, frozen

from llmpipe.pipeline.call import Attempt, Call, Ledger
from llmpipe.pipeline.outcome import Outcome
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import Completion, Request, Usage


@frozen(kw_only=True)
class Setting:
    attempts: int = 3
    base: float = 0.5
    name: str = "setting"
    priority: int = 1


@define
class Other:
    attempts: int = 3


def a_call(**changes: object) -> Call:
    return Call(Request("m", "hi"), Runtime(seed=1), **changes)


def test_a_changed_copy_shares_the_ledger_and_leaves_the_original_alone():
    call = a_call(id="c", tenant="t", tags={"a": "b"})
    copy = call.evolve(request=Request("n", "ho"), priority=7)
    assert (copy.request.model, copy.priority, copy.id, copy.tenant) == ("n", 7, "c", "t")
    assert (call.request.model, call.priority) == ("m", 0)
    assert copy.ledger is call.ledger
    assert copy.runtime is call.runtime


def test_evolve_is_what_attrs_makes_of_it():
    call = a_call(id="c", deadline=3.0, without=frozenset({"x"}))
    ours, theirs = call.evolve(user="u"), evolve(call, user="u")
    for attribute in fields(Call):
        assert getattr(ours, attribute.name) is getattr(theirs, attribute.name), attribute.name


def test_a_field_a_call_does_not_have_cannot_be_changed():
    with pytest.raises(TypeError, match="deadlin, tennant"):
        a_call().evolve(deadlin=1, tennant="x")


def test_a_call_cannot_be_assigned_to():
    with pytest.raises(AttributeError):
        setattr(a_call(), "tenant", "other")  # noqa: B010  a checker would see it; here the call does


async def test_remaining_time_is_never_negative_and_infinite_without_a_deadline():
    assert a_call().remaining() == float("inf")
    call = a_call(deadline=10.0)
    assert call.remaining() == 10.0
    await asyncio.sleep(4)
    assert call.remaining() == 6.0
    await asyncio.sleep(40)
    assert call.remaining() == 0.0


def test_options_change_only_what_they_name_and_only_in_their_own_class():
    setting = Setting(base=2.0)
    assert a_call().opt(setting) is setting
    assert a_call(options={Other: {"attempts": 9}}).opt(setting) is setting
    changed = a_call(options={Setting: {"attempts": 1}}).opt(setting)
    assert (changed.attempts, changed.base) == (1, 2.0)
    with pytest.raises(TypeError):
        a_call(options={Setting: {"attempt": 1}}).opt(setting)


def test_the_key_of_a_target_is_its_name_endpoint_and_the_model_asked():
    own, other = MockProvider(name="own", model="m1"), MockProvider(name="other", model="m2")
    assert a_call().target_key == ("", "", "m")
    call = a_call(provider=own)
    assert call.target_key == ("own", "mock", "m")
    assert call.evolve(request=Request("", "hi")).target_key == ("own", "mock", "m1")
    assert call.evolve(request=Request("", "hi"), target=other).target_key == ("other", "mock", "m2")


async def test_notes_keep_their_order_and_the_loops_time():
    call = a_call()
    call.note("retry.wait", seconds=1.0)
    await asyncio.sleep(1)
    call.evolve(tenant="t").note("retry.again", attempt=2)
    call.ledger.note("done")
    assert [(note.at, note.kind, dict(note.detail)) for note in call.ledger.notes] == [
        (0.0, "retry.wait", {"seconds": 1.0}),
        (1.0, "retry.again", {"attempt": 2}),
        (1.0, "done", {}),
    ]


def test_an_attempt_knows_how_it_ended():
    attempt = Attempt(1, "p", "asked", Request("asked", "hi"), 0.0)
    assert (attempt.status, attempt.usage, attempt.model) == ("open", None, "asked")
    attempt.fail(ValueError(), 2.0)
    assert (attempt.status, attempt.ended_at) == ("error", 2.0)
    attempt.fail(asyncio.CancelledError(), 3.0)
    assert attempt.status == "cancelled"
    attempt.settle(Outcome("ok", result=Completion(model="answered", usage=Usage(1, 2)), ended_at=4.0))
    assert (attempt.status, attempt.model, attempt.usage, attempt.ended_at) == (
        "ok",
        "answered",
        Usage(1, 2),
        4.0,
    )


def test_two_calls_share_nothing():
    one, two = a_call(), a_call()
    assert one.ledger is not two.ledger
    assert one != two
    assert isinstance(one.ledger, Ledger)
