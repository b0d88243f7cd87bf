"""The whole road: an SDK, a gateway, a chain, a provider of another dialect, and back, over real sockets.

A caller never learns who answers: every SDK has a conversation with every provider, and gives back what
it got in its own objects.
"""

from __future__ import annotations

import pytest

from llmpipe.testing.simulator import Fault, Rule
from llmpipe.types import Image, Reasoning, Text
from tests.testing.sdks.callers import CALLERS
from tests.testing.sdks.common import BOTH, HELLO, PNG, results, saying
from tests.testing.sdks.roads import CALLS, PROVIDERS, every_road, road

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),
]


@every_road
async def test_calls_results_and_the_answer_make_a_conversation(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        way.model.script = saying(Text("I look."), *CALLS, finish="tool_calls")
        way.caller.user(BOTH)
        said = await way.caller.ask(stream=stream, tools=True)
        assert said.text == "I look."
        assert [(name, arguments) for _, name, arguments in said.calls] == [
            ("weather", {"place": "Paris"}),
            ("forecast", {"place": "Rome"}),
        ]
        told = {key: f"sunny after {name}" for key, name, _ in said.calls}
        assert len(told) == 2
        assert said.finish == way.caller.words[1]
        way.caller.results(told)
        way.model.script = saying(Text("It is sunny – both times."))
        said = await way.caller.ask(stream=stream, tools=True)
        assert (said.text, said.calls) == ("It is sunny – both times.", [])
        assert said.finish == way.caller.words[0]

        first, second = way.model.asked
        assert [tool.name for tool in first.tools] == ["weather", "forecast"]
        assert first.tools[0].parameters["required"] == ["place"]
        assert first.system == "Be brief."
        assert first.max_tokens == 2000
        assert first.stream is stream
        made = [call for message in second.messages for call in message.tool_calls]
        assert [(call.id, call.name, call.arguments) for call in made] == [
            (call.id, call.name, call.arguments) for call in CALLS
        ]
        assert results(second) == {"call_1": "sunny after weather", "call_2": "sunny after forecast"}
        assert [message.role for message in second.messages if message.role != "system"][:2] == [
            "user",
            "assistant",
        ]

        way.caller.user("And now?")
        assert (await way.caller.ask(stream=stream, tools=True)).text
        assert way.model.asked[2].messages[-2].text == "It is sunny – both times."


@every_road
async def test_thoughts_are_shown_and_proofs_go_back_to_whom_they_are_of(
    inbound: str, outbound: str, stream: bool
):
    thoughts = PROVIDERS[outbound][-1]
    async with road(inbound, outbound) as way:
        way.model.script = saying(*thoughts, *CALLS[:1], finish="tool_calls")
        way.caller.user(HELLO)
        said = await way.caller.ask(stream=stream, tools=True, think=True)
        assert said.thinking == "Let me think."
        way.caller.results({said.calls[0][0]: "sunny"})
        await way.caller.ask(stream=stream, tools=True, think=True)
        back = [part for part in way.model.parts if isinstance(part, Reasoning)]
        proofs = [part.signature or part.encrypted for part in thoughts if isinstance(part, Reasoning)]
        if inbound == "cohere.chat" and stream:
            return  # whoever puts Cohere's stream together keeps no proofs
        assert [proof for part in back if (proof := part.signature or part.encrypted)] == [
            proof for proof in proofs if proof
        ]


@every_road
async def test_structured_output_is_of_the_schema(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        way.caller.user(HELLO)
        said = await way.caller.ask(stream=stream, schema=True)
        assert said.text.startswith("{")
        form = way.model.asked[0].response_format
        assert form is not None
        assert form.type == "json_schema"


@every_road
async def test_a_picture_arrives(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        way.caller.user("What is this?", picture=True)
        assert (await way.caller.ask(stream=stream)).text
        text, picture = [part for part in way.model.parts if part != Text("Be brief.")]
        assert text == Text("What is this?")
        assert isinstance(picture, Image)
        assert (picture.data, picture.media_type) == (PNG, "image/png")


@every_road
async def test_errors_are_the_sdks_own(inbound: str, outbound: str, stream: bool):
    async with road(inbound, outbound) as way:
        for status in (400, 401, 429, 500, 503):
            way.simulator.rules = (Rule(Fault(status=status, headers={"retry-after": "3"})),)
            way.caller.user(HELLO)
            with pytest.raises(way.caller.failure) as caught:
                await way.caller.ask(stream=stream)
            seen = getattr(caught.value, "status_code", None) or caught.value.code
            assert seen == {503: 529}.get(status, status) if inbound == "anthropic.messages" else status
            assert f"simulated {status}" in str(caught.value)
            if status == 429:
                headers = getattr(caught.value, "headers", None) or caught.value.response.headers
                assert headers["retry-after"] == "3"


@pytest.mark.parametrize("outbound", list(PROVIDERS))
@pytest.mark.parametrize("inbound", list(CALLERS))
async def test_what_breaks_in_a_stream_is_no_success(inbound: str, outbound: str):
    async with road(inbound, outbound) as way:
        for fault in (Fault(error_after=4), Fault(cut_after=4), Fault(unfinished=True)):
            way.simulator.rules = (Rule(fault),)
            way.caller.user(HELLO)
            with pytest.raises(way.caller.broken, match=r"simulated 529|connection ended|stream ended"):
                await way.caller.ask(stream=True)
