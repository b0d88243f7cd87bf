"""Where the requests of a provider go, and how they prove whose they are."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from llmpipe.errors import ConfigError, InvalidRequest, LLMError
from llmpipe.middleware.credentials import FetchedKeys, Key, Keys, KeySource
from llmpipe.pipeline.call import Call
from llmpipe.providers.address import checked_base_url
from llmpipe.providers.auth import Auth
from llmpipe.providers.options import secrets_in, transport_options
from llmpipe.providers.profile import Profile
from llmpipe.providers.transport import Transport, checked_headers
from llmpipe.secret import Secret

if TYPE_CHECKING:
    from llmpipe.providers.exchange import Exchange
    from llmpipe.providers.route import Route

__all__ = ("APIKey", "Endpoint")

APIKey: TypeAlias = str | Secret | Keys | Sequence[str | Secret] | KeySource
"""One key, or several, or a function that gives the key to use now."""

_MAX_ROUTES = 512  # models come from callers; what is kept of each must have an end
_MAX_HIDDEN = 64  # tokens and signatures that were sent lately


class Endpoint:
    """One provider's address, its keys, and the connections to it.

    Attributes:
        host: with the port unless it is 443.
        key: where there is one and the same for all requests.
        keys: where there are several.
        transport: the connections.

    Raises: ConfigError for a missing key, a wrong address or a wrong option.
    """

    def __init__(
        self,
        profile: Profile,
        api_key: APIKey | None,
        auth: Auth | None,
        headers: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> None:
        self._profile = profile
        url, self.host = checked_base_url(profile.base_url, profile.name)
        if auth is not None and not isinstance(auth, Auth):
            raise ConfigError(f"auth must have an async method headers(method, url, body), not {auth!r}")
        self._auth = auth
        self.key, self.keys = self._taken(api_key)
        sent = {**profile.headers, **headers}
        if self.key is not None:
            sent[profile.key_header] = profile.key_prefix + self.key.reveal()
        self._secrets = tuple(dict.fromkeys((*filter(None, (self.key,)), *secrets_in(sent))))
        self._sent_lately: deque[Secret] = deque(maxlen=_MAX_HIDDEN)
        self.transport = Transport(url, sent, **transport_options(options))
        self._routes: dict[Any, Route] = {}

    async def aclose(self) -> None:
        """Close the connections, and where keys are looked up."""
        try:
            await self.transport.aclose()
        finally:
            if isinstance(self.keys, FetchedKeys):
                await self.keys.aclose()

    def _taken(self, given: APIKey | None) -> tuple[Secret | None, Keys | None]:
        """The one key, or the keys. Raises: ConfigError where there is none and one is needed."""
        if isinstance(given, Keys):
            return None, given
        if isinstance(given, list | tuple):
            return None, Keys.of(given)
        if callable(given):
            return None, FetchedKeys(given)
        if given is not None:
            single: Any = given
            return Secret(single), None  # which says what a key must be
        if self._auth is None and self._profile.key_required:
            name, variable = self._profile.name, self._profile.key_env
            raise ConfigError(f"provider {name!r} needs an API key: pass api_key=… or set {variable}")
        return None, None

    def always(self, path: str) -> Route | None:
        """The route to `path` where it is the same for all requests; None where it is not."""
        if self.keys is not None or self._auth is not None or "{" in path:
            return None
        return self.transport.route("POST", path)

    async def send(
        self, method: str, path: str, *, model: str = "", body: bytes | None = None, call: Call | None = None
    ) -> Exchange:
        """One exchange; open when the response's head is in. Raises LLMError.

        Args: model takes the place of ``{model}`` in the path.
        """
        keys = self.keys
        fetched = keys if isinstance(keys, FetchedKeys) else None
        if fetched is not None:
            await fetched.fetch()
        key = self._chosen(call)
        route = self._route(method, path, model, key)
        if self._auth is not None:
            headers = checked_headers(await self._auth.headers(method, str(route.url), body))
            self._sent_lately.extend(secrets_in(headers))
            route = route.plus(headers)
        exchange = await self.transport.send(route, body, None if call is None else call.connect_timeout)
        if fetched is not None and key is not None and exchange.status == 401:
            fetched.doubt(key)  # also where no `Credentials` does so
        return exchange

    def _route(self, method: str, path: str, model: str, key: Key | None) -> Route:
        place = (method, path, model if "{model}" in path else "", key)
        route = self._routes.get(place)
        if route is None:
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            own = {}
            if key is not None:
                own[self._profile.key_header] = self._profile.key_prefix + key.secret.reveal()
                self._sent_lately.append(key.secret)
            if "{model}" in path:
                path = path.replace("{model}", self._in_path(model))
            route = self._routes[place] = self.transport.route(method, path, own)
        return route

    def _chosen(self, call: Call | None) -> Key | None:
        """The key that `Credentials` chose for the call; without that, the next one."""
        keys = self.keys
        if keys is None:
            return None
        chosen = None if call is None else call.credential
        # One that was replaced meanwhile is used for the call that has it; another provider's never is.
        ours = isinstance(chosen, Key) and chosen.owner is keys
        return chosen if ours else keys.pick(0.0) or keys.all[0]

    def _in_path(self, model: str) -> str:
        """`model`, a caller's word, as a path may hold it."""
        prefix = self._profile.model_prefix
        if prefix and "/" not in model:
            model = prefix + model
        if any(part in ("", ".", "..") for part in model.split("/")):
            raise InvalidRequest(
                f"{model!r} is no name of a model", sent=False, health="ignore", phase="validate"
            )
        return quote(model, safe="@/" if prefix else "@")

    def hide(self, error: LLMError) -> None:
        """Take what is secret here out of `error`, which may quote it."""
        keys = () if self.keys is None else tuple(key.secret for key in self.keys.all)
        for secret in (*self._secrets, *keys, *self._sent_lately):
            hidden = secret.hidden_in
            error.message = hidden(error.message)
            error.args = (error.message,)
            error.code = error.code and hidden(error.code)
            error.request_id = error.request_id and hidden(error.request_id)
            error.metadata = {
                name: hidden(value) if isinstance(value, str) else value
                for name, value in error.metadata.items()
            }
