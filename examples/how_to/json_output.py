"""JSON of a schema, as a value of your own; and what happens when it is none."""

# region use
import asyncio

import cattrs
from attrs import frozen

from llmpipe import Chain, InvalidRequest, MockProvider, ResponseFormat


@frozen
class City:
    """What the rest of the program works with."""

    name: str
    people: int


CITY = ResponseFormat(
    "json_schema",
    name="city",
    schema={
        "type": "object",
        "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
        "required": ["name", "people"],
        "additionalProperties": False,
    },
    strict=True,
)


async def main() -> None:
    model = MockProvider(['{"name": "Oslo", "people": 717710}', '{"name": "Os'])
    async with Chain(model) as chain:
        done = await chain.complete("The largest city of Norway?", response_format=CITY)
        print(done.parsed)
        print(cattrs.structure(done.parsed, City))

        done = await chain.complete("And the next?", response_format=CITY, max_tokens=3)
        try:
            print(done.parsed)
        except InvalidRequest as error:
            print(f"{error.code}: {error}")


asyncio.run(main())
# endregion use
