"""The same waits and limits for a function that has nothing to do with language models."""

import asyncio
from random import Random

from llmpipe import CircuitBreaker, CircuitOpen, Retry, RetryExecutor

failures = [ConnectionResetError("reset"), TimeoutError("slow")]


async def fetch(path: str) -> str:
    if failures:
        raise failures.pop(0)
    return f"the contents of {path}"


async def down() -> str:
    raise ConnectionRefusedError("nobody listens")


async def main() -> None:
    # `on` has no default: only you know which failures may be repeated.
    retry = Retry(attempts=4, base=0.1)
    executor = RetryExecutor(retry, on=(ConnectionError, TimeoutError), timeout=10, random=Random(7))
    print(await executor.execute_async(fetch, "prices.csv"))
    print(f"{executor.stats.attempts} retries, {executor.stats.successful} of them successful")

    # Breaker inside, retry outside: it stops as soon as the circuit is open.
    breaker = CircuitBreaker(
        "prices", failure_threshold=3, success_threshold=2, timeout=60.0, random=Random(7)
    )
    try:
        await executor.execute_async(breaker.call_async, down)
    except CircuitOpen as refused:
        print(f"{refused} ({breaker.stats().failed} failures)")
    breaker.reset()
    print(await breaker.call_async(fetch, "prices.csv"), "after a reset")


asyncio.run(main())
