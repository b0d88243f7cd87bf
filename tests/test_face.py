"""What `import llmpipe` promises to those who look round in it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llmpipe

FACE = Path(llmpipe.__file__)
ROOT = FACE.parents[1]
PARTS = {
    path.stem for path in FACE.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
}


@pytest.mark.parametrize("part", sorted(PARTS - {"__init__", "__main__", "cli"}))
def test_a_part_of_the_package_is_there_without_an_import_of_its_own(part):
    """A type checker takes `llmpipe.errors.RateLimited` for good, so it must be."""
    code = f"import llmpipe; assert llmpipe.{part}.__name__ == 'llmpipe.{part}'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_type_checkers_see_the_names_that_programs_see():
    """The imports for type checkers, `__all__` and the table that is read at run time say the same."""
    block = next(node for node in ast.parse(FACE.read_text()).body if isinstance(node, ast.If))
    checked = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert tuple(sorted(checked)) == llmpipe.__all__
    for name, module in checked.items():
        assert getattr(llmpipe, name) is getattr(__import__(module, fromlist=[name]), name)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'llmpipe' has no attribute 'Retyr'"):
        llmpipe.Retyr  # noqa: B018  asking is the test
