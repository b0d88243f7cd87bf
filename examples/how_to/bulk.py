"""All requests of a file through a chain; the second run goes on where the first one ended."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from llmpipe import Chain, Cost, Retry
from llmpipe.bulk import run
from llmpipe.errors import ServiceUnavailable
from llmpipe.testing import ScriptedProvider


def write_requests(path: Path) -> None:
    with path.open("w") as file:
        for number in range(100):
            message = {"role": "user", "content": f"Sum up ticket {number}."}
            body = {"model": "gpt-4o-mini", "messages": [message]}
            line = {"custom_id": f"ticket-{number}", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def show(answers: Path) -> None:
    first = json.loads(answers.read_text().splitlines()[0])
    print(sorted(first), first["response"]["body"]["choices"][0]["message"]["content"])


async def main() -> None:
    down = True

    def answer(request: Any) -> str | Exception:
        return ServiceUnavailable("maintenance") if down and "7" in request.messages[-1].text else "Done."

    with tempfile.TemporaryDirectory() as home:
        requests, answers = Path(home, "requests.jsonl"), Path(home, "answers.jsonl")
        write_requests(requests)
        provider = ScriptedProvider(default=answer, name="openai", model="gpt-4o-mini")
        # region use
        async with Chain(provider, Retry(attempts=2, base=0.001), Cost()) as chain:
            told = await run(chain, requests, answers, concurrency=16)
            print(f"{told.done} answered, {told.failed} failed, {told.left} left")
            # endregion use
            down = False
            told = await run(chain, requests, answers, concurrency=16)
            print(f"{told.done} answered, {told.before} were there before")
        show(answers)


if __name__ == "__main__":
    asyncio.run(main())
