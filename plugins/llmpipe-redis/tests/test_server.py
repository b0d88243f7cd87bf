"""The server that tests start for themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmpipe.testing.servers.redis import RedisServer


def test_a_kill_and_a_restart_keep_what_an_append_only_file_has() -> None:
    with RedisServer(appendonly="always") as server:
        assert server.ask("SET", "k", "v") == b"+OK\r\n"
        server.kill()
        with pytest.raises(ConnectionRefusedError):
            server.ask("PING")
        server.start()
        assert server.ask("GET", "k") == b"$1\r\nv\r\n"
        server.pause()
        server.restart()
        assert server.ask("GET", "k") == b"$1\r\nv\r\n"
    with pytest.raises(ConnectionRefusedError):
        server.ask("PING")


def test_one_that_cannot_start_says_why() -> None:
    server = RedisServer(maxmemory_policy="nonsense")
    with pytest.raises(RuntimeError, match="did not come up"):
        server.start()
    server.close()


START = """
import time
from llmpipe.testing.servers.redis import RedisServer
server = RedisServer()
server.start()
print(server._process.pid, server._home, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_it_does_not_outlive_a_process_that_is_killed(end: signal.Signals) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = subprocess.Popen([sys.executable, "-c", START], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, home = process.stdout.readline().split()
    assert alive(int(pid))
    assert Path(home).is_dir()
    process.send_signal(end)
    process.communicate()
    for _ in range(500):
        if not alive(int(pid)) and not Path(home).exists():
            return
        time.sleep(0.01)
    pytest.fail("the server is still there")


def alive(pid: int) -> bool:
    """Whether there is such a process; one that nobody has waited for is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc").is_dir():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
