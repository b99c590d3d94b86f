"""The collapse doctor on series written by hand: what it sees, when, what it names, what it leaves alone."""

import subprocess
import sys
from typing import Any

import pytest

from vidssl.evaluate.doctor import CAUSES, PATIENCE, Diagnosis, Doctor, Setting, diagnose
from vidssl.methods import METHODS
from vidssl.methods.ablation import Ablation


def lines(spread: list[float], rank: list[float], **more: Any) -> list[dict[str, float]]:
    """A line every 10 steps; the encoder stays at spread 0.5 and rank 30. Other series: a list, or one number."""
    numbers = {"embedding_spread": spread, "embedding_rank": rank, "feature_spread": 0.5, "feature_rank": 30.0, **more}
    return [
        {"step": 10 * (i + 1)} | {name: v[i] if isinstance(v, list) else v for name, v in numbers.items()}
        for i in range(len(spread))
    ]


def setting(method: str, **options: Any) -> Setting:
    found = Setting.of({"method": {"name": method, "options": options}})
    assert found is not None
    return found


CONSTANT = [0.9, 0.5, 0.15, 0.1, 0.1, 0.05, 0.05, 0.04]  # below 0.2 from the third line on: five of them at the seventh
RANKS = [50.0, 40.0, 30.0, 20.0, 20.0, 20.0, 20.0, 20.0]


def test_constant_collapse_is_sure_at_the_fifth_line_below_the_limit() -> None:
    doctor = Doctor()
    found = [(line["step"], finding) for line in lines(CONSTANT, RANKS) for finding in doctor.read(line)]
    assert [(step, finding.kind, finding.where) for step, finding in found] == [(70, "constant", "embedding")]
    finding = found[0][1]
    assert finding.evidence[0] == "embedding_spread at most 0.15 from step 30 to 70 (limit 0.2), 0.9 at step 10"
    assert finding.evidence[1].startswith("the encoder before the projector has not collapsed: feature_rank 30")
    assert "constant collapse of the embeddings (projector)" in finding.text()


FEW = [40.0, 8.0, 3.0, 2.0, 2.0, 1.5, 1.5, 1.4]  # directions: below 5 and a quarter of 40 from the third line on


def test_dimensional_collapse_keeps_its_spread() -> None:
    diagnosis = diagnose(lines([0.9] * 8, [30.0] * 8, feature_rank=FEW))
    assert diagnosis.verdict == "dimensional"
    assert [(f.step, f.kind, f.where, f.warning) for f in diagnosis.findings] == [(70, "dimensional", "feature", False)]


def test_few_directions_of_the_projector_alone_are_a_warning() -> None:
    """The head is thrown away; where the setting is known to collapse, or the encoder follows, it is no warning."""
    diagnosis = diagnose(lines([0.9] * 8, FEW))
    assert diagnosis.verdict == "projector"
    (finding,) = diagnosis.findings
    assert (finding.step, finding.kind, finding.where, finding.warning) == (70, "dimensional", "embedding", True)
    assert finding.text().startswith("step 70: warning, projector collapse: few directions of the embeddings")
    assert diagnose(lines([0.9] * 8, FEW), setting("vicreg", covariance=0.0)).verdict == "dimensional"
    assert diagnose(lines([0.9] * 8, FEW, feature_rank=FEW)).verdict == "dimensional"


def test_what_may_end_a_run_is_a_collapse_that_lasts() -> None:
    doctor = Doctor()
    for line in lines(CONSTANT, RANKS):
        doctor.read(line)
        assert doctor.collapsed == (line["step"] >= 70)
    doctor.read(lines([0.9], [20.0])[0])  # and not once it has recovered, nor for a projector's few directions
    assert not doctor.collapsed
    warned = Doctor()
    assert [finding.warning for line in lines([0.9] * 8, FEW) for finding in warned.read(line)] == [True]
    assert not warned.collapsed


def test_a_hinge_that_is_never_met_drowns_the_rest() -> None:
    """VICReg's: 256 dims of 32 clips; the note needs both the share and a term far from nothing."""
    terms = {"share_variance": 0.85, "term_variance": 0.65}
    numbers = lines([0.9] * 8, [20.0] * 8, **terms)
    (note,) = diagnose(numbers).notes
    assert note.startswith("one term drowns the others: variance is 0.85 of the loss from step 50 on, and term")
    assert note.endswith("lower its weight (--options variance=…), or train longer")
    run = {"method": {"name": "vicreg"}, "clip": {"batch_size": 32}}
    (note,) = diagnose(numbers, Setting.of(run)).notes
    assert "32 clips vary in 31 directions at most, and 256 dims are to be apart: fewer dims (--options dim=" in note
    assert not diagnose(lines([0.9] * 8, [20.0] * 8, **terms | {"term_variance": 0.3})).notes
    assert not diagnose(lines([0.9] * 8, [20.0] * 8, **terms | {"share_variance": 0.6})).notes


TOGETHER = [0.5, 0.3, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02]  # a spread that falls


def test_the_encoder_can_collapse_behind_a_projector_that_stands() -> None:
    ranks = [40.0, 30.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]
    diagnosis = diagnose(lines([1.0] * 8, [30.0] * 8, feature_spread=TOGETHER, feature_rank=ranks))
    assert [(f.kind, f.where) for f in diagnosis.findings] == [("constant", "feature")]
    assert "what the loss compares has not collapsed" in diagnosis.findings[0].evidence[1]


def test_a_mean_that_grows_beside_all_directions_is_no_collapse() -> None:
    """Angles between features shrink, their directions stay: unless what the loss compares falls too."""
    kept = [40.0] * 8
    assert diagnose(lines([1.0] * 8, [30.0] * 8, feature_spread=TOGETHER, feature_rank=kept)).verdict == "healthy"
    features = [{"step": 10 * n, "feature_spread": s, "feature_rank": 40.0} for n, s in enumerate(TOGETHER, 1)]
    assert diagnose(features).verdict == "healthy"
    fallen = diagnose(lines(TOGETHER, [30.0] * 8, feature_spread=TOGETHER, feature_rank=kept))
    assert [(f.kind, f.where) for f in fallen.findings] == [("constant", "embedding"), ("constant", "feature")]


@pytest.mark.parametrize(
    ("spread", "rank"),
    [
        ([0.9] * 12, [20.0] * 12),
        ([0.9] * 4 + [0.01] * (PATIENCE - 1) + [0.6] * 4, [20.0] * 12),  # a stumble shorter than the patience
        ([0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.4, 0.5], [3.0] * 10),  # a start near collapse that moves away
        ([0.12] * 12, [8.0] * 12),  # features of a rectified network point one way: close together from the start
        ([0.9] * 12, [3.0] * 12),  # never had more directions
    ],
)
def test_healthy_transients_are_left_alone(spread: list[float], rank: list[float]) -> None:
    diagnosis = diagnose(lines(spread, rank))
    assert diagnosis.verdict == "healthy"
    assert diagnosis.findings == ()


def test_outputs_that_never_moved_apart() -> None:
    assert diagnose(lines([0.005] * 2 * PATIENCE, [9.0] * 2 * PATIENCE)).verdict == "constant"
    assert diagnose(lines([0.005] * (2 * PATIENCE - 1), [9.0] * (2 * PATIENCE - 1))).verdict == "healthy"


def test_a_finding_is_told_once_and_a_recovery_noted() -> None:
    diagnosis = diagnose(lines([*CONSTANT, 0.04, 0.04, 0.9, 0.9], [20.0] * 12))
    assert len(diagnosis.findings) == 1
    assert diagnosis.verdict == "healthy"
    assert "the run recovered by its end" in diagnosis.notes


def test_embeddings_that_shrink_where_terms_are_to_hold_them() -> None:
    """A squared distance is least at nothing: directions still differ there. A cosine does not care."""
    scale = [1.0, 0.5, 0.04, 0.03, 0.02, 0.01, 0.01, 0.01]  # below a fifth of 1 from the third line on
    shares = {"share_variance": 0.0, "share_invariance": 1.0}
    diagnosis = diagnose(lines([0.6] * 8, RANKS, embedding_scale=scale, **shares))
    assert [(f.step, f.kind, f.cause) for f in diagnosis.findings] == [(70, "constant", "term-balance")]
    expected = "embedding_scale at most 0.04 from step 30 to 70 (limit 0.2), 1 at step 10"
    assert diagnosis.findings[0].evidence[0] == expected
    assert diagnose(lines([0.6] * 8, RANKS, embedding_scale=scale)).verdict == "healthy"


def test_a_prediction_without_a_favourite_is_told() -> None:
    """Not a cause, but a fact: log K is what a guess costs."""
    ranks = [40.0, 8.0, 3.0, 2.0, 2.0, 1.5, 1.5, 1.4]
    numbers = lines([0.9] * 8, ranks, feature_rank=9.0, assignment_entropy=0.99, assignment_usage=1.0)
    finding = diagnose(numbers, setting("swav")).findings[0]
    assert finding.cause is None
    assert finding.evidence[-2] == "every option of the method is at its default"
    assert finding.evidence[-1].startswith("assignment_entropy 0.99 of 1: no input has a favourite prototype")


def test_a_known_setting_is_named_as_such() -> None:
    run = diagnose(lines(CONSTANT, RANKS, loss=0.01), setting("byol", predictor=False))
    finding = run.findings[0]
    assert (finding.cause, finding.known) == ("predictor", True)
    assert "byol with predictor=False (default True) is known to collapse" in finding.evidence[-1]
    assert finding.advice.startswith("--options predictor=True;")
    seen = diagnose(lines(CONSTANT, RANKS, loss=LOSS_SLOWLY, momentum=0.99), setting("byol", predictor=False))
    assert seen.findings[0].evidence[-1] == "loss 0.7, 2 at step 10, falls as the target follows"  # agrees with it


def test_a_weight_beside_the_ablated_one_counts() -> None:
    """Default 25, ablated 0: 1 is 24 from the default and 1 from 0; 12 is not nearer to 0 than to 25."""
    assert setting("vicreg", variance=1.0).ablation() == METHODS["vicreg"].ablations[0]  # type: ignore[attr-defined]
    assert setting("vicreg", variance=12.0).ablation() is None
    assert setting("vicreg").ablation() is None


@pytest.mark.parametrize(
    ("method", "option", "cause"),
    [
        ("byol", {"batch_norm": False}, "batch-norm"),
        ("byol", {"momentum": 1.0}, "momentum"),
        ("byol", {"momentum": 0.95}, None),
        ("simclr", {"temperature": 5.0}, "temperature"),
        ("simclr", {"dim": 4}, "projector"),
        ("nowhere:Method", {"predictor": False}, "predictor"),  # not on the path here: the name tells
    ],
)
def test_options_that_speak_for_themselves(method: str, option: dict[str, Any], cause: str | None) -> None:
    finding = diagnose(lines(CONSTANT, RANKS, loss=5.0), setting(method, **option)).findings[0]
    name, value = next(iter(option.items()))
    wrong_in_itself = name not in ("temperature", "dim")  # those are unusual, and blamed where nothing else speaks
    assert (finding.cause, finding.known) == (cause, cause is not None and wrong_in_itself)
    assert any(f"{name}={value!r} (default" in evidence for evidence in finding.evidence)


def test_a_projector_that_lets_little_through() -> None:
    ranks = [40.0, 8.0, 3.0, 2.0, 2.0, 1.5, 1.5, 1.4]
    finding = diagnose(lines([0.9] * 8, ranks, loss=5.0)).findings[0]
    assert finding.cause == "projector"
    assert finding.evidence[-1] == "feature_rank 30 before the projector, embedding_rank 1.5 behind it"


def test_a_setting_known_to_collapse_that_has_not() -> None:
    diagnosis = diagnose(lines([0.9] * 8, RANKS), setting("byol", predictor=False))
    assert diagnosis.verdict == "healthy"
    assert diagnosis.notes == ("its setting, no predictor, is known to collapse (constant); it has not so far",)


def test_a_setting_known_to_collapse_needs_less_evidence() -> None:
    """Half again as much of both limits: 0.28 is below 1.5 x min(0.2, 0.9 / 4) = 0.3, 7 below 1.5 x 5."""
    spread, ranks = [0.9, 0.5, *[0.28] * 6], [50.0, 20.0, *[7.0] * 6]
    assert diagnose(lines(spread, RANKS), setting("byol")).verdict == "healthy"
    assert diagnose(lines(spread, RANKS), setting("byol", predictor=False)).verdict == "constant"
    assert diagnose(lines([0.9] * 8, ranks), setting("vicreg")).verdict == "healthy"
    assert diagnose(lines([0.9] * 8, ranks), setting("vicreg", covariance=0.0)).verdict == "dimensional"


LOSS_AT_ONCE = [2.0, 0.5, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01]
LOSS_SLOWLY = [2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"loss": LOSS_AT_ONCE, "momentum": 0.99}, "stop-gradient"),  # by step 30, the target takes 100
        ({"loss": LOSS_SLOWLY, "momentum": 0.99}, "predictor"),
        ({"loss": [0.0, -0.2, -0.4, -0.6, -0.6, -0.7, -0.7, -0.7]}, "stop-gradient"),  # no target to wait for
        ({"loss": LOSS_SLOWLY, "momentum": 0.0}, "momentum"),
        ({"loss": LOSS_SLOWLY, "momentum": 1.0}, "momentum"),
        ({"loss": 7.0, "temperature": 0.1, "teacher_temperature": 1.0}, "temperature"),
        ({"loss": 0.0, "temperature": 0.1, "teacher_temperature": 0.04, "assignment_usage": 0.01}, "centring"),
        ({"loss": 0.0, "assignment_usage": 0.01}, "assignment"),
        (
            {"share_variance": 0.0, "share_invariance": 1.0, "term_variance": RANKS, "term_invariance": 0.1},
            "term-balance",
        ),
        ({"loss": LOSS_AT_ONCE, "energy_true": 0.001}, "negatives"),
        ({"loss": 5.0}, None),
    ],
)
def test_causes_by_the_numbers_alone(more: dict[str, Any], cause: str | None) -> None:
    finding = diagnose(lines(CONSTANT, RANKS, **more)).findings[0]
    assert (finding.cause, finding.known) == (cause, False)
    assert cause is None or len(finding.evidence) == 3


def test_what_a_method_has_not_got_is_not_its_cause() -> None:
    """The numbers of a missing stop-gradient, in a method without one."""
    numbers = lines(CONSTANT, RANKS, loss=LOSS_AT_ONCE)
    assert diagnose(numbers).findings[0].cause == "stop-gradient"
    finding = diagnose(numbers, setting("wmse", hidden=64)).findings[0]
    assert finding.cause is None
    assert finding.evidence[-1] == "hidden=64 (default 512)"


def test_a_predictor_that_is_there_is_not_told_missing() -> None:
    """Numbers that by themselves speak for a missing predictor: in SimSiam at its defaults something else is wrong."""
    ranks = [40.0, 8.0, 3.0, 2.0, 2.0, 1.5, 1.5, 1.4]
    numbers = lines([0.9] * 8, ranks, loss=[0.0, -0.2, -0.4, -0.6, -0.6, -0.7, -0.7, -0.7], feature_rank=9.0)
    assert diagnose(numbers).findings[0].cause == "predictor"
    healthy = diagnose(numbers, setting("simsiam")).findings[0]
    assert (healthy.cause, healthy.known) == (None, False)
    assert "predictor" not in healthy.advice
    broken = diagnose(numbers, setting("simsiam", predictor=False)).findings[0]
    assert (broken.cause, broken.known) == ("predictor", True)


SWITCHES = [
    (name, ablation)
    for name, method in METHODS.items()
    for ablation in method.ablations  # type: ignore[attr-defined]
    if all(isinstance(value, bool) for value in ablation.options.values())
]


@pytest.mark.parametrize(("name", "ablation"), SWITCHES, ids=[f"{name}: {a.name}" for name, a in SWITCHES])
def test_a_switch_at_its_default_is_no_cause_and_one_thrown_is(name: str, ablation: Ablation) -> None:
    assert not setting(name).can(ablation.cause)
    thrown = setting(name, **ablation.options)
    assert thrown.can(ablation.cause)
    finding = diagnose(lines(CONSTANT, RANKS, loss=LOSS_SLOWLY), thrown).findings[0]
    assert (finding.cause, finding.known) == (ablation.cause, True)


def test_a_weight_is_a_cause_at_its_default_too() -> None:
    """Which weights balance the terms depends on the data; a switch does not."""
    assert setting("vicreg").can("term-balance")
    assert setting("dino").can("temperature")


def test_a_run_without_health_metrics_says_what_is_missing() -> None:
    diagnosis = diagnose([{"step": 10, "loss": 1.0}, {"step": 20, "rankme": 9.0}])
    assert isinstance(diagnosis, Diagnosis)
    assert diagnosis.verdict == "unknown"
    assert "no feature_spread and feature_rank in its metrics" in diagnosis.notes[0]
    assert "rankme" in diagnosis.notes[1]
    few = diagnose(lines(CONSTANT[:4], RANKS[:4]))
    assert (few.verdict, few.notes) == ("unknown", ("4 lines with health metrics so far, it takes 5",))


def test_every_ablation_names_a_cause_the_doctor_knows() -> None:
    named = {ablation.cause for method in METHODS.values() for ablation in method.ablations}  # type: ignore[attr-defined]
    assert named <= set(CAUSES)
    for name, method in METHODS.items():
        for ablation in method.ablations:  # type: ignore[attr-defined]
            assert setting(name, **ablation.options).ablation(ablation.collapse) == ablation


def test_no_torch_is_imported() -> None:
    code = "import sys, vidssl.evaluate.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
