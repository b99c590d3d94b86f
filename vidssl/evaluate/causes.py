"""Why a run collapsed: a setting known to do it, or what the numbers speak for.

Two kinds of evidence, never mixed: an option that equals one of the method's `ablations` (or lies beside it) is a
known setting; without one, rules read the logged numbers, from the most telling to the least, and their answer is an
inference. Rules for what a method has not got are not asked, when the method is known.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # at run time it would bring torch along
    from vidssl.methods.ablation import Ablation

Collapse = Literal["constant", "dimensional"]
Where = Literal["embedding", "feature"]
Line = Mapping[str, float]

NEAR = 0.25  # an option this much nearer to the ablated value than to its default counts as ablated
FAST, HALF = 0.05, 0.5  # a loss down to this share of its range: the sides agree nearly, or largely


@dataclass(frozen=True)
class Cause:
    """What it is called in a report, and what to do about it."""

    what: str
    advice: str


CAUSES: dict[str, Cause] = {
    "predictor": Cause("no predictor", "put a predictor behind the projector of the side that learns"),
    "stop-gradient": Cause("no stop-gradient", "stop the gradient through the target side"),
    "momentum": Cause(
        "a target network that copies (momentum 0) or never moves (momentum 1)", "set the momentum to 0.99 to 0.999"
    ),
    "batch-norm": Cause("batch norm left out", "put batch norm into projector and predictor"),
    "term-balance": Cause(
        "a term of the loss missing, or drowned by another", "raise the weight of the term that keeps outputs apart"
    ),
    "temperature": Cause("a temperature too high or too low", "set the temperature to its default"),
    "centring": Cause("no centring of the teacher's scores", "centre the teacher's scores"),
    "assignment": Cause("assignments without equipartition", "assign with Sinkhorn, all prototypes used alike"),
    "whitening": Cause("no whitening", "whiten the embeddings"),
    "negatives": Cause("no negatives, or too few", "contrast with negatives: a larger batch, more videos, or a queue"),
    "projector": Cause(
        "a projector that keeps few directions", "widen the projector, or train the encoder without one"
    ),
}


@dataclass(frozen=True)
class Setting:
    """A run's method and what it was told.

    Attributes:
        method: its name.
        options: in use.
        defaults: of the method; empty for one that cannot be imported.
        ablations: of the method.
        batch_size: clips a batch, None where it isn't known.
    """

    method: str
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    ablations: "tuple[Ablation, ...]"
    batch_size: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Setting | None":
        """From a run's `config.json`; None where it names no method."""
        from vidssl.errors import VidsslError
        from vidssl.methods import find_method

        name = config.get("method", {}).get("name")
        if name is None:
            return None
        try:
            method = find_method(name)
        except VidsslError:  # a class of elsewhere that is not on the path here: judged by its numbers
            return cls(name, config["method"].get("options", {}), {}, ())
        parameters = inspect.signature(method).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        given = config["method"].get("options", {})
        given = {
            key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
        }  # JSON has lists
        batch_size = config.get("clip", {}).get("batch_size")
        return cls(name, defaults | given, defaults, getattr(method, "ablations", ()), batch_size)

    def ablation(self, kind: Collapse | None = None) -> "Ablation | None":
        """The ablation that the options amount to; of several, one that leads to `kind`, then the most special."""
        held = [a for a in self.ablations if all(self._amounts(name, value) for name, value in a.options.items())]
        return max(held, key=lambda a: (a.collapse == kind, len(a.options)), default=None)

    def _amounts(self, name: str, ablated: Any) -> bool:
        used: Any = self.options.get(name)
        default: Any = self.defaults.get(name)
        if used in (ablated, default):
            return bool(used == ablated and used != default)
        if not (_is_number(used) and _is_number(ablated) and _is_number(default)):
            return False
        return bool(abs(used - ablated) <= NEAR * abs(used - default))

    def telling(self, table: "Telling") -> tuple[str, str] | None:
        """An option that speaks for a cause by its name and value, whatever the method: (option, cause)."""
        for name, cause, speaks in table:
            used, default = self.options.get(name), self.defaults.get(name)
            if name in self.options and used != default and speaks(used, default):
                return name, cause
        return None

    def changed(self, names: Sequence[str]) -> str:
        """`name=value (default value)` of some options."""
        return ", ".join(f"{name}={self.options[name]!r} (default {self.defaults.get(name)!r})" for name in names)

    def can(self, cause: str) -> bool:
        """Whether this run could have this cause: the method can be broken so, and no switch is set against it."""
        always = ("momentum", "temperature", "projector")  # a logged number at an extreme speaks for itself
        possible = (ablation.cause for ablation in self.ablations if not self._ruled_out(ablation))
        return not self.defaults or cause in (*always, *possible)

    def _ruled_out(self, ablation: "Ablation") -> bool:
        """Whether it consists of switches alone, all as the method has them by default."""
        return all(
            isinstance(ablated, bool) and self.options.get(name) == self.defaults.get(name)
            for name, ablated in ablation.options.items()
        )


def name_cause(
    lines: Sequence[Line], where: Where, kind: Collapse, setting: Setting | None
) -> tuple[str | None, bool, list[str], str]:
    """The likely cause of a collapse, whether it is a known setting, the evidence, and the advice.

    Args:
        lines: with health metrics, up to the finding.
        where, kind: of the collapse.
        setting: None judges by the numbers alone.
    """
    ablation = setting.ablation(kind) if setting is not None else None
    if setting is not None and ablation is not None:
        evidence = [f"{setting.method} with {setting.changed(list(ablation.options))} is known to collapse"]
        evidence += dict(RULES).get(ablation.cause, _nothing)(lines, where, kind)
        back = " ".join(f"{name}={setting.defaults[name]}" for name in ablation.options)
        return ablation.cause, True, evidence, f"--options {back}; {CAUSES[ablation.cause].advice}"
    if setting is not None and (telling := setting.telling(TELLING)) is not None:
        name, cause = telling
        return cause, True, [setting.changed([name])], f"--options {name}={setting.defaults.get(name)}"
    for cause, rule in RULES:
        if (setting is None or setting.can(cause)) and (evidence := rule(lines, where, kind)):
            return cause, False, evidence, CAUSES[cause].advice
    facts = _flat_prediction(lines)
    if setting is not None and (telling := setting.telling(SUSPECT)) is not None:
        name, cause = telling
        return cause, False, [setting.changed([name]), *facts], f"--options {name}={setting.defaults.get(name)}"
    if setting is None:
        return None, False, facts, "compare the run with one of the method's defaults"
    departed = [name for name, value in setting.options.items() if value != setting.defaults.get(name, value)]
    if departed:
        return None, False, [setting.changed(departed), *facts], "go back to the defaults, one option at a time"
    at_default = "every option of the method is at its default"
    return None, False, [at_default, *facts], "lower --lr, raise --batch-size, or train on more videos"


def _off(used: Any, default: Any) -> bool:
    return used is False


def _extreme(used: Any, default: Any) -> bool:
    return _is_number(used) and used in (0, 1)


def _far(used: Any, default: Any) -> bool:
    return _is_number(used) and _is_number(default) and not default / FAR <= used <= default * FAR


def _narrow(used: Any, default: Any) -> bool:
    return _is_number(used) and _is_number(default) and used < default / FAR


FAR = 4.0  # times a default
Telling = tuple[tuple[str, str, Callable[[Any, Any], bool]], ...]
TELLING: Telling = (
    ("stop_gradient", "stop-gradient", _off),
    ("predictor", "predictor", _off),
    ("batch_norm", "batch-norm", _off),
    ("momentum", "momentum", _extreme),
)
SUSPECT: Telling = (  # unusual, not wrong in itself: asked after the numbers
    ("temperature", "temperature", _far),
    ("teacher_temperature", "temperature", _far),
    ("dim", "projector", _narrow),
)

Rule = Callable[[Sequence[Line], Where, Collapse], list[str]]


def _nothing(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    return []


def _momentum(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    momentum = series(lines, "momentum")
    if momentum and momentum[0] in (0.0, 1.0):
        told = "the target is the network itself" if momentum[0] == 0 else "the target never moved"
        return [f"momentum {momentum[0]:g} at step {_step(lines[0])}: {told}"]
    return []


def _temperature(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    """Of a teacher: at or above its student's, it sharpens nothing (Caron et al. 2021, section 5.3)."""
    student, teacher = series(lines, "temperature"), series(lines, "teacher_temperature")
    if student and teacher and teacher[-1] >= student[-1]:
        return [f"teacher_temperature {teacher[-1]:g} is not below temperature {student[-1]:g}: nothing is sharpened"]
    entropy = series(lines, "assignment_entropy")
    if teacher and entropy and min(entropy[-3:]) > 0.95:
        return [f"assignment_entropy {entropy[-1]:.3g} of 1: the teacher prefers no prototype"]
    if student and not teacher and not 0.01 <= student[-1] <= 1:
        return [f"temperature {student[-1]:g} is outside 0.01 to 1"]
    return []


def _centring(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    if not series(lines, "teacher_temperature"):
        return []
    return _few_prototypes(lines)


def _assignment(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    if series(lines, "teacher_temperature"):
        return []
    return _few_prototypes(lines)


def _few_prototypes(lines: Sequence[Line]) -> list[str]:
    usage = series(lines, "assignment_usage")
    if usage and usage[-1] < 0.5:
        return [f"assignment_usage {usage[-1]:.3g} of 1 ({max(usage):.3g} at most): most inputs choose one prototype"]
    return []


def _flat_prediction(lines: Sequence[Line]) -> list[str]:
    entropy, usage = series(lines, "assignment_entropy"), series(lines, "assignment_usage")
    if entropy and usage and min(entropy[-1], usage[-1]) > 0.95:
        return [f"assignment_entropy {entropy[-1]:.3g} of 1: no input has a favourite prototype, the loss is a guess's"]
    return []


def _terms(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    """A term of no share in the loss."""
    shares = {name[6:]: series(lines, name) for line in lines[:1] for name in line if name.startswith("share_")}
    evidence = []
    for name, share in shares.items():
        term = series(lines, f"term_{name}")
        if len(shares) > 1 and max(share) < 0.01:
            evidence.append(f"term {name} has at most {max(share):.2g} of the loss")
            if term:
                evidence[-1] += f"; unweighted it went from {term[0]:.3g} to {term[-1]:.3g}"
    return evidence


def _stop_gradient(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    """Both sides gave way: the loss fell to the end of its range before a moving target could have followed."""
    loss, momentum = series(lines, "loss"), series(lines, "momentum")
    if not _two_sides(lines):
        return []
    if not momentum:
        spread = series(lines, f"{where}_spread")
        if _fallen(loss, HALF) is None or spread[-1] > 0.9 * max(spread):
            return []
        return [f"loss {loss[-1]:.3g}, {loss[0]:.3g} at step {_step(lines[0])}: the two sides give way to each other"]
    low, patience = _fallen(loss, FAST), 1 / max(1 - momentum[0], 1e-6)  # steps in which a target moves most of the way
    if low is None or _step(lines[low]) >= patience:
        return []
    return [
        f"loss {loss[low]:.3g} already at step {_step(lines[low])}: the target, momentum {momentum[0]:g}, "
        f"takes {patience:.0f} steps to follow, so the gradient moves it"
    ]


def _predictor(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    """The loss falls at the pace of the target, or the sides agree in the few directions that suffice."""
    loss = series(lines, "loss")
    if not _two_sides(lines) or _fallen(loss, HALF) is None:
        return []
    how = "as the target follows" if series(lines, "momentum") else "while directions are lost and spread is kept"
    return [f"loss {loss[-1]:.3g}, {loss[0]:.3g} at step {_step(lines[0])}, falls {how}"]


def _projector(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    """The encoder uses many times the directions that its projector lets through."""
    inner, outer = series(lines, "feature_rank"), series(lines, "embedding_rank")
    if where == "feature" or kind == "constant" or not outer or inner[-1] < 2 * FAR * outer[-1]:
        return []
    return [f"feature_rank {inner[-1]:.3g} before the projector, embedding_rank {outer[-1]:.3g} behind it"]


def _two_sides(lines: Sequence[Line]) -> bool:
    """Whether the loss looks like a bare agreement of two sides: nothing else to hold them apart is logged."""
    apart = ("share_", "assignment_", "energy_", "temperature")
    return not any(name.startswith(apart) for name in lines[-1])


def _negatives(lines: Sequence[Line], where: Where, kind: Collapse) -> list[str]:
    true, false = series(lines, "energy_true"), series(lines, "energy_false")
    if true and not false:
        return [f"energy_true {true[-1]:.3g} ({true[0]:.3g} at first), and no energy of false pairs: nothing is raised"]
    return []


def _fallen(loss: Sequence[float], share: float) -> int | None:
    """Where a loss of the form 2 - 2 cos or -cos had come within a share of its range of its least value."""
    if not loss:
        return None
    least = -1.0 if min(loss) < -1e-3 else 0.0
    span = max(loss) - least
    return next((i for i, value in enumerate(loss) if value - least < share * span), None)


RULES: tuple[tuple[str, Rule], ...] = (
    ("momentum", _momentum),
    ("temperature", _temperature),
    ("centring", _centring),
    ("assignment", _assignment),
    ("term-balance", _terms),
    ("negatives", _negatives),
    ("stop-gradient", _stop_gradient),
    ("predictor", _predictor),
    ("projector", _projector),
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def series(lines: Sequence[Line], name: str) -> list[float]:
    """A number's values, of the lines that have it."""
    return [line[name] for line in lines if name in line]


def _step(line: Line) -> int:
    return int(line["step"])
