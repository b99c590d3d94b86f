"""Finding videos in folders and lists."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from vidssl.datasets.files import VideoFile, find_videos, read_groups
from vidssl.errors import VidsslError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(videos: list[VideoFile]) -> list[str]:
    return [video.name for video in videos]


def test_folder_is_searched_in_natural_order_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "clip10.mp4", "clip2.MP4", "deep/er/a.webm", ".hidden.mp4", ".cache/b.mp4", "notes.txt")
    found = find_videos(tmp_path)
    assert names(found) == ["clip2.MP4", "clip10.mp4", "deep/er/a.webm"]
    assert {video.label for video in found} == {None}  # one lies at the top, so folders are no classes
    assert found[2].path == tmp_path / "deep/er/a.webm"


def test_first_level_folders_are_classes_when_all_videos_lie_in_one(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "run/day1/b.mp4", "run/c.mkv")
    assert [(video.name, video.label) for video in find_videos(tmp_path)] == [
        ("run/c.mkv", "run"),
        ("run/day1/b.mp4", "run"),
        ("walk/a.mp4", "walk"),
    ]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.mp4")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert names(find_videos(tmp_path)) == ["a/b.mp4"]


@pytest.mark.parametrize("header", ["", "path,label\n"])
def test_list_file(tmp_path: Path, header: str) -> None:
    (tmp_path / "list.csv").write_text(header + "sub/b.mp4, walk\na.mp4,run\n\n")
    found = find_videos(tmp_path / "list.csv")
    assert [(video.name, video.label, video.path) for video in found] == [
        ("a.mp4", "run", tmp_path / "a.mp4"),
        ("sub/b.mp4", "walk", tmp_path / "sub/b.mp4"),
    ]


def test_list_without_labels_and_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "list.txt").write_text("a.mp4\n")
    assert (
        find_videos(tmp_path / "list.txt")
        == find_videos(tmp_path / "a.mp4")
        == [VideoFile(tmp_path / "a.mp4", "a.mp4")]
    )


def test_mistakes_are_named(tmp_path: Path) -> None:
    def message(source: Path) -> str:
        with pytest.raises(VidsslError) as caught:
            find_videos(source)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "no videos" in message(tmp_path / "empty")
    assert ".mp4" in message(tmp_path / "empty")
    touch(tmp_path, "text/a.md", "text/b.md", "model.bin")
    assert "2 .md" in message(tmp_path / "text")
    assert "no such file" in message(tmp_path / "absent")
    assert "not a video by its extension (.bin)" in message(tmp_path / "model.bin")
    for text, part in [
        ("", "empty"),
        ("path,label\n", "empty"),
        ("a,b\nc\n", "columns"),
        ("a.mp4\na.mp4\n", "more than once"),
    ]:
        (tmp_path / "bad.csv").write_text(text)
        assert part in message(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    assert "not a text list" in message(tmp_path / "bad.csv")


def test_groups(tmp_path: Path) -> None:
    videos = [VideoFile(tmp_path / name, name) for name in ("a.mp4", "b/c.mp4")]
    table = tmp_path / "sources.csv"
    table.write_text("path,source\nb/c.mp4,cam2\na.mp4,cam1\nother.mp4,cam3\n")
    assert read_groups(table, videos) == ["cam1", "cam2"]
    table.write_text("path,source\na.mp4,cam1\n")
    with pytest.raises(VidsslError, match=r"no group for 1 of 2 videos, e.g. b/c.mp4"):
        read_groups(table, videos)
    table.write_text("a.mp4,cam1\n")
    with pytest.raises(VidsslError, match="header"):
        read_groups(table, videos)
    with pytest.raises(VidsslError, match="no such file"):
        read_groups(tmp_path / "none.csv", videos)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "a.mp4").touch()
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def guarded(path: str) -> Any:  # permissions don't stop root, whom tests may run as
        if str(path).endswith("shut"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(VidsslError, match=r"shut: can't be read \(Permission denied\)"):
        find_videos(tmp_path)
