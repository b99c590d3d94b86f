"""LeRobotDataset v3.0: what is written is read back, and lies where the format wants it."""

import json
import pickle
from pathlib import Path
from typing import Any

import av
import lerobot_data
import numpy as np
import pytest
import torch
from lerobot_data import FEATURES, FPS, LENGTHS, frame, grey
from pyarrow import parquet

from vidssl.datasets.clips import ClipLoader, ClipSpec
from vidssl.datasets.files import find_videos
from vidssl.datasets.lerobot import LeRobotDataset
from vidssl.datasets.lerobot_depth import DepthCode, to_metres
from vidssl.datasets.lerobot_stats import PictureSample, merge_stats, vector_stats
from vidssl.datasets.lerobot_values import stored_value
from vidssl.datasets.lerobot_write import LeRobotWriter
from vidssl.datasets.mp4 import exact_rate
from vidssl.datasets.packets import index_video
from vidssl.datasets.quarantine import Quarantine
from vidssl.datasets.scan import scan_videos
from vidssl.datasets.video import VideoReader
from vidssl.errors import VidsslError

PLACES = [(episode, step) for episode, length in enumerate(LENGTHS) for step in range(length)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_data.write(tmp_path_factory.mktemp("lerobot") / "data")


def rewrite_info(root: Path, **changes: Any) -> None:
    info = json.loads((root / "meta/info.json").read_text()) | changes
    (root / "meta/info.json").write_text(json.dumps(info))


def test_every_frame_comes_back_in_any_order(root: Path) -> None:
    data = LeRobotDataset(root)
    assert (len(data), data.fps, data.tasks) == (39, FPS, ["push", "lift"])
    assert (data.cameras, data.depths) == (["front", "wrist", "still"], ["depth"])
    for number in [*range(39), *np.random.default_rng(0).permutation(39).tolist(), -1]:
        item, given = data[number], frame(*PLACES[number])
        assert item["front"].shape == (3, 32, 48)
        assert item["front"].dtype == torch.uint8
        assert (item["front"].int() - grey(number % 39)).abs().max() <= 2
        assert (item["wrist"].int() - 255 + grey(number % 39)).abs().max() <= 2
        np.testing.assert_array_equal(item["still"].permute(1, 2, 0), given["still"])
        assert item["depth"].shape == (1, 32, 32)
        np.testing.assert_allclose(item["depth"][0], given["depth"], atol=0.0023)
        for key in ("state", "points", "action", "next.success"):
            np.testing.assert_array_equal(item[key], given[key])
        assert item["note"] == given["note"]
        assert item["task"] == lerobot_data.TASKS[PLACES[number][0]]
        assert item["timestamp"] == pytest.approx(PLACES[number][1] / FPS)


def test_deltas_stay_in_the_episode(root: Path) -> None:
    deltas = {"front": [-0.2, 0, 0.3], "action": [0, 0.1], "depth": [-0.1], "note": [0, 0.1]}
    data = LeRobotDataset(root, deltas, keys=[*deltas, "state"])
    for number in (0, 1, 11, 12, 17, 18, 19, 38, 30):  # 12 and 19 begin episodes
        item, (episode, step) = data[number], PLACES[number]
        for key, seconds in deltas.items():
            steps = [step + round(delta * FPS) for delta in seconds]
            held = [min(max(each, 0), LENGTHS[episode] - 1) for each in steps]
            assert item[f"{key}_is_pad"].tolist() == [a != b for a, b in zip(steps, held, strict=True)]
            if key == "action":
                assert item[key].tolist() == [[each, episode] for each in held]
            elif key == "note":
                assert item[key] == [f"{episode}.{each}" for each in held]
            elif key == "front":
                first = sum(LENGTHS[:episode])
                np.testing.assert_allclose(item[key].float().mean((1, 2, 3)), [grey(first + e) for e in held], atol=2)
        assert item["state"].shape == (5,)
        assert "wrist" not in item


def test_windows_decode_each_frame_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    frames = VideoReader.frames
    picture = VideoReader.picture
    monkeypatch.setattr(VideoReader, "frames", lambda self, numbers: (asked.append(1), frames(self, numbers))[1])
    pictures: list[int] = []
    monkeypatch.setattr(VideoReader, "picture", lambda self, one: (pictures.append(1), picture(self, one))[1])
    data = LeRobotDataset(root, {"front": [-0.3, -0.2, -0.1, 0]}, keys=["front"])
    for number in range(39):
        np.testing.assert_allclose(data[number]["front"][-1].float().mean(), grey(number), atol=2)
    assert len(pictures) == 39
    assert len(asked) <= 3, "a seek, then on and on"


def test_pictures_scaled_and_copies_for_workers(root: Path) -> None:
    data = LeRobotDataset(root, keys=["front", "still"], size=(16, 16))
    assert data[3]["front"].shape == data[3]["still"].shape == (3, 16, 16)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[5]["front"], data[5]["front"])
    loader = torch.utils.data.DataLoader(LeRobotDataset(root, keys=["front", "action"]), batch_size=13)
    assert [batch["front"].shape for batch in loader] == [(13, 3, 32, 48)] * 3
    assert data.pictures("front", 1).shape == (7, 16, 16, 3)
    data.close()
    assert data.pictures("front", 1, [0, 6]).shape == (2, 16, 16, 3)


def test_files_lie_where_the_format_wants_them(root: Path) -> None:
    assert not (root / "unfinished").exists()
    info = json.loads((root / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, 39, 2, 10)
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["front"]["info"]["video.codec"] == "h264"
    assert info["features"]["depth"]["info"]["video.pix_fmt"] == "gray12le"
    assert info["features"]["index"] == {"dtype": "int64", "shape": [1], "names": None}
    data = parquet.read_table(root / "data/chunk-000/file-000.parquet")
    assert "front" not in data.column_names
    assert data["index"].to_pylist() == list(range(39))
    assert data["frame_index"].to_pylist() == [step for _, step in PLACES]
    assert str(data.schema.field("state").type).startswith("fixed_size_list")
    assert str(data.schema.field("next.success").type) == "bool"
    assert str(data.schema.field("timestamp").type) == "float"
    assert parquet.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 3
    episodes = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["dataset_from_index"] for row in episodes] == [0, 12, 19]
    assert [row["dataset_to_index"] for row in episodes] == [12, 19, 39]
    assert [row["videos/front/from_timestamp"] for row in episodes] == pytest.approx([0, 1.2, 1.9])
    assert episodes[1]["tasks"] == ["lift"]
    assert episodes[1]["stats/action/mean"] == [3, 1]
    tasks = parquet.read_table(root / "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "push"}, {"task_index": 1, "task": "lift"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    with av.open(str(root / "videos/front/chunk-000/file-000.mp4")) as container:
        stamps = [float(one.pts * one.time_base) for one in container.decode(video=0)]
    np.testing.assert_allclose(stamps, np.arange(39) / FPS, atol=1e-6)
    keyframes = index_video(root / "videos/front/chunk-000/file-000.mp4").keyframes[:, 0].tolist()
    assert {0, 12, 19} <= set(keyframes), "every episode can be decoded by itself"


def test_files_are_limited_in_size(tmp_path: Path) -> None:
    lerobot_data.write(tmp_path / "a", limits={"data": 0, "video": 0})
    assert len(list((tmp_path / "a/data").rglob("*.parquet"))) == 3
    assert len(list((tmp_path / "a/videos/front").rglob("*.mp4"))) == 3
    data = LeRobotDataset(tmp_path / "a")
    for number in (0, 12, 25):
        assert (data[number]["front"].int() - grey(number)).abs().max() <= 2
        np.testing.assert_array_equal(data[number]["still"].permute(1, 2, 0), frame(*PLACES[number])["still"])


def test_av1(tmp_path: Path) -> None:
    features = {"front": FEATURES["front"]}
    with LeRobotWriter(tmp_path / "a", 30, features, codec="av1") as writer:
        for episode in range(2):
            for step in range(5):
                writer.add_frame({"front": frame(episode, step)["front"]})
            writer.end_episode("look")
    data = LeRobotDataset(tmp_path / "a")
    for number in (9, 0, 4, 5):
        episode, step = divmod(number, 5)
        assert abs(data[number]["front"].float().mean() - grey(sum(LENGTHS[:episode]) + step)) < 4


def test_statistics(root: Path) -> None:
    data = LeRobotDataset(root)
    action = np.array([[step, episode] for episode, step in PLACES], np.float64)
    stats = data.stats["action"]
    np.testing.assert_allclose(stats["mean"], action.mean(0))
    np.testing.assert_allclose(stats["std"], action.std(0))
    np.testing.assert_allclose(stats["min"], action.min(0))
    np.testing.assert_allclose(stats["max"], action.max(0))
    assert stats["count"] == [39]
    assert data.stats["front"]["mean"].shape == (3, 1, 1)
    assert data.stats["front"]["mean"].mean() == pytest.approx(np.mean([grey(n) for n in range(39)]) / 255)
    assert 0.3 < data.stats["depth"]["min"] < 8.4
    assert set(data.stats["state"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


def test_merged_statistics_by_hand() -> None:
    # 0 2 | 4: means 1 and 4, variances 1 and 0, counts 2 and 1 -> mean 2, variance (2 * (1 + 1) + 4) / 3 = 8/3
    parts = [{"x": vector_stats(np.array(values))} for values in ([0.0, 2.0], [4.0])]
    merged = merge_stats(parts)["x"]
    assert (merged["mean"][0], merged["min"][0], merged["max"][0], merged["count"][0]) == (2, 0, 4, 3)
    assert merged["std"][0] == pytest.approx(np.sqrt(8 / 3))
    assert merged["q50"][0] == pytest.approx((2 * 1 + 4) / 3)


def test_a_sample_of_pictures_spreads_over_the_episode() -> None:
    sample = PictureSample()
    for step in range(1000):
        sample.add(np.full((200, 300, 3), step / 1000))
    found = sample.stats(1)
    assert 32 <= found["count"][0] <= 64
    assert found["mean"][0, 0, 0] == pytest.approx(0.5, abs=0.03)


def test_depth_codes() -> None:
    code = DepthCode()
    # both ends, and what is beyond; the formula worked out for 1 m: 4095 ln(4.5 / 3.51) / ln(13.5 / 3.51) = 755.3
    depth = np.array([0, 0.01, 10, 30, 1.0])
    assert code.encode(depth).tolist() == [0, 0, 4095, 4095, 755]
    back = code.decode(code.encode(depth))
    assert back[:2].tolist() == [0, 0]
    np.testing.assert_allclose(back[2:], [10, 10, 1], rtol=1e-3)
    spread = np.linspace(0.05, 9.9, 1000)
    np.testing.assert_allclose(code.decode(code.encode(spread)), spread, atol=0.0025)
    straight = DepthCode.of({"video.use_log": False, "video.depth_min": 1, "depth_max": 2})
    assert straight.encode(np.array([1.0, 1.5, 2.0])).tolist() == [0, 2048, 4095]
    assert to_metres(np.array([1500], np.uint16)) == 1.5
    with pytest.raises(VidsslError, match="least < most"):
        DepthCode(least=2, most=1)


def test_episodes_are_the_videos_to_train_on(root: Path, tmp_path: Path) -> None:
    videos = find_videos(root)
    assert [video.name for video in videos] == [f"{key}/{n:06d}" for key in ("front", "wrist") for n in range(3)]
    assert [video.label for video in videos[:3]] == ["push", "lift", "push"]
    memory = tmp_path / "memory.jsonl"
    for _ in range(2):  # the second time from memory
        found = scan_videos(videos, Quarantine(), workers=0, progress=False, memory=memory)
        assert [len(index) for index in found.values()] == [12, 7, 20] * 2
        index = found["front/000001"]
        np.testing.assert_allclose(index.times, 1.2 + np.arange(7) / FPS)
        with VideoReader(videos[1].path, index=index) as reader:
            shown = reader.read_array([6, 0, 3]).mean((1, 2, 3))
            np.testing.assert_allclose(shown, [grey(12 + n) for n in (6, 0, 3)], atol=2)
    loader = ClipLoader(videos, ClipSpec(5, 1, 32), 4, workers=1, start="fork", progress=False)
    batches = loader.batches()
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    for name, clip, times in zip(batch["names"], batch["clips"], batch["times"], strict=True):
        episode = int(name[-1])
        first = sum(LENGTHS[:episode])
        numbers = np.rint(times.numpy() * FPS).astype(int)
        assert first <= numbers.min() <= numbers.max() < first + LENGTHS[episode]
        shade = [grey(n) if name.startswith("front") else 255 - grey(n) for n in numbers]
        np.testing.assert_allclose(clip.float().mean((1, 2, 3)), shade, atol=2)


def test_what_can_not_be_trained_on(tmp_path: Path) -> None:
    with LeRobotWriter(tmp_path / "a", 10, {"still": FEATURES["still"]}) as writer:
        writer.add_frame({"still": frame(0, 0)["still"]})
        writer.end_episode("look")
    with pytest.raises(VidsslError, match=r"no camera in it is stored as video; it has still as single images"):
        find_videos(tmp_path / "a")
    index = index_video(lerobot_data.write(tmp_path / "b") / "videos/front/chunk-000/file-000.mp4")
    with pytest.raises(VidsslError, match=r"no frames from 9\.000 to 10\.000 s; it ends at 3\.800 s"):
        index.part(9, 10)


def test_mistakes_of_a_reader(root: Path) -> None:
    with pytest.raises(VidsslError, match=r"unknown feature 'top'; the features here are: .*front"):
        LeRobotDataset(root, {"top": [0]})
    with pytest.raises(VidsslError, match=r"unknown feature 'top'"):
        LeRobotDataset(root, keys=["top"])
    with pytest.raises(VidsslError, match="not among the keys to read"):
        LeRobotDataset(root, {"action": [0]}, keys=["front"])
    with pytest.raises(VidsslError, match=r"action: got \[0\.05\]; expected at least one, and multiples of 1/10"):
        LeRobotDataset(root, {"action": [0.05]})
    data = LeRobotDataset(root)
    with pytest.raises(IndexError, match=r"frame 39 asked for; it has 0\.\.38"):
        data[39]
    with pytest.raises(VidsslError, match="unknown camera 'state'"):
        data.pictures("state", 0)
    with pytest.raises(VidsslError, match="unknown column 'front'"):
        data.column("front")
    with pytest.raises(VidsslError, match=r"episode 1: frames 7\.\.7; it has 0\.\.6"):
        data.pictures("front", 1, [7])


def test_damaged_data_sets(tmp_path: Path) -> None:
    with pytest.raises(VidsslError, match="no LeRobot data set"):
        LeRobotDataset(tmp_path)
    root = lerobot_data.write(tmp_path / "a")
    whole = (root / "meta/info.json").read_text()
    rewrite_info(root, codebase_version="v2.1")
    with pytest.raises(VidsslError, match=r"of version v2\.1, v3\.0 is read here; convert it with .*v21_to_v30"):
        find_videos(root)
    rewrite_info(root, codebase_version="v4.0")
    with pytest.raises(VidsslError, match=r"of version v4\.0, v3\.0 is read here$"):
        LeRobotDataset(root)
    (root / "meta/info.json").write_text(whole[:50])
    with pytest.raises(VidsslError, match=r"info\.json: garbled"):
        LeRobotDataset(root)
    (root / "meta/info.json").write_text(whole)
    rewrite_info(root, total_episodes=5)
    with pytest.raises(VidsslError, match="tells of 5 episodes and 39 frames, its tables of 3 and 39"):
        LeRobotDataset(root)
    (root / "meta/info.json").write_text(whole)
    features = json.loads(whole)["features"]
    rewrite_info(root, features=features | {"extra": {"dtype": "float32", "shape": [2]}})
    with pytest.raises(VidsslError, match="extra"):
        LeRobotDataset(root)
    (root / "meta/info.json").write_text(whole)
    video = root / "videos/wrist/chunk-000/file-000.mp4"
    video.rename(root / "away.mp4")
    assert LeRobotDataset(root, keys=["front", "state"])[3]["front"].shape == (3, 32, 48), "cameras not asked for"
    with pytest.raises(VidsslError, match=r"file-000\.mp4: missing"):
        LeRobotDataset(root)[0]
    (root / "videos/front/chunk-000/file-000.mp4").rename(video)  # same stamps, other size: read, but not the wrist's
    (root / "away.mp4").rename(root / "videos/front/chunk-000/file-000.mp4")
    data = root / "data/chunk-000/file-000.parquet"
    content = data.read_bytes()
    data.write_bytes(content[:-100])
    with pytest.raises(VidsslError, match=r"file-000\.parquet: damaged"):
        LeRobotDataset(root)
    data.unlink()
    with pytest.raises(VidsslError, match=r"file-000\.parquet: missing"):
        LeRobotDataset(root)


def test_a_video_that_is_not_the_data_sets_own(root: Path) -> None:
    data = LeRobotDataset(root)
    video = data._videos.get(data.episodes[0].videos["front"][0], None, None)
    with pytest.raises(VidsslError, match=r"no frame at 0\.150000 s; the nearest is at 0\.[12]00000 s"):
        video.numbers(np.array([0.1, 0.15]), 1e-4)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"dtype": "video", "shape": [32, 32]}, "expected 'video' or 'image'"),
        ({"dtype": "video", "shape": [32, 32, 1]}, "expected 'video' or 'image'"),
        ({"dtype": "float33", "shape": [2]}, "got float33"),
        ({"dtype": "float32", "shape": [0]}, "sides of at least 1"),
        ({"dtype": "string", "shape": [2]}, "'string' \\[1\\]"),
    ],
)
def test_features_that_can_not_be(tmp_path: Path, feature: dict[str, Any], message: str) -> None:
    with pytest.raises(VidsslError, match=message):
        LeRobotWriter(tmp_path / "a", 10, {"x": feature})
    assert not (tmp_path / "a").exists()


def test_numbers_are_kept_or_refused() -> None:
    def stored(dtype: str, value: Any, *shape: int) -> Any:
        return stored_value("x", {"dtype": dtype, "shape": list(shape)}, value)

    assert stored("uint8", 3, 1).tolist() == [3]
    assert stored("int64", True, 1).tolist() == [1]
    assert stored("float32", 3, 1).tolist() == [3.0]
    assert stored("float16", [np.inf, 0.1], 2).dtype == np.float16
    for dtype, value, shape in (("int8", 300, 1), ("uint8", -1, 1), ("int32", [2**40, 1], 2), ("float16", 1e9, 1)):
        with pytest.raises(VidsslError, match=f"x: {dtype} can't hold all of .*give the feature another dtype"):
            stored(dtype, value, shape)
    for dtype, value in (("int64", 1.5), ("bool", 1), ("int64", "abc"), ("uint8", None), ("int64", 1j)):
        with pytest.raises(VidsslError, match=f"x: .*{dtype}"):
            stored(dtype, value, 1)


@pytest.mark.parametrize("fps", [24000 / 1001, 30000 / 1001, 29.97, 7.5, 0.0004])
def test_rates_are_exact_enough_for_hours(fps: float) -> None:
    frames = int(6 * 3600 * fps)
    assert abs(frames / exact_rate(fps) - frames / fps) < 1e-5


def test_mistakes_of_a_writer(tmp_path: Path) -> None:
    features = {"front": FEATURES["front"], "action": FEATURES["action"], "depth": FEATURES["depth"]}
    features["note"] = FEATURES["note"]
    with pytest.raises(VidsslError, match="none called"):
        LeRobotWriter(tmp_path / "a", 10, features | {"index": {"dtype": "int64", "shape": [1]}})
    with pytest.raises(VidsslError, match="got fps 0"):
        LeRobotWriter(tmp_path / "a", 0, features)
    with pytest.raises(VidsslError, match="unknown codec 'mpeg'; the codecs here are: av1, h264"):
        LeRobotWriter(tmp_path / "a", 10, features, codec="mpeg")
    writer = LeRobotWriter(tmp_path / "a", 10, features)
    good = {key: frame(0, 0)[key] for key in features}
    with pytest.raises(VidsslError, match=r"missing \['depth'\], not in the features \['top'\]"):
        writer.add_frame({key: good[key] for key in ("front", "action", "note")} | {"top": 0})
    wrong = {
        "front": np.zeros((32, 48, 3), np.float32),
        "action": np.zeros(3, np.float32),
        "depth": np.full((32, 32), np.nan),
        "note": 3,
    }
    for key, value in wrong.items():
        with pytest.raises(VidsslError, match=f"{key}: expected"):
            writer.add_frame(good | {key: value})
    with pytest.raises(VidsslError, match="no frames since the last one"):
        writer.end_episode("x")
    with pytest.raises(VidsslError, match="no episode to finalise"):
        writer.finalise()
    with pytest.raises(VidsslError, match=r"not finalised: resume"):
        LeRobotWriter(tmp_path / "a", 10, features)
    with pytest.raises(VidsslError, match="begun with another fps"):
        LeRobotWriter(tmp_path / "a", 20, features, resume=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").touch()
    with pytest.raises(VidsslError, match="holds no LeRobot data set; choose another folder"):
        LeRobotWriter(tmp_path / "b", 10, features, overwrite=True)
    assert (tmp_path / "b" / "mine.txt").exists()
    odd = {"front": {"dtype": "video", "shape": [31, 32, 3]}}
    with pytest.raises(VidsslError, match="even sides"):
        LeRobotWriter(tmp_path / "c", 10, odd).add_frame({"front": np.zeros((31, 32, 3), np.uint8)})


def test_a_killed_writer_is_resumed(tmp_path: Path) -> None:
    features = {"front": FEATURES["front"], "action": FEATURES["action"]}
    one = {key: frame(0, 3)[key] for key in features}
    writer = LeRobotWriter(tmp_path / "a", 10, features)
    for _ in range(3):
        writer.add_frame(one)
    writer.end_episode("push")
    writer.add_frame(one)  # and is killed
    with pytest.raises(VidsslError, match="not finalised; 1 whole episodes wait in it"):
        LeRobotDataset(tmp_path / "a")
    again = LeRobotWriter(tmp_path / "a", 10, features, resume=True)
    assert again.episodes == 1
    for _ in range(2):
        again.add_frame(one)
    again.end_episode("lift")
    again.add_frame(one)  # never ended
    again.finalise()
    again.finalise()
    data = LeRobotDataset(tmp_path / "a")
    assert [episode.length for episode in data.episodes] == [3, 2]
    assert data[4]["task"] == "lift"
    with pytest.raises(VidsslError, match="holds a data set: overwrite"):
        LeRobotWriter(tmp_path / "a", 10, features)
