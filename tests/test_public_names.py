"""The public names of the package: loaded when they are used, and the same in all lists."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmsteer


def imports_for_type_checkers() -> dict[str, str]:
    """Name and module of each import under ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(lmsteer.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_the_names_for_type_checkers_are_the_names_that_load():
    assert imports_for_type_checkers() == lmsteer._MODULE_OF
    assert set(lmsteer.__all__) == set(lmsteer._MODULE_OF)
    assert set(lmsteer.__all__) <= set(dir(lmsteer))


@pytest.mark.parametrize("name", lmsteer.__all__)
def test_every_public_name_resolves(name):
    value = getattr(lmsteer, name)
    assert value.__module__.startswith(lmsteer._MODULE_OF[name].rsplit(".", 1)[0])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lmsteer.nothing


def test_the_docstring_names_every_folder():
    folders = {init.parent.name for init in Path(lmsteer.__file__).parent.glob("*/__init__.py")}
    assert folders == {line.split("``")[1] for line in (lmsteer.__doc__ or "").splitlines() if line.startswith("- ``")}


def test_importing_the_package_imports_no_torch():
    code = "import sys, lmsteer; dir(lmsteer); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
