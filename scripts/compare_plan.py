"""What a comparison is going to do, checked before anything is trained: rows, videos, probing, settings."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidssl.errors import VidsslError
from vidssl.scripts.compare_rows import RowSpec

if TYPE_CHECKING:
    from vidssl.datasets.cache import PackedCache
    from vidssl.scripts.compare import Config
    from vidssl.scripts.compare_worker import Probing


@dataclass(frozen=True)
class Planned:
    """A row with what is known before it is trained: its untrained network, or why it can't be built."""

    spec: RowSpec
    options: dict[str, Any]
    encoder: str
    architecture: dict[str, Any] | None
    parameters: dict[str, int] = field(default_factory=dict)
    failure: str | None = None

    @property
    def baseline(self) -> str:
        """The name of its untrained network."""
        assert self.architecture is not None
        context = self.architecture["context"]
        return f"untrained {self.architecture['encoder']['name']}" + (
            f" + {context['name']}-{context['dim']}" if context else ""
        )


def plan_row(spec: RowSpec, config: "Config") -> Planned:
    """Build the row's method once, untrained: its architecture, or why it can't be had.

    Raises:
        VidsslError: no such method, or an option that it doesn't have.
    """
    from vidssl.encoders import build_encoder
    from vidssl.methods import find_method, needs_rotation
    from vidssl.scripts.pretrain import choose_views, default_encoder, method_options

    method_class = find_method(spec.method)
    options = method_options(method_class, spec.method, list(spec.options))
    name = spec.training.get("encoder") or config.encoder or default_encoder(method_class)
    size = (config.size, config.size)
    encoder = build_encoder(name, size)
    parameters = sum(p.numel() for p in encoder.parameters())
    try:  # a method from elsewhere may raise anything; the others shall not suffer from it
        if needs_rotation(method_class):
            raise VidsslError(f"{spec.method} learns from known rotations between frames: use vidssl pretrain-views")
        views = choose_views(method_class, spec.method, size, spec.training.get("views", "published"))
        method = method_class(encoder, views, **options)
        seen_by_context = method.output == "context"
        architecture = {
            "encoder": {"name": name},
            "context": {"name": method.context.name, "dim": method.context.dim} if seen_by_context else None,
            "output": method.output,
            "image_size": list(size),
        }
    except Exception as error:
        return Planned(spec, options, name, None, failure=f"{type(error).__name__}: {error}")
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    if seen_by_context:
        parameters += sum(p.numel() for p in method.context.parameters())
    return Planned(spec, options, name, architecture, {"parameters": parameters, "trained_parameters": trained})


def open_caches(config: "Config") -> "tuple[PackedCache, PackedCache]":
    """The videos to train on and those to probe on, decoded once."""
    cache = _open_cache(config, config.data, config.cache or config.out / "cache")
    if config.evaluate is None:
        return cache, cache
    return cache, _open_cache(config, config.evaluate, config.out / "cache-evaluate")


def _open_cache(config: "Config", data: Path, folder: Path) -> "PackedCache":
    from vidssl.datasets.cache import PackedCache, is_cache
    from vidssl.datasets.files import find_videos
    from vidssl.datasets.quarantine import Quarantine

    if is_cache(data):
        cache = PackedCache.open(data)
        if cache.size != (config.size, config.size):
            raise VidsslError(f"{data}: a cache of frames {cache.size}; pass --size {cache.size[0]}")
        return cache
    listed = "quarantine.csv" if data == config.data else "quarantine-evaluate.csv"  # each set by itself
    quarantine = Quarantine(config.out / listed, config.max_failed)
    return PackedCache.build(
        find_videos(data),
        folder,
        config.size,
        quarantine=quarantine,
        workers=config.workers,
        deadline=config.deadline,
    )


def make_probing(config: "Config", cache: "PackedCache", judged: "PackedCache", device: str) -> "Probing":
    """What every row is judged by."""
    from vidssl.scripts.compare_worker import Probing
    from vidssl.scripts.pretrain import clip_rate

    span = (config.frames - 1) * config.stride + 1
    return Probing(
        data=str(config.evaluate or config.data),
        cache=str(judged.folder),
        groups=None if config.groups is None else str(config.groups),
        targets=None if config.targets is None else str(config.targets),
        folds=config.folds,
        shuffles=config.shuffles,
        windows=config.windows,
        clip={"frames": config.frames, "stride": config.stride},
        fps=clip_rate([video for video in cache.videos if video.frames >= span], config.stride),
        random_encoders=config.random_encoders,
        device=device,
    )


def keep_settings(
    config: "Config",
    planned: Sequence[Planned],
    cache: "PackedCache",
    judged: "PackedCache",
    threads: int,
    device: str,
) -> None:
    """Write what all rows share, and each row's own settings; a folder begun with others is refused.

    Raises:
        VidsslError: OUT holds rows of other settings, which could not be compared.
    """
    from vidssl.checkpoint import write_json

    free = ("out", "methods", "seeds", "jobs", "threads", "device", "cache", "workers", "deadline", "max_failed")
    known = ("data", "evaluate", "groups", "targets")  # by what they hold, wherever that lies now
    shared = {name: value for name, value in asdict(config).items() if name not in (*free, *known)}
    shared |= {"threads": threads, "device": device, "videos": [[v.name, v.crc32] for v in cache.videos]}
    for name, table in (("groups", config.groups), ("targets", config.targets)):
        shared[name] = None if table is None else zlib.crc32(table.read_bytes())
    shared |= {"judged": None if judged is cache else [[v.name, v.crc32] for v in judged.videos]}
    rows = {row.spec.name: {**asdict(row.spec), "options": row.options, "encoder": row.encoder} for row in planned}
    ours = json.loads(json.dumps({"shared": shared, "rows": rows}))
    file = config.out / "settings.json"
    before = json.loads(file.read_text()) if file.exists() else {"shared": ours["shared"], "rows": {}}
    changed = sorted(name for name in ours["shared"] if before["shared"].get(name) != ours["shared"][name])
    if changed:
        told = "; ".join(f"{name}: {_brief(before['shared'].get(name))} then" for name in changed)
        raise VidsslError(
            f"{config.out} was begun with other settings ({told}); give the same, or choose another --out"
        )
    for label, row in ours["rows"].items():
        if before["rows"].get(label, row) != row:
            raise VidsslError(
                f"{config.out} holds a row {label} of other settings; give this one a label of its own:"
                f" {row['method']}@NAME,…"
            )
    write_json(file, {"shared": ours["shared"], "rows": before["rows"] | ours["rows"]})


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"
