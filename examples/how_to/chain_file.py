"""A chain from a file; and a file with a mistake, which says where it is and what would be right."""

# region use
import asyncio

from llmpipe import ConfigError, load_chain
from llmpipe.config.load import chain_from


async def main() -> None:
    async with load_chain("examples/chains/mock.toml") as chain:
        print((await chain.complete("Say hello")).text)

    # The same without a file: a mapping of the same shape.
    try:
        chain_from({"middleware": [{"use": "retry", "attempt": 3}]})
    except ConfigError as error:
        print(error)


asyncio.run(main())
# endregion use
