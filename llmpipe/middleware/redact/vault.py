"""What was hidden from a provider, and how it comes back: placeholders of one request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from json import dumps
from random import Random
from typing import TypeVar, cast

from llmpipe.middleware.redact.masking import mask_json, mask_rows
from llmpipe.middleware.redact.scan import Scanner
from llmpipe.middleware.redact.stage import Rewriter, TextStage
from llmpipe.middleware.redact.walk import AnyRequest, Role, as_name, key_of, rewrite_request, strings_of

__all__ = ("Vault",)

R = TypeVar("R", bound=AnyRequest)

_LETTERS, _SIGNS = "abcdefghijkmnpqrstuvwxyz", "abcdefghijkmnpqrstuvwxyz23456789"
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z0-9_]{0,31}_[a-z][a-z2-9]{5}\]")


class Vault:
    """Hides what a scanner finds behind placeholders, ``[EMAIL_x7f3a2]``, and puts it back.

    One vault serves one request. The same value has the same placeholder in it, in another vault
    another one. What a placeholder stands for is known to this object alone; it is not printed.

    Args:
        scanner: finds what to hide.
        random: chooses the placeholders, six signs each (7 × 10⁸).
    """

    def __init__(self, scanner: Scanner, random: Random) -> None:
        self._scanner = scanner
        self._random = random
        self._placeholders: dict[str, str] = {}  # value -> placeholder
        self._values: dict[str, str] = {}
        self._texts: list[str] = []  # in none of which a new placeholder may occur
        self.found: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"Vault({len(self._values)} hidden)"

    def __len__(self) -> int:
        return len(self._values)

    def hide(self, text: str, *, json: bool = False) -> str:
        """`text` with placeholders; the same object if there is nothing to hide.

        What looks like a placeholder of this vault, but stood in the text before, is hidden too, so
        that it comes back as it was and not as what it names. `json`: the text is JSON and stays so.
        """
        self._texts.append(text)
        return self._hidden(text, json, known=self._values)

    def hide_request(self, request: R) -> R:
        """`request` with placeholders in all its strings; the same object if there is nothing to hide."""
        # All strings are known before the first placeholder is chosen.
        self._texts += [text for text, _ in strings_of(request)]
        hide = partial(self._hide, known=dict(self._values))
        return cast("R", rewrite_request(mask_rows(self._scanner, request, self._place), hide))

    def restorer(self, *, json: bool = False) -> TextStage:
        """A stage that puts back what was hidden, in text and, escaped, in the arguments of tool calls.

        `json`: in text it is escaped too, for that is JSON by the request.
        Placeholders this vault did not give out are text. What is held back is what can still become one.
        """
        beginnings = frozenset(p[:n] for p in self._values for n in range(1, len(p)))
        return TextStage(
            lambda json: _Restoring(self._values, beginnings, json=json), self._restore, json=json
        )

    def restore(self, text: str, *, json: bool = False) -> str:
        """`text` with all placeholders of this vault put back."""
        if "[" not in text:
            return text
        return _PLACEHOLDER.sub(lambda match: _back(match, self._values, json), text)

    # ------------------------------------------------------------

    def _hidden(self, text: str, json: bool, key: str = "", *, known: Mapping[str, str]) -> str:
        """`text` with placeholders, also for those of `known` that stood in it before."""
        if known and "[" in text:
            for look_alike in dict.fromkeys(_PLACEHOLDER.findall(text)):
                if look_alike in known:
                    text = text.replace(look_alike, self._place("text", look_alike))
        return self._mask(text, json, key)

    def _mask(self, text: str, json: bool, key: str = "") -> str:
        scanner = self._scanner
        return mask_json(scanner, text, self._place) if json else scanner.mask(text, self._place, key)

    def _hide(self, text: str, role: Role, known: Mapping[str, str]) -> str:
        if role == "name":  # brackets cannot stand in a name
            hidden = self._mask(text, json=False)
            return text if hidden is text else as_name(hidden)
        return self._hidden(text, role == "json", key_of(role), known=known)

    def _restore(self, text: str, role: Role) -> str:
        if role == "name":
            for placeholder, value in self._values.items():
                text = text.replace(as_name(placeholder), value)
            return text
        return self.restore(text, json=role == "json")

    def _place(self, kind: str, value: str) -> str:
        """The placeholder of `value`."""
        self.found[kind] += 1
        found = self._placeholders.get(value)
        if found is None:
            found = self._placeholders[value] = self._new(kind)
            self._values[found] = value
        return found

    def _new(self, kind: str) -> str:
        choice = self._random.choice
        while True:
            tag = choice(_LETTERS) + "".join([choice(_SIGNS) for _ in range(5)])
            placeholder = f"[{kind.upper()}_{tag}]"
            if placeholder not in self._values and not any(tag in text for text in self._texts):
                return placeholder


def _back(match: re.Match[str], values: Mapping[str, str], json: bool) -> str:
    value = values.get(match.group())
    if value is None:
        return match.group()
    return dumps(value)[1:-1] if json else value


class _Restoring:
    """Puts values back in a text that comes in pieces."""

    __slots__ = ("_beginnings", "_json", "_tail", "_values")

    def __init__(self, values: Mapping[str, str], beginnings: frozenset[str], *, json: bool) -> None:
        self._values = values
        self._beginnings = beginnings
        self._json = json
        self._tail = ""

    @property
    def held(self) -> int:
        return len(self._tail)

    def feed(self, piece: str) -> str:
        text = self._tail + piece
        start = text.rfind("[")  # there is no second bracket in a placeholder
        if start < 0:
            return text
        self._tail = ""
        if text[start:] in self._beginnings:
            text, self._tail = text[:start], text[start:]
        return _PLACEHOLDER.sub(lambda match: _back(match, self._values, self._json), text)

    def release(self) -> str:
        return self.flush()

    def flush(self) -> str:
        tail, self._tail = self._tail, ""
        return tail


_: type[Rewriter] = _Restoring
