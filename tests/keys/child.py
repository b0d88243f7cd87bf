"""What the tests run in other processes: ``python child.py URL ROWS``. Never collected as a test."""

from __future__ import annotations

import asyncio
import os
import sys

from llmpipe.keys import KeyVault
from tests.keys.kit import NEW_FIRST


async def rotate(url: str) -> None:
    """Rotate, and say when it begins and ends."""
    vault = KeyVault(url, NEW_FIRST)
    await vault.keys()  # the file is open
    os.write(1, b"begun\n")
    await vault.rotate()
    os.write(1, b"done\n")
    await vault.aclose()


if __name__ == "__main__":
    asyncio.run(rotate(sys.argv[1]))
