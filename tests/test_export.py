"""Exported encoders: the run's own numbers from one file, in both formats; every way to feed or write it wrongly."""

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import vidssl
from vidssl.checkpoint import write_config, write_model
from vidssl.encoders import build_encoder
from vidssl.encoders.context import CONTEXTS, build_context
from vidssl.export import ALLOWED, FORMATS, Parity, check_parity, export_encoder
from vidssl.exported import ExportedExtractor
from vidssl.features import FeatureExtractor
from vidssl.scripts.export import main
from vidssl.streaming import StreamingModule, resizing

SIZE = (32, 32)
ENCODERS = ("control", "resnet18-both", "small-grey", "small-motion", "vit", "vit-video")


def untrained(name: str, context: str | None = None, size: tuple[int, int] = SIZE) -> FeatureExtractor:
    torch.manual_seed(0)
    encoder = build_encoder(name, size)
    following = build_context(context, encoder.dim, 16) if context else None
    config = {"encoder": {"name": name, "dim": encoder.dim}, "context": None, "secret": "of the training"}
    return FeatureExtractor(encoder, following, size, 10.0, "context" if context else "encoder", config)


def frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureExtractor, Path]:
    """Two streams of 48x40 frames through an encoder of motion and a GRU."""
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    extractor = untrained("small-motion", "gru")
    export_encoder(extractor, path, "onnx", camera=(48, 40), batch=2)
    return extractor, path


def by_step(extractor: FeatureExtractor, clips: np.ndarray, reset_at: int | None = None) -> torch.Tensor:
    """Features [B,T,D] of clips [B,T,H,W,3]; the first stream starts anew at `reset_at`."""
    extractor.reset(len(clips))
    out = []
    for t in range(clips.shape[1]):
        if t == reset_at:
            extractor.reset_rows(np.arange(len(clips)) == 0)
        out.append(extractor.step(clips[:, t]))
    return torch.stack(out, 1)


@pytest.mark.parametrize(
    ("name", "context"), [*((name, None) for name in ENCODERS), *(("small-motion", context) for context in CONTEXTS)]
)
def test_the_exported_function_gives_the_numbers_of_step(name: str, context: str | None) -> None:
    """What is exported, in eager torch: all kinds, resets of single streams, more frames than a context's window."""
    extractor = untrained(name, context)
    streaming = StreamingModule(extractor, SIZE, batch=2)
    clips = frames(2, 19, *SIZE)
    wanted = by_step(extractor, clips, reset_at=17)
    state, got = list(streaming.state.values()), []
    for t in range(19):
        fresh = torch.tensor([t in (0, 17), t == 0])
        feature, *state = streaming(torch.from_numpy(clips[:, t]), fresh, *state)
        assert [one.shape for one in state] == [one.shape for one in streaming.state.values()]
        assert all(one.is_contiguous() for one in state)  # compiled code counts on it
        got.append(feature)
    torch.testing.assert_close(torch.stack(got, 1), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("size", "wanted"), [(96, 64), (48, 64), (241, 32), (7, 7)])
def test_resizing_is_that_of_interpolate(size: int, wanted: int) -> None:
    image = torch.rand(1, 3, size, size + 5)
    ours = resizing(size, wanted) @ image @ resizing(size + 5, wanted + 3).T
    theirs = F.interpolate(image, (wanted, wanted + 3), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_onnx_steps_like_the_run(onnx_file: tuple[FeatureExtractor, Path]) -> None:
    extractor, path = onnx_file
    exported = vidssl.load_exported(path)
    assert (exported.dim, exported.image_size, exported.fps, exported.output) == (16, SIZE, 10.0, "context")
    assert (exported.camera, exported.batch, exported.encoder.past) == ((48, 40), 2, 1)
    assert exported.config["encoder"]["name"] == "small-motion"
    assert "secret" not in exported.config
    clips = frames(2, 6, 48, 40)
    wanted = by_step(extractor, clips, reset_at=4)
    torch.testing.assert_close(by_step(exported, clips, reset_at=4), wanted, rtol=1e-4, atol=1e-5)
    assert check_parity(extractor, exported, (48, 40), batch=2).relative < ALLOWED


def test_clips_copies_and_other_processes(onnx_file: tuple[FeatureExtractor, Path]) -> None:
    extractor, path = onnx_file
    exported = vidssl.load_exported(path, threads=2)
    clips = frames(3, 5, 48, 40)  # more than the two streams at a time
    whole = extractor.per_frame(clips)
    exported.reset()
    before = exported.step(clips[:2, 0])
    twin = copy.copy(exported)
    torch.testing.assert_close(exported.per_frame(clips), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported(clips[0]), whole[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(before, whole[:2, 0], rtol=1e-4, atol=1e-5)
    after = exported.step(clips[:2, 1])  # per_frame left the stream alone, and the copy has its own
    torch.testing.assert_close(after, whole[:2, 1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(twin.step(clips[:2, 1]), after, rtol=0, atol=0)
    assert twin._runner is exported._runner
    sent = pickle.loads(pickle.dumps(exported))
    assert sent.threads == 2
    torch.testing.assert_close(by_step(sent, clips[:2]), by_step(exported, clips[:2]), rtol=0, atol=0)


def test_the_file_explains_itself(onnx_file: tuple[FeatureExtractor, Path]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file[1], providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["vidssl"])
    assert (about["camera"], about["fps"], about["dim"], about["batch"]) == ([48, 40], 10.0, 16, 2)
    assert about["state"] == [
        {"name": "before", "shape": [2, 1, 3, 32, 32], "dtype": "float32"},
        {"name": "hidden", "shape": [2, 1, 16], "dtype": "float32"},
    ]
    assert [one.name for one in session.get_inputs()] == ["frame", "fresh", "before", "hidden"]
    assert [one.name for one in session.get_outputs()] == ["feature", "before_next", "hidden_next"]


def test_command_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = untrained("small-motion")
    write_model(tmp_path, nn.ModuleDict({"encoder": extractor.encoder}).state_dict())
    write_config(tmp_path, {**extractor.config, "output": "encoder", "image_size": list(SIZE), "fps": 10.0})
    assert main([str(tmp_path), "--format", "aoti"]) == 0
    assert "encoder.pt2" in capsys.readouterr().out
    exported = vidssl.load_exported(tmp_path / "encoder.pt2")
    clip = frames(4, *SIZE)
    torch.testing.assert_close(exported(clip), extractor(clip), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "abacus")
    with pytest.raises(
        vidssl.VidsslError, match=r"compiled for .* processors, this one has abacus; run `vidssl export`"
    ):
        vidssl.load_exported(tmp_path / "encoder.pt2")


def test_frames_that_do_not_fit(onnx_file: tuple[FeatureExtractor, Path]) -> None:
    exported = vidssl.load_exported(onnx_file[1])
    with pytest.raises(vidssl.VidsslError, match="takes 48x40 pixels, got 40x48; export it again with --camera 40 48"):
        exported.step(frames(2, 40, 48))
    exported.reset()
    with pytest.raises(vidssl.VidsslError, match="exported for 2 streams, got 1; export it again with --batch 1"):
        exported.step(frames(48, 40))
    with pytest.raises(vidssl.VidsslError, match="exported for 2 streams, got 3"):
        exported.reset(batch=3)
    with pytest.raises(vidssl.VidsslError, match="expected uint8"):
        exported.step(np.zeros((2, 48, 40, 3), np.float32))
    for part in (exported.encoder, exported.context):
        with pytest.raises(vidssl.VidsslError, match="holds no weights to train or save"):
            part.state_dict()


def test_clip_encoders_have_no_features_of_clips_in_the_file(onnx_file: tuple[FeatureExtractor, Path]) -> None:
    exported = vidssl.load_exported(onnx_file[1])
    exported.window = 8
    assert exported.per_frame(frames(1, 48, 40)).shape == (1, 16)
    with pytest.raises(vidssl.VidsslError, match="not its features of clips; use per_frame"):
        exported(frames(1, 48, 40))


def test_mistakes_in_exporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = untrained("control")
    with pytest.raises(vidssl.VidsslError, match="unknown format 'tflite'; the formats here are: aoti, onnx"):
        export_encoder(extractor, tmp_path / "e.onnx", "tflite")
    with pytest.raises(vidssl.VidsslError, match="unknown format 'tflite'"):
        main([str(tmp_path), "--format", "tflite"])
    with pytest.raises(vidssl.VidsslError, match=r"format aoti ends in \.pt2"):
        export_encoder(extractor, tmp_path / "e.onnx", "aoti")
    with pytest.raises(vidssl.VidsslError, match="batch 0 and camera 32x32; each must be at least 1"):
        export_encoder(extractor, tmp_path / "e.onnx", "onnx", batch=0)
    with pytest.raises(vidssl.VidsslError, match="its context has no stream"):
        export_encoder(untrained("vit-video", "gru"), tmp_path / "e.onnx", "onnx")
    other = untrained("small", "gru")
    other.context = nn.Identity()
    with pytest.raises(vidssl.VidsslError, match="a context of kind Identity has no state of fixed shape"):
        export_encoder(other, tmp_path / "e.onnx", "onnx")
    other.device = torch.device("cuda")
    with pytest.raises(vidssl.VidsslError, match='the encoder is on cuda; load it with device="cpu"'):
        export_encoder(other, tmp_path / "e.onnx", "onnx")
    monkeypatch.setenv("CXX", "/no/compiler")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/no/compiler"))
    with pytest.raises(vidssl.VidsslError, match=r"there is no C\+\+ compiler .*install g\+\+"):
        export_encoder(extractor, tmp_path / "e.pt2", "aoti")
    monkeypatch.setattr("importlib.import_module", _missing)
    with pytest.raises(vidssl.VidsslError, match=r"--format onnx needs onnxruntime; pip install 'vidssl\[onnx\]'"):
        export_encoder(extractor, tmp_path / "e.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def _missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Parity(2e-4, 4.0).relative == pytest.approx(5e-5)
    extractor = untrained("control")
    monkeypatch.setitem(FORMATS, "onnx", lambda graph, path, about: path.touch())
    monkeypatch.setattr("vidssl.export.load_exported", Path)
    for away in (3e-4, float("nan")):
        monkeypatch.setattr("vidssl.export.check_parity", lambda *_, away=away: Parity(away, 1.0))
        with pytest.raises(vidssl.VidsslError, match=f"off by {away:.1e} where features reach 1 .*nothing was written"):
            export_encoder(extractor, tmp_path / "e.onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_encoders_that_cannot_be_exported_name_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no such operator\nand so on")

    monkeypatch.setitem(FORMATS, "onnx", fails)
    with pytest.raises(
        vidssl.VidsslError, match=r"can't export the encoder 'control' .*no such operator\); try --format"
    ):
        export_encoder(untrained("control"), tmp_path / "e.onnx", "onnx")


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(vidssl.VidsslError, match=r"an exported encoder ends in \.onnx or \.pt2"):
        ExportedExtractor(tmp_path / "encoder.pt")
    with pytest.raises(vidssl.VidsslError, match="no such file; write it by `vidssl export RUN"):
        ExportedExtractor(tmp_path / "encoder.onnx")
    for suffix in (".onnx", ".pt2"):
        (tmp_path / f"torn{suffix}").write_bytes(b"torn")
        with pytest.raises(vidssl.VidsslError, match="can't be opened"):
            ExportedExtractor(tmp_path / f"torn{suffix}")
    with pytest.raises(vidssl.VidsslError, match="threads: got 0"):
        ExportedExtractor(tmp_path / "torn.onnx", threads=0)
    monkeypatch.setattr("importlib.import_module", _missing)
    with pytest.raises(vidssl.VidsslError, match=r"needs onnxruntime .*pip install 'vidssl\[onnx\]'"):
        ExportedExtractor(tmp_path / "torn.onnx")


def test_files_of_others_and_of_other_versions(
    onnx_file: tuple[FeatureExtractor, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidssl.exported.FORMAT", 2)
    with pytest.raises(vidssl.VidsslError, match="export format 1, this vidssl reads 2; run `vidssl export` again"):
        vidssl.load_exported(onnx_file[1])
    monkeypatch.setattr("vidssl.exported.METADATA", "another")
    with pytest.raises(vidssl.VidsslError, match="was not written by vidssl"):
        vidssl.load_exported(onnx_file[1])
