"""The values that travel through a chain: requests, messages, replies and stream events.

All are frozen and slotted; a changed copy is made with `attrs.evolve`. Nothing here knows a
provider. What a wire carries beyond these fields travels in `extra`, under the wire's own
names, and is put back by the dialect it came from.
"""

from llmpipe.types.events import (
    Event,
    Extra,
    Finish,
    Ping,
    ReasoningDelta,
    RefusalDelta,
    Start,
    TextDelta,
    ToolDelta,
    UsageUpdate,
)
from llmpipe.types.fold import (
    fold,
    is_content,
    merge_extra,
    unfold,
)
from llmpipe.types.messages import (
    Audio,
    Content,
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    ToolCall,
    ToolResult,
)
from llmpipe.types.replies import (
    NANO,
    Completion,
    Cost,
    Embeddings,
    FinishReason,
    ModelInfo,
    Usage,
)
from llmpipe.types.requests import (
    AnyRequest,
    EmbeddingRequest,
    NamedTool,
    ReasoningOptions,
    Request,
    RerankRequest,
    ResponseFormat,
    Tool,
)

__all__ = (
    "AnyRequest",
    "Audio",
    "Completion",
    "Content",
    "Cost",
    "Document",
    "EmbeddingRequest",
    "Embeddings",
    "Event",
    "Extra",
    "Finish",
    "FinishReason",
    "Image",
    "Message",
    "ModelInfo",
    "NANO",
    "NamedTool",
    "Opaque",
    "Part",
    "Ping",
    "Reasoning",
    "ReasoningDelta",
    "ReasoningOptions",
    "Refusal",
    "RefusalDelta",
    "Request",
    "RerankRequest",
    "ResponseFormat",
    "Role",
    "Start",
    "Text",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolDelta",
    "ToolResult",
    "Usage",
    "UsageUpdate",
    "fold",
    "is_content",
    "merge_extra",
    "unfold",
)
