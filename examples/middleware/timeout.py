"""Three slow providers and what becomes of them: late, silent, and alive but for the caller's patience."""

import asyncio

from llmpipe import (
    Chain,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    MockProvider,
    Ping,
    Retry,
    Timeout,
    Wait,
)


async def main() -> None:
    timeout = Timeout(first=0.3, idle=0.2, total=1.0)

    late = MockProvider([[Wait(9), "too late"], "the second attempt is quick"])
    print((await Chain(late, timeout, Retry(base=0.01)).complete("hello?")).text)

    try:
        await Chain(MockProvider([[Wait(9), "too late"]]), timeout).complete("hello?")
    except FirstTokenTimeout as error:
        print(f"{error.message}; may be billed: {error.billed}")

    silent = Chain(MockProvider([["Once upon", Wait(9), " a time"]]), timeout)
    try:
        async with silent.stream("a story") as reply:
            await reply.full()
    except IdleTimeout as error:
        print(f"{error.message}; it had said {error.partial.text!r}")

    pings = [step for _ in range(20) for step in (Wait(0.15), Ping())]
    alive = Chain(MockProvider([["Once upon", *pings, " a time"]]), timeout)
    try:
        async with alive.stream("a story", timeout=0.5) as reply:
            await reply.full()
    except DeadlineExceeded as error:
        print(error.message)


asyncio.run(main())
