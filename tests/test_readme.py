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


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = tyro.cli

    def only_parse(*given: Any, **options: Any) -> None:
        parse(*given, **options)
        raise Parsed

    monkeypatch.setattr(tyro, "cli", only_parse)
    with pytest.raises(Parsed):
        main(shlex.split(line, comments=True))


def test_there_are_commands_to_check() -> None:
    assert len(set(commands())) > 25


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
