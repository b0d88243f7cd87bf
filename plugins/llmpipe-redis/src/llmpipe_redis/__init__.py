"""Redis for llmpipe: `open_redis` opens ``redis://`` and ``rediss://``, which many processes share."""

from __future__ import annotations

from llmpipe_redis.settings import Settings
from llmpipe_redis.state import RedisState, open_redis

__all__ = ("RedisState", "Settings", "open_redis")
