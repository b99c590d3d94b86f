"""Write a run's encoder as one file that takes raw camera frames: faster, or for another runtime.

Example:

    vidssl export runs/mine --format onnx                        # runs/mine/encoder.onnx
    vidssl export runs/mine --format aoti --camera 480 640       # compiled; scales 480x640 frames itself

    enc = vidssl.load_exported("runs/mine/encoder.onnx")         # steps like vidssl.load_encoder("runs/mine")
    feature = enc.step(frame)                                    # uint8 [H,W,3] -> float32 [dim]

The file holds preprocessing, encoder and context, and takes and gives back the streaming state. It is run beside the
encoder it came from, on noise and on moving scenes, and kept only if the features are the same (1e-4 of the largest).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass
class Config:
    """See the text above."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """run folder, written by `vidssl pretrain`"""
    format: Annotated[str, tyro.conf.arg(metavar="{onnx,aoti}")] = "onnx"
    """ONNX, or a package of torch's ahead-of-time compiler (needs a C++ compiler; runs on this kind of CPU)"""
    out: Path | None = None
    """the file to write; RUN/encoder.onnx or RUN/encoder.pt2 if left out"""
    camera: tuple[int, int] | None = None
    """height and width of the frames it will be fed, in pixels; the encoder's own if left out"""
    batch: int = 1
    """streams it runs side by side"""
    output: Literal["encoder", "context"] | None = None
    """what it gives; as the run exports it if left out"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    run(tyro.cli(Config, args=argv, prog="vidssl export", description=__doc__))
    return 0


def run(config: Config) -> Path:
    """Export as configured, print how near the file is to the encoder; returns its path."""
    from vidssl.errors import unknown_name
    from vidssl.export import FORMATS, SUFFIX, export_encoder
    from vidssl.features import load_encoder

    if config.format not in FORMATS:
        raise unknown_name("format", config.format, FORMATS)
    out = config.out or config.run / f"encoder{SUFFIX[config.format]}"
    extractor = load_encoder(config.run, output=config.output)
    parity = export_encoder(extractor, out, config.format, config.camera, config.batch)
    height, width = config.camera or extractor.image_size
    print(
        f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB): frames of {height}x{width}, {extractor.dim} features; "
        f"largest difference from the run's encoder {parity.difference:.1e}, "
        f"{parity.relative:.1e} of the largest feature"
    )
    return out


if __name__ == "__main__":
    main()
