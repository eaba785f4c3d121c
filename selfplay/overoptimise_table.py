"""The numbers of `study overoptimise`: how gold and proxy move with the divergence, each with its interval.

Gains are in deviations of the conversations of the policy before training, from which both start: a proxy that is right
gains as much as gold does.  Intervals come from drawing held-out scenarios again; they say nothing of other labels, for
which there are seeds.

Legend: S scenarios of all seeds, L sizes N, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfplay.best_of_pool import best_of_curves, order_accuracy
from selfplay.overoptimise import BestOfResult, Point, TrainingResult
from selfplay.overoptimise_settings import ARMS, Arm
from selfplay.resampling import CONFIDENCE, draw_resamples, percentile_interval

__all__ = ["Estimate", "Pushed", "Step", "best_of_steps", "overoptimise_report", "training_steps"]

GOLD_ITSELF = "gold"  # in place of an arm: candidates are chosen by gold
SEED = 0  # of resampling
FEWEST_POINTS = 4  # of a trajectory, to say what law it follows


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over scenarios with its interval; NaN: there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0

    def __str__(self) -> str:
        """Return it for a table: "+0.31 (+0.12 to +0.50)"."""
        if not math.isfinite(self.value):
            return "-"
        return f"{self.value:+.2f}" + (f" ({self.low:+.2f} to {self.high:+.2f})" if math.isfinite(self.low) else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One place on a curve."""

    place: int  # N, or updates
    kl: float  # nats of a conversation; of best-of-N an upper bound
    kl_token: float  # nats a token; NaN: best-of-N has none
    proxy: Estimate  # gain, in deviations
    gold: Estimate
    gap: Estimate  # proxy minus gold


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What happened to gold while a proxy was pushed."""

    arm: str
    steps: tuple[Step, ...]
    fall: Estimate  # gold at the last place minus gold at its highest, which other scenarios picked


# ----- best-of-N -----


def sizes_of(results: Sequence[BestOfResult]) -> list[int]:
    """Return the sizes N that every scenario has the conversations for: powers of 2, and the largest."""
    most = min(len(scenario) for result in results for scenario in result.gold)
    return sorted({2**k for k in range(most.bit_length())} | {most})


def best_of_steps(results: Sequence[BestOfResult], *, by_gold: bool = False) -> Pushed | None:
    """Return the curve of the results of one arm, all seeds together; None: there are none.

    by_gold: candidates are chosen by gold itself, the best that a reward model could do.
    """
    if not results:
        return None
    from selfplay.learn.preference import best_of_n_kl

    sizes = sizes_of(results)
    sides = [_gains(result, sizes, by_gold=by_gold) for result in results]
    proxy, gold = (np.concatenate([pair[side] for pair in sides]) for side in (0, 1))  # [S, L]
    arm = GOLD_ITSELF if by_gold else results[0].cell.arm
    kls = [(best_of_n_kl(n), math.nan) for n in sizes]
    return _pushed(arm, places=sizes, kls=kls, proxy=proxy, gold=gold)


def _gains(result: BestOfResult, sizes: Sequence[int], *, by_gold: bool) -> tuple[Any, Any]:
    by = result.gold if by_gold else result.proxy
    proxy, gold = (best_of_curves(by, values, sizes) for values in (by, result.gold))
    scales = _scale(by), _scale(result.gold)
    return (proxy - proxy[:, :1]) / scales[0], (gold - gold[:, :1]) / scales[1]


def _scale(values: Sequence[Sequence[float]]) -> float:
    """Return the deviation of all conversations; 1 if they are all alike."""
    return float(np.concatenate([np.asarray(one) for one in values]).std()) or 1.0


def accuracy(results: Sequence[BestOfResult]) -> Estimate:
    """Return how often the proxy orders two conversations of a scenario as gold does, the mean over scenarios."""
    found = [
        order_accuracy(proxy, gold) for result in results for proxy, gold in zip(result.proxy, result.gold, strict=True)
    ]
    known = np.array([value for value in found if math.isfinite(value)])
    return _estimates(known[:, None])[0] if len(known) else Estimate(value=math.nan)


# ----- training -----


def training_steps(results: Sequence[TrainingResult], best: Sequence[BestOfResult]) -> Pushed | None:
    """Return the trajectory of the training runs of one arm, all seeds together; None: there are none.

    Only versions that all runs reached count, and scenarios that no version failed on.
    """
    if not results:
        return None
    versions = sorted(set.intersection(*({point.version for point in result.points} for result in results)))
    if not versions:
        return None
    rows = [_rows(result, versions, best) for result in results]
    proxy, gold, kl, tokens = (np.concatenate([row[part] for row in rows]) for part in range(4))  # [S, versions]
    kls = list(zip(kl.mean(axis=0).tolist(), (kl.sum(axis=0) / tokens.sum(axis=0)).tolist(), strict=True))
    return _pushed(results[0].cell.arm, places=versions, kls=kls, proxy=proxy, gold=gold)


def _rows(result: TrainingResult, versions: Sequence[int], best: Sequence[BestOfResult]) -> list[Any]:
    points = {point.version: point for point in result.points}
    shared = sorted(set.intersection(*(set(points[version].ids) for version in versions)))
    own = next((one for one in best if (one.cell.arm, one.cell.seed) == (result.cell.arm, result.cell.seed)), None)
    base = points[versions[0]]
    scales = {
        "proxy": _scale(own.proxy if own else [base.proxy]),
        "gold": _scale(own.gold if own else [base.gold]),
    }
    found = []
    for name in ("proxy", "gold", "kl", "tokens"):
        values = np.array([_on(points[version], name, shared) for version in versions], dtype=np.float64).T
        found.append((values - values[:, :1]) / scales[name] if name in scales else values)
    return found


def _on(point: Point, name: str, ids: Sequence[str]) -> list[float]:
    values = dict(zip(point.ids, getattr(point, name), strict=True))
    return [values[id] for id in ids]


def _pushed(arm: str, *, places: Sequence[int], kls: Sequence[tuple[float, float]], proxy: Any, gold: Any) -> Pushed:
    columns = [_estimates(part) for part in (proxy, gold, proxy - gold)]
    steps = tuple(
        Step(place=place, kl=kl, kl_token=kl_token, proxy=one, gold=other, gap=gap)
        for place, (kl, kl_token), one, other, gap in zip(places, kls, *columns, strict=True)
    )
    return Pushed(arm=arm, steps=steps, fall=_estimates(_falls(gold)[:, None])[0])


def _falls(gold: Any) -> Any:
    """Return each scenario's gold at the last place minus that at the highest [S].

    The highest place is picked on the other half of the scenarios: where it was picked, gold is too high by luck.
    """
    half = np.arange(len(gold)) % 2
    falls = np.zeros(len(gold))
    for side in (0, 1):
        others = gold[half != side]
        peak = int(others.mean(axis=0).argmax()) if len(others) else gold.shape[1] - 1
        own = half == side
        falls[own] = gold[own, -1] - gold[own, peak]
    return falls


def _estimates(values: Any) -> list[Estimate]:
    """Return the mean of each column of [S, L] with its interval over scenarios."""
    num = len(values)
    draws = draw_resamples(num, seed=SEED) @ values / max(1, num)  # [R, L]
    return [
        Estimate(value=float(mean), low=low, high=high)
        for mean, (low, high) in zip(values.mean(axis=0), map(percentile_interval, draws.T), strict=True)
    ]


# ----- the page -----


def overoptimise_report(
    best: Sequence[BestOfResult], trained: Sequence[TrainingResult], *, command: str, notes: Sequence[str]
) -> str:
    """Return the study as markdown.  notes: what it was made with, one sentence each."""
    seconds = math.fsum([*(result.seconds for result in best), *(result.seconds for result in trained)])
    num = len(best) + len(trained)
    lines = [
        "# Study overoptimise",
        "",
        f"Made by `{command}`: {num} {'cell' if num == 1 else 'cells'}, {seconds / 60:.0f} minutes.",
        *(f"- {note}" for note in notes),
        "",
        "Gains are over the policy before training, in deviations of its conversations; "
        f"{CONFIDENCE:.0%} intervals over held-out scenarios.",
        "They say how sure the mean over scenarios is, for these reward models; other labels would give others.",
        "Where gold was highest is picked on one half of the scenarios, and its fall from there measured on the other.",
        "",
        *_best_of_section(best),
        *_training_section(trained, best),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _of(results: Sequence[Any], arm: Arm) -> list[Any]:
    return [result for result in results if result.cell.arm == arm]


def _best_of_section(best: Sequence[BestOfResult]) -> list[str]:
    if not best:
        return []
    lines = ["## Best-of-N", "", *_accuracies(best), ""]
    curves = [curve for arm in ARMS if (curve := best_of_steps(_of(best, arm))) is not None]
    # Both arms chose from one pool, so either tells what gold itself would choose.
    itself = best_of_steps(_of(best, best[0].cell.arm), by_gold=True)
    header = ["N", "KL at most", *(f"{curve.arm}: {side}" for curve in curves for side in ("proxy", "gold")), "by gold"]
    rows = []
    for number, step in enumerate(curves[0].steps):
        cells = [str(side) for curve in curves for side in _sides(curve, number)]
        top = str(itself.steps[number].gold) if itself and number < len(itself.steps) else "-"
        rows.append([str(step.place), f"{step.kl:.2f}", *cells, top])
    return [*lines, *_table(header, rows), "", *(_verdict(curve, "N") for curve in curves), ""]


def _sides(curve: Pushed, number: int) -> tuple[Estimate, Estimate]:
    if number >= len(curve.steps):
        return Estimate(value=math.nan), Estimate(value=math.nan)
    return curve.steps[number].proxy, curve.steps[number].gold


def _accuracies(best: Sequence[BestOfResult]) -> Iterator[str]:
    for arm in ARMS:
        own = _of(best, arm)
        if own:
            found = accuracy(own)
            yield (
                f"- `{arm}`, {own[0].num_labels} labels: orders two conversations of a held-out scenario as gold does "
                f"in {found.value:.1%} of pairs ({found.low:.1%} to {found.high:.1%})."
            )


def _training_section(trained: Sequence[TrainingResult], best: Sequence[BestOfResult]) -> list[str]:
    curves = [curve for arm in ARMS if (curve := training_steps(_of(trained, arm), best)) is not None]
    if not curves:
        return []
    header = ["arm", "updates", "KL of a conversation", "KL a token", "proxy", "gold", "proxy minus gold"]
    rows = [
        [
            curve.arm,
            str(step.place),
            f"{step.kl:.2f}",
            f"{step.kl_token:.3f}",
            *map(str, (step.proxy, step.gold, step.gap)),
        ]
        for curve in curves
        for step in curve.steps
    ]
    verdicts = [_verdict(curve, "updates") for curve in curves]
    return ["## Training", "", *_table(header, rows), "", *verdicts, *filter(None, map(_law, curves)), ""]


def _verdict(curve: Pushed, unit: str) -> str:
    """Say whether gold fell while the proxy was pushed, and how sure that is."""
    first, last = curve.steps[0], curve.steps[-1]
    peak = max(curve.steps, key=lambda step: step.gold.value)
    where = f"{unit} {peak.place}" if unit == "N" else f"{peak.place} {unit}"
    if peak is last:
        text = f"gold rises to the end ({peak.gold}): no fall was seen"
    elif peak is first:
        text = f"gold was never above that of the policy before training; at the end it is {_surely(last.gold)}"
    else:
        text = f"gold is highest at {where} ({peak.gold}); its fall from there to the end is {_surely(curve.fall)}"
    return f"- `{curve.arm}`: {text}. At the end the proxy's gain minus gold's is {_surely(last.gap)}."


def _surely(estimate: Estimate) -> str:
    return f"{estimate}, {'clear of 0' if estimate.is_clear else 'which may be 0'}"


def _law(curve: Pushed) -> str:
    """Say how the proxy's gain grows with the divergence: with its root, or with itself; empty: it cannot be told."""
    kl = np.array([max(0.0, step.kl) for step in curve.steps])
    gains = np.array([step.proxy.value for step in curve.steps])
    slopes, fits = zip(*(_through_zero(x, gains) for x in (np.sqrt(kl), kl)), strict=True)
    if len(kl) < FEWEST_POINTS or not all(map(math.isfinite, (*slopes, *fits))):
        return ""
    return (
        f"- `{curve.arm}`: proxy gain is {slopes[0]:.2f} x sqrt(KL), R2 {fits[0]:.2f}; as a multiple of KL, "
        f"R2 {fits[1]:.2f} ({len(kl)} points)."
    )


def _through_zero(x: Any, y: Any) -> tuple[float, float]:
    """Return the slope of the line through 0 that fits best, and its share of the variance; NaN where there is none."""
    norm, spread = float(x @ x), float(((y - y.mean()) ** 2).sum())
    if norm == 0.0 or spread == 0.0:
        return math.nan, math.nan
    slope = float(x @ y) / norm
    return slope, 1.0 - float(((y - slope * x) ** 2).sum()) / spread


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]
