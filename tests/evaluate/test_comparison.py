"""Standings of methods to baselines, rows on disk, and how a comparison is shown."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidssl.encoders import build_encoder
from vidssl.evaluate.arms import Row, averaged, network
from vidssl.evaluate.baselines import fresh
from vidssl.evaluate.comparison import Entry, as_json, read_row, standings, verdicts, write_row
from vidssl.evaluate.comparison_view import cells, failures, markdown, plot, tables, target_cells
from vidssl.evaluate.intervals import RESAMPLES, Bootstrap, over_seeds
from vidssl.evaluate.probes import knn_probe, linear_probe
from vidssl.evaluate.ridge import ridge_r2
from vidssl.methods import METHODS
from vidssl.views import Views

ITEMS = 60
LABELS = ["ab"[i % 2] for i in range(ITEMS)]
GROUPS = [str(i // 4) for i in range(ITEMS)]
SIGNAL = np.array([i % 2 for i in range(ITEMS)], dtype=float)


def row(name: str, strength: float, seed: int) -> Row:
    """Features that tell the class, and a target, by as much as `strength`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ITEMS, 4))
    x[:, 0] += strength * SIGNAL
    y = np.stack([SIGNAL + 0.1 * np.random.default_rng(9).normal(size=ITEMS), np.arange(ITEMS) % 3.0], axis=1)
    return Row(
        name,
        4,
        3.5,
        linear_probe(x, LABELS, GROUPS, 3, (0, 1)),
        knn_probe(x, LABELS, GROUPS, 3, (0, 1)),
        ridge_r2(x, y, GROUPS, 3, (0, 1)),
        rank_centred=2.5,
    )


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    cost = {"parameters": 2e6, "memory_mib": 512.0, "clips_per_second": 80.0, "steps": 100, "minutes": 3.0}
    strong = tuple(row("strong", 8.0, seed) for seed in (1, 2))
    return [
        Entry("weak", False, (row("weak", 0.0, 3),), (cost,)),
        Entry(
            "strong",
            False,
            strong,
            (cost, {**cost, "steps": 200}),
            {"strong-seed2": "loss is nan at step 7"},
            starts=(row("start", 0.5, 6), None),
        ),
        Entry("gone", False, failures={"gone-seed0": "killed by SIGKILL"}),
        Entry("raw pixels", True, (row("raw pixels", 0.5, 4),)),
        Entry("untrained small", True, (row("untrained small", 2.0, 5),)),
    ]


def test_a_row_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    before = row("strong", 4.0, 0)
    write_row(tmp_path / "0.npz", before)
    after = read_row(tmp_path / "0.npz")
    assert (after.name, after.dim, after.rankme, after.rank_centred) == ("strong", 4, 3.5, 2.5)
    for probe in ("linear", "knn", "ridge"):
        old, new = getattr(before, probe), getattr(after, probe)
        for part in fields(old):
            mine, theirs = getattr(old, part.name), getattr(new, part.name)
            assert type(mine) is type(theirs)
            assert np.array_equal(mine, theirs, equal_nan=part.name in ("errors", "spread"))
    write_row(tmp_path / "1.npz", Row("bare", 4, 1.0, None, None, before.ridge))
    bare = read_row(tmp_path / "1.npz")
    assert bare.linear is None
    assert bare.rank_centred is None  # as in files of before it was measured


def test_standings_and_verdicts(entries: list[Entry]) -> None:
    found = standings(entries)
    assert list(found) == ["linear", "knn", "ridge"]
    for standing in found.values():
        assert [one.name for one in standing] == ["strong", "weak"]  # the best first, the failed one nowhere
        assert set(standing[0].leads) == {"raw pixels", "untrained small"}
        assert standing[0].closest == "untrained small"
        assert standing[0].above
        assert not standing[1].above
    assert found["linear"][0].clear
    told = verdicts(entries)
    expected = "strong (1 of 2 methods; training seeds behind each: 1 to 2)"
    assert f"linear: above all 2 baselines, every 95 % interval excludes zero: {expected}" in told
    assert "linear: above their own start, the interval excludes zero: strong; below it: none (of 1 methods)" in told
    assert any(line.startswith("linear: weak is not above untrained small: -") for line in told)


def test_a_gain_is_paired_seed_for_seed() -> None:
    starts = row("start", 0.5, 1), row("start", 2.0, 2)
    assert Entry("same", False, starts, starts=starts).gains["ridge"] == Bootstrap(0.0, 0.0, 0.0, 0.0)
    parts = row("trained", 3.0, 1), row("trained", 6.0, 2)
    both = [Entry("one", False, (part,), starts=(start,)).gains for part, start in zip(parts, starts, strict=True)]
    for probe, gain in Entry("two", False, parts, starts=starts).gains.items():
        assert gain.mean == pytest.approx(np.mean([one[probe].mean for one in both]))


def test_seeds_are_drawn_where_there_are_two_or_more() -> None:
    """Two seeds at 0 and 1, no noise of groups: a draw is of one seed alone in half of the cases, its variance 1/8."""
    flat = np.zeros(RESAMPLES), np.ones(RESAMPLES)
    assert np.array_equal(over_seeds(flat[1:]), flat[1])
    drawn = over_seeds(flat)
    assert set(drawn) == {0.0, 0.5, 1.0}
    assert drawn.var() == pytest.approx(1 / 8, rel=0.05)


def test_a_pooled_row_gives_back_each_network() -> None:
    networks = [row("untrained", strength, seed) for seed, strength in enumerate((0.0, 2.0, 4.0))]
    pooled = averaged(networks)
    for number, alone in enumerate(networks):
        found = network(pooled, number, 2)
        assert found is not None
        for probe in ("linear", "knn", "ridge"):
            mine, theirs = getattr(found, probe), getattr(alone, probe)
            assert (mine.mean, mine.stderr) == pytest.approx((theirs.mean, theirs.stderr))
    assert network(pooled, 3, 2) is None


@pytest.mark.parametrize("name", METHODS)
def test_training_starts_from_the_untrained_network_of_its_seed(name: str) -> None:
    """As `vidssl pretrain` makes it; what a gain over the own start rests on."""
    chosen: Any = METHODS[name]
    size = (32, 32)
    own = chosen.default_encoder
    torch.manual_seed(3)
    method = chosen(build_encoder(own, size), Views.none(size))
    context = {"name": method.context.name, "dim": method.context.dim} if method.output == "context" else None
    architecture = {"encoder": {"name": own}, "context": context, "image_size": size, "fps": None}
    begun = fresh({**architecture, "output": method.output}, 3)
    for part in ("encoder", "context") if context else ("encoder",):
        mine, theirs = getattr(method, part).state_dict(), getattr(begun, part).state_dict()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_lead_that_may_be_chance_is_not_clear() -> None:
    same = row("one", 2.0, 0)
    near = Entry("one", False, (same,))
    (only,) = standings([near, Entry("raw pixels", True, (same,))])["linear"]
    assert not only.above
    assert only.leads["raw pixels"].mean == 0


def test_the_table_orders_and_counts(entries: list[Entry]) -> None:
    header, lines = cells(entries)
    assert [line[0] for line in lines] == ["strong (1 failed)", "weak", "gone", "untrained small", "raw pixels"]
    named = {line[0]: dict(zip(header[-8:], line[-8:], strict=True)) for line in lines}
    assert named["strong (1 failed)"] == {
        "seeds": "2",
        "RankMe": "3.5",
        "rank, centred": "2.5",
        "params M": "2.00",
        "memory MiB": "512",
        "clips/s": "80.0",
        "steps": "150",
        "min": "3.0",
    }
    assert lines[2][2:] == ["failed", *[""] * (len(header) - 3)]
    assert lines[0][3] == "2/2"  # clear of both baselines on the linear probe
    assert lines[0][2].count("to") == 1  # the range of its two seeds
    assert header[4] == "gain over its own start"
    gain = entries[1].gains["linear"]
    assert lines[0][4] == f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    assert lines[1][4] == ""  # its start was not probed
    assert failures(entries) == [
        "failed: strong-seed2: loss is nan at step 7",
        "failed: gone-seed0: killed by SIGKILL",
    ]
    header, lines = target_cells(entries, ["side", "luck"])
    assert header == ["R² of", "side", "luck"]
    assert [line[0] for line in lines] == ["strong", "weak", "untrained small", "raw pixels"]
    assert [table.row_count for table in tables(entries, ["side", "luck"])] == [5, 4]
    written = markdown(entries, ["side", "luck"])
    assert written.count("\n| --- |") == 2


def test_json_holds_each_seed_and_lead(entries: list[Entry]) -> None:
    lines = {line["name"]: line for line in as_json(entries, ["side", "luck"])}
    assert [seed["steps"] for seed in lines["strong"]["seeds"]] == [100, 200]
    means = [seed["linear"]["mean"] for seed in lines["strong"]["seeds"]]
    assert lines["strong"]["linear"]["mean"] == pytest.approx(np.mean(means))
    assert [lines[name]["training_seeds"] for name in ("strong", "weak", "raw pixels")] == [2, 1, 0]
    assert set(lines["strong"]["gain_over_own_start"]) == {"linear", "knn", "ridge"}
    assert lines["weak"]["gain_over_own_start"] == {}
    assert lines["weak"]["rank_centred"] == 2.5
    lead = lines["weak"]["leads"]["linear"]["raw pixels"]
    assert lead["mean"] == pytest.approx(lines["weak"]["linear"]["mean"] - lines["raw pixels"]["linear"]["mean"])
    assert set(lines["weak"]["ridge"]["targets"]) == {"side", "luck"}
    assert lines["gone"]["failures"] == {"gone-seed0": "killed by SIGKILL"}


def test_the_plot_is_drawn_with_and_without_scores(entries: list[Entry], tmp_path: Path) -> None:
    for number, shown in enumerate((entries, entries[2:3])):
        plot(shown, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
