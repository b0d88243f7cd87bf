"""Provider keys in a vault: stored, used, replaced without a call that fails, and sealed anew."""

import asyncio

from llmpipe import AuthenticationFailed, Call, Chain, Completion, MockProvider, Reply, Request
from llmpipe.keys import KeyVault, VaultKey, sanitize_object
from llmpipe.middleware.credentials import Credentials, FetchedKeys
from llmpipe.state import open_state

MASTER = "Zm9yIGRvY3VtZW50YXRpb24gb25seSwgMzIgYnl0ZXM="  # openssl rand -base64 32
NEWER = "YW5vdGhlciBvbmUsIGFsc28gb2YgMzIgYnl0ZXMsIG8="


class Service(MockProvider):
    """Stands for a provider: ``provider("openai", api_key=vault.source("openai"))`` does this over HTTP."""

    def __init__(self, source: VaultKey, accepts: str) -> None:
        super().__init__(default="Hello!")
        self.keys, self.accepts = FetchedKeys(source), accepts

    def brings(self) -> tuple[Credentials]:
        """What a chain needs round it."""
        return (Credentials(),)

    async def __call__(self, call: Call) -> Reply:
        """The reply, if the key is right."""
        if call.credential.secret.reveal() != self.accepts:
            raise AuthenticationFailed("this key is no more")
        return await super().__call__(call)


async def main() -> None:
    store = open_state("memory://")  # or sqlite:///keys.db, postgresql://…
    # region store
    vault = KeyVault(store, MASTER, max_age_days=90)
    await vault.put("openai", "sk-of-all-tenants-0001")
    await vault.put("openai", "sk-of-acme-itself-0001", tenant="acme")
    for info in await vault.keys():
        print(info.tenant or "all", info.provider, info.name, info.version, info.hint)
    print(await vault.get("openai", tenant="acme"))
    # endregion store

    # region use
    core = Service(vault.source("openai", env="OPENAI_API_KEY"), accepts="sk-of-all-tenants-0001")
    async with Chain(core) as chain:
        print((await chain.complete("hi")).text)
        await vault.put("openai", "sk-of-all-tenants-0002")
        core.accepts = "sk-of-all-tenants-0002"  # the provider takes the one before no more
        call = chain.new_call(Request("", "hi"))
        reply = await chain(call)
        done = await reply.full()
        assert isinstance(done, Completion)
        print(done.text, [attempt.status for attempt in call.ledger.attempts])
    # endregion use

    # region rotate
    both = KeyVault(store, [NEWER, MASTER])  # the first seals; all of them open
    print(await both.rotate())
    print(await KeyVault(store, NEWER).get("openai"))
    # endregion rotate

    # region mask
    print(sanitize_object({"apiKey": "sk-1234567890", "note": "with Bearer abcdef123456", "max_tokens": 5}))
    # endregion mask


asyncio.run(main())
