"""The same middleware as a class: settings that are checked, changed for one call, and explained."""

# region class
from collections import Counter
from collections.abc import AsyncGenerator
from typing import ClassVar

from attrs import frozen

from llmpipe import Call, ConfigError, Handler, Outcome, Reply, bands


@frozen(kw_only=True)
class SlowCalls:
    """Notes calls that took long.

    Attributes:
        seconds: what is long, from the caller's side: waits and retries included.
    """

    seconds: float = 2.0
    name: str = "slow_calls"
    priority: int = bands.OBSERVE + 50

    why: ClassVar[str] = "outside everything that waits, so that it sees what the caller sees"

    def __attrs_post_init__(self) -> None:
        if self.seconds <= 0:
            raise ConfigError(f"{self.name}: seconds must be above 0, not {self.seconds}")

    async def __call__(self, call: Call, call_next: Handler) -> AsyncGenerator[Reply, Outcome]:
        """The reply; then, when it is over, the note."""
        cfg = call.opt(self)  # with what this call changes
        outcome = yield await call_next(call)
        seconds = outcome.ended_at - call.started_at
        if seconds > cfg.seconds:
            call.note("slow_calls.found", seconds=seconds)
            call.runtime.state("slow_calls", self.name, Counter[str])[call.tenant] += 1


# endregion class


# region use
async def main() -> None:
    from llmpipe import Chain, MockProvider, Wait

    chain = Chain(MockProvider(default=[Wait(3), "Fine."]), SlowCalls(seconds=5))
    print(chain.explain())

    await chain.complete("How are you?", tenant="acme")
    await chain.complete("How are you?", tenant="acme", options={SlowCalls: {"seconds": 1}})
    await chain.complete("How are you?", tenant="acme", without=["slow_calls"])
    print(chain.runtime.states("slow_calls"))

    try:
        SlowCalls(seconds=0)
    except ConfigError as error:
        print(error)


if __name__ == "__main__":
    from llmpipe.testing import run

    run(main())
# endregion use
