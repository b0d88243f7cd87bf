"""Reasoning items, both directions.

A reasoning item has a summary in several parts, or the thoughts themselves (open models), or neither,
and its encrypted content, which is what the provider wants back. All of an item is one `Reasoning`:
its parts are joined by blank lines, and ``sizes`` in the item's mark, in characters, tells them apart
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from llmpipe.dialects.openai_responses.items import NAME, mark_of, with_mark
from llmpipe.dialects.proofs import seal, unseal
from llmpipe.types import Reasoning

__all__ = ("SEPARATOR", "decode_reasoning", "encode_reasoning", "pieces_of", "sealed", "unsealed")

SEPARATOR = "\n\n"

_KNOWN = frozenset(("content", "encrypted_content", "summary", "type"))
# A caller has one field for a proof; what it was, a signature or an encrypted thought, has to be said in it.
_SIGNATURE = "signature:"


def decode_reasoning(item: Mapping[str, Any], prefer: str = "summary") -> Reasoning:
    """The reasoning of an item; its text is that of the summary, or of the content where there is none.

    Args: prefer is the one of the two that counts where an item has both; the other stays in the mark.
    """
    mark = mark_of(item, _KNOWN)
    found = {name: _texts(item.get(name)) for name in ("summary", "content")}
    kind = prefer if found[prefer] else "content" if found["content"] else "summary"
    texts = found[kind]
    other = "summary" if kind == "content" else "content"
    if found[other]:
        mark[other] = item[other]
    if kind == "content":
        mark["kind"] = kind
    if len(texts) > 1:
        mark["sizes"] = [len(text) for text in texts]
    proof = item.get("encrypted_content")
    encrypted = proof if isinstance(proof, str) and proof else None
    return Reasoning(
        SEPARATOR.join(texts), None, encrypted, with_mark({}, mark), NAME if encrypted is not None else ""
    )


def encode_reasoning(part: Reasoning, mark: Mapping[str, Any], proof: str | None) -> dict[str, Any]:
    """The item of a part. Its summary is there even if empty: servers insist on that."""
    rest = {name: value for name, value in mark.items() if name not in ("kind", "sizes")}
    kind = "content" if mark.get("kind") == "content" else "summary"
    pieces = pieces_of(part.text, mark.get("sizes"))
    word = "summary_text" if kind == "summary" else "reasoning_text"
    item = {"type": "reasoning", "summary": [], **rest}
    if pieces or kind == "summary":
        item[kind] = [{"type": word, "text": text} for text in pieces]
    if proof is not None:
        item["encrypted_content"] = proof
    return item


def pieces_of(text: str, sizes: object) -> list[str]:
    """The parts that `text` was joined of; the whole of it where that is not known any more."""
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        return [text] if text else []
    pieces, place = [], 0
    for size in sizes:
        pieces.append(text[place : place + size])
        place += size + len(SEPARATOR)
    return pieces if SEPARATOR.join(pieces) == text else [text] if text else []


def sealed(part: Reasoning) -> str | None:
    """The proof of a part, as it goes to a caller; None where it has none."""
    if part.encrypted is not None:
        return seal(part.encrypted, part.origin, NAME)
    if part.signature is None:
        return None
    foreign = part.origin not in ("", NAME)
    return seal(f"{_SIGNATURE if foreign else ''}{part.signature}", part.origin, NAME)


def unsealed(part: Reasoning) -> Reasoning:
    """The opposite: a part that a caller gives back, with the proof it had."""
    if part.encrypted is None:
        return part
    proof, origin = unseal(part.encrypted, NAME)
    if origin != NAME and proof.startswith(_SIGNATURE):
        return evolve(part, encrypted=None, signature=proof.removeprefix(_SIGNATURE), origin=origin)
    return evolve(part, encrypted=proof, origin=origin)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):  # not OpenAI's, yet seen
        return [value] if value else []
    if not isinstance(value, list):
        return []
    return [
        piece["text"] for piece in value if isinstance(piece, dict) and isinstance(piece.get("text"), str)
    ]
