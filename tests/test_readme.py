"""The commands that README and RESULTS show are ones that the command line takes, and the Python compiles."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tyro

from vidssl.scripts.cli import main

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "RESULTS.md")


class Parsed(Exception):
    """The command line was understood; the command is not run."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def commands() -> Iterator[str]:
    """Every `vidssl …` in a console block, and in backticks where nothing is left out."""
    for page in PLACES:
        for block in blocks(page, "console"):
            yield from re.findall(r"^\$ vidssl (.*)$", block.replace("\\\n", " "), re.MULTILINE)
        prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        inline = (" ".join(text.split()) for text in re.findall(r"`vidssl ([^`]*)`", prose))
        yield from (text for text in inline if " " in text and not re.search(r"\b[A-Z]{3,}\b|…", text))


def benchmarks() -> Iterator[tuple[str, str]]:
    """Module and arguments of every `python -m vidssl.scripts.…`."""
    for page in PLACES:
        text = " ".join((ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ").split())
        yield from re.findall(r"`[^`]*?python -m (vidssl\.scripts\.\w+)([^`]*)`", text)


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a command raise `Parsed` where it would begin its work."""
    parse = tyro.cli

    def stop(*given: Any, **options: Any) -> None:
        parse(*given, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", stop)


@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_parses(line: str) -> None:
    with pytest.raises(Parsed):
        main(shlex.split(line, comments=True))


@pytest.mark.usefixtures("only_parse")
@pytest.mark.parametrize(("module", "arguments"), sorted(set(benchmarks())))
def test_a_benchmark_parses(module: str, arguments: str) -> None:
    with pytest.raises(Parsed):
        importlib.import_module(module).main(shlex.split(arguments))


def test_there_are_commands_to_check() -> None:
    assert len(set(commands())) > 25
    assert len(set(benchmarks())) > 10


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "scripts").glob("bench_*.py")))
def test_every_benchmark_says_how_it_is_used(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"vidssl.scripts.{module}").main(["--help"])
    assert stopped.value.code == 0
    assert "usage: " in capsys.readouterr().out


def imported() -> Iterator[tuple[str, str]]:
    """Every name that a Python block takes from this package, and the module that it is said to be in."""
    for page in (*PLACES, "CONTRIBUTING.md"):
        for block in blocks(page, "python"):
            tree = ast.parse(block, page)
            compile(tree, page, "exec")
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vidssl"):
                    yield from ((str(node.module), alias.name) for alias in node.names)
                elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vidssl":
                    yield "vidssl", node.attr


@pytest.mark.parametrize(("module", "name"), sorted(set(imported())))
def test_what_python_imports_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


def test_there_is_python_to_check() -> None:
    assert {("vidssl", "load_encoder"), ("vidssl.robot.safety", "SafetyMonitor")} <= set(imported())
