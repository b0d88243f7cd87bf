"""A provider to break things with: a real loopback server that speaks the dialects and misbehaves on cue.

::

    async with Simulator([Rule(Fault(status=429, headers={"retry-after": "1"}), rate=0.1)]) as simulator:
        core = provider("openai", api_key="sk-test", base_url=simulator.url + "/v1", model="gpt-4o-mini")

It keeps its own books, so that ours can be compared with them.
"""

from __future__ import annotations

from llmpipe.testing.simulator.answers import Answer, plain_answer
from llmpipe.testing.simulator.book import Book, Entry
from llmpipe.testing.simulator.faults import Fault, Rule
from llmpipe.testing.simulator.server import Simulator

__all__ = ("Answer", "Book", "Entry", "Fault", "Rule", "Simulator", "plain_answer")
