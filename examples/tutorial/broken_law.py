"""A middleware with a fault that its author did not see, and what `conform` finds."""

# region use
from llmpipe import Call, Handler, Reply, layer
from llmpipe.testing import ConformError, conform, run


@layer(priority=750)
async def persistent(call: Call, call_next: Handler) -> Reply:
    """Tries once more, whatever happened."""
    try:
        return await call_next(call)
    except BaseException:  # noqa: BLE001  this is the fault: cancellation is no failure
        return await call_next(call)


try:
    run(conform(persistent, only="full/ok"))
except ConformError as broken:
    print("broken:", *broken.laws)
    for violation in broken.violations[:3]:
        print("in case", violation.case)
# endregion use
