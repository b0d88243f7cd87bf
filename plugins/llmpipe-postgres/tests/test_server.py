"""The servers that tests start: none is left behind, and what they have outlives a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmpipe.testing.servers.postgres import PostgresServer, find_postgres

PROGRAM = """
import sys
from llmpipe.testing.servers.postgres import PostgresServer
server = PostgresServer()
server.start()
if sys.argv[1] == "frozen":
    server.pause()
print(server.port, server._home, *server._processes(), flush=True)
sys.stdin.read()
"""


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["running", "frozen"])
def test_a_server_ends_when_the_process_that_started_it_is_killed(how):
    tests = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert tests.stdout is not None
    _, home, *processes = tests.stdout.readline().split()
    os.kill(tests.pid, signal.SIGKILL)
    tests.communicate()
    assert len(processes) > 1  # it has started others, which live in sessions of their own
    end = time.monotonic() + 30
    while any(alive(int(process)) for process in processes) or Path(home).exists():
        assert time.monotonic() < end, "it is still there"
        time.sleep(0.05)


def test_a_frozen_server_takes_connections_and_answers_when_it_goes_on():
    with PostgresServer() as server:
        server.pause()
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            words = b"user\0llmpipe\0database\0postgres\0\0"
            connection.sendall((len(words) + 8).to_bytes(4, "big") + b"\0\x03\0\0" + words)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            server.resume()
            connection.settimeout(10)
            assert connection.recv(1) == b"R"
        home = server._home
    assert not home.exists()


def test_the_programs_are_those_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMPIPE_POSTGRES_BIN", str(tmp_path))
    assert find_postgres() == tmp_path
