"""The provider table: which provider and model an account uses for what."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from attrs import field, frozen

__all__ = ("ProviderRow", "ProviderTable")


def _names(told: Iterable[str]) -> tuple[str, ...]:
    return tuple(told)


@frozen(kw_only=True)
class ProviderRow:
    """One row, as the table ``llm_providers`` of the specification has it.

    Attributes:
        name: unique, such as ``openai-gpt4o-mini``.
        provider, model: the kind of provider, and the model there.
        account: whose override it is; "" for all.
        use_cases: such as ``draft``, ``summary``, ``complex``, ``vision``, ``general``, ``voice``.
        max_tokens: the most it takes or gives.
        is_default, is_active: whether it is chosen where nothing else is; whether it is chosen at all.
        key: the name in the vault of the API key to use, or "".
        base_url: where it is, if not where its kind says.
        created_at, updated_at: seconds since the epoch; set by the table.
    """

    name: str
    provider: str
    model: str
    account: str = ""
    use_cases: tuple[str, ...] = field(default=(), converter=_names)
    max_tokens: int = 4096
    is_default: bool = False
    is_active: bool = True
    key: str = ""
    base_url: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0


@runtime_checkable
class ProviderTable(Protocol):
    """Rows by name. All raise: StoreUnavailable; ValueError for numbers of 64 bits and more."""

    async def rows(self, account: str | None = None) -> list[ProviderRow]:
        """An account's rows and those of all, the account's first, each by name; of None, every row by name.

        Names are in the order of their code points.
        """
        ...

    async def put(self, row: ProviderRow) -> None:
        """Store `row` in the place of what has its name. `created_at` is when the name was first there."""
        ...

    async def delete(self, name: str) -> bool:
        """Forget the row; whether there was one."""
        ...

    async def revision(self) -> int:
        """A number that rises with every change; cheap to ask."""
        ...
