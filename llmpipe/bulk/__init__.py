"""All requests of a file through a chain, into another file; interrupted at any time, and gone on with."""

from __future__ import annotations

from llmpipe.bulk.job import STOP_ON, Summary, run
from llmpipe.bulk.results import merge
from llmpipe.bulk.spread import GROUP, Job, engine

__all__ = ("GROUP", "Job", "STOP_ON", "Summary", "engine", "merge", "run")
