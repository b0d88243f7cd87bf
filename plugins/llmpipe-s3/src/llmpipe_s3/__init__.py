"""The audit trail of llmpipe in an object store that speaks the S3 protocol."""

from __future__ import annotations

from llmpipe_s3.settings import Settings
from llmpipe_s3.state import S3State, open_s3

__all__ = ("S3State", "Settings", "open_s3")
