"""A process that was forked is another writer than its parent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

ROOT = Path(__file__).parents[3]
# The parent makes a call, and its children two that are under way at the same time.
CODE = """
import asyncio, os, sys
from llmpipe.middleware.audit import Audit
from llmpipe.pipeline.chain import Chain
from llmpipe.providers.mock import MockProvider, Wait
from llmpipe.state import AuditQuery, open_state

url = sys.argv[1]
chain = Chain(MockProvider(default=["a", Wait(1.0), "b"]), Audit(store=url))

async def call(after, close):
    await asyncio.sleep(after)
    await chain.complete("hi")
    if close:
        await chain.aclose()

asyncio.run(call(0.0, close=True))
pids = []
for number in range(2):
    if (pid := os.fork()) == 0:
        asyncio.run(call(0.3 * number, close=True))
        os._exit(0)
    pids.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]

async def look():
    await chain.aclose()
    state = open_state(url)
    for record in await state.audit("audit").query(AuditQuery()):
        print(record.writer, record.seq, record.kind, record.outcome or "-")
    await state.aclose()

asyncio.run(look())
"""


@pytest.mark.parametrize("close", [True, False])
def test_children_of_one_process_have_chains_of_their_own(tmp_path, close):
    code = CODE if close else CODE.replace("call(0.0, close=True)", "call(0.0, close=False)")
    run = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path}/audit.db"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    chains: dict[str, list[str]] = {}
    for line in run.stdout.splitlines():
        writer, _, said = line.partition(" ")
        chains.setdefault(writer, []).append(said)
    assert sorted(chains.values()) == [["1 begin -", "2 end ok"]] * 3
