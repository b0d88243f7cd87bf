"""What the standard chain does, in which order, and why; and what an order that is wrong would do."""

# region standard
from llmpipe import Cache, Chain, Fallback, MockProvider, Redact, presets

openai = MockProvider(default="Hello!", name="openai", model="gpt-4o-mini")
claude = MockProvider(default="Hello!", name="anthropic", model="claude-haiku-4-5")

chain = Chain(openai, *presets.production(), Fallback(claude))
print(chain.explain())
# endregion standard

# region lint
wrong = Chain(openai, Redact(), Cache(priority=150))
for finding in wrong.lint():
    print(f"{finding.level} {finding.code}: {finding.message}")
# endregion lint
