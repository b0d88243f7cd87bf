"""Signatures of reasoning on their way through a wire that is not their own.

A provider signs its reasoning, and wants it back with the signature; a caller of another dialect
has one field for such a proof, and gives it back as it stands. So what goes out there says whose it
is, and is recognised when it comes back.
"""

from __future__ import annotations

__all__ = ("seal", "unseal")

_MARK = "llmpipe:"


def seal(proof: str, origin: str, dialect: str) -> str:
    """`proof`, a signature or an encrypted thought, as it goes to a caller who speaks `dialect`."""
    return proof if origin in ("", dialect) else f"{_MARK}{origin}:{proof}"


def unseal(text: str, dialect: str) -> tuple[str, str]:
    """The proof in what a caller who speaks `dialect` gives back, and its origin.

    A proof without a mark is that dialect's own.
    """
    if text.startswith(_MARK):
        origin, found, proof = text[len(_MARK) :].partition(":")
        if found and origin:
            return proof, origin
    return text, dialect
