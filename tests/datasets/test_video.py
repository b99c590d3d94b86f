"""Frames against a plain sequential decode, and files that are no good."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from footage import picture, pixels, sequential, write_video

from vidssl.datasets.packets import JUMP
from vidssl.datasets.video import VideoReader, index_video, spread_frames
from vidssl.errors import VidsslError

OPEN_GOP = "keyint=12:bframes=3:b-adapt=0:scenecut=0:open-gop=1:log-level=-1"
B_FRAMES = {"bf": "3", "g": "12", "b_strategy": "0", "sc_threshold": "0"}


def uneven(count: int) -> list[int]:
    """Stamps of a variable rate, in 1/600 s, that do not begin at 0."""
    draw = random.Random(3)
    stamps = [1200]
    while len(stamps) < count:
        stamps.append(stamps[-1] + draw.randint(5, 70))
    return stamps


def assert_exact(path: Path, requests: int = 4) -> None:
    """pts, and the frames of some requests (a run, then scattered ones), equal those of a plain sequential decode."""
    expected = sequential(path)
    index = index_video(path)
    if not index.counted:
        assert index.pts.tolist() == [pts for pts, _ in expected]
    assert len(index) == len(expected)
    np.testing.assert_array_equal(index.times, index.pts * float(index.time_base))
    draw = random.Random(path.name)
    with VideoReader(path, index=index, threads=1) as reader:
        for request in range(requests):
            count = draw.randint(1, min(16, len(index)))
            start = draw.randint(0, len(index) - count)
            numbers = draw.sample(range(len(index)), count) if request % 2 else list(range(start, start + count))
            found = {number: (frame.pts, hash(tuple(pixels(frame)))) for number, frame in reader.frames(numbers)}
            assert found == {number: expected[number] for number in numbers}


@pytest.mark.parametrize("folder", ["torture", "clips"])
def test_real_files_are_exact(shared_data: Path, folder: str) -> None:
    for path in sorted((shared_data / folder).iterdir()):
        assert_exact(path, requests=2 if path.stat().st_size > 400_000 else 4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_variable_rate_with_b_frames_is_exact(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"vfr{suffix}", 60, stamps=uneven(60), options=B_FRAMES)
    assert_exact(path, requests=8)
    if suffix == ".mp4":
        np.testing.assert_allclose(np.diff(index_video(path).times), np.diff(uneven(60)) / 600, atol=1e-4)
        assert index_video(path).times[0] > 0


KINDS: dict[str, Callable[[Path], Path]] = {
    "open groups, mp4": lambda to: write_video(to / "a.mp4", 60, options={"x264-params": OPEN_GOP}),
    "open groups, ts": lambda to: write_video(to / "a.ts", 60, options={"x264-params": OPEN_GOP}),
    "intra refresh": lambda to: write_video(
        to / "a.mkv", 40, options={"x264-params": "intra-refresh=1:keyint=12:bframes=0"}
    ),
    "fragments": lambda to: write_video(
        to / "a.mp4", 40, options=B_FRAMES, container_options={"movflags": "frag_keyframe+empty_moov"}
    ),
    "hidden frames of VP8": lambda to: write_video(
        to / "a.webm", 40, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}
    ),
    "hidden frames of VP9": lambda to: write_video(
        to / "a.webm", 40, codec="libvpx-vp9", options={"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}
    ),
    "MPEG-4 with B-frames": lambda to: write_video(to / "a.avi", 40, codec="mpeg4", options={"bf": "2", "g": "12"}),
    "no stamps at all": lambda to: write_video(to / "a.h264", 40, options=B_FRAMES),
    "4:4:4": lambda to: write_video(to / "a.mp4", 40, pix_fmt="yuv444p", options=B_FRAMES),
    "one frame": lambda to: write_video(to / "a.mp4", 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_written_files_are_exact(tmp_path: Path, kind: str) -> None:
    assert_exact(KINDS[kind](tmp_path), requests=8)


def test_stretches_start_at_keyframes_and_join(tmp_path: Path) -> None:
    index = index_video(write_video(tmp_path / "a.mp4", 60, options={"g": "10", "bf": "0", "sc_threshold": "0"}))
    assert index.keyframes[:, 0].tolist() == [0, 10, 20, 30, 40, 50]
    starts = [None if part.start is None else part.start[0] for part in index.segments([3, 5, 17, 19, 20, 45])]
    assert starts == [None, index.pts[10], index.pts[40]]  # 20 follows 19 at once: decoded on through
    assert len(index.segments([9, 9 + JUMP])) == 1


def test_leading_pictures_do_not_send_decoding_to_the_beginning(tmp_path: Path) -> None:
    """A keyframe of an open group and a picture shown before it: the stretch of both starts a group earlier."""
    path = write_video(tmp_path / "a.mp4", 200, codec="libx265", options={"x265-params": OPEN_GOP})
    index = index_video(path)
    leading = [frame for frame in range(100, 199) if index.order[frame] > index.order[frame + 1] + 1]
    assert leading, "pictures that come after the keyframe that they are shown before"
    begun: list[tuple[int, int] | None] = []
    with VideoReader(path, index=index, threads=1) as reader:
        packets = reader._decoder._packets
        reader._decoder._packets = lambda start: (begun.append(start), packets(start))[1]  # type: ignore[method-assign]
        expected = sequential(path)
        for frame in leading:
            for number, shown in reader.frames([frame, frame + 1]):
                assert (shown.pts, hash(tuple(pixels(shown)))) == expected[number]
    assert len(begun) == len(leading)
    assert None not in begun


def test_a_title_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", 20, metadata={"title": "Kuechenlicht"})
    path.write_bytes(path.read_bytes().replace(b"Kuechenlicht", b"K\xfcchenlichts"))
    assert b"K\xfcchen" in path.read_bytes()
    assert_exact(path)


def test_damage_that_is_met_while_frames_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.avi", 40, codec="mpeg4", options={"bf": "2", "g": "12"})

    def broken(_: object) -> Iterator[None]:
        raise av.error.InvalidDataError(1, "Invalid data found when processing input")
        yield

    monkeypatch.setattr("vidssl.datasets.packets._counted_pts", broken)
    with pytest.raises(VidsslError, match=r"a.avi: can't be read \(Invalid data found"):
        index_video(path)


def test_read_scales_repeats_and_tells_times(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 12, options={"crf": "1"})
    with VideoReader(path, size=(24, 32)) as reader:
        frames, times = reader.read([7, 2, 7])
        every, _ = reader.read_all()
        chunks = np.concatenate([chunk.copy() for chunk in reader.chunks(5)])
    assert (frames.shape, str(frames.dtype)) == ((3, 3, 24, 32), "torch.uint8")
    np.testing.assert_allclose(times, [7 / 25, 2 / 25, 7 / 25], atol=1e-6)
    assert (frames[0] == frames[2]).all()
    assert (frames[1] == every[2]).all()
    np.testing.assert_array_equal(chunks, every.permute(0, 2, 3, 1).numpy())
    boxes = picture(2).reshape(24, 2, 32, 2, 3).mean((1, 3))  # 2x2 means, what area scaling stands for
    assert np.abs(every[2].permute(1, 2, 0).numpy() - boxes).mean() < 6
    with VideoReader(path) as reader, pytest.raises(VidsslError, match=r"frames 3\.\.12 asked for; it has 0\.\.11"):
        reader.read([3, 12])


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_is_applied(tmp_path: Path, degrees: int, turns: int) -> None:
    plain = write_video(tmp_path / "plain.mp4", 2)
    turned = write_video(tmp_path / "turned.mp4", 2, rotation=degrees)
    with VideoReader(plain) as one, VideoReader(turned) as other:
        expected = np.rot90(one.read_array([1])[0], turns)  # counter-clockwise
        np.testing.assert_array_equal(other.read_array([1])[0], expected)
        assert (other.index.height, other.index.width) == expected.shape[:2]
        assert other.index.rotation == degrees % 360


@pytest.mark.parametrize(("wide", "luma", "grey"), [(1, 16, 0), (1, 235, 255), (2, 0, 0), (2, 235, 235), (2, 255, 255)])
def test_colour_range_is_honoured(tmp_path: Path, wide: int, luma: int, grey: int) -> None:
    path = tmp_path / "grey.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.color_range = wide
        planes = np.full((48, 32), 128, np.uint8)
        planes[:32] = luma
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.color_range = wide
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path, size=(8, 8)) as reader:
        assert np.abs(reader.read_array([0]).astype(int) - grey).max() <= 1


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(VidsslError) as caught:
            index_video(path)
        return str(caught.value)

    path = tmp_path / "a.mp4"
    assert "No such file" in message(path)
    path.write_bytes(b"")
    assert "empty (0 bytes)" in message(path)
    path.write_text("these are no moving pictures\n" * 20)
    assert "can't be opened as a video" in message(path)
    write_sound(path)
    assert "no video stream; it holds only audio" in message(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".gif"])
def test_cut_files_are_told(tmp_path: Path, suffix: str, share: float) -> None:
    codec, pix_fmt = ("gif", "rgb8") if suffix == ".gif" else ("libx264", "yuv420p")
    whole = write_video(tmp_path / f"whole{suffix}", 50, codec=codec, pix_fmt=pix_fmt, clock=25)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VidsslError, match=r"cut short|can't be|incomplete"):
        index_video(cut)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_cut_files_with_the_table_in_front_are_told(tmp_path: Path, share: float) -> None:
    whole = write_video(tmp_path / "whole.mp4", 50, container_options={"movflags": "faststart"})
    data = whole.read_bytes()
    table_end = data.index(b"mdat")
    (tmp_path / "cut.mp4").write_bytes(data[: table_end + int(share * (len(data) - table_end))])
    with pytest.raises(VidsslError, match=r"cut short|incomplete|no frame"):
        index_video(tmp_path / "cut.mp4")


def test_real_files_cut_are_told(shared_data: Path, tmp_path: Path) -> None:
    for path in [shared_data / "clips/bikes.mp4", *sorted((shared_data / "surveillance/fight").glob("*.mp4"))[:2]]:
        for share in (0.1, 0.5, 0.9):
            data = path.read_bytes()
            (tmp_path / path.name).write_bytes(data[: int(share * len(data))])
            with pytest.raises(VidsslError):
                index_video(tmp_path / path.name)


def test_a_damaged_table_is_found_when_read(tmp_path: Path) -> None:
    """The packets look whole, yet do not decode: noise in place of the second half of the pictures."""
    path = write_video(tmp_path / "a.mp4", 50, codec="libvpx-vp9", options={"g": "1"})
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for place, size in places[25:]:
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    with VideoReader(path, size=(16, 16)) as reader, pytest.raises(VidsslError, match=r"decoding failed|decodes only"):
        reader.read_all()


def test_spread_frames() -> None:
    assert spread_frames(10, 3) == [1, 5, 8]
    assert spread_frames(2, 4) == [0, 0, 1, 1]
    assert spread_frames(7, 7) == list(range(7))
    with pytest.raises(VidsslError, match="at least one frame"):
        spread_frames(0, 3)
