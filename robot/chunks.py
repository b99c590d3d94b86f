"""Cloning in chunks of actions: see two frames, decide on 16 actions, carry out 8, look again.

    frames   t-1  t                                    Chi et al. 2023, "Diffusion Policy", arXiv 2303.04137
    inputs    x   x      features and proprioception of the past frames (the first one repeated at the start)
    chunk         a a a a a a a a . . . . . . . .      a: carried out, then inputs are taken anew (receding horizon)

The head (`chunk_head`) is trained on frozen features of whole episodes, each encoded once, or end to end with the
encoder as the baseline.

Letters: n frames of all demonstrations together, B samples, D feature dim, P proprioception size, L past frames,
I = L (D + P) numbers that a chunk hangs on, with goals D more.
"""

import copy
import time

import torch
from torch import Tensor, nn

from vidssl.errors import VidsslError
from vidssl.features import FeatureExtractor

from .chunk_controller import ChunkController, Looks
from .chunk_head import CHUNK_HEADS, ChunkHead
from .chunk_training import ChunkBudget, ChunkConfig, ChunkFit, chunks_from, past_rows, train_chunks
from .cloning import Demonstrations, check_on_cpu, encode_episodes
from .threads import one_thread


def clone_chunks(
    extractor: FeatureExtractor,
    demos: Demonstrations,
    config: ChunkConfig,
    budget: ChunkBudget,
    *,
    goals: bool = False,
) -> tuple[ChunkController, ChunkFit]:
    """Clone on frozen features: every frame is encoded once, only the head is trained.

    Args:
        goals: the head is also told the features of a goal: see `goal_cloning`.

    Raises VidsslError for fewer than two demonstrations.
    """
    started = time.process_time()
    with torch.random.fork_rng(devices=[]), one_thread():
        features = encode_episodes(extractor, demos)
        torch.manual_seed(config.seed)

        def inputs(model: nn.ModuleList, rows: Tensor, goal: Tensor | None) -> Tensor:
            seen = past_rows(demos.first, rows, config.past)
            parts = [features[seen].flatten(1), demos.proprio[seen].flatten(1)]
            return torch.cat(parts if goal is None else [*parts, features[goal]], dim=1)

        head = _new_head(config, demos, extractor.dim, goals)
        model, rows = nn.ModuleList([head]), torch.arange(len(features))
        head.standardise(inputs(model, rows, rows if goals else None), chunks_from(demos, rows, config))
        trained, fit = train_chunks(
            model, inputs, demos, config, budget, batch_size=config.batch_size, goals=goals, started=started
        )
    return _controller(extractor, trained, demos, config, goals), fit


def clone_chunks_pixels(
    untrained: FeatureExtractor,
    demos: Demonstrations,
    config: ChunkConfig,
    budget: ChunkBudget,
    *,
    batch_size: int = 64,
) -> tuple[ChunkController, ChunkFit]:
    """Clone end to end: the encoder and the same head learn from the actions alone.

    Args:
        untrained: the architecture and its starting weights; copied, not changed.
        batch_size: smaller than that of heads, which need not look at pixels.

    Raises VidsslError for encoders of clips, with a context or not on the CPU, and for fewer than two demonstrations.
    """
    check_on_cpu(untrained, "chunks from pixels")
    if untrained.context is not None or untrained.window is not None:
        raise VidsslError(
            f"chunks from pixels: this encoder has a {'window' if untrained.window else 'context'} over many frames; "
            "choose one of single frames, such as control or small"
        )
    started = time.process_time()
    encoder = copy.deepcopy(untrained.encoder).requires_grad_(True)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(config.seed)

        def inputs(model: nn.ModuleList, rows: Tensor, goal: Tensor | None) -> Tensor:
            seen = past_rows(demos.first, rows, config.past + encoder.past)
            features = model[1](untrained.prepare(torch.from_numpy(demos.frames[seen.numpy()])))
            known = demos.proprio[seen[:, -config.past :]]
            return torch.cat([features[:, -config.past :].flatten(1), known.flatten(1)], dim=1)

        head = _new_head(config, demos, untrained.dim, goals=False)
        model = nn.ModuleList([head, encoder])
        with torch.no_grad():  # at the scale of the start; later the encoder is free to change it
            some = torch.randperm(len(demos.first))[:512]
            head.standardise(inputs(model, some, None), chunks_from(demos, torch.arange(len(demos.first)), config))
        trained, fit = train_chunks(
            model, inputs, demos, config, budget, batch_size=batch_size, goals=False, started=started
        )
    extractor = FeatureExtractor(
        trained[1], None, untrained.image_size, untrained.fps, untrained.output, untrained.config
    )
    return _controller(extractor, trained, demos, config, goals=False), fit


def _new_head(config: ChunkConfig, demos: Demonstrations, dim: int, goals: bool) -> ChunkHead:
    size_in = config.past * (dim + demos.proprio.shape[1]) + dim * goals
    size_out = config.horizon * demos.action.shape[1]
    return CHUNK_HEADS[config.head](size_in, size_out, config.width, config.blocks, config.dropout)


def _controller(
    extractor: FeatureExtractor, trained: nn.ModuleList, demos: Demonstrations, config: ChunkConfig, goals: bool
) -> ChunkController:
    looks = Looks(
        config.past, config.execute, config.euler, config.seed, demos.proprio.shape[1], config.relative, goals
    )
    head: ChunkHead = trained[0]  # type: ignore[assignment]
    return ChunkController(extractor, head, demos.low, demos.high, looks)
