"""Controllers on disk, without pickle, and controllers by name.

    FOLDER/controller.json     {"format": 1, "kind": KIND, …}; written last, so a kill leaves no half controller
    FOLDER/*.safetensors       weights
    FOLDER/encoder/            an encoder, as an ordinary run folder: `vidssl.load_encoder(FOLDER / "encoder")`

A kind is a class with `save(folder)` and a classmethod `load(folder)`, which gives an object with `fit_to(env) ->
Controller` that raises VidsslError when the environment's spaces are not those it was made for (see `spaces.Spaces`).
"""

import hashlib
import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from torch import Tensor

from vidssl.checkpoint import write_config, write_json, write_model
from vidssl.errors import VidsslError, unknown_name
from vidssl.features import FeatureExtractor

from .controllers import Controller
from .rollout import MakeController

FORMAT = 1
FILE = "controller.json"
PARTS = (".json", ".jsonl", ".safetensors", ".part")  # of files that saving writes beside the folder of the encoder
CONTROLLERS = {
    "chunk": "vidssl.robot.chunk_controller:ChunkController",
    "clone": "vidssl.robot.controllers:CloneController",
    "monitored": "vidssl.robot.monitored:MonitoredController",
    "planner": "vidssl.robot.planner:PlanController",
    "sb3": "vidssl.robot.policies:PolicyController",
}


def load_controller(name: str | Path) -> MakeController:
    """What makes the controllers that `name` stands for: env -> controller.

    Args:
        name: the folder of a saved controller; or `"module:Class"`, where Class(env) is a controller, of a module that
            is installed or lies in the current folder. A function env -> controller does as well.

    Raises VidsslError for a folder that holds no controller or a damaged one, and names that cannot be imported.
    """
    if isinstance(name, str) and ":" in name and not Path(name).exists():
        found = _imported(name)
        if not callable(found):
            raise VidsslError(
                f"controller {name!r}: a {type(found).__name__} is no class or function env -> controller"
            )
        return found
    saved = SavedController(Path(name))
    saved.load()  # a damaged one is an error now, not in the middle of an evaluation
    return saved


@dataclass(frozen=True)
class SavedController:
    """Makes the controllers of a folder; every process loads them by itself."""

    folder: Path

    def load(self) -> Any:
        """The object with `fit_to(env)`; raises VidsslError when the folder holds none."""
        return controller_class(read_controller(self.folder)["kind"]).load(self.folder)

    def __call__(self, env: gym.Env[Any, Any]) -> Controller:
        """The controller, checked against the environment's spaces."""
        controller: Controller = self.load().fit_to(env)
        return controller


def controller_class(kind: str) -> Any:
    """The class of a kind: a key of `CONTROLLERS`, or `"module:Class"` for one that lives elsewhere.

    Raises VidsslError for an unknown kind.
    """
    if kind not in CONTROLLERS and ":" not in kind:
        raise unknown_name("kind of controller", kind, CONTROLLERS)
    found = _imported(CONTROLLERS.get(kind, kind))
    if not (isinstance(found, type) and hasattr(found, "load")):
        raise VidsslError(f"controller kind {kind!r}: not a class with load(folder); install the package that wrote it")
    return found


def write_controller(folder: Path, kind: str, config: dict[str, Any]) -> None:
    """Write `controller.json`; call it after everything else of the folder is written."""
    write_json(folder / FILE, {"format": FORMAT, "kind": kind, **config})


def read_controller(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The content of `controller.json`; raises VidsslError when there is none, or one of another format or kind."""
    try:
        content: dict[str, Any] = json.loads((folder / FILE).read_text())
        found = content["format"], content["kind"]
    except OSError:
        message = "give a folder of OUT/controllers that `vidssl robot-eval` wrote, or module:Class"
        raise VidsslError(f"{folder} is no saved controller: it has no {FILE}; {message}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VidsslError(f"{folder / FILE} is damaged ({error!r}); make the controller again") from None
    if found[0] != FORMAT:
        raise VidsslError(
            f"{folder / FILE}: format {found[0]!r}, this vidssl reads format {FORMAT}; make the controller again"
        )
    if kind is not None and found[1] != kind:
        raise VidsslError(f"{folder} holds a controller of kind {found[1]!r}, needed {kind!r}")
    return content


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises VidsslError when it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise VidsslError(f"{file} is missing or damaged ({error}); make the controller again") from error


def is_controller(folder: Path) -> bool:
    """Whether a folder holds a saved controller."""
    return (folder / FILE).is_file()


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a saved controller, or only what a kill left of one that was being saved."""
    if is_controller(folder):
        return True
    left = list(folder.iterdir()) if (folder / "encoder").is_dir() else []
    return bool(left) and all(thing.name == "encoder" or thing.suffix in PARTS for thing in left)


def save_extractor(folder: Path, extractor: FeatureExtractor) -> None:
    """Write an encoder as a run folder that `vidssl.load_encoder` reads.

    Raises VidsslError for an extractor that does not know its architecture: one put together by hand, without `config`.
    """
    if "encoder" not in extractor.config:
        raise VidsslError(
            "this encoder does not know its own architecture, so it cannot be saved; take one from "
            'vidssl.load_encoder, or give FeatureExtractor a config with "encoder": {"name": …, "dim": …}'
        )
    context = None
    weights = {f"encoder.{name}": tensor for name, tensor in extractor.encoder.state_dict().items()}
    if extractor.context is not None:
        context = extractor.config["context"]
        weights |= {f"context.{name}": tensor for name, tensor in extractor.context.state_dict().items()}
    facts = {"image_size": list(extractor.image_size), "fps": extractor.fps, "output": extractor.output}
    write_model(folder, weights)
    write_config(folder, {**extractor.config, **facts, "context": context})


def identity(name: str | Path) -> str:
    """A short hash of what `name` stands for: of a folder's files, or of the source of the module's package (all its
    .py files; those beside the module when it is in none)."""
    if isinstance(name, str) and ":" in name and not Path(name).exists():
        _imported(name)
        source = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
        return hash_files(_sources(Path(source))) if source else name
    return hash_files(sorted(path for path in Path(name).rglob("*") if path.is_file()))


def _sources(module: Path) -> list[Path]:
    package = None
    folder = module.parent
    while (folder / "__init__.py").is_file():
        package, folder = folder, folder.parent
    found = module.parent.glob("*.py") if package is None else package.rglob("*.py")
    return sorted({module, *found})


def hash_files(files: list[Path]) -> str:
    """A short hash of files' names and contents, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # and so in the processes started from this one
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise VidsslError(
            f"controller {name!r}: {error}; write it as module:Class, with the module installed or in this folder"
        ) from error
