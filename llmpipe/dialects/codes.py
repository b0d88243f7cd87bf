"""What providers call their failures, and the error that each means: tables, and nothing else.

Beside a code stands whose it is, where it is not everybody's, and the status that hides what it means.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmpipe.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextTooLong,
    LLMError,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
)

__all__ = ("BY_STATUS", "EXACT", "TOO_LONG", "VAGUE")

# Codes that are more exact than any status they come with. In lower case, "_" for "-" and " ".
EXACT: Mapping[str, type[LLMError]] = {
    "context_length_exceeded": ContextTooLong,
    "context_window_exceeded": ContextTooLong,
    "context_length_error": ContextTooLong,
    "exceed_context_size_error": ContextTooLong,  # llama.cpp
    "model_context_window_exceeded": ContextTooLong,
    "prompt_too_long": ContextTooLong,
    "tokens_limit_reached": ContextTooLong,  # GitHub Models, with 413
    "1261": ContextTooLong,  # Z.AI
    "tokens_too_long": ContextTooLong,  # Baidu Qianfan
    "characters_too_long": ContextTooLong,
    "content_filter": ContentFiltered,
    "content_filter_error": ContentFiltered,
    "content_filtered": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "content_policy_violation_error": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,  # Azure, innererror.code
    "data_inspection_failed": ContentFiltered,  # DashScope
    "datainspectionfailed": ContentFiltered,
    "moderation_blocked": ContentFiltered,
    "1301": ContentFiltered,  # Z.AI
    "unsafe_request": ContentFiltered,  # Baidu Qianfan's type; the codes name what was unsafe
    "sensitivecontentdetected": ContentFiltered,  # this and the next: Volcengine, with 400
    "inputtextsensitivecontentdetected": ContentFiltered,
    "inputimagesensitivecontentdetected": ContentFiltered,
    "outputtextsensitivecontentdetected": ContentFiltered,
    "inputtextriskdetection": ContentFiltered,
    "inputimageriskdetection": ContentFiltered,
    "outputtextriskdetection": ContentFiltered,
    "insufficient_quota": QuotaExceeded,
    "insufficient_credits": QuotaExceeded,
    "insufficient_balance": QuotaExceeded,
    "billing_error": QuotaExceeded,  # Anthropic
    "billing_hard_limit_reached": QuotaExceeded,
    "billing_not_active": QuotaExceeded,
    "exceeded_current_quota_error": QuotaExceeded,  # Moonshot
    "budget_exceeded": QuotaExceeded,  # our own gateway
    "payment_required": QuotaExceeded,
    "credit_balance_exhausted": QuotaExceeded,  # this and the next: OpenAI, with 429
    "organization_spend_limit_exceeded": QuotaExceeded,
    "organization_usage_limit_exceeded": QuotaExceeded,
    "project_spend_limit_exceeded": QuotaExceeded,
    "contract_spend_limit_reached": QuotaExceeded,  # this and the next: Anthropic
    "enforced_spend_limit_reached": QuotaExceeded,
    "linked_organization_billing_unavailable": QuotaExceeded,
    "linked_organization_spend_limit_reached": QuotaExceeded,
    "credit_limit": QuotaExceeded,  # Together
    "not_enough_balance": QuotaExceeded,  # Novita's reason, with 403
    "insufficient_user_quota": QuotaExceeded,  # gateways that resell
    "accountoverdueerror": QuotaExceeded,  # Volcengine, with 403
    "setlimitexceeded": QuotaExceeded,  # Volcengine, with 429: the model was paused at a set limit
    "allocationquota.freetieronly": QuotaExceeded,  # DashScope, with 403
    "commoditynotpurchased": QuotaExceeded,
    "postpaidbilloverdue": QuotaExceeded,
    "prepaidbilloverdue": QuotaExceeded,
    "servicequotaexceededexception": QuotaExceeded,  # AWS, with 400
    "billing_insufficient_balance": QuotaExceeded,  # Baidu, with 429
    "quota_exceeded": QuotaExceeded,
    "arrearage": QuotaExceeded,  # DashScope
    "1113": QuotaExceeded,  # Z.AI: in arrears, with 429
    "1304": QuotaExceeded,  # Z.AI: the day's calls
    "1308": QuotaExceeded,  # Z.AI: a plan's limit
    "1310": QuotaExceeded,  # Z.AI: the week's or month's limit
    "3036": QuotaExceeded,  # Cloudflare: the day's free allocation, with 429
    "model_not_found": ModelNotFound,
    "model_not_found_error": ModelNotFound,
    "model_decommissioned": ModelNotFound,  # Groq, with 400
    "deploymentnotfound": ModelNotFound,  # Azure
    "invalid_model": ModelNotFound,  # Mistral, with 400
    "unknown_model": ModelNotFound,
    "unavailable_model": ModelNotFound,  # GitHub Models, with 400
    "model_not_supported": ModelNotFound,  # Hugging Face, with 400
    "model_not_available": ModelNotFound,  # Together
    "invalidendpointormodel": ModelNotFound,  # Volcengine
    "modelnotopen": ModelNotFound,
    "1211": ModelNotFound,  # Z.AI
    "3042": ModelNotFound,  # Cloudflare
    "5007": ModelNotFound,  # Cloudflare, with 400
    "invalid_api_key": AuthenticationFailed,
    "incorrect_api_key": AuthenticationFailed,
    "api_key_invalid": AuthenticationFailed,  # Google, with 400
    "organization_on_hold": AuthenticationFailed,  # Anthropic, with 400; no key of it works
    "organization_restricted": PermissionDenied,  # Groq, with 400
    "overloaded_error": Overloaded,  # Anthropic
    "engine_overloaded": Overloaded,
    "engine_overloaded_error": Overloaded,  # Moonshot, with 429
    "server_overloaded": Overloaded,
    "server_is_overloaded": Overloaded,  # OpenAI
    "serveroverloaded": Overloaded,  # Volcengine, with 429
    "capacity_exceeded": Overloaded,  # Groq, with 498: its flex tier
    "queue_exceeded": Overloaded,  # Cerebras, with 429
    "throttlingexception": RateLimited,  # AWS, with 400
    "3040": Overloaded,  # Cloudflare: out of capacity, with 429
}

# Codes and types that say less than a status; they decide where there is none (an error inside
# a 200 or a stream). OpenAI sends type invalid_request_error with 401, 403 and 404 too, and Groq
# code rate_limit_exceeded with 413, so with a status they must not.
VAGUE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "bad_request": 400,
    "badrequest": 400,
    "invalid_argument": 400,
    "badrequesterror": 400,  # vLLM
    "invalidparameter": 400,
    "validationexception": 400,  # AWS
    "validation_error": 400,
    "unsupported_value": 400,
    "unsupported_parameter": 400,
    "authentication_error": 401,
    "unauthorized": 401,
    "unauthenticated": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "permissiondenied": 403,
    "accessdenied": 403,
    "accessdeniedexception": 403,  # AWS
    "authfailure": 401,  # Tencent
    "authenticationerror": 401,  # Volcengine
    "invalidapikey": 401,  # DashScope
    "invalid_authentication_error": 401,  # Moonshot
    "forbidden": 403,
    "not_found_error": 404,
    "not_found": 404,
    "resource_not_found_error": 404,  # Moonshot
    "resourcenotfoundexception": 404,  # AWS
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "rate_limited": 429,
    "rate_limit_reached_error": 429,
    "ratelimitreached": 429,
    "too_many_requests": 429,
    "too_many_requests_error": 429,  # Cerebras
    "throttling": 429,  # DashScope
    "throttling_error": 429,  # LiteLLM's proxy
    "limitexceeded": 429,  # Tencent
    "requestlimitexceeded": 429,
    "ratelimitexceeded": 429,  # Volcengine
    "request_limit_exceeded": 429,  # Databricks
    "resource_exhausted": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "internalservererror": 500,
    "internal_error": 500,
    "internal": 500,
    "api_error": 500,
    "internalerror": 500,
    "internalserverexception": 500,  # AWS
    "upstream_error": 502,
    "service_unavailable": 502,
    "modelstreamerrorexception": 502,  # AWS
    "service_unavailable_error": 503,  # OpenAI
    "serviceunavailableexception": 503,  # AWS
    "unavailable_error": 503,  # llama.cpp: the model is being loaded
    "unavailable": 503,
    "slow_down": 503,  # OpenAI
    "timeout_error": 504,
    "modeltimeoutexception": 504,  # AWS
    "timeout": 504,
    "deadline_exceeded": 504,
}

BY_STATUS: Mapping[int, type[LLMError]] = {
    401: AuthenticationFailed,
    402: QuotaExceeded,
    403: PermissionDenied,
    404: ModelNotFound,
    # 408, 409, 425: the provider's own timeouts and conflicts. The request is right, so it may be
    # sent again (both SDKs do); 424 is how gateways report the failure of what stands behind them.
    408: ServiceUnavailable,
    409: ServiceUnavailable,
    410: ModelNotFound,
    412: PermissionDenied,  # Fireworks: the account is suspended
    413: RequestTooLarge,
    414: RequestTooLarge,
    424: ServiceUnavailable,
    425: ServiceUnavailable,
    429: RateLimited,
    431: RequestTooLarge,
    451: PermissionDenied,
    498: Overloaded,  # Groq: no capacity for the flex tier
    503: Overloaded,
    529: Overloaded,
}

# What OpenAI-compatible servers say without any code, where a prompt is too long: Ollama, vLLM,
# TGI, xAI, Together, Mistral, DeepSeek, Gemini's compatible endpoint, Cohere, Moonshot, DashScope,
# LiteLLM's proxy, and Anthropic. All other
# decisions are made by status and code; this one cannot be, and rescue by a model with a larger
# context hangs on it.
TOO_LONG = (
    "context length",
    "context window",
    "context size",
    "context limit",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "maximum prompt length",
    "maximum number of tokens allowed",
    "`max_new_tokens` must be <=",
    "`inputs` must have less than",
    "too many tokens:",
    "model token limit",
    "range of input length should be",
    "contextwindowexceedederror",
)
