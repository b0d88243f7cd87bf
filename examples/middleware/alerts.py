"""Tell somebody when something is wrong, once, and when it is right again."""

import asyncio
from contextlib import suppress

from llmpipe import AuthenticationFailed, Chain, LLMError, MockProvider, Overloaded
from llmpipe.middleware.alerts import DEFAULT_RULES, Alert, Alerts, ErrorSeen


def tell(alert: Alert) -> None:
    print(f"{alert.state} {alert.severity}: {alert.summary}")


async def main() -> None:
    troubles = [AuthenticationFailed("the key was revoked"), *[Overloaded("no capacity")] * 9]
    model = MockProvider(troubles, default="Hello!", name="openai", model="gpt-4o-mini")
    rules = (*DEFAULT_RULES, ErrorSeen(name="busy", types=("SERVICE_UNAVAILABLE",), severity="warning"))
    alerts = Alerts(rules=rules, sinks=(tell,))

    async with Chain(model, alerts) as chain:
        for _ in range(30):
            with suppress(LLMError):
                await chain.complete("Say hello")
        print("degraded:", *alerts.degraded(chain.runtime))


asyncio.run(main())
