"""Reports: one HTML file that carries its pictures and videos, so that it can be moved and sent; and that of a demo."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidssl.checkpoint import read_metrics, replacing

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .3rem .8rem; border-bottom: 1px solid #ccc }
td + td { text-align: right } tr.learned { background: #fbe9ec; font-weight: 600 }
img, video { max-width: 100%; border-radius: 4px } figure { margin: 1.5rem 0; display: inline-block }
figcaption { color: #666; font-size: .9rem } code { background: #f3f3f3; padding: .1rem .3rem }
"""

ARMS = {
    "random": "uniform random actions",
    "random-encoder": "clone on an untrained encoder of the same architecture",
    "pixels": "the same architecture trained end to end by cloning",
    "learned": "clone on the frozen encoder, pretrained on the videos alone",
    "expert": "privileged script that knows every rock",
}


def write_report(folder: Path, results: dict[str, Any], minutes: float) -> Path:
    """Write `folder/report.html` from a demo's run folder and evaluation; returns its path.

    Args:
        folder: of the demo, with `run/` and `evaluation/`.
        results: what `robot-eval` returned.
        minutes: the whole demo took.
    """
    evaluation, curves = folder / "evaluation", folder / "training.png"
    plot_training(read_metrics(folder / "run"), curves)
    learned = results["arms"]["learned"]
    config = results["run"]["config"]
    videos = [v for arm in ("learned", "expert") for v in sorted((evaluation / "videos").glob(f"{arm}-*.mp4"))]
    parts = [
        "<h1>Driving by features learned from video</h1>",
        f"<p>A rover's camera was recorded as {results['demonstrations']['episodes']} videos "
        f"({results['demonstrations']['steps']} frames). An encoder learned from them by "
        f"<code>{html.escape(config['method']['name'])}</code>, without labels or actions. The expert's actions were "
        f"then cloned by a small head on the frozen features and driven on {learned['episodes']} layouts that no "
        f"demonstration shows. All of it took {minutes:.1f} minutes on one machine.</p>",
        arms_table(results),
        "<p>Success: the beacon was reached without collision, tip-over or time-out. Intervals are Wilson's; every arm "
        "drove the same layouts, and the differences are paired.</p>",
        figure(evaluation / "success.png", "success by arm, 95 % intervals"),
        figure(evaluation / "strip.png", "a median episode of the learned arm, as the mast camera sees it"),
        figure(curves, "training: contrastive loss, and effective rank of the features (RankMe)"),
        *(figure(video, video.stem) for video in videos),
        "<h2>Settings</h2>",
        f"<pre>{html.escape(json.dumps(_settings(results), indent=2))}</pre>",
    ]
    return write_page(folder / "report.html", "vidssl demo", parts)


def write_page(path: Path, title: str, parts: Sequence[str]) -> Path:
    """Write an HTML file from its parts; returns its path."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    with replacing(path) as temporary:
        temporary.write_text(head + "\n".join(parts), encoding="utf-8")
    return path


def in_order(arms: Mapping[str, Any]) -> list[str]:
    """Names of arms from the floor to the ceiling; those that are nobody's usual ones before the last."""
    usual = [arm for arm in ARMS if arm in arms]
    others = [arm for arm in arms if arm not in ARMS]
    last = usual[-1:] if usual[-1:] == ["expert"] else []
    return [*usual[: len(usual) - len(last)], *others, *last]


def plot_training(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and effective rank over the steps of a run's metrics."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, label in ((left, "loss", "loss"), (right, "rankme", "effective rank")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), color="#d1495b", marker="." if len(points) < 20 else None)
        if not points:
            axes.text(0.5, 0.5, "the run was too short for it", ha="center", transform=axes.transAxes)
        axes.set_xlabel("step")
        axes.set_title(label, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def arms_table(results: Mapping[str, Any]) -> str:
    """The arms of a `results.json` as an HTML table: success, score where there is one, paired difference."""
    arms = results["arms"]
    reference = next(iter(results.get("references", ["learned"])), None)
    scored = any("score" in row for row in arms.values())
    heads = ["arm", "what it is", "success", "95 %", *(["score", "≥ 0.95", "≥ 0.8"] if scored else [])]
    heads += [f"{reference} − arm, paired 95 %"] if reference else []
    rows = [f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>"]
    for arm in in_order(arms):
        row = arms[arm]
        low, high = row["interval_95"]
        what = ARMS.get(arm) or _of_the_user(results, arm)
        cells = [arm, what, f"{row['successes']}/{row['episodes']}", f"{low:.2f} to {high:.2f}"]
        cells += _score(row.get("score")) if scored else []
        cells += [_difference(results["paired"].get(f"{reference} - {arm}"))] if reference else []
        rows.append(f"<tr class='{arm}'>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _of_the_user(results: Mapping[str, Any], arm: str) -> str:
    if arm in results.get("encoders", {}):
        return f"clone on the frozen encoder {results['encoders'][arm]['folder']}"
    return str(results["controllers"][arm]["from"])


def _score(score: Mapping[str, Any] | None) -> list[str]:
    if score is None:
        return ["", "", ""]
    low, high = score["interval_95"]
    shares = [f"{part['share']:.2f}" for _, part in sorted(score["at_least"].items(), reverse=True)]
    return [f"{score['mean']:.3f} ({low:.3f} to {high:.3f})", *shares]


def _difference(pair: Mapping[str, float] | None) -> str:
    if pair is None:
        return ""
    from vidssl.robot.outcomes import p_text

    p = f", p {p_text(pair['p'])}" if "p" in pair else ""
    return f"{pair['difference']:+.2f} ({pair['low_95']:+.2f} to {pair['high_95']:+.2f}){p}"


def figure(file: Path, caption: str) -> str:
    """A picture or video as a part of a page that holds it."""
    data = base64.b64encode(file.read_bytes()).decode()
    if file.suffix == ".mp4":
        media = f'<video controls muted loop width="480" src="data:video/mp4;base64,{data}"></video>'
    else:
        media = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>{media}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _settings(results: dict[str, Any]) -> dict[str, Any]:
    config = results["run"]["config"]
    run = {
        key: config[key] for key in ("encoder", "context", "output", "image_size", "clip", "method", "train", "budget")
    }
    return {"run": run, "seed": results["seed"], "versions": results["versions"]}
