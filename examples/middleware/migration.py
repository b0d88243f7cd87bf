"""Half of the users move to a new provider, which is not quite ready."""

import asyncio
from collections import Counter

from llmpipe import Chain, Migration, MockProvider, ServiceUnavailable


async def main() -> None:
    old = MockProvider(default="old", name="old", model="old-1")
    new = MockProvider([ServiceUnavailable("teething trouble")], default="new", name="new", model="new-1")
    chain = Chain(new, Migration(old, share=0.5))

    answers = Counter([(await chain.complete("hi", user=f"user-{n}")).text for n in range(1000)])
    print(answers.most_common())
    print(f"the new provider was asked {len(new.requests)} times, and failed nobody")


asyncio.run(main())
