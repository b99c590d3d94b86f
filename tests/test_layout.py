"""Imports point one way, and what is asked for often stays light: `import vidssl` and `vidssl --help`."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidssl.scripts.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "mujoco", "cv2", "av", "gymnasium"}
HEAVY |= {"sklearn", "scipy", "open3d", "matplotlib", "tensorboard"}
LIGHT_ENOUGH = {"numpy"}  # for the help of a command that reads data by it
# A layer may import itself and those before it.
LAYERS = ("vidssl", "vidssl.datasets", "vidssl.robot", "vidssl.scripts")
AT_TOP = {"datasets", "robot", "scripts"}  # never imported by these names: they are other projects'
FOLDERS = {"vidssl": "vidssl", "datasets": "vidssl.datasets", "robot": "vidssl.robot", "scripts": "vidssl.scripts"}


def layer(module: str) -> int | None:
    """The layer of a dotted name, None for other projects' modules."""
    inside = [number for number, name in enumerate(LAYERS) if module == name or module.startswith(f"{name}.")]
    return max(inside, default=None)


def modules() -> Iterator[tuple[str, Path]]:
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            relative = path.relative_to(ROOT / folder)
            if folder != "vidssl" or relative.parts[0] not in FOLDERS:  # the links show the other folders again
                yield ".".join((package, *relative.with_suffix("").parts)).removesuffix(".__init__"), path


def imported(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that a module imports, anywhere in it, or names as a `"module:Class"` string."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"vidssl(\.\w+)+(:\w+)?", str(node.value)):
            yield node.lineno, str(node.value).partition(":")[0]


def test_imports_point_one_way() -> None:
    wrong = []
    for module, path in modules():
        own = layer(module)
        assert own is not None
        for line, name in imported(module, path):
            target = layer(name)
            if name.partition(".")[0] in AT_TOP or (target is not None and target > own):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from . import clips", ["vidssl.datasets.clips"]),
        ("from .clips import ClipLoader", ["vidssl.datasets.clips.ClipLoader"]),
        ("from ..robot import rover", ["vidssl.robot.rover"]),
        ("def f():\n    import vidssl.robot.rover", ["vidssl.robot.rover"]),
        ("id = 'vidssl.robot.rover:Rover'", ["vidssl.robot.rover"]),
    ],
)
def test_the_import_reader_sees_all_forms(source: str, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "video.py"
    path.write_text(source)
    assert [name for _, name in imported("vidssl.datasets.video", path)] == names


def fresh(code: str) -> str:
    """Print of `code` in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("use", ["import vidssl", "from vidssl.scripts.cli import main; main(['--help'])"])
def test_light_uses_import_nothing_heavy(use: str) -> None:
    assert fresh(f"import sys; {use}; print(sorted({HEAVY | LIGHT_ENOUGH!r} & set(sys.modules)))") == "[]"


def test_no_help_imports_anything_heavy() -> None:
    code = f"""
import sys
from vidssl.scripts.cli import COMMANDS, main
found = []
for name in COMMANDS:  # in one process: the first that is named imported it
    try:
        main([name, "--help"])
    except SystemExit:
        found += [(name, heavy) for heavy in {HEAVY!r} & set(sys.modules)]
print(found[:1])
"""
    assert fresh(code) == "[]"


def test_what_is_lazy_shows_in_a_listing() -> None:
    assert fresh("import vidssl; print({*vidssl.__all__} <= {*dir(vidssl)})") == "True"


def test_help_costs_little() -> None:
    # processor seconds, not the clock: other work on the machine does not count
    used = fresh("import time; from vidssl.scripts.cli import main; main(['--help']); print(time.process_time())")
    assert float(used) < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(importlib.import_module(f"vidssl.scripts.{name.replace('-', '_')}").main)
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Example" in shown
    assert f"vidssl {name} " in shown.partition("Example")[2]
