"""The safety monitor on a small environment: what it notices, and that tick by tick it says what the episode says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from extractors import random_extractor

from vidssl.energy import Energy
from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor
from vidssl.methods.heads import EnergyHead
from vidssl.robot.corruptions import corrupt_frames
from vidssl.robot.recording import drive
from vidssl.robot.safety import SafetyMonitor, cusum
from vidssl.robot.safety_files import pack
from vidssl.robot.safety_scores import Gaussian, OneStep, Rows, Tail, signal_statistics
from vidssl.robot.safety_senses import Drive
from vidssl.robot.safety_trials import usual_drives

sys.path.append(str(Path(__file__).parent))
import tiny_env


class Expert(tiny_env.TinyExpert):
    def reset(self) -> None: ...

    def __call__(self, observation: object, info: dict | None = None) -> np.ndarray:
        return 0.4 * super().__call__(observation, {})


def drives(first: int, count: int) -> list[Drive]:
    env = tiny_env.TinyEnv(size=32)
    found = []
    for seed in range(first, first + count):
        frames, episode = drive(env, Expert(env), seed, noise=0.2)
        found.append(Drive(np.stack(frames), episode.executed, episode.proprio))
    return found


def extractor(seed: int = 0, name: str = "control") -> FeatureExtractor:
    found = random_extractor(name, (32, 32), seed)
    found.config = {"encoder": {"name": name, "dim": found.dim}, "context": None, "clip": {"frames": 4, "stride": 1}}
    return found


def energy() -> Energy:
    torch.manual_seed(1)
    sizes = {"feature_dim": 256, "hidden": 16, "dim": 8}
    found = Energy(extractor(2, "small-motion"), EnergyHead(**sizes))
    found.extractor.config["energy"] = sizes
    return found


@pytest.fixture(scope="module")
def monitor() -> SafetyMonitor:
    told = r"asked for 1 false alarms an hour, but 0\.\d+ hours of calibration promise only \d+\.\d; pass about 1 hours"
    with pytest.warns(UserWarning, match=told):
        return SafetyMonitor.fit(extractor(), drives(0, 40), drives(40, 30), fps=10, energy=energy())


def run(monitor: SafetyMonitor, episode: Drive) -> list:
    monitor.reset()
    before = [None, *episode.action[:-1]]
    return [monitor.update(f, a, p) for f, a, p in zip(episode.frames, before, episode.proprio, strict=True)]


def test_tick_by_tick_is_the_episode(monitor: SafetyMonitor) -> None:
    assert monitor.scores == ("signal", "detail", "density", "prediction", "stillness", "energy")
    episode = drives(80, 1)[0]
    scores, surprises = monitor.episode(episode)
    verdicts = run(monitor, episode)
    # Frames without motion give tied measures, whose rank rounding can move by the share of the ties.
    np.testing.assert_allclose([v.score for v in verdicts], scores, rtol=1e-3, atol=0.2)
    for name, values in surprises.items():
        np.testing.assert_allclose([v.surprises[name] for v in verdicts], values, rtol=1e-3, atol=0.1)
    assert surprises["stillness"][0] == 0  # of the first tick nothing is known
    assert (surprises["energy"][:3] == 0).all()
    assert surprises["energy"][3:].any()
    assert [v.score for v in run(monitor, episode)] == [v.score for v in verdicts], "reset forgets the episode"


@pytest.mark.parametrize(("name", "reason"), [("blackout", "signal"), ("dark", "signal"), ("noise", "signal")])
def test_notices_and_says_why(monitor: SafetyMonitor, name: str, reason: str) -> None:
    episode = max(drives(90, 6), key=lambda drive: len(drive.frames))
    assert not any(v.alarm for v in run(monitor, episode))
    frames, began = corrupt_frames(episode.frames, name, 3, seed=0, start=4)
    verdicts = run(monitor, Drive(frames, episode.action, episode.proprio))
    assert not any(v.alarm or v.reasons for v in verdicts[:began])
    assert verdicts[-1].alarm, "once on, it stays on"
    assert reason in verdicts[-1].reasons


def test_threshold_is_the_calibrations(monitor: SafetyMonitor) -> None:
    found = monitor.threshold
    assert found.episodes == 30
    assert not found.kept, "a few minutes cannot promise an hour"
    assert found.value == pytest.approx(max(monitor.episode(d)[0].max() for d in drives(40, 30)))


def test_numbers_that_are_not_finite_are_an_alarm(monitor: SafetyMonitor) -> None:
    episode = drives(80, 1)[0]
    monitor.reset()
    monitor.update(episode.frames[0], None, episode.proprio[0])
    verdict = monitor.update(episode.frames[1], episode.action[0], np.array([np.nan, 0]))
    assert verdict.alarm
    assert verdict.reasons == ("not-finite",)


@pytest.mark.parametrize("part", ["features", "maps", "energy"])
def test_an_encoder_that_gives_nan_is_an_alarm(
    monitor: SafetyMonitor, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode, lost = drives(80, 1)[0], monitor.streams()
    assert lost._senses.energy is not None
    encoder = lost._senses.extractor.encoder
    places = {"features": (encoder.head, "forward"), "maps": (encoder, "maps")}
    place, name = places.get(part, (lost._senses.energy.head, "forward"))
    was = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *inputs: was(*inputs) * np.nan)
    verdicts = run(lost, episode)
    assert [v.alarm for v in verdicts] == [part != "energy" or k >= 3 for k in range(len(verdicts))]
    assert verdicts[3].reasons == ("not-finite",)
    with pytest.raises(VidsslError, match="the encoder gives numbers that are not finite"):
        lost.episode(episode)


def test_drives_that_are_not_finite_are_refused(monitor: SafetyMonitor) -> None:
    good = drives(80, 1)[0]
    for name in ("action", "proprio"):
        spoilt = {"action": good.action.copy(), "proprio": good.proprio.copy()}
        spoilt[name][2, 0] = np.inf
        with pytest.raises(VidsslError, match=f"episode: {name} is not finite at tick 2"):
            monitor.episode(Drive(good.frames, **spoilt))


def test_saved_and_loaded_says_the_same(monitor: SafetyMonitor, tmp_path: Path) -> None:
    monitor.save(tmp_path / "monitor")
    loaded = SafetyMonitor.load(tmp_path / "monitor")
    episode = drives(81, 1)[0]
    assert loaded._drift == monitor._drift
    for name in ("_measures", "_tails"):  # what was fitted comes back to the bit
        ours, theirs = (pack(getattr(one, name), name) for one in (monitor, loaded))
        assert ours.keys() == theirs.keys()
        for key, array in ours.items():
            np.testing.assert_array_equal(theirs[key], array, key)
    for ours, theirs in zip(run(monitor, episode), run(loaded, episode), strict=True):
        assert (theirs.alarm, theirs.reasons) == (ours.alarm, ours.reasons)
        close = {"rel": 1e-12, "abs": 1e-12}  # a product's last bit hangs on where in memory a matrix begins
        assert theirs.score == pytest.approx(ours.score, **close)
        assert theirs.surprises == pytest.approx(ours.surprises, **close)
    assert loaded.threshold == monitor.threshold
    (tmp_path / "monitor" / "monitor.safetensors").write_bytes(b"no")
    with pytest.raises(VidsslError, match="holds no safety monitor, or a damaged one"):
        SafetyMonitor.load(tmp_path / "monitor")
    with pytest.raises(VidsslError, match="holds no safety monitor"):
        SafetyMonitor.load(tmp_path)


def test_twins_share_nothing_that_moves(monitor: SafetyMonitor) -> None:
    a, b = drives(82, 2)
    alone = run(monitor, a)
    twin = monitor.streams()
    monitor.reset()
    together = []
    for k, frame in enumerate(a.frames):
        together.append(monitor.update(frame, a.action[k - 1] if k else None, a.proprio[k]))
        if k < len(b.frames):
            twin.update(b.frames[k], b.action[k - 1] if k else None, b.proprio[k])
    assert together == alone


def test_mistakes(monitor: SafetyMonitor) -> None:
    some = drives(0, 5)
    with pytest.raises(VidsslError, match=r"unknown score 'smell'; .*density"):
        SafetyMonitor.fit(extractor(), some, some, fps=10, scores=("smell",))
    with pytest.raises(VidsslError, match=r"score 'energy': pass energy=vidssl.load_energy"):
        SafetyMonitor.fit(extractor(), some, some, fps=10, scores=("energy",))
    with pytest.raises(VidsslError, match="at least 4 usual episodes, got 2"):
        SafetyMonitor.fit(extractor(), some[:2], some, fps=10)
    with pytest.raises(VidsslError, match="at least 50 ticks"):
        SafetyMonitor.fit(extractor(), [Drive(d.frames[:3], d.action[:3], d.proprio[:3]) for d in some], some, fps=10)
    short = Drive(some[0].frames, some[0].action[:2], some[0].proprio)
    with pytest.raises(VidsslError, match="episode: got frames"):
        monitor.episode(short)
    monitor.reset()
    with pytest.raises(VidsslError, match=r"frame: got \(16, 16, 3\), the monitor was fitted on \(32, 32, 3\)"):
        monitor.update(np.zeros((16, 16, 3), np.uint8), None, np.zeros(2))
    with pytest.raises(VidsslError, match=r"proprio: got \(0,\), the monitor was fitted on \(2,\)"):
        monitor.update(np.zeros((32, 32, 3), np.uint8))


def test_cusum_by_hand() -> None:
    assert cusum(np.array([1.0, 5, 2, 0, 9]), 3.0).tolist() == [0, 2, 1, 0, 6]


def test_tail() -> None:
    tail = Tail.fit(np.random.default_rng(0).exponential(2.0, 20_000))
    # -ln P(exponential of mean 2 >= m) = m / 2, inside the data and beyond.
    np.testing.assert_allclose(tail.surprise(np.array([1.0, 4.0, 20.0])), [0.5, 2.0, 10.0], rtol=0.08)
    assert tail.surprise(np.array([np.nan]))[0] == 0
    assert np.isfinite(Tail.fit(np.zeros(60)).surprise(np.array([1.0])))[0]


def test_gaussian_against_its_formula() -> None:
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(3, 3))
    x = rng.normal(size=(5000, 3)) @ mix + 7
    found = Gaussian.fit(x).distance(x[:50])
    inverse = np.linalg.inv(np.cov(x.T))
    exact = [np.sqrt((row - x.mean(0)) @ inverse @ (row - x.mean(0)) / 3) for row in x[:50]]
    np.testing.assert_allclose(found, exact, rtol=0.02)


def test_one_step_knows_how_much_should_move() -> None:
    rng = np.random.default_rng(0)
    speeds = [rng.uniform(0.5, 2, (40, 1)) for _ in range(20)]
    features = [np.cumsum(v * [[1.0, 0.5]] + 0.05 * rng.normal(size=(40, 2)), axis=0) for v in speeds]
    step = OneStep.fit(features, speeds)
    error, still = step.measure(features[0], speeds[0])
    assert np.isnan([error[0], still[0]]).all()
    frozen = np.repeat(features[0][:1], 40, axis=0)
    assert step.measure(frozen, speeds[0])[1][1:].min() > 3 * np.abs(still[1:]).max()
    jumpy = features[0] * np.where(np.arange(40) % 2, 1, 3)[:, None]
    assert np.median(step.measure(jumpy, speeds[0])[0][1:]) > 3 * np.median(error[1:])


def test_rows_know_what_belongs_where() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(200, 3, 2, 4)) + np.array([0, 20])[:, None]  # the lower row lies elsewhere
    rows = Rows.fit(maps)
    usual = rows.measure(maps)
    upside_down = rows.measure(maps[:, :, ::-1])
    assert upside_down.min() > 3 * usual.max()


def test_signal_statistics() -> None:
    grey = np.full((1, 8, 8, 3), 51, np.uint8)
    assert signal_statistics(grey).shape == (1, 18)
    np.testing.assert_allclose(signal_statistics(grey)[0, :3], 0.2, rtol=1e-6)
    noise = np.random.default_rng(0).integers(0, 255, (2, 9, 8, 3)).astype(np.uint8)
    np.testing.assert_allclose(signal_statistics(noise)[0, :3], noise[0].mean((0, 1)) / 255, rtol=1e-5)
    np.testing.assert_allclose(signal_statistics(noise)[1, 3:6], noise[1].std((0, 1)) / 255, rtol=1e-4)


def test_drives_for_the_monitor() -> None:
    found = usual_drives("Tiny-v0", 4, make_driver=Expert)
    assert len(found) == 4
    assert all(len(one.frames) == len(one.action) == len(one.proprio) for one in found)
    again = usual_drives("Tiny-v0", 1, make_driver=Expert)[0]
    np.testing.assert_array_equal(again.frames, found[0].frames)
    assert not np.array_equal(usual_drives("Tiny-v0", 1, 1, Expert)[0].frames[0], found[0].frames[0])
    with pytest.raises(VidsslError, match=r"episode: got a tuple; pass vidssl\.robot\.safety\.Drive"):
        SafetyMonitor.fit_scores(extractor(), [(one.frames, one.action, one.proprio) for one in found], fps=10)
