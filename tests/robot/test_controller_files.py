"""Controllers come back from disk as they were, by folder or by name; what does not fit says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_env
import torch

from vidssl import load_encoder
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.robot import controller_files, spaces
from vidssl.robot.arms import Architecture
from vidssl.robot.controller_files import SavedController, identity, load_controller, save_extractor
from vidssl.robot.controllers import CloneController, Head, build_head
from vidssl.robot.evaluate import evaluate_policy

TINY = "tiny_env:Tiny-v0"


def clone(context: str | None = None) -> CloneController:
    extractor = Architecture("small-motion", (32, 32), context, 16 if context else None).untrained(3)
    torch.manual_seed(0)
    head = Head(extractor.dim + 2, 2, hidden=8, dropout=0.3)
    head.mean.uniform_()
    return CloneController(extractor, head, np.float32([-1, -1]), np.float32([1, 1]))


@pytest.mark.parametrize("context", [None, "gru"])
def test_a_clone_comes_back(tmp_path: Path, context: str | None) -> None:
    policy = clone(context)
    policy.save(tmp_path / "clone")
    back = load_controller(tmp_path / "clone")
    before, after = (evaluate_policy(make, TINY, 3) for make in (policy.fit_to, back))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x.actions, y.actions)
    assert isinstance(back, SavedController)
    assert back.load().head.config == policy.head.config
    assert load_encoder(tmp_path / "clone" / "encoder").dim == policy.extractor.dim


def test_head_config_makes_the_head_again() -> None:
    head = Head(5, 2, hidden=7, dropout=0.2)
    again = build_head(json.loads(json.dumps(head.config)))
    again.load_state_dict(head.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(again.eval()(x), head.eval()(x))
    with pytest.raises(VidsslError, match=r"unknown head 'lstm'.*mlp"):
        build_head({**head.config, "kind": "lstm"})


def test_other_spaces_are_named() -> None:
    policy = clone()
    policy.fit_to(tiny_env.TinyEnv())
    with pytest.raises(VidsslError, match="made for 2 numbers of proprioception, the environment gives 0"):
        policy.fit_to(tiny_env.TinyEnv(bare=True))
    env: Any = tiny_env.TinyEnv()
    env.action_space = type(env.action_space)(-2, 2, (3,), np.float32)
    with pytest.raises(VidsslError, match=r"actions \[2\] in \[-1.0, -1.0\].*takes \[3\] in \[-2.0, -2.0, -2.0\]"):
        policy.fit_to(env)


def test_encoders_of_another_rate_or_size_are_noted() -> None:
    env = tiny_env.TinyEnv(size=48)
    moving = Architecture("small-motion", (32, 32)).untrained(0, fps=30.0)
    size, rate = spaces.encoder_notes(moving, env)
    assert "images of 32x32, the camera gives 48x48" in size
    assert "30 frames/s, the camera gives 10" in rate
    still = Architecture("control", (48, 48)).untrained(0, fps=30.0)
    assert spaces.encoder_notes(still, env) == []


def test_controllers_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pilot_by_name.py").write_text(
        "class Pilot:\n"
        "    def __init__(self, env): self.space = env.action_space\n"
        "    def reset(self): pass\n"
        "    def __call__(self, observation): return self.space.high\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(".")  # restores sys.path
    assert {r.failure for r in evaluate_policy(load_controller("pilot_by_name:Pilot"), TINY, 2)} == {"border"}
    before = identity("pilot_by_name:Pilot")
    (tmp_path / "pilot_by_name.py").write_text("# another pilot\n")
    assert identity("pilot_by_name:Pilot") != before
    before = identity("pilot_by_name:Pilot")
    (tmp_path / "pilot_helper.py").write_text("GAIN = 2\n")
    assert identity("pilot_by_name:Pilot") != before, "what lies beside it"
    with pytest.raises(VidsslError, match="a int is no class or function"):
        load_controller("os:EX_USAGE")
    for name in ("pilot_by_name:Captain", "no_such_module:Pilot"):
        with pytest.raises(VidsslError, match=rf"controller '{name}'.*write it as module:Class"):
            load_controller(name)


def test_a_package_is_hashed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "pilot_package" / "inner"
    inner.mkdir(parents=True)
    for file in (inner.parent / "__init__.py", inner / "__init__.py", inner / "pilot.py", inner.parent / "tools.py"):
        file.write_text("class Pilot: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = identity("pilot_package.inner.pilot:Pilot")
    (tmp_path / "other.py").write_text("")
    assert identity("pilot_package.inner.pilot:Pilot") == before
    (inner.parent / "tools.py").write_text("GAIN = 2\n")
    assert identity("pilot_package.inner.pilot:Pilot") != before


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=r"nowhere is no saved controller.*or module:Class"):
        load_controller(tmp_path / "nowhere")
    folder = tmp_path / "clone"
    clone().save(folder)
    hashed = identity(folder)
    file = folder / "controller.json"
    good = json.loads(file.read_text())
    cases: list[tuple[Any, str]] = [
        ("{", "damaged"),
        ({**good, "format": 9}, "format 9, this vidssl reads format 1"),
        ({**good, "kind": "toaster"}, r"unknown kind of controller 'toaster'.*clone"),
        ({**good, "kind": "json:loads"}, "not a class with load"),
        ({**good, "head": {**good["head"], "hidden": 9}}, "damaged"),
        ({**good, "head": {}}, "damaged"),
    ]
    for content, message in cases:
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(VidsslError, match=message):
            load_controller(folder)
    assert identity(folder) != hashed
    file.write_text(json.dumps(good))
    (folder / "head.safetensors").unlink()
    with pytest.raises(VidsslError, match=r"head.safetensors is missing or damaged"):
        load_controller(folder)
    with pytest.raises(VidsslError, match="kind 'clone', needed 'chunk'"):
        controller_files.read_controller(folder, "chunk")


def test_an_encoder_without_config_is_not_saved(tmp_path: Path) -> None:
    encoder = Architecture("control", (32, 32)).untrained(0).encoder
    with pytest.raises(VidsslError, match="does not know its own architecture"):
        save_extractor(tmp_path / "encoder", FeatureExtractor(encoder, None, (32, 32)))
    assert not (tmp_path / "encoder").exists()
