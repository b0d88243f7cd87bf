from __future__ import annotations

import asyncio
from textwrap import dedent

import pytest

from llmpipe.testing.loop import VirtualTimeLoop

CHECK = """
import asyncio
import pytest

def kind():
    return type(asyncio.get_running_loop()).__name__
"""


ASYNCIO = "asyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"


@pytest.fixture
def project(pytester: pytest.Pytester):
    """Runs pytest in a project of its own, which has the plugin as any project would."""

    def run(tests: str, *args: str, ini: str = ASYNCIO) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        pytester.makepyfile(CHECK + dedent(tests))
        return pytester.runpytest_inprocess("-p", "llmpipe.testing.pytest_plugin", "--strict-markers", *args)

    return run


async def test_this_suite_runs_under_virtual_time():
    before = asyncio.get_running_loop().time()
    await asyncio.sleep(600)
    assert asyncio.get_running_loop().time() == before + 600


@pytest.mark.real_time
async def test_and_a_test_of_it_may_ask_for_real_time():
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


def test_only_marked_tests_get_the_loop_unless_the_setting_says_all(project):
    tests = """
    @pytest.mark.virtual_time
    async def test_marked():
        assert kind() == "VirtualTimeLoop"

    async def test_plain(request):
        everywhere = request.config.getini("llmpipe_virtual_time")
        assert kind() == ("VirtualTimeLoop" if everywhere else "_UnixSelectorEventLoop")

    @pytest.mark.real_time
    async def test_real():
        assert kind() == "_UnixSelectorEventLoop"

    def test_sync():
        pass
    """
    project(tests).assert_outcomes(passed=4)
    project(tests, ini=ASYNCIO + "llmpipe_virtual_time = true").assert_outcomes(passed=4)


def test_a_project_that_does_not_ask_keeps_its_tests_as_they_are(project):
    result = project(
        """
    async def test_plain(request):
        assert request.node.name == "test_plain"
        assert not request.config.pluginmanager.has_plugin("llmpipe-loop-factories")
    """
    )
    result.assert_outcomes(passed=1)


def test_async_fixtures_share_the_loop_of_their_test(project):
    result = project(
        """
    @pytest.fixture
    async def since():
        await asyncio.sleep(100)
        yield asyncio.get_running_loop().time()
        await asyncio.sleep(100)
        assert asyncio.get_running_loop().time() == 300.0

    @pytest.mark.virtual_time
    async def test_it(since):
        await asyncio.sleep(100)
        assert asyncio.get_running_loop().time() == since + 100 == 200.0
    """
    )
    result.assert_outcomes(passed=1)


def test_a_seed_comes_from_the_option_and_the_marker_s_own_wins(project):
    result = project(
        """
    @pytest.mark.virtual_time
    async def test_option():
        assert asyncio.get_running_loop().seed == 7

    @pytest.mark.virtual_time(seed=None, start=50.0)
    async def test_marker():
        assert asyncio.get_running_loop().seed is None
        assert asyncio.get_running_loop().time() == 50.0
    """,
        "--llmpipe-seed=7",
    )
    result.assert_outcomes(passed=2)


def test_a_project_with_loop_factories_of_its_own_keeps_them(project, pytester: pytest.Pytester):
    pytester.makeconftest(
        """
        import asyncio

        class Own(asyncio.SelectorEventLoop):
            pass

        def pytest_asyncio_loop_factories(config, item):
            return {"own": Own}
        """
    )
    result = project(
        """
    @pytest.mark.virtual_time
    async def test_marked():
        assert kind() == "VirtualTimeLoop"

    async def test_plain():
        assert kind() == "Own"
    """
    )
    result.assert_outcomes(passed=2)


def test_a_test_that_can_never_end_fails_with_the_reason(project):
    result = project(
        """
    @pytest.mark.virtual_time
    async def test_hangs():
        await asyncio.Event().wait()

    @pytest.mark.virtual_time
    async def test_next():
        await asyncio.sleep(1)
    """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Deadlock: nothing is ready*", "*in test_hangs*"])


def test_without_pytest_asyncio_a_marked_test_says_what_it_needs(project):
    result = project(
        "@pytest.mark.virtual_time\nasync def test_marked():\n    pass", "-p", "no:asyncio", ini=""
    )
    assert "virtual time needs pytest-asyncio 1.4 or newer" in result.stdout.str() + result.stderr.str()
    assert result.ret != 0
