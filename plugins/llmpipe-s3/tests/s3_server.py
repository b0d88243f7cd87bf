"""A store that speaks the S3 protocol: moto behind a real socket, in a process of its own.

    python s3_server.py DIRECTORY PORT [CERTIFICATE KEY]

moto keeps all in memory. What changes something is written to a journal first and said again at the next
start, so that what it has outlives a kill, as in a real store. One request at a time: moto looks whether
there is an object and makes it in two steps. A file ``orders.json`` says what else is to happen to requests:

    {"delay": 3}                 seconds before an answer
    {"status": 503, "code": "SlowDown", "times": 2, "method": "PUT"}    refuses the next two
    {"drop": true}               does it, and ends the connection without an answer
    {"ignore": "If-None-Match"}  passes over that header

Where there is a file ``clock``, seconds since the epoch, that is the time, and it stands still: tests that
pass time themselves are not disturbed by a slow machine.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3 import models
from werkzeug.serving import WSGIRequestHandler, make_server


class Orders:
    """A WSGI application round moto's."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._journal = home / "journal"
        if self._journal.exists():
            for line in self._journal.read_text().splitlines():
                said = json.loads(line)
                body = base64.b64decode(said["body"])
                environ = {**said["environ"], "wsgi.input": io.BytesIO(body), "wsgi.errors": sys.stderr,
                           "wsgi.url_scheme": "http", "wsgi.version": (1, 0), "wsgi.multithread": False,
                           "wsgi.multiprocess": False, "wsgi.run_once": False}  # fmt: skip
                b"".join(self._moto(environ, lambda *_: None))

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        environ["wsgi.input"] = io.BytesIO(body)
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with (self._home / "requests").open("a") as log:
            log.write(f"{method} {path} {environ.get('QUERY_STRING', '')}\n")
        order = self._order(method)
        time.sleep(order.get("delay", 0))
        if "status" in order:
            start(f"{order['status']} no", [("Content-Type", "application/xml")])
            text = f"<Error><Code>{order.get('code', '')}</Code><Message>no</Message></Error>"
            return [b"" if method == "HEAD" else text.encode()]
        if "body" in order:
            start("200 OK", [("Content-Type", "text/html")])
            return [order["body"].encode()]
        if "ignore" in order:
            environ.pop("HTTP_" + order["ignore"].upper().replace("-", "_"), None)
        if method in ("PUT", "POST", "DELETE"):
            plain = {name: value for name, value in environ.items() if isinstance(value, str)}
            said = json.dumps({"environ": plain, "body": base64.b64encode(body).decode()})
            with self._lock, self._journal.open("a") as journal:
                journal.write(said + "\n")
                journal.flush()
                os.fsync(journal.fileno())
        with self._lock:
            answer = [b"".join(self._moto(environ, start))]
        if order.get("drop"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        return answer

    def _order(self, method: str) -> dict[str, Any]:
        path = self._home / "orders.json"
        if not path.exists():
            return {}
        order: dict[str, Any] = json.loads(path.read_text())
        if order.get("method", method) != method:
            return {}
        if "times" in order:
            order["times"] -= 1
            if order["times"]:
                path.write_text(json.dumps(order))
            else:
                path.unlink()
        return order


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    clock: ClassVar[float | None] = None

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(self.clock if timestamp is None else timestamp)

    def log_request(self, *args: Any) -> None: ...


def main() -> None:
    home, port, *tls = sys.argv[1:]
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    clock = Path(home, "clock")
    if clock.exists():
        now = Quiet.clock = float(clock.read_text())
        vars(models)["utcnow"] = lambda: datetime.fromtimestamp(now, UTC).replace(tzinfo=None)
    context = (tls[0], tls[1]) if tls else None
    server = make_server(
        "127.0.0.1", int(port), Orders(Path(home)), request_handler=Quiet, ssl_context=context, threaded=True
    )
    server.serve_forever()


if __name__ == "__main__":
    main()
