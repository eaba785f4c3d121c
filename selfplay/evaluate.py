"""Two policies compared on the same held-out scenarios: every mean with an interval for the difference.

Legend: N scenarios, R resamples.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from selfplay.dialog import ScoredConversation, Turn
from selfplay.game_numbers import Sums, add_up, game_sums, trained_roles
from selfplay.interfaces import Likelihood
from selfplay.resampling import CONFIDENCE, NUM_RESAMPLES, Matrix, divide, draw_resamples, percentile_interval
from selfplay.score import has_failed
from selfplay.spoken_words import is_only_question, words_of
from selfplay.student import t_quantile

SCHEMA = "selfplay.comparison/1"
# Language counts as kept where so much of the base's distinct word pairs is left, and the base finds what is said so
# nearly as likely as its own words, in nats a token.  Either way: repetition is likelier, not better.
DISTINCT_KEPT, NLL_MOVED = 0.9, 0.3

Grams = Counter[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A conversation with all that is known of it."""

    scored: ScoredConversation
    likelihood: Likelihood  # of what its trained roles said, under the reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """One number of one policy, with its interval; NaN: there was nothing to measure.

    Example: ``Mean(value=0.75, low=0.61, high=0.87)``
    """

    value: float
    low: float  # bounds of its interval; NaN with fewer than two scenarios, or where none was computed
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One number of both policies; NaN: there was nothing to measure.

    Example: ``Difference(name="play/question_rate", base=0.06, trained=0.81, difference=0.75, low=0.62, high=0.87)``
    """

    name: str  # path, as in metrics.jsonl
    base: float
    trained: float
    difference: float  # trained minus base
    low: float  # bounds of the difference's interval; NaN with fewer than two scenarios
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What training changed, on scenarios that it never saw."""

    rows: tuple[Difference, ...]
    num_scenarios: int  # that both sides played to an end
    num_dropped: int  # that failed on a side, and so count on neither
    confidence: float = CONFIDENCE  # of the intervals

    def row(self, name: str) -> Difference:
        """Return one number by its name; raises KeyError if it was not measured."""
        found = {row.name: row for row in self.rows}
        if name not in found:
            raise KeyError(f"there is no {name!r} in the comparison; it has {', '.join(found)}")
        return found[name]


def compare(
    base: Sequence[Measured], trained: Sequence[Measured], *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Comparison:
    """Compare conversations of two policies on the same scenarios.

    Only turns of trained players count.  A scenario where a conversation of either side failed is left out on both.

    - `reward/per_conversation`: a conversation's weighted sum; `reward/total`: weighted, the mean over turns;
      `reward/PART`: raw, the mean over the turns where it applies.
    - `game/...`: where the outcomes have payoffs, what trained players got: see `selfplay.game_numbers`.
    - `kl/per_token_nats`: the sampler's log-probabilities minus the reference's; `reference/nll_per_token_nats`: minus
      the reference's.  Repetition is predictable, so the latter may fall while language is lost.
    - `play/distinct_1`, `play/distinct_2`: distinct n-grams over all n-grams of a side, within turns; in every scenario
      both sides are cut to the shorter one's number of words, because more text repeats more.
    - `play/question_rate`: turns with a question mark; `play/only_question_share`: turns of nothing but question words
      and marks; `play/repeat_rate`: turns equal to an earlier one of their conversation; `play/words_per_turn`,
      `play/said_tokens_per_turn`; `play/cut_share`: turns that a limit ended.

    Means are ratios of sums, and their intervals come from resampling scenarios, the same on both sides.  Distinct-n
    has the jackknife's interval, leaving scenarios out: a resample holds scenarios twice, which lowers distinct-n by
    itself.  (Simulated with 24 scenarios: resampling held the true difference in 0 to 65 of 100 tries, the jackknife in
    98 to 100; it is wider than it need be.)
    """
    pairs, num_dropped = _pair(base, trained)
    if not pairs:
        return Comparison(rows=(), num_scenarios=0, num_dropped=num_dropped)
    draws = draw_resamples(len(pairs), seed=seed, num_resamples=num_resamples)
    rows = [*_ratios(pairs, draws), _distinct(pairs, n=1), _distinct(pairs, n=2)]
    return Comparison(rows=tuple(sorted(rows, key=_place)), num_scenarios=len(pairs), num_dropped=num_dropped)


def means_of(measured: Sequence[Measured], *, seed: int, num_resamples: int = NUM_RESAMPLES) -> dict[str, Mean]:
    """Return the numbers of `compare` for one policy alone, by name, where no conversation failed.

    Distinct-2 is of all its words, so it is comparable at equal lengths only, and has no interval.
    """
    sides = list(_by_scenario(measured).values())
    found = ratio_means([_sums(side) for side in sides], seed=seed, num_resamples=num_resamples)
    counted = [_grams([words_of(turn.text) for turn in _trained_turns(side)], None, n=2) for side in sides]
    distinct = _share_of_distinct(counted)[0] if counted else math.nan
    return {**found, "play/distinct_2": Mean(value=distinct, low=math.nan, high=math.nan)}


def ratio_means(scenarios: Sequence[Sums], *, seed: int, num_resamples: int = NUM_RESAMPLES) -> dict[str, Mean]:
    """Return ratios of sums over scenarios, by name, with the intervals from resampling the scenarios."""
    draws = draw_resamples(len(scenarios), seed=seed, num_resamples=num_resamples)
    found = {}
    for name in dict.fromkeys(name for sums in scenarios for name in sums):
        table = np.array([sums.get(name, (0.0, 0.0)) for sums in scenarios])  # [N, 2]: top and bottom
        top, bottom = table.sum(axis=0)
        low, high = percentile_interval(divide(draws @ table[:, 0], draws @ table[:, 1]))
        found[name] = Mean(value=float(top / bottom) if bottom > 0 else math.nan, low=low, high=high)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One of the things that good training does, and whether this one did.

    Example: ``Check(is_met=False, what="distinct word pairs 85% of the base's, less than 90%")``
    """

    is_met: bool
    what: str


def checks_of(comparison: Comparison, *, kl_target: float | None = None) -> list[Check]:
    """Return whether the reward rose and language was kept: KL under its target, variety, and likelihood by the base.

    kl_target: nats a token; None: nothing steers to one.  What was not measured is not checked.
    """
    rows = {row.name: row for row in comparison.rows}
    found = [
        _check_of_reward(rows.get("reward/per_conversation")),
        _check_of_kl(rows.get("kl/per_token_nats"), kl_target),
        _check_of_distinct(rows.get("play/distinct_2")),
        _check_of_nll(rows.get("reference/nll_per_token_nats")),
    ]
    return [check for check in found if check is not None]


def _check_of_reward(row: Difference | None) -> Check | None:
    if row is None or not math.isfinite(row.low):
        return None
    words = "rose" if row.low > 0 else "fell" if row.high < 0 else "may not have changed"
    return Check(is_met=row.low > 0, what=f"the reward {words}: the interval is {row.low:+.2f} to {row.high:+.2f}")


def _check_of_kl(row: Difference | None, target: float | None) -> Check | None:
    if row is None or target is None or not math.isfinite(row.trained):
        return None
    is_met = row.trained <= target
    side = "under" if is_met else "over"
    return Check(is_met=is_met, what=f"KL {row.trained:.3f} nats a token, {side} its target {target:g}")


def _check_of_distinct(row: Difference | None) -> Check | None:
    if row is None or not row.base > 0 or not math.isfinite(row.trained):
        return None
    share = row.trained / row.base
    bound = f", less than {DISTINCT_KEPT:.0%}" if share < DISTINCT_KEPT else ""
    return Check(is_met=share >= DISTINCT_KEPT, what=f"distinct word pairs {share:.0%} of the base's{bound}")


def _check_of_nll(row: Difference | None) -> Check | None:
    if row is None or not math.isfinite(row.difference):
        return None
    is_met = abs(row.difference) <= NLL_MOVED
    bound = "within" if is_met else "more than"
    return Check(
        is_met=is_met, what=f"NLL by the base changed by {row.difference:+.2f} nats a token, {bound} {NLL_MOVED:g}"
    )


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON values; what could not be measured is None."""
    metrics = {
        row.name: {
            key: value if math.isfinite(value := getattr(row, key)) else None
            for key in ("base", "trained", "difference", "low", "high")
        }
        for row in comparison.rows
    }
    return {
        "schema": SCHEMA,
        "num_scenarios": comparison.num_scenarios,
        "num_dropped": comparison.num_dropped,
        "confidence": comparison.confidence,
        "metrics": metrics,
    }


def comparison_from_json(data: Mapping[str, Any]) -> Comparison:
    """Return what `comparison_to_json` wrote; raises ValueError for another schema."""
    if data.get("schema") != SCHEMA:
        raise ValueError(f"schema {data.get('schema')!r} is no comparison; {SCHEMA!r} is")
    rows = [
        Difference(name=name, **{key: math.nan if value is None else float(value) for key, value in numbers.items()})
        for name, numbers in data["metrics"].items()
    ]
    return Comparison(
        rows=tuple(rows),
        num_scenarios=int(data["num_scenarios"]),
        num_dropped=int(data["num_dropped"]),
        confidence=float(data["confidence"]),
    )


# ----- scenarios of both sides -----

Side = list[Measured]  # conversations of one side on one scenario


def _pair(base: Sequence[Measured], trained: Sequence[Measured]) -> tuple[list[tuple[Side, Side]], int]:
    """Return both sides of every scenario that both played without failing, and how many are left out."""
    sides = [_by_scenario(base), _by_scenario(trained)]
    names = list(dict.fromkeys(name for side in sides for name in side))
    kept = [name for name in names if all(_is_whole(side.get(name, [])) for side in sides)]
    return [(sides[0][name], sides[1][name]) for name in kept], len(names) - len(kept)


def _by_scenario(measured: Iterable[Measured]) -> dict[tuple[str, str, int], Side]:
    found: dict[tuple[str, str, int], Side] = {}
    for one in measured:
        scenario = one.scored.conversation.scenario
        found.setdefault((scenario.env, scenario.split, scenario.seed), []).append(one)
    return found


def _is_whole(side: Side) -> bool:
    return bool(side) and not any(has_failed(one.scored.conversation) for one in side)


def _place(row: Difference) -> tuple[int, int]:
    """Order rows by what they are about; within that they stay as they are."""
    groups = ("game/", "reward/", "kl/", "reference/", "play/")
    group = next(number for number, prefix in enumerate(groups) if row.name.startswith(prefix))
    return group, -1 if row.name == "reward/per_conversation" else 0


# ----- means -----


def _ratios(pairs: Sequence[tuple[Side, Side]], draws: Matrix) -> list[Difference]:
    sums = [[_sums(side) for side in pair] for pair in pairs]
    names = dict.fromkeys(name for pair in sums for side in pair for name in side)
    return [_ratio(name, [[side.get(name, (0.0, 0.0)) for side in pair] for pair in sums], draws) for name in names]


def _ratio(name: str, sums: Sequence[Sequence[tuple[float, float]]], draws: Matrix) -> Difference:
    table = np.array(sums)  # [N, 2 sides, 2]: what is summed, and what it is divided by
    tops, bottoms = table[:, :, 0], table[:, :, 1]
    means = divide(tops.sum(axis=0), bottoms.sum(axis=0))  # [2]
    return _difference(name, means, divide(draws @ tops, draws @ bottoms))


def _sums(side: Side) -> dict[str, tuple[float, float]]:
    """Return for every mean what is summed and what it is divided by, over one side of a scenario."""
    conversations = [one.scored.conversation for one in side]
    sums = add_up(game_sums(conversation, trained_roles(conversation)) for conversation in conversations)

    def add(name: str, value: float, count: float) -> None:
        top, bottom = sums.get(name, (0.0, 0.0))
        sums[name] = top + value, bottom + count

    for one in side:
        numbers = _trained_numbers(one.scored)
        turns, values = [one.scored.conversation.turns[k] for k in numbers], one.scored.rewards[numbers].tolist()
        add("reward/per_conversation", math.fsum(values), 1.0)
        add("reward/total", math.fsum(values), len(values))
        for name, scores in one.scored.parts.items():
            applying = [value for value in scores.values[numbers].tolist() if math.isfinite(value)]
            add(f"reward/{name}", math.fsum(applying), len(applying))
        add("kl/per_token_nats", one.likelihood.kl, one.likelihood.num_tokens)
        add("reference/nll_per_token_nats", one.likelihood.nll, one.likelihood.num_tokens)
        texts = [turn.text for turn in one.scored.conversation.turns]
        add("play/question_rate", sum("?" in turn.text for turn in turns), len(turns))
        add("play/only_question_share", sum(is_only_question(turn.text) for turn in turns), len(turns))
        add("play/repeat_rate", sum(texts[k] in texts[:k] for k in numbers), len(turns))
        add("play/words_per_turn", sum(len(words_of(turn.text)) for turn in turns), len(turns))
        add("play/said_tokens_per_turn", sum(len(turn.said) for turn in turns), len(turns))
        add("play/cut_share", sum(turn.is_cut for turn in turns), len(turns))
    return sums


def _trained_numbers(scored: ScoredConversation) -> list[int]:
    """Return the numbers of the turns that trained players spoke."""
    conversation = scored.conversation
    return [k for k, turn in enumerate(conversation.turns) if conversation.players[turn.role].trained]


# ----- distinct n-grams -----


def _distinct(pairs: Sequence[tuple[Side, Side]], *, n: int) -> Difference:
    counted = [_count_grams(pair, n=n) for pair in pairs]
    sides = [_share_of_distinct([pair[side] for pair in counted]) for side in (0, 1)]
    (base, base_without), (trained, trained_without) = sides
    difference, half = trained - base, _jackknife_half_width(trained_without - base_without)
    # From a base of .95 a share can fall by .95 and rise by .05: where little was said the interval would go further.
    return Difference(
        name=f"play/distinct_{n}",
        base=base,
        trained=trained,
        difference=difference,
        low=max(difference - half, -base),
        high=min(difference + half, 1.0 - base),
    )


def _count_grams(pair: tuple[Side, Side], *, n: int) -> tuple[Grams, Grams]:
    """Count the n-grams of both sides of a scenario, at equal numbers of words."""
    base, trained = ([words_of(turn.text) for turn in _trained_turns(side)] for side in pair)
    num_words = min(sum(map(len, base)), sum(map(len, trained)))
    return _grams(base, num_words, n=n), _grams(trained, num_words, n=n)


def _trained_turns(side: Side) -> list[Turn]:
    return [one.scored.conversation.turns[k] for one in side for k in _trained_numbers(one.scored)]


def _grams(turns: Sequence[Sequence[str]], num_words: int | None, *, n: int) -> Grams:
    """Count the n-grams of the first words; num_words: None is all of them."""
    grams: Grams = Counter()
    left = sum(map(len, turns)) if num_words is None else num_words
    for words in turns:
        kept = list(islice(words, left))
        left -= len(kept)
        grams.update(zip(*(kept[start:] for start in range(n)), strict=False))
    return grams


def _share_of_distinct(counted: Sequence[Grams]) -> tuple[float, Matrix]:
    """Return distinct n-grams over all n-grams, and [N] the same without each scenario."""
    holders = Counter(gram for grams in counted for gram in grams)
    own = np.array([sum(holders[gram] == 1 for gram in grams) for grams in counted])  # [N] held by that one alone
    sizes = np.array([grams.total() for grams in counted])
    whole = divide(np.array([float(len(holders))]), np.array([float(sizes.sum())]))
    return float(whole[0]), divide((len(holders) - own).astype(np.float64), (sizes.sum() - sizes).astype(np.float64))


# ----- intervals -----


def _difference(name: str, means: Matrix, resampled: Matrix) -> Difference:
    """Return a row from both sides' means [2] and resampled means [R, 2], with the percentile interval."""
    base, trained = means.tolist()
    low, high = math.nan, math.nan
    if math.isfinite(trained - base):
        low, high = percentile_interval(resampled[:, 1] - resampled[:, 0])
    return Difference(name=name, base=base, trained=trained, difference=trained - base, low=low, high=high)


def _jackknife_half_width(without: Matrix) -> float:
    """Return half an interval's width from [N] what is left without each scenario."""
    num = len(without)
    if num < 2:
        return math.nan
    spread = math.sqrt((num - 1) / num * float(((without - without.mean()) ** 2).sum()))
    return t_quantile((1.0 + CONFIDENCE) / 2.0, num - 1) * spread
