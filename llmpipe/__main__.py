"""`python -m llmpipe`: the command, for where no script was installed."""

from __future__ import annotations

import sys

from llmpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
