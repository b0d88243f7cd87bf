"""llmpipe: a middleware pipeline for calls to language models.

Every concern of a call (validation, redaction, caching, limits, fallback, retry, breaker,
timeout, tracing, cost) is one priority-ordered middleware in an onion round a provider.
Names load on first use, so that importing the package costs almost nothing. So do the parts of the
package: `llmpipe.errors` and `llmpipe.testing` are there after ``import llmpipe``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmpipe import dialects
    from llmpipe.config import presets
    from llmpipe.config.load import load_chain
    from llmpipe.errors import (
        AuthenticationFailed,
        BadReply,
        BudgetExceeded,
        CircuitOpen,
        ConfigError,
        ConnectFailed,
        ConnectTimeout,
        ContentFiltered,
        ContextTooLong,
        DeadlineExceeded,
        FeatureDisabled,
        FirstTokenTimeout,
        IdleTimeout,
        InvalidRequest,
        LimitReached,
        LLMError,
        ModelNotFound,
        NetworkError,
        NotCached,
        Overloaded,
        PermissionDenied,
        QuotaExceeded,
        RateLimited,
        ReplyClosed,
        RequestTooLarge,
        ServiceUnavailable,
        StoreDamaged,
        StoreUnavailable,
        StreamBroken,
        UnknownError,
        Unsupported,
    )
    from llmpipe.keys import KeyVault, mask_api_key, sanitize_object
    from llmpipe.middleware.adaptive_limit import AdaptiveLimit
    from llmpipe.middleware.alerts import Alerts
    from llmpipe.middleware.audit import Audit
    from llmpipe.middleware.batch import Batch
    from llmpipe.middleware.breaker import Breaker, CircuitBreaker
    from llmpipe.middleware.budget import Budget
    from llmpipe.middleware.cache import Cache
    from llmpipe.middleware.coalesce import Coalesce
    from llmpipe.middleware.commit import Commit
    from llmpipe.middleware.continue_ import Continue
    from llmpipe.middleware.cost import Cost
    from llmpipe.middleware.credentials import Credentials, Keys
    from llmpipe.middleware.fallback import Fallback
    from llmpipe.middleware.hedge import Hedge
    from llmpipe.middleware.hooks import Hooks
    from llmpipe.middleware.limits import Limit, Limits
    from llmpipe.middleware.log import Log
    from llmpipe.middleware.metrics import Metrics
    from llmpipe.middleware.migration import Migration
    from llmpipe.middleware.optimise import Optimise
    from llmpipe.middleware.rate_limit import RateLimit
    from llmpipe.middleware.redact import Redact
    from llmpipe.middleware.retry import Retry, RetryExecutor
    from llmpipe.middleware.shed import Shed
    from llmpipe.middleware.timeout import Timeout
    from llmpipe.middleware.trace import Trace
    from llmpipe.middleware.trace.otel_metrics import OTelMetrics
    from llmpipe.middleware.validate import Validate
    from llmpipe.pipeline import bands
    from llmpipe.pipeline.call import Call
    from llmpipe.pipeline.chain import Chain
    from llmpipe.pipeline.function import layer
    from llmpipe.pipeline.linker import Handler, Middleware
    from llmpipe.pipeline.outcome import Outcome
    from llmpipe.pipeline.provider import Capabilities, Provider
    from llmpipe.pipeline.pump import Stage
    from llmpipe.pipeline.reply import Reply
    from llmpipe.providers.factory import provider
    from llmpipe.providers.mock import MockProvider, Wait
    from llmpipe.routing.ensemble import Ensemble
    from llmpipe.routing.route import Route
    from llmpipe.routing.router import Router
    from llmpipe.routing.selector import ModelSelector
    from llmpipe.routing.use_cases import UseCases
    from llmpipe.runtime import Runtime
    from llmpipe.secret import Secret
    from llmpipe.state import open_state
    from llmpipe.tools import ToolLoop, run_tools, tool
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
    from llmpipe.types.fold import fold, unfold
    from llmpipe.types.messages import (
        Audio,
        Document,
        Image,
        Message,
        Opaque,
        Reasoning,
        Refusal,
        Text,
        ToolCall,
        ToolResult,
    )
    from llmpipe.types.replies import Completion, Embeddings, ModelInfo, Ranked, Ranking, Usage
    from llmpipe.types.requests import (
        EmbeddingRequest,
        NamedTool,
        ReasoningOptions,
        Request,
        RerankRequest,
        ResponseFormat,
        Tool,
    )

__version__ = "0.1.0"

__all__ = (
    "AdaptiveLimit",
    "Alerts",
    "Audio",
    "Audit",
    "AuthenticationFailed",
    "BadReply",
    "Batch",
    "Breaker",
    "Budget",
    "BudgetExceeded",
    "Cache",
    "Call",
    "Capabilities",
    "Chain",
    "CircuitBreaker",
    "CircuitOpen",
    "Coalesce",
    "Commit",
    "Completion",
    "ConfigError",
    "ConnectFailed",
    "ConnectTimeout",
    "ContentFiltered",
    "ContextTooLong",
    "Continue",
    "Cost",
    "Credentials",
    "DeadlineExceeded",
    "Document",
    "EmbeddingRequest",
    "Embeddings",
    "Ensemble",
    "Event",
    "Extra",
    "Fallback",
    "FeatureDisabled",
    "Finish",
    "FirstTokenTimeout",
    "Handler",
    "Hedge",
    "Hooks",
    "IdleTimeout",
    "Image",
    "InvalidRequest",
    "KeyVault",
    "Keys",
    "LLMError",
    "Limit",
    "LimitReached",
    "Limits",
    "Log",
    "Message",
    "Metrics",
    "Middleware",
    "Migration",
    "MockProvider",
    "ModelInfo",
    "ModelNotFound",
    "ModelSelector",
    "NamedTool",
    "NetworkError",
    "NotCached",
    "OTelMetrics",
    "Opaque",
    "Optimise",
    "Outcome",
    "Overloaded",
    "PermissionDenied",
    "Ping",
    "Provider",
    "QuotaExceeded",
    "Ranked",
    "Ranking",
    "RateLimit",
    "RateLimited",
    "Reasoning",
    "ReasoningDelta",
    "ReasoningOptions",
    "Redact",
    "Refusal",
    "RefusalDelta",
    "Reply",
    "ReplyClosed",
    "Request",
    "RequestTooLarge",
    "RerankRequest",
    "ResponseFormat",
    "Retry",
    "RetryExecutor",
    "Route",
    "Router",
    "Runtime",
    "Secret",
    "ServiceUnavailable",
    "Shed",
    "Stage",
    "Start",
    "StoreDamaged",
    "StoreUnavailable",
    "StreamBroken",
    "Text",
    "TextDelta",
    "Timeout",
    "Tool",
    "ToolCall",
    "ToolDelta",
    "ToolLoop",
    "ToolResult",
    "Trace",
    "UnknownError",
    "Unsupported",
    "Usage",
    "UsageUpdate",
    "UseCases",
    "Validate",
    "Wait",
    "bands",
    "dialects",
    "fold",
    "layer",
    "load_chain",
    "mask_api_key",
    "open_state",
    "presets",
    "provider",
    "run_tools",
    "sanitize_object",
    "tool",
    "unfold",
)

_HOME = {
    "llmpipe.config.load": "load_chain",
    "llmpipe.errors": (
        "AuthenticationFailed BadReply BudgetExceeded CircuitOpen ConfigError ConnectFailed "
        "ConnectTimeout ContentFiltered ContextTooLong DeadlineExceeded FeatureDisabled "
        "FirstTokenTimeout IdleTimeout InvalidRequest LLMError LimitReached ModelNotFound NetworkError "
        "NotCached Overloaded PermissionDenied QuotaExceeded RateLimited ReplyClosed RequestTooLarge "
        "ServiceUnavailable StoreDamaged StoreUnavailable StreamBroken UnknownError Unsupported"
    ),
    "llmpipe.keys": "KeyVault mask_api_key sanitize_object",
    "llmpipe.middleware.adaptive_limit": "AdaptiveLimit",
    "llmpipe.middleware.alerts": "Alerts",
    "llmpipe.middleware.audit": "Audit",
    "llmpipe.middleware.batch": "Batch",
    "llmpipe.middleware.breaker": "Breaker CircuitBreaker",
    "llmpipe.middleware.budget": "Budget",
    "llmpipe.middleware.cache": "Cache",
    "llmpipe.middleware.coalesce": "Coalesce",
    "llmpipe.middleware.commit": "Commit",
    "llmpipe.middleware.continue_": "Continue",
    "llmpipe.middleware.cost": "Cost",
    "llmpipe.middleware.credentials": "Credentials Keys",
    "llmpipe.middleware.fallback": "Fallback",
    "llmpipe.middleware.hedge": "Hedge",
    "llmpipe.middleware.hooks": "Hooks",
    "llmpipe.middleware.limits": "Limit Limits",
    "llmpipe.middleware.log": "Log",
    "llmpipe.middleware.metrics": "Metrics",
    "llmpipe.middleware.migration": "Migration",
    "llmpipe.middleware.optimise": "Optimise",
    "llmpipe.middleware.rate_limit": "RateLimit",
    "llmpipe.middleware.redact": "Redact",
    "llmpipe.middleware.retry": "Retry RetryExecutor",
    "llmpipe.middleware.shed": "Shed",
    "llmpipe.middleware.timeout": "Timeout",
    "llmpipe.middleware.trace": "Trace",
    "llmpipe.middleware.trace.otel_metrics": "OTelMetrics",
    "llmpipe.middleware.validate": "Validate",
    "llmpipe.pipeline.call": "Call",
    "llmpipe.pipeline.chain": "Chain",
    "llmpipe.pipeline.function": "layer",
    "llmpipe.pipeline.linker": "Handler Middleware",
    "llmpipe.pipeline.outcome": "Outcome",
    "llmpipe.pipeline.provider": "Capabilities Provider",
    "llmpipe.pipeline.pump": "Stage",
    "llmpipe.pipeline.reply": "Reply",
    "llmpipe.providers.factory": "provider",
    "llmpipe.providers.mock": "MockProvider Wait",
    "llmpipe.routing.ensemble": "Ensemble",
    "llmpipe.routing.route": "Route",
    "llmpipe.routing.router": "Router",
    "llmpipe.routing.selector": "ModelSelector",
    "llmpipe.routing.use_cases": "UseCases",
    "llmpipe.runtime": "Runtime",
    "llmpipe.secret": "Secret",
    "llmpipe.state": "open_state",
    "llmpipe.tools": "ToolLoop run_tools tool",
    "llmpipe.types.events": (
        "Event Extra Finish Ping ReasoningDelta RefusalDelta Start TextDelta ToolDelta UsageUpdate"
    ),
    "llmpipe.types.fold": "fold unfold",
    "llmpipe.types.messages": (
        "Audio Document Image Message Opaque Reasoning Refusal Text ToolCall ToolResult"
    ),
    "llmpipe.types.replies": "Completion Embeddings ModelInfo Ranked Ranking Usage",
    "llmpipe.types.requests": (
        "EmbeddingRequest NamedTool ReasoningOptions Request RerankRequest ResponseFormat Tool"
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
_PARTS = (
    "bulk",
    "config",
    "dialects",
    "errors",
    "keys",
    "middleware",
    "pipeline",
    "pricing",
    "providers",
    "routing",
    "runtime",
    "secret",
    "state",
    "testing",
    "tokens",
    "tools",
    "types",
)
_MODULES = {
    "bands": "llmpipe.pipeline.bands",
    "presets": "llmpipe.config.presets",
    **{part: f"llmpipe.{part}" for part in _PARTS},
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'llmpipe' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
