"""Embeddings, both directions and in all three of Google's forms.

The Gemini API embeds a list with ``:batchEmbedContents``; Vertex AI with ``:predict``, but for its
newest models, which take one input with ``:embedContent``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from llmpipe.dialects.checked import invalid
from llmpipe.dialects.gemini_generate.conversation import read_parts
from llmpipe.dialects.gemini_generate.errors import error_in
from llmpipe.dialects.gemini_generate.fields import NAME, Fields, bare_model, full_model
from llmpipe.dialects.gemini_generate.usage import decode_usage
from llmpipe.dialects.headers import headers_of_interest, request_id_in
from llmpipe.dialects.jsonbody import leftover
from llmpipe.dialects.losses import Losses, native, refused
from llmpipe.dialects.problem import says_error
from llmpipe.errors import BadReply
from llmpipe.types import EmbeddingRequest, Embeddings, Text, Usage

if TYPE_CHECKING:
    from llmpipe.dialects.gemini_generate.quirks import Quirks

__all__ = ("decode_embedding_request", "decode_embeddings", "encode_embedding_request", "encode_embeddings")

_InputType = Literal["query", "document", "classification", "clustering"]
_TASKS: dict[_InputType, str] = {
    "query": "RETRIEVAL_QUERY",
    "document": "RETRIEVAL_DOCUMENT",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
_OF_PREDICT = {"taskType": "task_type"}
_TYPES = {task: kind for kind, task in _TASKS.items()}
_KNOWN = frozenset(("embedding", "embeddings", "predictions", "usageMetadata"))


def encode_embedding_request(
    request: EmbeddingRequest, quirks: Quirks, losses: Losses | None = None
) -> dict[str, Any]:
    """The JSON body of a request for vectors, in the form of `quirks.embeddings_api`.

    Raises: Unsupported naming the path for token ids, and for several inputs where one is all.
    """
    losses = Losses() if losses is None else losses
    texts: list[str] = []
    for position, item in enumerate(request.inputs):
        if not isinstance(item, str):
            raise refused(f"inputs[{position}]", "Gemini embeds text, no token ids")
        texts.append(item)
    for name in request.metadata:
        losses.dropped(f"metadata.{name}", "Gemini's embeddings have no metadata")
    extra = dict(native(request.extra, request.dialect, NAME, "", losses))
    extra.pop("type", None)
    task: dict[str, Any] = {} if request.input_type is None else {"taskType": _TASKS[request.input_type]}
    size = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
    if quirks.embeddings_api == "predict":
        task.update({name: extra.pop(name) for name in ("taskType", "title") if name in extra})
        about = {_OF_PREDICT.get(name, name): value for name, value in task.items()}
        body: dict[str, Any] = {"instances": [{**about, "content": text} for text in texts]}
        if parameters := {**size, **extra}:
            body["parameters"] = parameters
        return body
    if quirks.embeddings_api == "embedContent":
        if len(texts) != 1:
            raise refused("inputs", f"this model embeds one input a request, not {len(texts)}")
        body = {"content": _content(texts[0])}
        if config := {**task, **size, **extra}:
            body["embedContentConfig"] = config
        return body
    model = {"model": full_model(request.model)} if request.model else {}
    return {"requests": [{**model, "content": _content(text), **task, **size, **extra} for text in texts]}


def decode_embedding_request(body: object) -> EmbeddingRequest:
    """A caller's request, in any of the three forms; ``extra["type"]`` names it where it is not the first.

    Raises: InvalidRequest naming the field, also where inputs of one request want different things.
    """
    fields = Fields(body)
    if fields.rest.get("instances") is not None:
        return _of_predict(fields)
    if fields.rest.get("requests") is None:
        if fields.rest.get("content") is None:
            raise invalid("requests", "is required", code="missing_required_parameter")
        text, common = _one(fields)
        return _request([text], {**common, "type": "embedContent"})
    found = [_one(Fields(item, f"requests[{i}]")) for i, item in enumerate(fields.items("requests") or ())]
    if not found:
        raise invalid("requests", "must have at least one request")
    for position, (_, common) in enumerate(found):
        if common != found[0][1]:
            raise invalid(f"requests[{position}]", "must ask for the same as the others")
    return _request([text for text, _ in found], found[0][1])


def decode_embeddings(body: Mapping[str, Any], headers: Mapping[str, str]) -> Embeddings:
    """The vectors, in the order of the inputs.

    Raises: the classified LLMError where the body holds an error, BadReply where it is no reply.
    """
    items = body.get("embeddings")
    if isinstance(body.get("embedding"), Mapping):
        items = [body["embedding"]]
    elif isinstance(body.get("predictions"), list):
        items = [one.get("embeddings") if isinstance(one, dict) else None for one in body["predictions"]]
    if body.get("error") or not isinstance(items, list):
        if says_error(body):
            raise error_in(body, headers=headers, phase="body")
        raise BadReply("the reply has no embeddings", code="no_embeddings", phase="body")
    found = headers_of_interest(headers)
    return Embeddings(
        vectors=tuple([_vector(item, position) for position, item in enumerate(items)]),
        usage=_usage(body, items),
        request_id=request_id_in(found),
        headers=found,
        extra=leftover(body, _KNOWN),
    )


def encode_embeddings(embeddings: Embeddings, request: EmbeddingRequest | None = None) -> dict[str, Any]:
    """The JSON body of a reply with vectors, in the form in which `request` asked for them."""
    kind = request.extra.get("type") if request is not None else None
    vectors = [list(vector) for vector in embeddings.vectors]
    usage = embeddings.usage
    if kind == "predict":
        # The wire counts each input; the first has what is known of all.
        counts = [usage.input_tokens if usage is not None else 0, *([0] * len(vectors))]
        return {
            "predictions": [
                {"embeddings": {"values": vector, "statistics": {"token_count": count, "truncated": False}}}
                for vector, count in zip(vectors, counts, strict=False)
            ]
        }
    told = {} if usage is None else {"usageMetadata": {"promptTokenCount": usage.input_tokens}}
    if kind == "embedContent":
        return {"embedding": {"values": vectors[0] if vectors else []}, **told}
    return {"embeddings": [{"values": vector} for vector in vectors], **told}


def _content(text: str) -> dict[str, Any]:
    return {"parts": [{"text": text}]}


def _one(fields: Fields) -> tuple[str, dict[str, Any]]:
    """The text of one request, and what it asks for."""
    content = fields.nested("content")
    parts = read_parts(content)
    for position, part in enumerate(parts):
        if not isinstance(part, Text):
            raise invalid(f"{content.at('parts')}[{position}]", "only text can be embedded here")
    common = fields.unknown()
    config = common.pop("embedContentConfig", None)
    if isinstance(config, dict):
        common.update(Fields(config, fields.at("embedContentConfig")).rest)
    return "".join([part.text for part in parts if isinstance(part, Text)]), common


def _of_predict(fields: Fields) -> EmbeddingRequest:
    texts, tasks = [], []
    for position, item in enumerate(fields.items("instances") or ()):
        instance = Fields(item, f"instances[{position}]")
        texts.append(instance.need_text("content"))
        tasks.append(instance.unknown())
    if not texts:
        raise invalid("instances", "must have at least one instance")
    if any(task != tasks[0] for task in tasks):
        raise invalid("instances", "must all ask for the same")
    parameters = Fields(fields.table("parameters") or {}, "parameters").unknown()
    return _request(texts, {**fields.unknown(), **tasks[0], **parameters, "type": "predict"})


def _request(texts: list[str], common: dict[str, Any]) -> EmbeddingRequest:
    fields = Fields(common)
    task = fields.text("taskType")
    kind = _TYPES.get(task or "")
    if task is not None and kind is None:
        fields.rest["taskType"] = task  # one that others do not have, such as CODE_RETRIEVAL_QUERY
    return EmbeddingRequest(
        model=bare_model(fields.text("model") or ""),
        inputs=tuple(texts),
        dimensions=fields.whole("outputDimensionality", 1),
        extra=fields.rest,
        dialect=NAME,
        input_type=kind,
    )


def _vector(item: object, position: int) -> list[float]:
    values = item.get("values") if isinstance(item, Mapping) else None
    if isinstance(values, list) and all(type(one) is float or type(one) is int for one in values):
        return values
    raise BadReply(
        f"embedding {position} of the reply has no list of numbers", code="bad_embeddings", phase="body"
    )


def _usage(body: Mapping[str, Any], items: list[Any]) -> Usage | None:
    """Of the whole, or the sum of what each prediction says of its input."""
    wire = body.get("usageMetadata")
    if isinstance(wire, Mapping):
        return decode_usage({**wire, "totalTokenCount": wire.get("promptTokenCount")})
    counts = []
    for item in items:
        statistics = item.get("statistics") if isinstance(item, Mapping) else None
        known = statistics if isinstance(statistics, Mapping) else {}
        count = known.get("token_count", known.get("tokenCount"))
        if type(count) is float and count.is_integer():
            count = int(count)
        if type(count) is not int or count < 0:
            return None
        counts.append(count)
    return Usage(input_tokens=sum(counts)) if counts else None
