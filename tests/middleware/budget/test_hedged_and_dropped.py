"""A reply that nobody closed is given back when it is dropped, whoever else still knows of the call."""

from __future__ import annotations

import asyncio
import gc

import pytest

from llmpipe.errors import Overloaded
from llmpipe.middleware.budget import Rule
from llmpipe.middleware.hedge import Hedge
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import Wait
from llmpipe.types import Request
from tests.middleware.budget.bank import budget, ledger_of, mock, runtime

SLOW, WINS, WINS_LATE = [Wait(10), "too late"], ["a ", Wait(1), "b"], [Wait(1.5), "a ", Wait(1), "b"]


@pytest.mark.filterwarnings("ignore:a reply was never closed")
@pytest.mark.parametrize(
    ("script", "lost"),
    [
        ([SLOW, WINS], "cancelled"),
        ([WINS_LATE, SLOW], "cancelled"),
        ([WINS_LATE, Overloaded("busy")], "error"),
    ],
    ids=["the second", "the first", "the first, for the second failed"],
)
async def test_whichever_attempt_has_won_a_dropped_reply_holds_nothing(script: list[object], lost: str):
    config = budget(Rule(usd=10))
    core = mock("warm", "warm", *script)
    async with Chain(core, config, Hedge(delay=1.0, max_share=1.0), runtime=runtime()) as chain:
        for _ in range(2):  # from which hedging has its share
            await chain.complete("hi", max_tokens=5)
        call = chain.new_call(Request(messages="hi", max_tokens=5, stream=True))
        reply = await chain(call)
        assert {attempt.status for attempt in call.ledger.attempts} == {"open", lost}
        del reply  # and `call`, whose ledger has both attempts and their errors, is kept
        for _ in range(2):  # the task that has won lets go of it when the loop comes round
            gc.collect()
            await asyncio.sleep(0.1)
        assert {attempt.status for attempt in call.ledger.attempts} == {"abandoned", lost}
        assert await ledger_of(chain, config).holds() == []
