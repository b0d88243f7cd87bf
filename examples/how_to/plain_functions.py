"""The retry and the breaker round any function, plain or async: no chain, no model."""

# region retry
import asyncio
from random import Random

from llmpipe import CircuitBreaker, CircuitOpen, Retry, RetryExecutor


class Flaky:
    """Fails twice, then works."""

    calls = 0

    def fetch(self, name: str) -> str:
        """Plain, and knows nothing of retries."""
        self.calls += 1
        if self.calls % 3:
            raise ConnectionError("the line was busy")
        return f"{name} after {self.calls} calls"


executor = RetryExecutor(Retry(attempts=4, base=0.01, cap=0.05), on=ConnectionError, timeout=10)
print(executor.execute(Flaky().fetch, "prices"))


async def fetch_async(flaky: Flaky) -> str:
    return flaky.fetch("rates")


print(asyncio.run(executor.execute_async(fetch_async, Flaky())))
print(f"{executor.stats.attempts} retries, {executor.stats.successful} of them brought an answer")
# endregion retry


# region breaker
breaker = CircuitBreaker("the index", failure_threshold=3, timeout=30, random=Random(7))


def search() -> str:
    raise TimeoutError("no answer")


for _ in range(3):
    try:
        breaker.call(search)
    except TimeoutError as error:
        print(f"{breaker.state}: {error}")

try:
    breaker.call(search)
except CircuitOpen as refusal:
    print(f"{breaker.state}: not called; {refusal.provider}, ask again in about {refusal.retry_after:.0f} s")

breaker.reset()
print(breaker.state)
# endregion breaker
