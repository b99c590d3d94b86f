"""The benchmark of the safety monitor runs whole, and its figures are what they say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vidssl.checkpoint import write_config, write_model
from vidssl.encoders import build_encoder
from vidssl.errors import VidsslError
from vidssl.robot import expert
from vidssl.robot.safety_trials import Arm, Scored, Trial, auroc, claim_drives, pooled
from vidssl.scripts.bench_safety import main

sys.path.append(str(Path(__file__).parents[1] / "robot"))
import tiny_env


@pytest.fixture
def tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(expert.EXPERTS, "Tiny-v0", tiny_env.TinyExpert)
    torch.manual_seed(0)
    encoder = build_encoder("control", (32, 32))
    facts = {"context": None, "output": "encoder", "image_size": [32, 32], "fps": 10.0}
    write_config(tmp_path / "run", {"encoder": {"name": "control", "dim": encoder.dim}, **facts})
    write_model(tmp_path / "run", {f"encoder.{name}": w for name, w in encoder.state_dict().items()})
    return tmp_path / "run"


def bench(run: Path, out: Path, *options: str) -> dict:
    few = "--fit-episodes 40 --calibration-episodes 8 --episodes 4 --corrupted-episodes 3 --start 2 4 --workers 0"
    main([str(run), "--env", "tiny_env:Tiny-v0", "--out", str(out), *few.split(), *options])
    return json.loads((out / "results.json").read_text())


def test_whole(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(tiny_run, tmp_path / "out", "--corruptions", "blackout", "freeze")
    assert {"monitor", "without signal", "density alone", "untrained encoder", "pixel density"} <= set(results["arms"])
    monitor = results["arms"]["monitor"]
    assert set(monitor["severities"]) == {f"{name} {level}" for name in ("blackout", "freeze") for level in (1, 2, 3)}
    assert monitor["severities"]["blackout 3"]["auroc_episode"] == 1
    assert results["promise"]["monitor"]["episodes"] == 8
    assert results["false_alarms"]["monitor"]["interval_95"][1] > 1
    assert (tmp_path / "out" / "safety.png").stat().st_size > 5000
    printed = capsys.readouterr().out
    assert "pixel density" in printed
    assert "= freeze" in printed
    again = bench(
        tiny_run, tmp_path / "again", "--corruptions", "blackout", "freeze", "--drives", str(tmp_path / "out/drives")
    )
    for part in ("arms", "false_alarms", "promise"):
        assert again[part] == results[part], "the same drives, the same figures"


def test_drives_of_others_are_refused(tmp_path: Path) -> None:
    trial = Trial("tiny_env:Tiny-v0", "test", 0, 2)
    odd = replace(trial, corruption="freeze", severity=1, start=(2, 4))
    claim_drives(tmp_path / "a", [trial], "expert")
    claim_drives(tmp_path / "a", [trial, odd], "expert")
    claim_drives(tmp_path / "a", [trial], "expert")
    with pytest.raises(VidsslError, match=r"driver: was 'expert', now 'abc'"):
        claim_drives(tmp_path / "a", [trial], "abc")
    with pytest.raises(VidsslError, match=r"env: was 'tiny_env:Tiny-v0', now 'Other-v0'"):
        claim_drives(tmp_path / "a", [replace(trial, env_id="Other-v0")], "expert")
    with pytest.raises(VidsslError, match=r"start: was \[2, 4\], now \[3, 5\]"):
        claim_drives(tmp_path / "a", [trial, replace(odd, start=(3, 5))], "expert")
    (tmp_path / "b" / trial.name).mkdir(parents=True)
    (tmp_path / "b" / trial.name / "000000.safetensors").touch()
    with pytest.raises(VidsslError, match="do not say who drove and where; give another --drives"):
        claim_drives(tmp_path / "b", [trial], "expert")
    (tmp_path / "a" / "settings.json").write_text("[1]")
    with pytest.raises(VidsslError, match=r"settings\.json: damaged"):
        claim_drives(tmp_path / "a", [trial], "expert")


def test_mistakes(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match=r"unknown corruption 'rain'; .*terrain"):
        bench(tiny_run, tmp_path / "out", "--corruptions", "rain")
    with pytest.raises(VidsslError, match="--corrupted-episodes: got 9, at most --episodes 4"):
        bench(tiny_run, tmp_path / "out", "--corrupted-episodes", "9")
    with pytest.raises(VidsslError, match="--fit-episodes: got 3; at least 4"):
        bench(tiny_run, tmp_path / "out", "--fit-episodes", "3")


def test_figures_by_hand() -> None:
    arm = Arm("learned", ("signal",), drift=1.0, threshold=4.0, window=2)
    usual = [Scored({"signal": np.array([0.0, 0, 2, 0, 0])}, None)] * 2  # S = 0 0 1 0 0
    noticed = Scored({"signal": np.array([0.0, 0, 4, 4, 4])}, 2)  # S = 0 0 3 6 9: an alarm a tick after the beginning
    missed = Scored({"signal": np.array([0.0, 0, 0, 0, 0])}, 2)
    part = arm.compare(usual, [noticed, missed], start=0)
    assert part["delays"].tolist() == [1, np.inf]
    assert part["odd_peaks"].tolist() == [6, 0]
    assert part["usual_peaks"].tolist() == [1, 1]
    found = pooled([part])
    assert (found["detected"], found["median_delay_steps"], found["auroc_episode"]) == (0.5, None, 0.5)
    assert auroc(np.array([0.0, 1]), np.array([1.0, 2])) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    early = Scored({"signal": np.array([9.0, 0, 0, 0, 0])}, 2)
    assert arm.compare(usual, [early], start=0)["early"] == 1
    ended = Scored({"signal": np.zeros(2)}, 2)
    with pytest.raises(VidsslError, match="all 2 corrupted episodes end before their corruption begins"):
        arm.compare(usual, [ended, ended], start=0)
