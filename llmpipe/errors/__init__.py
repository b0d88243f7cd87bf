"""One tree of errors, each carrying what a caller and every strategy acts on.

::

    LLMError                      anything that can end a call
    ├── InvalidRequest            the request is wrong; no retry can help            400
    │   ├── ContextTooLong        more tokens than the model takes                   400
    │   ├── RequestTooLarge       more bytes than the provider takes                 413
    │   ├── ModelNotFound         no such model, or not for this key                 404
    │   └── Unsupported           the target lacks what was asked; nothing was sent  400
    ├── ContentFiltered           refused by a content policy                        400
    ├── AuthenticationFailed      the key is wrong                                   401
    │   └── PermissionDenied      the key is right and may not do this               403
    ├── QuotaExceeded             the account's money or quota is used up            402/429
    ├── RateLimited               too fast; come back after ``retry_after``          429
    │   └── LimitReached          our own limiter says so; nothing was sent          429
    ├── Timeout                   something took longer than it may                  504
    │   ├── ConnectTimeout        no connection; nothing was sent
    │   ├── FirstTokenTimeout     nothing came back in time
    │   ├── IdleTimeout           the stream fell silent
    │   └── DeadlineExceeded      the whole call is out of time
    ├── ServiceUnavailable        the provider failed                                500/502/504
    │   └── Overloaded            the provider is out of capacity                    503/529
    ├── NetworkError              the connection failed                              502
    │   ├── ConnectFailed         no connection; nothing was sent
    │   └── StreamBroken          a reply ended before its end; ``partial`` has the rest
    ├── BadReply                  the provider's bytes are not what its protocol says 502
    ├── UnknownError              a failure nobody has classified                    500
    ├── CircuitOpen               a breaker refused; nothing was sent                503
    ├── BudgetExceeded            a budget refused; nothing was sent                 402
    ├── FeatureDisabled           switched off by configuration; nothing was sent    403
    ├── StoreUnavailable          a store the call depends on is out of reach        503
    │   └── StoreDamaged          what is kept there is damaged, or of a newer form  503
    ├── NotCached                 to be answered from the cache only, and not there  504
    └── ReplyClosed               the reply was closed by another task               499
    ConfigError (ValueError)      a wrong argument or file; raised at construction

An error is classified once, where it is born (a dialect, a transport, a middleware), and
carries its verdicts as fields. No strategy reads text or keeps a list of error classes.
"""

from __future__ import annotations

from llmpipe.errors.base import ConfigError, LLMError
from llmpipe.errors.caller import (
    ContentFiltered,
    ContextTooLong,
    InvalidRequest,
    ModelNotFound,
    RequestTooLarge,
    Unsupported,
)
from llmpipe.errors.key import (
    AuthenticationFailed,
    LimitReached,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
)
from llmpipe.errors.provider import (
    BadReply,
    ConnectFailed,
    ConnectTimeout,
    DeadlineExceeded,
    FirstTokenTimeout,
    IdleTimeout,
    NetworkError,
    Overloaded,
    ServiceUnavailable,
    StreamBroken,
    Timeout,
    UnknownError,
)
from llmpipe.errors.refusal import (
    BudgetExceeded,
    CircuitOpen,
    FeatureDisabled,
    NotCached,
    ReplyClosed,
    StoreDamaged,
    StoreUnavailable,
)

__all__ = (
    "AuthenticationFailed",
    "BadReply",
    "BudgetExceeded",
    "CircuitOpen",
    "ConfigError",
    "ConnectFailed",
    "ConnectTimeout",
    "ContentFiltered",
    "ContextTooLong",
    "DeadlineExceeded",
    "FeatureDisabled",
    "FirstTokenTimeout",
    "IdleTimeout",
    "InvalidRequest",
    "LLMError",
    "LimitReached",
    "ModelNotFound",
    "NetworkError",
    "NotCached",
    "Overloaded",
    "PermissionDenied",
    "QuotaExceeded",
    "RateLimited",
    "ReplyClosed",
    "RequestTooLarge",
    "ServiceUnavailable",
    "StoreDamaged",
    "StoreUnavailable",
    "StreamBroken",
    "Timeout",
    "UnknownError",
    "Unsupported",
)

# Where they are imported from is what they say: a traceback, a log and a pickle follow no file of ours.
for _name in __all__:
    globals()[_name].__module__ = __name__
