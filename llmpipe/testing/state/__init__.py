"""The suite that a backend of state must pass: what the contracts promise, each promise as a test.

A backend's tests define a fixture ``harness`` and take the suites of what it offers::

    import pytest
    from llmpipe.testing.state import suites
    from my_backend import MyHarness, MyState  # MyHarness(OpenedStates[MyState])

    @pytest.fixture
    async def harness():
        made = MyHarness()
        yield made
        await made.aclose()

    globals().update(suites(MyState.offers))

or inherit them one by one: ``class TestLedger(LedgerSuite): ...``. Each suite has sentences of the
contract, random scripts that are run beside the memory backend, and what must hold under concurrency.
They run under pytest with pytest-asyncio; with real servers mark the module ``real_time``.
"""

from __future__ import annotations

import pytest

# Before the suites are loaded, so that a failed assert in them shows its values as one in a test does.
_WITH_ASSERTS = (
    *("audit", "breakers", "cache", "ledger", "limits", "opened", "providers", "queue", "vault"),
    *("audit_script", "ledger_script", "limits_script", "queue_script"),
    *("ledger_journal", "ledger_leases", "queue_leases"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{each}" for each in _WITH_ASSERTS))

from llmpipe.testing.state.audit import AuditSuite  # noqa: E402  see above
from llmpipe.testing.state.breakers import BreakersSuite  # noqa: E402  see above
from llmpipe.testing.state.cache import CacheSuite  # noqa: E402  see above
from llmpipe.testing.state.harness import Harness, ManualClock, OpenedStates, suite  # noqa: E402  see above
from llmpipe.testing.state.ledger import LedgerSuite  # noqa: E402  see above
from llmpipe.testing.state.limits import LimitsSuite  # noqa: E402  see above
from llmpipe.testing.state.opened import OpenedSuite  # noqa: E402  see above
from llmpipe.testing.state.providers import ProvidersSuite  # noqa: E402  see above
from llmpipe.testing.state.queue import QueueSuite  # noqa: E402  see above
from llmpipe.testing.state.vault import VaultSuite  # noqa: E402  see above

__all__ = (
    "AuditSuite",
    "BreakersSuite",
    "CacheSuite",
    "Harness",
    "LedgerSuite",
    "LimitsSuite",
    "ManualClock",
    "OpenedStates",
    "OpenedSuite",
    "ProvidersSuite",
    "QueueSuite",
    "VaultSuite",
    "suites",
)

_SUITES: dict[str, type] = {
    "audit": AuditSuite,
    "breakers": BreakersSuite,
    "cache": CacheSuite,
    "ledger": LedgerSuite,
    "limits": LimitsSuite,
    "providers": ProvidersSuite,
    "queue": QueueSuite,
    "vault": VaultSuite,
}


def suites(offers: frozenset[str]) -> dict[str, type]:
    """Test classes by the names pytest finds them under: what `offers` names, and what holds of all.

    Raises: KeyError for a kind that nobody keeps.
    """
    chosen = [OpenedSuite, *(_SUITES[kind] for kind in sorted(offers))]
    return {suite(base): type(suite(base), (base,), {"__doc__": base.__doc__}) for base in chosen}
