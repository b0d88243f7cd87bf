"""A Python function as a tool: its name, its words and its schema are read off the function."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Optional, get_args, get_origin, overload

from attrs import field, frozen

from llmpipe.errors import ConfigError
from llmpipe.tools.arguments import checked, structured
from llmpipe.tools.docstring import described
from llmpipe.tools.schema import NOTHING, Member, object_schema, resolved
from llmpipe.types import Tool
from llmpipe.types.json_schema import schema_problems

__all__ = ("Function", "as_tool", "tool")

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what all providers take


@frozen
class Function:
    """A tool and the function that answers for it. Called, it is that function.

    Made by `tool`. Made by hand, ``Function(Tool("name", "...", schema), function)``, it calls the
    function with the arguments as the model wrote them, once they fit the schema.

    Attributes:
        tool: what the model sees; for ``Request.tools`` where there is no loop.
        function: plain or async. A plain one runs in a worker thread.
        timeout: seconds it may take; None leaves it to the loop.
        members: the arguments and their hints, None where the schema was given.
    """

    tool: Tool
    function: Callable[..., Any] = field(repr=False)
    timeout: float | None = None
    members: Mapping[str, Member] | None = field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        spec: Any = self.tool
        if not isinstance(spec, Tool) or not callable(self.function):
            raise ConfigError(
                "a Function is a Tool and the function that answers for it; see llmpipe.tools.tool"
            )
        check_tool(self.tool)
        core = _unbound(self.function)
        if inspect.isgeneratorfunction(core) or inspect.isasyncgenfunction(core):
            raise ConfigError(
                f"tool {self.name!r} is a generator, of which a model can see nothing; return a list"
            )
        timeout: Any = self.timeout
        if timeout is not None and (not isinstance(timeout, int | float) or not timeout > 0):
            raise ConfigError(f"tool {self.name!r}: timeout is {timeout!r}; expected seconds, more than 0")

    @property
    def name(self) -> str:
        """What the model calls it by."""
        return self.tool.name

    @property
    def is_async(self) -> bool:
        """Whether calling it gives something to await."""
        function: Any = _unbound(self.function)
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  whether it is async, not whether there is one
        )

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What to call the function with, from the JSON that a model wrote.

        Raises: llmpipe.tools.arguments.WrongArguments that says what is wrong with it.
        """
        checked(given, self.tool.parameters)
        return dict(given) if self.members is None else structured(given, self.members)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives, called as in Python."""
        return self.function(*args, **kwargs)


@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = ...,
    description: str | None = ...,
    strict: bool | None = ...,
    timeout: float | None = ...,
) -> Function: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], Function]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    strict: bool | None = None,
    timeout: float | None = None,
) -> Function | Callable[[Callable[..., Any]], Function]:
    """The tool that `function` is: ``@tool``, ``@tool(timeout=5)`` or ``tool(function)``.

    Its schema comes from the type hints (see `llmpipe.tools.schema`), its description from the docstring,
    those of the arguments from ``Args:`` or ``Annotated[str, "..."]``. Arguments with a default may be
    left out by the model.

    Args: strict asks the provider to hold the model to the schema; timeout is in seconds.
    Raises: ConfigError for an argument without a type hint, or with one that has no schema.
    """

    def make(function: Callable[..., Any]) -> Function:
        if not callable(function):
            raise ConfigError(f"a tool is made of a function, not of a {type(function).__name__}")
        core = _unbound(function)
        called = name or str(getattr(core, "__name__", type(core).__name__))
        text, says = described(core)
        members = _members(function, called, says)
        spec = Tool(
            called,
            text if description is None else description,
            object_schema(members, where=f"tool {called!r}, argument"),
            strict,
        )
        return Function(spec, function, timeout, {member.name: member for member in members})

    return make if function is None else make(function)


def as_tool(given: object) -> Function | Tool:
    """A tool from what people list: a `Function`, a function, or a `Tool` that nobody here answers for.

    Raises: ConfigError for anything else.
    """
    if isinstance(given, Function):
        return given
    if isinstance(given, Tool):
        check_tool(given)
        return given
    if callable(given) and not isinstance(given, type):
        return tool(given)
    what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    raise ConfigError(f"{what} is no tool; expected a function, a Function or a Tool")


def check_tool(spec: Tool) -> None:
    """Raises: ConfigError for a name that providers refuse, and for parameters that are no JSON Schema."""
    name: Any = spec.name
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"the name of a tool is {name!r}; expected 1 to 64 of A-Z, a-z, 0-9, _ and -")
    if problems := schema_problems(spec.parameters):
        told = "; ".join(f"{path}: {problem}" for path, problem in problems[:5])
        raise ConfigError(f"tool {name!r}: its parameters are no JSON Schema: {told}")


def _unbound(function: Any) -> Any:
    """What a partial is one of."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _settled(function: Any) -> set[str]:
    """The keywords that a partial settles: they are the program's, and no model may say otherwise."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names.update(function.keywords)
        function = function.func
    return names


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint in (None, Any, object) or type(None) in get_args(hint) or None in get_args(hint)


def _members(function: Callable[..., Any], name: str, says: Mapping[str, str]) -> list[Member]:
    inner = _unbound(function)
    plain = inspect.isroutine(inner)
    hints = resolved(inner if plain else type(inner).__call__, f"tool {name!r}")
    settled = _settled(function)
    members = []
    for place, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.name in settled:
            continue
        at = f"tool {name!r}, argument {parameter.name!r}"
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(
                f"{at}: a model gives each argument by its name, which {parameter} does not take"
            )
        if parameter.name not in hints:
            method = not place and parameter.name in ("self", "cls")
            right = "; of a method, make a tool of what is bound: tool(thing.method)" if method else ""
            raise ConfigError(f"{at}: has no type hint, so the model cannot be told what it is{right}")
        has_default = parameter.default is not parameter.empty
        hint = hints[parameter.name]
        if parameter.default is None and not _takes_none(hint):
            hint = Optional[hint]  # noqa: UP045  which `|` cannot say of every hint; people mean it, models write it
        members.append(
            Member(
                parameter.name,
                hint,
                parameter.default if has_default else NOTHING,
                says.get(parameter.name, ""),
                not has_default,
            )
        )
    return members
