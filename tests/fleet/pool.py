"""Processes that are there at once: forked from an interpreter that has loaded everything.

`python -m tests.fleet.pool` reads orders from its input, a line of JSON each, forks for each, and
answers with how the child ended. What the child writes goes to the file that the order names: what was
written there stays when the child is killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
_LONGEST = 180  # seconds


class Pool:
    """One lane of children, one after the other. Use several for several at once."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0
        self._out = home / "nothing"
        paths = [str(ROOT), *[path for path in sys.path if path]]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.pool"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip

    def run(
        self, job: str, *, kill_after: float | None = None, kill_when: Path | None = None, **args: Any
    ) -> list[str]:
        """The lines that the job has written until its end, or until it was killed.

        That is after `kill_after` seconds, or when the file `kill_when` is there.

        Raises: RuntimeError, with what it wrote, if it ended badly by itself.
        """
        self._count += 1
        self._out = out = self._home / f"{os.getpid()}-{id(self)}-{self._count}"
        order = {"job": job, "args": args, "out": str(out), "kill_after": kill_after}
        order["kill_when"] = None if kill_when is None else str(kill_when)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip()
        written = out.read_text()
        if status not in ("0", "killed"):
            raise RuntimeError(f"{job} ended with {status!r}:\n{written[-4000:]}")
        out.unlink()
        return [line for line in written.split("\n")[:-1] if line]

    def said(self) -> list[str]:
        """The lines that the job has written so far; for another thread than that of `run`."""
        try:
            return self._out.read_text().split("\n")[:-1]
        except FileNotFoundError:  # it has not begun, or is over
            return []

    def close(self) -> None:
        """No more orders."""
        self._process.communicate()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def until(there: Callable[[], bool], running: Sequence[Future[Any]]) -> None:
    """Until that is so, or one of those who would see to it has ended."""
    while not there() and not any(one.done() for one in running):
        await asyncio.sleep(0.01)


def say(line: str) -> None:
    """Write a line that is there when this returns, whatever happens to the process then."""
    os.write(1, f"{line}\n".encode())


def _child(order: dict[str, Any]) -> None:
    from tests.fleet import jobs  # loaded before the fork

    signal.alarm(_LONGEST)  # whoever hangs is ended, and the test fails
    file = os.open(order["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 0
    try:
        asyncio.run(getattr(jobs, order["job"])(**order["args"]))
    except BaseException:  # noqa: BLE001  told to the one who ordered it, in its file
        traceback.print_exc()
        code = 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork for each order."""
    from tests.fleet import jobs  # loads what the children need

    jobs.warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        Path(order["out"]).touch()
        child = os.fork()
        if child == 0:
            _child(order)
        after, when = order["kill_after"], order["kill_when"]
        while when is not None and not Path(when).exists():
            time.sleep(0.005)
        if after is not None or when is not None:
            time.sleep(after or 0.0)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        sys.stdout.write(f"{'killed' if killed and (after, when) != (None, None) else status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
