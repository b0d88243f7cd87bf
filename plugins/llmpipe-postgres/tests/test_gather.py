"""Gathering, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llmpipe.errors import StoreUnavailable
from llmpipe_postgres.gather import Gather, Turn


class Store:
    """Takes a second for a batch; remembers what was sent."""

    def __init__(self, timeout: float = 60.0, **bounds: int) -> None:
        self.sent: list[list[str]] = []
        self.bad: dict[str, Exception] = {}
        self.refusal: Exception | None = None
        self.seconds = 1.0
        self.broken_off = 0
        self.gather = Gather(self.send, check=self.check, late=self.late, timeout=timeout, **bounds)

    async def send(self, turns: Sequence[Turn]) -> None:
        self.sent.append([turn.step for turn in turns])
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.broken_off += 1
            raise
        for turn in turns:
            if turn.step in self.bad:
                raise self.bad[turn.step]
        for turn in turns:
            if not turn.answer.done():
                turn.answer.set_result(turn.step.upper())

    def check(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def late(self, sent: bool) -> StoreUnavailable:
        return StoreUnavailable("sent" if sent else "not sent")

    async def ask(self, name: str, key: str = "", size: int = 1) -> str:
        answer: str = await self.gather.do(name, key or name, size)
        return answer

    def start(self, names: str) -> list[asyncio.Task[str]]:
        return [asyncio.ensure_future(self.ask(name)) for name in names]


async def settled(tasks: Sequence[asyncio.Task[str]]) -> list[object]:
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_alone_goes_at_once_and_in_its_own_task():
    store = Store()
    task = asyncio.ensure_future(store.ask("a"))
    await asyncio.sleep(0)
    assert store.sent == [["a"]]
    assert asyncio.all_tasks() == {task, asyncio.current_task()}
    assert await task == "A"
    assert await store.ask("b") == "B"
    assert store.sent == [["a"], ["b"]]


async def test_those_that_come_while_one_is_under_way_go_together_each_with_its_answer():
    store = Store()
    assert await settled(store.start("abcd")) == ["A", "B", "C", "D"]
    assert store.sent == [["a"], ["b", "c", "d"]]


async def test_those_who_ask_again_when_they_have_their_answers_are_together_again():
    store = Store()

    async def ask_often(name: str) -> None:
        for _ in range(4):
            await store.ask(name)

    await asyncio.gather(*[ask_often(name) for name in "abcd"])
    assert [len(batch) for batch in store.sent] == [1, 4, 4, 4, 3]


async def test_no_more_go_together_than_allowed_and_in_the_order_in_which_they_came():
    store = Store(most=2)
    await settled(store.start("abcdef"))
    assert store.sent == [["a"], ["b", "c"], ["d", "e"], ["f"]]


async def test_large_ones_go_with_fewer_and_one_too_large_for_all_goes_alone():
    store = Store(room=10)
    sizes = {"a": 1, "b": 6, "c": 5, "d": 5, "e": 99, "f": 1}
    await asyncio.gather(*[store.ask(name, size=size) for name, size in sizes.items()])
    assert store.sent == [["a"], ["b"], ["c", "d"], ["e"], ["f"]]


async def test_two_of_one_key_are_never_together_and_stay_in_order():
    store = Store()
    keys = {"a": "1", "b": "2", "c": "2", "d": "3", "e": "2"}
    await asyncio.gather(*[store.ask(name, key) for name, key in keys.items()])
    assert store.sent == [["a"], ["b", "d"], ["c"], ["e"]]


@pytest.mark.parametrize("bad", ["b", "e", "i", "ci", "bcdefghi"])
async def test_those_that_cannot_be_kept_have_their_error_and_their_neighbours_their_answers(bad):
    store = Store()
    store.bad = {name: ValueError(name) for name in bad}
    answers = await settled(store.start("abcdefghi"))
    assert answers == [store.bad.get(name, name.upper()) for name in "abcdefghi"]


async def test_a_store_out_of_reach_is_told_to_all_each_in_an_error_of_its_own():
    store = Store()
    store.bad = {"c": StoreUnavailable("away")}
    first, *others = await settled(store.start("abcd"))
    assert first == "A"
    assert [str(error) for error in others] == ["away"] * 3
    assert len({id(error) for error in others}) == 3
    assert store.sent == [["a"], ["b", "c", "d"]]
    assert await store.ask("e") == "E"


async def test_a_fault_of_the_sender_is_told_to_all_and_holds_up_nobody():
    store = Store()
    store.bad = {"c": KeyError("fault")}
    assert [type(answer) for answer in await settled(store.start("abc"))] == [str, KeyError, KeyError]
    assert await store.ask("d") == "D"


async def test_whoever_is_cancelled_before_it_was_sent_is_not_sent():
    store = Store()
    tasks = store.start("abcd")
    await asyncio.sleep(0.5)
    tasks[2].cancel()
    answers = await settled(tasks)
    assert isinstance(answers.pop(2), asyncio.CancelledError)
    assert answers == ["A", "B", "D"]
    assert store.sent == [["a"], ["b", "d"]]


async def test_when_all_who_waited_have_gone_nothing_is_sent():
    store = Store()
    tasks = store.start("abcd")
    await asyncio.sleep(0.5)
    for task in tasks[1:]:
        task.cancel()
    await settled(tasks)
    assert await store.ask("e") == "E"
    assert store.sent == [["a"], ["e"]]


async def test_whoever_is_cancelled_after_it_was_sent_leaves_at_once_and_disturbs_nobody():
    store = Store()
    tasks = store.start("abcd")
    await asyncio.sleep(1.5)
    tasks[2].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert tasks[2].cancelled()
    assert [task.done() for task in tasks] == [True, False, True, False]
    assert [await tasks[1], await tasks[3]] == ["B", "D"]
    assert store.broken_off == 0


async def test_what_nobody_waits_for_any_more_is_broken_off_and_the_next_go():
    store = Store()
    store.seconds = 4.0
    tasks = store.start("abc")
    await asyncio.sleep(4.5)
    tasks += store.start("de")
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    tasks[2].cancel()
    now = asyncio.get_running_loop().time()
    assert [await tasks[3], await tasks[4]] == ["D", "E"]
    assert asyncio.get_running_loop().time() - now == pytest.approx(4.0, abs=0.1)
    assert store.broken_off == 1


async def test_one_alone_that_is_cancelled_is_broken_off_and_the_next_go():
    store = Store()
    tasks = store.start("abc")
    await asyncio.sleep(0.5)
    tasks[0].cancel()
    assert (await settled(tasks))[1:] == ["B", "C"]
    assert store.broken_off == 1


async def test_whoever_is_out_of_time_learns_whether_it_was_sent_and_breaks_nothing_off():
    store = Store(5.0, most=1)
    store.seconds = 4.0
    answers = await settled(store.start("abc"))
    assert answers[0] == "A"
    assert [str(answer) for answer in answers[1:]] == ["sent", "not sent"]
    await asyncio.sleep(5.0)
    assert store.sent == [["a"], ["b"]]
    assert store.broken_off == 0


async def test_nobody_waits_in_line_for_a_store_that_is_known_to_be_out_of_reach():
    store = Store()
    (first,) = store.start("a")
    await asyncio.sleep(0.5)
    store.refusal = StoreUnavailable("known")
    with pytest.raises(StoreUnavailable, match="known"):
        await store.ask("b")
    assert await first == "A"


def test_each_event_loop_has_a_line_of_its_own():
    store = Store()
    store.seconds = 0.0
    for _ in range(3):

        async def use() -> None:
            assert await settled(store.start("abc")) == ["A", "B", "C"]

        asyncio.run(use())
    assert store.sent == [["a"], ["b", "c"]] * 3


def test_a_loop_that_ends_in_the_middle_leaves_nothing_behind(caplog):
    store = Store()
    store.seconds = 60.0

    async def use() -> None:
        store.start("abc")
        await asyncio.sleep(0)

    asyncio.run(use())
    assert store.broken_off == 1
    assert caplog.text == ""
