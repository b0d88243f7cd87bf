"""A chain with a middleware of another package, llmpipe-example, found by its entry point."""

import asyncio

from llmpipe import Chain, MockProvider
from llmpipe.pipeline import registry

word_limit = registry.build("word_limit", {"words": 5})  # as a chain file does it
chain = Chain(MockProvider(default="This answer has far too many words."), word_limit)
print(chain.explain())
print(asyncio.run(chain.complete("How are you?")).text)
