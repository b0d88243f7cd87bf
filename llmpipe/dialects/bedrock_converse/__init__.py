"""Amazon Bedrock's Converse and ConverseStream, the client's side: ``bedrock.converse``.

One wire for the models of all vendors on Bedrock; where it is not quite one, `families` tells by the
model's id. The model stands in the address, ``/model/{modelId}/converse``, and so does whether the reply
is streamed, ``/model/{modelId}/converse-stream``. Streams are in AWS's own framing: `dialects.eventstream`.

What the wire cannot say, and what happens to it, is told by `request.encode_request`.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html; the service
model ``bedrock-runtime`` of botocore.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import frozen

from llmpipe.dialects import StreamDecoder, StreamEncoder
from llmpipe.dialects.bedrock_converse.errors import decode_error
from llmpipe.dialects.bedrock_converse.parts import DIALECT
from llmpipe.dialects.bedrock_converse.reply import decode_reply
from llmpipe.dialects.bedrock_converse.request import encode_request
from llmpipe.dialects.bedrock_converse.stream import ConverseDecoder
from llmpipe.dialects.losses import Losses
from llmpipe.dialects.whole import WholeReplyDecoder, is_json
from llmpipe.errors import LLMError, Unsupported
from llmpipe.types import Completion, Request

__all__ = ("BedrockConverse",)


@frozen
class BedrockConverse:
    """The dialect ``bedrock.converse``. Its fields are what differs between models.

    Attributes:
        json_schema: whether a schema is sent as ``outputConfig.textFormat``. Models that do not know it
            (Nova, Llama, Claude before 4.5) refuse the request; False puts an instruction into the
            system prompt instead.
        system_in_messages: whether a system message in the middle of a conversation is sent where it
            stands. Few models take that; False moves such messages into the system prompt.
        replay_unsigned_reasoning: whether reasoning without a signature is sent back. Claude refuses
            it, so it is left out; open models sign nothing, and some want it back.
        max_event_bytes: the bound of one event of a stream.
    """

    json_schema: bool = True
    system_in_messages: bool = False
    replay_unsigned_reasoning: bool = False
    max_event_bytes: int = 24 * 1024 * 1024

    name: ClassVar[str] = DIALECT

    def encode_request(self, request: Request, losses: Losses | None = None) -> dict[str, Any]:
        """The JSON body for either address. See `request.encode_request`."""
        return encode_request(
            request,
            Losses() if losses is None else losses,
            json_schema=self.json_schema,
            system_in_messages=self.system_in_messages,
            unsigned_reasoning=self.replay_unsigned_reasoning,
        )

    def decode_reply(self, body: dict[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion in a reply's body. See `reply.decode_reply`."""
        return decode_reply(body, headers)

    def decoder(self, content_type: str = "application/vnd.amazon.eventstream") -> StreamDecoder:
        """A fresh decoder for one stream, or for the whole JSON body that some send instead."""
        if is_json(content_type):
            return WholeReplyDecoder(self.decode_reply, self.max_event_bytes)
        return ConverseDecoder(self.max_event_bytes)

    def decode_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, now: float | None = None
    ) -> LLMError:
        """The classified error of a reply that is not a success. See `errors.decode_error`."""
        return decode_error(status, headers, body, now=now)

    def decode_request(self, body: dict[str, Any]) -> Request:
        """Raises: Unsupported, for this dialect has the client's side only."""
        raise _no_server()

    def encode_reply(self, completion: Completion) -> dict[str, Any]:
        """Raises: Unsupported, for this dialect has the client's side only."""
        raise _no_server()

    def encoder(self, request: Request) -> StreamEncoder:
        """Raises: Unsupported, for this dialect has the client's side only."""
        raise _no_server()

    def encode_error(self, error: LLMError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Raises: Unsupported, for this dialect has the client's side only."""
        raise _no_server()


def _no_server() -> Unsupported:
    return Unsupported(f"{DIALECT} is spoken to Bedrock, and served to nobody: it has the client's side only")
