"""Thought signatures: Gemini's own, the value that stands for none, and other providers' proofs.

Gemini signs what it thought; on any part, or on the first of parallel calls. Signatures are bytes, so
on JSON's wire they are base64, of either alphabet: Google's SDK reads them and writes them anew.
Source: https://ai.google.dev/gemini-api/docs/thought-signatures
"""

from __future__ import annotations

import binascii
from base64 import b64encode, urlsafe_b64decode

import orjson

from llmpipe.dialects.gemini_generate.fields import NAME
from llmpipe.dialects.proofs import seal, unseal
from llmpipe.types import Reasoning

__all__ = ("NO_SIGNATURE", "is_foreign", "open_signature", "signature_for_caller")

NO_SIGNATURE = "skip_thought_signature_validator"
"""What Google documents for calls that came from elsewhere: Gemini 3 refuses them without any signature."""

_UNKNOWN = "unknown"


def is_foreign(part: Reasoning, written_in: str) -> bool:
    """Whether reasoning is another provider's. `written_in` is the dialect of its message."""
    return (part.origin or written_in) not in ("", NAME)


def signature_for_caller(part: Reasoning, written_in: str) -> str | None:
    """The ``thoughtSignature`` of `part` as a caller gets it, always base64; None if it proves nothing.

    Another provider's signature and its encrypted thought are sealed in one.
    """
    if part.signature is None and part.encrypted is None:
        return None
    origin = part.origin or written_in
    plain = part.signature if part.encrypted is None else None
    if plain is not None and (origin == NAME or (origin == "" and _decoded(plain) is not None)):
        return plain
    if origin in ("", NAME):
        origin = _UNKNOWN
    proof = orjson.dumps([part.signature, part.encrypted]).decode()
    return b64encode(seal(proof, origin, NAME).encode()).decode()


def open_signature(text: str) -> tuple[str | None, str | None, str]:
    """Signature, encrypted thought and origin in what a caller gives back as ``thoughtSignature``."""
    plain = _decoded(text)
    if plain is None or not plain.startswith(b"llmpipe:"):
        return text, None, NAME
    proof, origin = unseal(plain.decode("utf-8", "replace"), NAME)
    try:
        signature, encrypted = orjson.loads(proof)
    except ValueError:  # not JSON, or not two of them: not one of ours
        return text, None, NAME
    if not all(one is None or isinstance(one, str) for one in (signature, encrypted)):
        return text, None, NAME
    return signature, encrypted, "" if origin == _UNKNOWN else origin


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 of either alphabet, None for anything else."""
    try:
        raw = text.encode("ascii").translate(_TO_URLSAFE)
        return urlsafe_b64decode(raw) if not raw.translate(None, _ALPHABET) and len(raw) % 4 == 0 else None
    except (UnicodeEncodeError, binascii.Error):
        return None


_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="
