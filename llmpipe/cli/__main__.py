"""`python -m llmpipe.cli`."""

from __future__ import annotations

import sys

from llmpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
