"""Where a request goes, with everything of it that is the same each time."""

from __future__ import annotations

from yarl import URL

__all__ = ("Route",)


class Route:
    """A method and an address, with the head of such a request made once. Holds the key; prints none."""

    __slots__ = ("_head", "headers", "method", "secure", "url")

    def __init__(self, method: str, url: str, headers: dict[str, str]) -> None:
        self.method = method
        self.url = URL(url, encoded=True)
        self.secure = self.url.scheme == "https"
        self.headers = headers
        lines = [f"{method} {self.url.raw_path_qs} HTTP/1.1", f"Host: {self.url.host_port_subcomponent}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._head = "".join(f"{line}\r\n" for line in lines).encode()

    def plus(self, headers: dict[str, str]) -> Route:
        """The same address with `headers` over these, whatever their case."""
        over = {name.lower() for name in headers}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in over}
        return Route(self.method, str(self.url), {**kept, **headers})

    def request(self, body: bytes | None) -> bytes:
        """The whole request, as it goes onto the wire."""
        if body is None:
            return self._head + b"\r\n"
        return b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(body), body)

    def __repr__(self) -> str:
        return f"<{self.method} {self.url}>"
