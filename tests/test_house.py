"""Imports in ``flask_safesession`` run downward only; on one floor, never in a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flask_safesession"

# The layers, from the ground up. A package stands with all that is in it; `__init__` is the
# package itself.
LAYERS = (
    ("model", "errors", "events"),
    ("stores",),
    ("config",),
    ("web",),
    ("admin", "testing"),
    ("extension",),
    ("__init__", "dashboard", "heartbeat", "instrumentation"),
)
FLOORS = {name: floor for floor, names in enumerate(LAYERS, 1) for name in names}

Imports = dict[str, set[str]]


def faults(package: Path) -> list[str]:
    """Say what is wrong with the imports between the modules of ``package``."""
    imports = read(package)
    homeless = [
        f"{name}: a new file? Give it a layer in LAYERS, tests/test_house.py"
        for name in imports
        if room(name) not in FLOORS
    ]
    return homeless or [*upward(imports), *circles(imports)]


def upward(imports: Imports) -> Iterator[str]:
    for name, targets in imports.items():
        for target in sorted(targets):
            here, there = FLOORS[room(name)], FLOORS[room(target)]
            if there > here:
                yield f"{name} (floor {here}) imports {target} (floor {there}): that is upward"


def circles(imports: Imports) -> Iterator[str]:
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        yield f"a circle: {' <- '.join(error.args[1])}"


def room(name: str) -> str:
    return name.partition(".")[0]


def read(package: Path) -> Imports:
    """Map each module of ``package`` to those of its modules that it imports anywhere."""
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {
        name: {
            module
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for dotted in imported(node, path.relative_to(package.parent))
            if (module := nearest(dotted, package.name, files)) not in {None, name}
        }
        for name, path in files.items()
    }


def module_name(path: Path, package: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the absolute names that an import statement in the file ``path`` asks for."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        above = path.parts[: -node.level] if node.level else ()
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def nearest(dotted: str, package: str, files: dict[str, Path]) -> str | None:
    """Find the module that a name is, or is in; ``None`` for another project's."""
    top, *parts = dotted.split(".")
    if top != package:
        return None
    for end in range(len(parts), 0, -1):
        if (name := ".".join(parts[:end])) in files:
            return name
    return "__init__"


def test_imports_run_downward_only() -> None:
    assert faults(PACKAGE) == []


def test_every_room_with_a_floor_stands() -> None:
    assert {room(name) for name in read(PACKAGE)} == set(FLOORS)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Build a small sound house, in which tests then do something wrong."""
    package = tmp_path / "house"
    (package / "stores").mkdir(parents=True)
    write = {
        "__init__.py": "from .extension import E\n",
        "errors.py": "import os\n",
        "model.py": "from .errors import Wrong\n",
        "stores/__init__.py": "from .memory import Memory\n",
        "stores/base.py": "from ..errors import Wrong\n",
        "stores/memory.py": "from .base import Store\nfrom house import model\n",
        "web.py": "import house.stores.base\nfrom flask import session\n",
        "extension.py": "from . import stores, web\n",
    }
    for name, text in write.items():
        (package / name).write_text(text)
    return package


@pytest.mark.parametrize(
    "line",
    [
        "from .web import Session",
        "from . import web",
        "from house import web as w",
        "from house.web import Session",
        "import house.web",
        "def late():\n    from .web import Session",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .web import Session",
    ],
)
def test_an_upward_import_is_found_however_it_is_written(house: Path, line: str) -> None:
    (house / "errors.py").write_text(line)
    assert "errors (floor 1) imports web (floor 4): that is upward" in faults(house)


def test_a_circle_on_one_floor_is_found(house: Path) -> None:
    (house / "stores" / "base.py").write_text("from .memory import Memory")
    [fault] = faults(house)
    assert fault.startswith("a circle: ")
    assert "stores.base" in fault
    assert "stores.memory" in fault
