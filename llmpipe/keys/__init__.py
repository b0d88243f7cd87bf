"""Provider keys kept encrypted: stored, fetched, rotated; and found, in the environment first.

Encryption needs the extra ``vault`` (cryptography). A key is only ever handed out as a `Secret`.
"""

from __future__ import annotations

from llmpipe.keys.masking import mask_api_key, sanitize_object
from llmpipe.keys.masters import MASTER_KEY, Masters, masters_in
from llmpipe.keys.source import VaultKey
from llmpipe.keys.vault import KeyInfo, KeyVault, Rotation

__all__ = (
    "KeyInfo",
    "KeyVault",
    "MASTER_KEY",
    "Masters",
    "Rotation",
    "VaultKey",
    "mask_api_key",
    "masters_in",
    "sanitize_object",
)
