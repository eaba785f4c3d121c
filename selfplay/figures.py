"""Figures of training: learning curves, reward against KL, what makes up the reward, drift of the language.

matplotlib is imported when something is drawn.  The same runs give the same files, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from selfplay.curves import CONFIDENCE, Band, BandKind, Group, RunCurves
from selfplay.errors import UserError
from selfplay.figure_sheet import Look, Sheet, for_page, new_sheet, printable, rendered
from selfplay.game_numbers import unfitting_means
from selfplay.league_curves import OPPONENTS, RATING, RATING_SPREAD, rating_band, so_far
from selfplay.plots import can_draw
from selfplay.whole_files import reason, write_whole

__all__ = ["Look", "caption", "contributions", "draw_all", "reward_against_kl", "svg_figures"]

# metric -> (title of its panel, unit on its axis)
TITLES: Mapping[str, tuple[str, str]] = {
    "reward/per_conversation": ("Reward of a conversation", "reward"),
    "reward/total": ("Reward of a turn", "reward"),
    "game/payoff": ("Payoff of the policy", "payoff"),
    "game/win": ("Won", "share of conversations"),
    "game/success": ("Success", "share of conversations"),
    "game/protocol_ok": ("Form of the game kept", "share of conversations"),
    "kl/per_token_nats": ("KL from the base", "nats a token"),
    "kl/coefficient": ("KL coefficient", "reward per nat"),
    "entropy/per_token_nats": ("Entropy of the policy", "nats a token"),
    "learn/reference_nll_per_token": ("NLL under the base", "nats a token"),
    "play/words_per_turn": ("Length", "words a turn"),
    "play/distinct_2": ("Distinct word pairs", "share of all pairs"),
    "play/repeat_rate": ("Turns said before", "share of turns"),
    "play/repeated_pairs": ("Word pairs repeated in a turn", "share of all pairs"),
    "play/cut_share": ("Turns cut by a limit", "share of turns"),
    "play/question_rate": ("Turns that ask", "share of turns"),
    "league/win_rate": ("Against others than itself", "points a game"),
    "league/win_rate/past": ("Against its past", "points a game"),
}
DRIFT = (
    "play/words_per_turn",
    "play/distinct_2",
    "play/repeat_rate",
    "play/repeated_pairs",
    "learn/reference_nll_per_token",
    "play/cut_share",
)
GAME = ("game/payoff", "game/win", "game/success", "game/protocol_ok")
WIN_RATES = ("league/win_rate", "league/win_rate/past")
REWARDS = ("reward/per_conversation", "reward/total")  # the first that all groups have is drawn
MAX_GROUPS = 12  # more lines in a panel are not told apart
BAND_ALPHA = 0.13
KINDS: tuple[Literal["png", "svg"], ...] = ("png", "svg")
TARGET_DASHES = (4, 3)
COUNT = "play/conversations"

Panel = Callable[[Any], None]  # draws itself on matplotlib axes


def draw_all(groups: Sequence[Group], folder: Path, *, look: Look) -> list[Path]:
    """Write every figure that there is data for, as PNG and as SVG; return the files.

    Raises UserError if matplotlib is missing, there is nothing to draw, or the folder cannot be written.
    """
    _check_groups(groups)
    files = []
    for name, plan in _plans(groups, look=look):
        sheet = Sheet(title=plan.title, labels=plan.labels, caption=caption(groups, look=look))
        figure, axes = new_sheet(len(plan.panels), sheet, look=look)
        for axis, draw in zip(axes, plan.panels, strict=True):
            draw(axis)
        _make(folder)
        for kind in KINDS:
            files.append(folder / f"{name}.{kind}")
            write_whole(files[-1], rendered(figure, kind, look=look))
    if not files:
        raise UserError("the metrics of these runs hold nothing to draw: no reward, no KL, no counts of words")
    return files


def svg_figures(groups: Sequence[Group], *, look: Look) -> dict[str, list[str]]:
    """Return each figure as the SVG elements of its panels, which a page places; its variables are their colours."""
    _check_groups(groups)
    found = {}
    for name, plan in _plans(groups, look=look):
        found[name] = [
            _panel_for_page(draw, labels=plan.labels, name=f"{name}-{number}", look=look)
            for number, draw in enumerate(plan.panels)
        ]
    return found


def contributions(group: Group, *, smooth: int = 1, kind: BandKind = "range") -> dict[str, Band]:
    """Return what each weighted part adds to the reward of a turn: its weight times its mean, over the updates."""
    found = {}
    for part in group.parts:
        weight, band = group.weight(part), group.band(f"reward/{part}", smooth=smooth, kind=kind)
        if weight and band is not None:
            found[part] = _times(band, weight)
    return found


def reward_against_kl(group: Group, metric: str, *, smooth: int = 1) -> list[tuple[float, float]]:
    """Return (KL, reward) of each update at which both are known, in order."""
    kl, reward = group.band("kl/per_token_nats", smooth=smooth), group.band(metric, smooth=smooth)
    if kl is None or reward is None:
        return []
    rewards = dict(zip(reward.steps, reward.mean, strict=True))
    pairs = [(x, rewards.get(step, math.nan)) for step, x in zip(kl.steps, kl.mean, strict=True)]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def reward_metric(groups: Sequence[Group]) -> str | None:
    """Return the reward that all groups have: of a conversation, or else of a turn; None: they share none."""
    return next((metric for metric in REWARDS if all(group.has(metric) for group in groups)), None)


def caption(groups: Sequence[Group], *, look: Look) -> str:
    """Return what a reader must know: how many runs, conversations an update, what lines and bands are."""
    sizes = [len(group.runs) for group in groups]
    sentences = [_who(groups)]
    per_update = {value for group in groups for run in group.runs for value in run.series.get(COUNT, {}).values()}
    if per_update and all(map(math.isfinite, per_update)):
        low, high = int(min(per_update)), int(max(per_update))
        sentences.append(f"n = {low if low == high else f'{low} to {high}'} conversations an update.")
    if max(sizes) > 1:
        band = (
            "lowest to highest run" if look.band == "range" else f"{CONFIDENCE:.0%} interval of the mean (Student's t)"
        )
        sentences.append(f"Line: mean over the runs; band: {band}.")
    if look.smooth > 1:
        thin = "; the thin line is not smoothed" if min(sizes) == 1 else ""
        sentences.append(f"Each point is a run's mean over {look.smooth} updates{thin}.")
    return " ".join(sentences)


def _who(groups: Sequence[Group]) -> str:
    each = " each" if len(groups) > 1 else ""
    counted = [_how_many(group) for group in groups]
    if len(set(counted)) == 1:
        return _how_many(groups[0], each=each) + "."
    return "; ".join(f"{group.label}: {words}" for group, words in zip(groups, counted, strict=True)) + "."


def _how_many(group: Group, *, each: str = "") -> str:
    seeds = sorted({run.seed for run in group.runs if run.seed}, key=lambda seed: (len(seed), seed))
    of_seeds = f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" if seeds else ""
    return f"{len(group.runs)} run{'s' if len(group.runs) > 1 else ''}{each}{of_seeds}"


def _check_groups(groups: Sequence[Group]) -> None:
    if not can_draw():
        raise UserError("matplotlib is not installed; pip install 'selfplay-dialog[report]'")
    if len(groups) > MAX_GROUPS:
        raise UserError(
            f"these runs differ in more than their seed: {len(groups)} groups, of which one picture shows at most "
            f"{MAX_GROUPS}; name fewer runs"
        )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to folder {folder}: {reason(error)}") from error


def _panel_for_page(draw: Panel, *, labels: Sequence[str], name: str, look: Look) -> str:
    figure, (axis,) = new_sheet(1, Sheet(title="", labels=labels, caption=""), look=look)
    draw(axis)
    return for_page(rendered(figure, "svg", look=look).decode(), name=name)


# ----- the figures -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One figure before it is drawn."""

    title: str
    labels: Sequence[str]  # of its lines
    panels: Sequence[Panel]


def _plans(groups: Sequence[Group], *, look: Look) -> Iterator[tuple[str, _Plan]]:
    """Yield the figures that there is data for."""
    labels = [group.label for group in groups]
    of_whom = f" of {labels[0]}" if len(labels) == 1 else ""
    parts = list(dict.fromkeys(part for group in groups for part in group.parts))
    learning = [*filter(None, [reward_metric(groups)]), *GAME, *(f"reward/{part}" for part in parts)]
    weighted = [name for name in parts if any(name in contributions(group) for group in groups)]
    plans = {
        "learning": _Plan(
            title="Learning curves", labels=labels, panels=_of_metrics(_fitting(groups), learning, look=look)
        ),
        "kl": _Plan(title="Reward against KL", labels=labels, panels=_of_kl(groups, look=look)),
        "parts": _Plan(
            title="What makes up the reward", labels=weighted, panels=_of_parts(groups, weighted, look=look)
        ),
        "drift": _Plan(title="Length and repetition", labels=labels, panels=_of_metrics(groups, DRIFT, look=look)),
        "league": _Plan(title="League: ratings and results", labels=labels, panels=_of_league(groups, look=look)),
        "opponents": _Plan(
            title="Opponents met so far", labels=list(OPPONENTS.values()), panels=_of_opponents(groups, look=look)
        ),
    }
    for name, plan in plans.items():
        if plan.panels:
            yield name, replace(plan, title=plan.title + of_whom)


def _fitting(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without the curves that tell nothing of their policy in its game."""
    return [_without(group, unfitting_means(_lines(group.runs))) for group in groups]


def _lines(runs: Iterable[RunCurves]) -> Iterator[dict[str, float]]:
    for run in runs:
        for step in run.series.get("game/payoff", {}):
            yield {name: series[step] for name, series in run.series.items() if step in series}


def _without(group: Group, names: Collection[str]) -> Group:
    left = [{name: series for name, series in run.series.items() if name not in names} for run in group.runs]
    return replace(group, runs=tuple(replace(run, series=s) for run, s in zip(group.runs, left, strict=True)))


def _of_metrics(groups: Sequence[Group], metrics: Iterable[str], *, look: Look) -> list[Panel]:
    known = [metric for metric in metrics if any(group.has(metric) for group in groups)]
    return [partial(_draw_metric, groups=groups, metric=metric, look=look) for metric in known]


def _of_kl(groups: Sequence[Group], *, look: Look) -> list[Panel]:
    """Return the reward against the KL that it cost, and the KL and the entropy over the updates."""
    metric = reward_metric(groups)
    if metric is None or not any(reward_against_kl(group, metric) for group in groups):
        return []
    over_updates = _of_metrics(groups, ("kl/per_token_nats", "entropy/per_token_nats"), look=look)
    return [partial(_draw_paths, groups=groups, metric=metric, look=look), *over_updates]


def _of_parts(groups: Sequence[Group], names: Sequence[str], *, look: Look) -> list[Panel]:
    """Return a panel a group; one part alone is the reward itself, and needs none."""
    if len(names) < 2:
        return []
    return [
        partial(_draw_contributions, group=group, names=names, is_alone=len(groups) == 1, look=look)
        for group in groups
        if contributions(group)
    ]


def _of_league(groups: Sequence[Group], *, look: Look) -> list[Panel]:
    """Return a panel a role with its rating, and those of the results."""
    names = dict.fromkeys(name for group in groups for run in group.runs for name in run.series)
    ratings = [name for name in names if name.startswith(RATING) and any(group.has(name) for group in groups)]
    rated = [partial(_draw_rating, groups=groups, metric=name, look=look) for name in ratings]
    return [*rated, *_of_metrics(groups, WIN_RATES, look=look)]


def _of_opponents(groups: Sequence[Group], *, look: Look) -> list[Panel]:
    """Return a panel a group that has a league."""
    return [
        partial(_draw_opponents, group=group, is_alone=len(groups) == 1, look=look)
        for group in groups
        if any(group.has(metric) for metric in OPPONENTS)
    ]


# ----- panels -----


def _draw_metric(axis: Any, *, groups: Sequence[Group], metric: str, look: Look) -> None:
    for number, group in enumerate(groups):
        band = group.band(metric, smooth=look.smooth, kind=look.band)
        if band is None:
            continue
        raw = group.band(metric) if look.smooth > 1 and len(group.runs) == 1 else None
        if raw is not None:
            axis.plot(raw.steps, raw.mean, color=look.colour(number), linewidth=0.7, alpha=0.35)
        _draw_band(axis, band, number=number, look=look)
    if metric == "kl/per_token_nats":
        _draw_targets(axis, groups, look=look)
    title, unit = _title(metric, groups)
    _dress(axis, title=title, unit=unit, look=look)


def _draw_paths(axis: Any, *, groups: Sequence[Group], metric: str, look: Look) -> None:
    for number, group in enumerate(groups):
        _draw_path(axis, reward_against_kl(group, metric, smooth=look.smooth), number=number, look=look)
    axis.set_xlabel("KL from the base, nats a token", color=look.dim, fontsize=8)
    _dress(axis, title="What the reward cost (large dot: last update)", unit=TITLES[metric][0].lower(), look=look)


def _draw_contributions(axis: Any, *, group: Group, names: Sequence[str], is_alone: bool, look: Look) -> None:
    for name, band in contributions(group, smooth=look.smooth, kind=look.band).items():
        _draw_band(axis, band, number=names.index(name), look=look)
    axis.axhline(0.0, color=look.dim, linewidth=0.7)
    title = "Weight times mean of each part" if is_alone else printable(group.label)
    _dress(axis, title=title, unit="added to the reward of a turn", look=look, starts_at_zero=False)


def _draw_rating(axis: Any, *, groups: Sequence[Group], metric: str, look: Look) -> None:
    for number, group in enumerate(groups):
        band = rating_band(group, metric, smooth=look.smooth, kind=look.band)
        if band is not None:
            _draw_band(axis, band, number=number, look=look)
    alone = all(len(group.runs) == 1 for group in groups)
    unit = f"rating, ± {RATING_SPREAD:g} standard deviations" if alone else "rating"
    title = printable(f"Rating as {metric.removeprefix(RATING)}")
    _dress(axis, title=title, unit=unit, look=look, starts_at_zero=False)


def _draw_opponents(axis: Any, *, group: Group, is_alone: bool, look: Look) -> None:
    for number, metric in enumerate(OPPONENTS):
        band = group.band(metric, smooth=look.smooth, kind=look.band)
        if band is not None:
            _draw_band(axis, so_far(band), number=number, look=look)
    title = "Of all updates up to this one" if is_alone else printable(group.label)
    _dress(axis, title=title, unit="share of conversations", look=look)


def _draw_band(axis: Any, band: Band, *, number: int, look: Look) -> None:
    colour = look.colour(number)
    if any(low < high for low, high in zip(band.low, band.high, strict=True)):
        axis.fill_between(band.steps, band.low, band.high, color=colour, alpha=BAND_ALPHA, linewidth=0)
    # A line of one point is nothing to see.
    marker = "o" if len(band.steps) == 1 else None
    axis.plot(
        band.steps, band.mean, color=colour, linestyle=look.style(number), linewidth=1.8, marker=marker, markersize=4
    )


def _draw_path(axis: Any, path: Sequence[tuple[float, float]], *, number: int, look: Look) -> None:
    if not path:
        return
    kl, reward = zip(*path, strict=True)
    colour = look.colour(number)
    axis.plot(kl, reward, color=colour, linestyle=look.style(number), linewidth=1.1, alpha=0.6)
    axis.scatter(kl, reward, color=colour, s=7, alpha=0.8, linewidths=0)
    # The last update is where training ended up.
    axis.scatter(kl[-1:], reward[-1:], color=colour, s=46, linewidths=0, zorder=3)


def _draw_targets(axis: Any, groups: Sequence[Group], *, look: Look) -> None:
    steered = [group for group in groups if group.setting("kl.controller") == "adaptive"]
    for target in sorted({float(value) for group in steered if (value := group.setting("kl.target"))}):
        axis.axhline(target, color=look.dim, linewidth=0.9, dashes=TARGET_DASHES)
        axis.annotate(
            f"target {target:g}",
            (0.0, target),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            fontsize=7.5,
            color=look.dim,
        )


def _title(metric: str, groups: Sequence[Group]) -> tuple[str, str]:
    if metric in TITLES:
        return TITLES[metric]
    part = metric.removeprefix("reward/")
    weights = {group.weight(part) for group in groups if group.has(metric)}
    is_gate = all(group.setting(f"rewards.{part}.gate") is True for group in groups)
    weight = weights.pop() if len(weights) == 1 else None
    words = "weights differ" if weights else "" if weight is None else f"weight {weight:g}"
    counted = "gate" if is_gate else "only measured" if weight == 0 else words
    return printable(f"{part} ({counted})" if counted else part), "mean number a turn"


def _dress(axis: Any, *, title: str, unit: str, look: Look, starts_at_zero: bool = True) -> None:
    axis.set_title(title, fontsize=9.5, loc="left", color=look.text, parse_math=False)
    axis.set_ylabel(unit, fontsize=8, color=look.dim)
    axis.tick_params(labelsize=8, colors=look.dim, length=0)
    axis.grid(color=look.line, linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(look.line)
    if not axis.get_xlabel():
        axis.set_xlabel("update", fontsize=8, color=look.dim)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if starts_at_zero:
        low, high = axis.get_ylim()
        axis.set_ylim(min(0.0, low), max(0.0, high))


def _times(band: Band, factor: float) -> Band:
    ends = [[factor * value for value in values] for values in (band.mean, band.low, band.high)]
    low, high = (ends[1], ends[2]) if factor > 0 else (ends[2], ends[1])
    return Band(steps=band.steps, mean=tuple(ends[0]), low=tuple(low), high=tuple(high), num_runs=band.num_runs)
