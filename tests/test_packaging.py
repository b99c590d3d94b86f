"""What is installed: the wheel's content, the same from the sdist, and other projects' `datasets` left alone."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where each folder is installed. The links vidssl/{datasets,robot,scripts} show the same files a second time.
INSTALLED = {"vidssl": "vidssl", "datasets": "vidssl/datasets", "robot": "vidssl/robot", "scripts": "vidssl/scripts"}
LINKS = ("datasets", "robot", "scripts")


def sources(folder: str, root: Path = ROOT) -> list[Path]:
    """Files of one folder of the tree, relative to it, that an installation needs: all but shell scripts and caches."""

    def needed(path: Path) -> bool:
        linked = folder == "vidssl" and path.parts[0] in LINKS
        return not linked and path.suffix != ".sh" and not {"__pycache__", ".DS_Store"} & set(path.parts)

    files = (path.relative_to(root / folder) for path in (root / folder).rglob("*") if path.is_file())
    return [path for path in files if needed(path)]


def package_files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(name for name in archive.namelist() if ".dist-info/" not in name)


def metadata(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [entry for entry in archive.namelist() if re.fullmatch(rf"[^/]+\.dist-info/{name}", entry)]
        return archive.read(path).decode()


def build(tree: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(tree)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]


def python(code: str, *, cwd: Path, path: Path | None = None) -> str:
    """Run `code` in a fresh interpreter, `path` in front of what is installed; returns what it prints."""
    environment = {"PYTHONPATH": str(path)} if path else {}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`direct/` holds the wheel of the tree, `dist/` the sdist and the wheel made from it."""
    base = tmp_path_factory.mktemp("packaging")
    tree = base / "tree"
    for folder in INSTALLED:  # a copy: setuptools writes build/ and an egg-info beside what it builds
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    build(tree, base / "direct", "--wheel")
    shutil.rmtree(tree / "build")
    build(tree, base / "dist")
    return base


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (path,) = (dist / "direct").glob("*.whl")
    return path


def test_the_wheel_holds_every_file_once_below_vidssl(dist: Path, wheel: Path) -> None:
    files = package_files(wheel)
    tree = [(target, path) for folder, target in INSTALLED.items() for path in sources(folder, dist / "tree")]
    assert [name for name, count in Counter(files).items() if count > 1] == []
    assert files == sorted(f"{target}/{path.as_posix()}" for target, path in tree)
    assert "vidssl/py.typed" in files
    assert {name.split("/")[0] for name in files} == {"vidssl"}  # no top-level datasets, robot, scripts or tests
    assert {name.split("/")[1] for name in files} >= set(LINKS)


def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    here = {
        ".".join((target, *path.parent.parts)).replace("/", ".")
        for folder, target in INSTALLED.items()
        for path in sources(folder)
        if path.suffix == ".py"
    }
    assert set(settings["packages"]) == here
    assert settings["package-dir"] == {target.replace("/", "."): folder for folder, target in INSTALLED.items()}


def test_packages_have_an_init_but_the_three_that_must_not() -> None:
    for folder in INSTALLED:
        for directory in {path.parent for path in sources(folder) if path.suffix == ".py"}:
            has_init = (ROOT / folder / directory / "__init__.py").exists()
            assert has_init != (folder in LINKS and directory == Path()), f"{folder}/{directory}"


def test_metadata_and_entry_points(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = email.message_from_string(metadata(wheel, "METADATA"))
    assert (about["Name"], about["Version"]) == ("vidssl", project["version"])
    assert about["License-Expression"] == "Apache-2.0"
    assert "vidssl" in about.get_payload()  # the README
    assert "Apache License" in metadata(wheel, "licenses/LICENSE")
    entries = metadata(wheel, "entry_points.txt")
    assert "[console_scripts]\nvidssl = vidssl.scripts.cli:main" in entries


def test_the_version_is_said_once() -> None:
    import vidssl

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == vidssl.__version__


def test_the_sdist_builds_the_same_wheel(dist: Path, wheel: Path) -> None:
    (again,) = (dist / "dist").glob("*.whl")
    assert package_files(again) == package_files(wheel)
    (sdist,) = (dist / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        assert not any(member.issym() for member in archive)
    assert {"pyproject.toml", "LICENSE", "README.md", "vidssl/__init__.py", "scripts/cli.py"} <= set(names)


def test_the_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import vidssl.scripts.cli as cli, sys; print(cli.__file__); sys.exit(cli.main(['--version']))"
    where, version = python(code, cwd=tmp_path, path=site).splitlines()
    assert where == str(site / "vidssl" / "scripts" / "cli.py")
    assert version.startswith("vidssl ")
    found = "from importlib.util import find_spec; print([name for name in ('datasets', 'robot') if find_spec(name)])"
    assert python(found, cwd=tmp_path, path=site) == "[]"


@pytest.mark.parametrize("folder", ["datasets", "robot"])
def test_another_projects_package_wins_from_the_repository_root(folder: str, tmp_path: Path) -> None:
    theirs = tmp_path / folder
    theirs.mkdir()
    (theirs / "__init__.py").write_text("load_dataset = 'theirs'\n")
    module = f"vidssl.{folder}.{min(path.stem for path in sources(folder) if path.suffix == '.py')}"
    code = f"""
import sys
assert sys.path[0] == ""  # the repository root comes first, as for anyone who runs python there
sys.path.append({str(tmp_path)!r})  # and site-packages comes late
import {folder}
from importlib.util import find_spec
print({folder}.load_dataset, find_spec({module!r}).origin)
"""
    name, origin = python(code, cwd=ROOT).split()
    assert name == "theirs"
    assert Path(origin).resolve() == ROOT / folder / f"{module.rpartition('.')[2]}.py"
