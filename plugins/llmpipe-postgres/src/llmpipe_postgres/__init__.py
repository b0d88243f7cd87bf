"""PostgreSQL for llmpipe: budgets, limits, queues, the audit trail, sealed keys and the provider table."""

from __future__ import annotations

from llmpipe_postgres.settings import Settings
from llmpipe_postgres.state import PostgresState, open_postgres

__all__ = ("PostgresState", "Settings", "open_postgres")
