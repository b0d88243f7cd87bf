"""K2: no two requests have one key, however their fields are swapped, cut elsewhere and glued together.

A request is made of a plan: nested lists of strings, which say all that it asks. An attack changes the plan
in the ways in which keys that are joined together from fields are fooled. Two plans ask the same if and only
if they are equal, so every key belongs to one plan: that is looked up for each new one among all before it,
which compares it with each of them.
"""

from __future__ import annotations

import os
from copy import deepcopy
from hashlib import sha256
from random import Random
from typing import Any

from llmpipe.middleware.canonical import key_of
from llmpipe.pipeline.call import Call
from llmpipe.providers.mock import MockProvider
from llmpipe.runtime import Runtime
from llmpipe.types import Image, Message, Reasoning, Refusal, Request, Text, Tool, ToolCall, ToolResult

# Each attack is a pair by itself, and one more key for all that follow.
ATTACKS = 10**7 if os.environ.get("LLMPIPE_LONG") else 30_000
WORDS = (
    "", "a", "b", "ab", "aa", '"', '","', '"],["', "[", "]", "\\", '\\"', "\0", "\x1f", "null", "0", "1",
    "true", "text", "user", "é", "e\u0301", "\u2028", "😀",
)  # fmt: skip
ROLES = ("system", "user", "assistant", "tool")
KINDS: dict[str, tuple[int, Any]] = {
    "text": (1, Text),
    "refusal": (1, Refusal),
    "reasoning": (1, Reasoning),
    "signed": (2, lambda text, signature: Reasoning(text, signature=signature)),
    "encrypted": (2, lambda text, encrypted: Reasoning(text, encrypted=encrypted)),
    "call": (3, ToolCall),
    "result": (2, lambda name, text: ToolResult(name, [Text(text)])),
    "error": (2, lambda name, text: ToolResult(name, [Text(text)], is_error=True)),
    "image": (2, lambda url, detail: Image(url, detail=detail)),
    "media": (2, lambda data, kind: Image(data=data, media_type=kind)),
}
RUNTIME, PROVIDER = Runtime(), MockProvider()
Plan = dict[str, Any]


def a_plan(random: Random) -> Plan:
    """What is asked: the kinds of things are keys of dicts, all else are words."""

    def words(count: int) -> list[str]:
        return random.choices(WORDS, k=count)

    def part() -> list[Any]:
        kind = random.choice([*KINDS])
        return [kind, words(KINDS[kind][0])]

    return {
        "about": words(5),  # version, tenant, model, and two tags
        "messages": [
            [random.choice(ROLES), words(random.randrange(2)), [part() for _ in range(random.randrange(3))]]
            for _ in range(random.randrange(1, 3))
        ],
        "tools": [words(2) for _ in range(random.randrange(3))],
        "stop": words(random.randrange(3)),
        "extra": [[word, words(1)] for word in dict.fromkeys(words(random.randrange(3)))],
        "metadata": [[word, words(1)] for word in dict.fromkeys(words(random.randrange(2)))],
        "numbers": [random.choice([None, 0, 1]) for _ in range(4)],
    }


def asked(plan: Plan, *, other_way: bool = False) -> bytes | None:
    """The key of what the plan says; `other_way` says the same in other words, and has it streamed."""
    version, tenant, model, x, y = plan["about"]
    seed, tokens, temperature, top_p = plan["numbers"]
    extra, metadata = ({key: value[0] for key, value in plan[name]} for name in ("extra", "metadata"))
    if other_way:
        extra = dict(reversed(extra.items()))
        temperature, top_p = (None if number is None else float(number) for number in (temperature, top_p))
    request = Request(
        "m" + model,
        [
            Message(role, [KINDS[kind][1](*words) for kind, words in parts], name=name[0] if name else None)
            for role, name, parts in plan["messages"]
        ],
        tools=[Tool(name, description) for name, description in plan["tools"]],
        stop=plan["stop"],
        extra=extra,
        metadata=metadata,
        seed=seed,
        max_tokens=tokens,
        temperature=temperature,
        top_p=top_p,
        stream=other_way,
    )
    call = Call(
        request, RUNTIME, provider=PROVIDER, tenant=tenant, tags={"x": x, "y": y, "z": str(other_way)}
    )
    return key_of(call, version, ("x", "y"))


def told(plan: Plan) -> str:
    """The plan, as what it is compared by: mappings have no order."""
    orderless = {name: sorted(plan[name]) for name in ("extra", "metadata")}
    return repr(list({**plan, **orderless}.items()))


def digest(said: str) -> bytes:
    return sha256(said.encode()).digest()


Slot = tuple[list[Any], int]


def slots(plan: Plan) -> list[Slot]:
    """Where the words of a plan stand, in order; but for the names of mappings, which must differ."""
    lists = [plan["about"]]
    for _, name, parts in plan["messages"]:
        lists += [name, *(words for _, words in parts)]
    lists += [*plan["tools"], plan["stop"]]
    lists += [value for name in ("extra", "metadata") for _, value in plan[name]]
    return [(words, place) for words in lists for place in range(len(words))]


def attacked(plan: Plan, random: Random) -> Plan:
    """Another plan, or the same if the attack came to nothing."""
    changed = deepcopy(plan)
    found = slots(changed)
    (one, i), (other, j) = random.sample(found, 2)
    at = random.randrange(len(found) - 1)
    (left, m), (right, n) = found[at : at + 2]
    match random.randrange(8):
        case 0:  # two fields swapped
            one[i], other[j] = other[j], one[i]
        case 1:  # what ends one field begins the next
            whole = left[m] + right[n]
            cut = random.randint(0, len(whole))
            left[m], right[n] = whole[:cut], whole[cut:]
        case 2:  # one field that looks like two
            left[m], right[n] = left[m] + random.choice(('","', '"],["', ",", "\0", "")) + right[n], ""
        case 3:  # a field that looks like another in it
            one[i] = f'{one[i]}","{other[j]}'
        case 4:  # the end of one list at the beginning of the next
            _move(changed, random)
        case 5:  # another kind of the same words
            _rename(changed, random)
        case 6:  # a number elsewhere
            random.shuffle(changed["numbers"])
        case 7:  # a word passed through by one name instead of another
            changed["extra"], changed["metadata"] = changed["metadata"], changed["extra"]
    return changed


def _move(plan: Plan, random: Random) -> None:
    messages = plan["messages"]
    parts = messages[0][2]
    if len(messages) > 1 and parts:
        messages[1][2].insert(0, parts.pop())
    elif plan["stop"] and plan["tools"]:
        plan["tools"][-1][1] += plan["stop"].pop(0)
    elif len(parts) > 1:
        messages.insert(1, [messages[0][0], [], [parts.pop()]])
    else:
        messages.append([random.choice(ROLES), [], []])


def _rename(plan: Plan, random: Random) -> None:
    message = random.choice(plan["messages"])
    if not message[2]:
        message[0] = random.choice(ROLES)
        return
    part = random.choice(message[2])
    alike = [kind for kind, (count, _) in KINDS.items() if count == len(part[1])]
    part[0] = random.choice(alike)


def test_no_attack_gives_two_requests_one_key() -> None:
    random, plans, changed, fresh = Random(2), {}, 0, 0
    plan = a_plan(random)
    for number in range(ATTACKS):
        if number % 20 == 0:  # a few attacks in a row, then another victim
            plan = a_plan(random)
        before, plan = plan, attacked(plan, random)
        key, said = asked(plan), told(plan)
        assert key is not None
        fresh += key not in plans
        assert plans.setdefault(key, digest(said)) == digest(said)
        if len(plans) > 2_000_000:  # some hundred bytes each
            plans.clear()
        changed += said != told(before)
        if number % 10 == 0:
            assert asked(plan, other_way=True) == key
    assert changed > ATTACKS / 2
    assert fresh > ATTACKS / 3
