"""Amazon Bedrock for llmpipe: `bedrock` makes the provider, `SigV4` signs its requests."""

from __future__ import annotations

from llmpipe_bedrock.factory import PROFILE, bedrock
from llmpipe_bedrock.sigv4 import SigV4

__all__ = ("PROFILE", "SigV4", "bedrock")
