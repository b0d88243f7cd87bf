"""Names and places for llmpipe's `Redact`: what no pattern can find, found by Presidio's analyzer."""

from __future__ import annotations

from llmpipe_presidio.finder import ENTITIES, Presidio

__all__ = ("ENTITIES", "Presidio")
