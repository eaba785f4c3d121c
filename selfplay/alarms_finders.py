"""The alarms: what each looks at, what it compares that with, and where it begins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import get_args

from selfplay.alarms_curves import Past, block_means, ends_of, finite, mean, noise_of, window_sizes
from selfplay.alarms_reading import Reading, Watch
from selfplay.alarms_settings import AlarmName

GAP = "gap"  # reward/NAME.gap: how far a reward model is above its twin
PART_RISE = 0.15  # of the variance; a part that made nearly all of it from the start was chosen to
GROWTH = 1.5  # of KL, window over window, and of that growth
LENGTH_CORRECTION = 4.0  # at most, either way; a handful of words says little about variety


def _one_part(past: Past, watch: Watch) -> Iterator[Reading]:
    """A part's share of the variance of conversations' rewards, where it was not meant to be so large."""
    parts = [name for name, weight in watch.weights.items() if weight]
    for part in parts if len(parts) > 1 else ():
        # A part that others work against makes more than everything; that is no more than all of it.
        shares = [min(share, 1.0) for share in past.of(f"reward/{part}/variance_share")]
        ends = ends_of(shares, watch.settings.window)
        if ends is not None:
            yield Reading(
                name="one_part",
                value=ends.last,
                reference=ends.first,
                bound=max(watch.settings.part_share, ends.first + PART_RISE),
                what=f"{part} makes {ends.last:.0%} of the reward's variance, {ends.first:.0%} at first",
                meaning="the other parts hardly count",
                look="part_high",
                part=part,
            )


def _length_drift(past: Past, watch: Watch) -> Iterator[Reading]:
    ends = ends_of(past.of("play/words_per_turn"), watch.settings.window)
    if ends is None:
        return
    is_longer = ends.last > ends.first
    yield Reading(
        name="length_drift",
        value=ends.last,
        reference=ends.first,
        bound=ends.first * watch.settings.length_band if is_longer else ends.first / watch.settings.length_band,
        what=f"{ends.last:.1f} words a turn, {ends.first:.1f} at first",
        meaning=f"{'long' if is_longer else 'short'} turns may be what pays",
        look="long" if is_longer else "short",
    )


def _repetition_drift(past: Past, watch: Watch) -> Iterator[Reading]:
    measures = {
        "play/repeat_rate": "of the turns were said before in their conversation",
        "play/repeated_pairs": "of the word pairs repeat within a turn",
    }
    for metric, words in measures.items():
        ends = ends_of(past.of(metric), watch.settings.window)
        if ends is not None:
            yield Reading(
                name="repetition_drift",
                value=ends.last,
                reference=ends.first,
                bound=ends.first + max(watch.settings.repetition_margin, ends.noise),
                what=f"{ends.last:.0%} {words}, {ends.first:.0%} at first",
                meaning="the same words may be what pays",
                look="repetitive",
            )


def _variance_collapse(past: Past, watch: Watch) -> Iterator[Reading]:
    ends = ends_of(past.of("reward/per_conversation/deviation"), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="variance_collapse",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.deviation_share,
            what=f"the rewards of conversations deviate by {ends.last:.3g}, {ends.first:.3g} at first",
            meaning="nothing is left to learn from",
            look="rewarded",
        )


def _entropy_collapse(past: Past, watch: Watch) -> Iterator[Reading]:
    ends = ends_of(past.of("entropy/per_token_nats"), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="entropy_collapse",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.entropy_share,
            what=f"the entropy is {ends.last:.2f} nats a token, {ends.first:.2f} at first",
            meaning="the policy says the same again and again",
            look="rewarded",
        )


def _kl_accelerating(past: Past, watch: Watch) -> Iterator[Reading]:
    """KL far above its target; without one, above a bound and growing ever faster.

    "Ever faster" over three windows in a row: KL has grown to at least 1.5 times what it was, and by 1.5 times what it
    grew by before.  A straight line grows by as much; windows of 3, 6, 12 ... steps see slow growth too.  Once begun it
    lasts while KL is high: growth that ends far out is no return.
    """
    window, target = watch.settings.window, watch.kl_target
    values = finite(past.of("kl/per_token_nats"))
    if len(values) < 2 * window:
        return
    value = mean(values[-window:])
    steered = f", {value / target:.1f} times its target" if target else ""
    yield Reading(
        name="kl_accelerating",
        value=value,
        reference=target or 0.0,
        bound=target * watch.settings.kl_factor if target else watch.settings.kl_nats,
        what=f"KL is {value:.3f} nats a token{steered}",
        meaning="the controller does not hold it" if target else "it grows ever faster, and language may go",
        look="far",
        can_begin=bool(target) or _grows_ever_faster(values, window),
    )


def _grows_ever_faster(values: Sequence[float], window: int) -> bool:
    for size in window_sizes(len(values), smallest=window, blocks=3):
        oldest, older, newest = block_means(values, size, 3)
        if newest > GROWTH * older and newest - older > GROWTH * (older - oldest):
            return True
    return False


def _distinct_falling(past: Past, watch: Watch) -> Iterator[Reading]:
    ends = ends_of(_distinct_at_first_length(past, watch.settings.window), watch.settings.window)
    if ends is not None:
        yield Reading(
            name="distinct_falling",
            value=ends.last,
            reference=ends.first,
            bound=ends.first * watch.settings.distinct_share,
            what=f"{ends.last:.2f} of the word pairs are distinct at equal length, {ends.first:.2f} at first",
            meaning="conversations become much the same",
            look="repetitive",
        )


def _distinct_at_first_length(past: Past, window: int) -> list[float]:
    """Return distinct-2 of every step as if it had said as many words as the first ones.

    The share of pairs that repeat an earlier one grows with the number of pairs, about in proportion while it is small.
    Uncorrected, a policy that falls silent hides that it repeats itself: three words a turn hardly can.
    """
    counts = [1.0 if math.isnan(count) else count for count in past.of("reward/total/count")]
    lengths = past.of("play/words_per_turn")
    num_words = [count * length for count, length in zip(counts, lengths, strict=True)]
    first = finite(num_words)[:window]
    if not first:
        return []
    pairs = zip(past.of("play/distinct_2"), num_words, strict=True)
    return [_corrected(distinct, mean(first) / words if words > 0 else math.nan) for distinct, words in pairs]


def _corrected(distinct: float, times: float) -> float:
    if not math.isfinite(distinct * times):
        return math.nan
    return max(0.0, 1.0 - (1.0 - distinct) * min(max(times, 1 / LENGTH_CORRECTION), LENGTH_CORRECTION))


def _verifiable_falling(past: Past, watch: Watch) -> Iterator[Reading]:
    """A part that cannot be gamed falls between two windows in a row, of any size, while the total rises."""
    for part in watch.settings.verifiable:
        lines = zip(past.of(f"reward/{part}"), past.of("reward/total"), strict=True)
        both = [(value, total) for value, total in lines if math.isfinite(value) and math.isfinite(total)]
        values, totals = [value for value, _ in both], [total for _, total in both]
        for size in window_sizes(len(both), smallest=watch.settings.window, blocks=2):
            (before, now), (total_before, total_now) = block_means(values, size, 2), block_means(totals, size, 2)
            yield Reading(
                name="verifiable_falling",
                value=now,
                reference=before,
                bound=before - max(watch.settings.fall * abs(before), noise_of(values, size)),
                what=f"{part} went from {before:.3g} to {now:.3g} and the whole reward from {total_before:.3g} to "
                f"{total_now:.3g} in {2 * size} steps",
                meaning="what is rewarded is not what counts",
                look="part_low",
                part=part,
                can_begin=total_now - total_before > noise_of(totals, size),
            )


def _watched_falling(past: Past, watch: Watch) -> Iterator[Reading]:
    """A reward that is measured only is lower over the newest steps than over as many first ones, of any number."""
    for part in (name for name, weight in watch.weights.items() if not weight):
        values = past.of(f"reward/{part}")
        for size in window_sizes(len(finite(values)), smallest=watch.settings.window, blocks=2):
            ends = ends_of(values, size)
            if ends is not None:
                yield Reading(
                    name="watched_falling",
                    value=ends.last,
                    reference=ends.first,
                    bound=ends.first - max(watch.settings.fall * abs(ends.first), ends.noise),
                    what=f"{part}, which has no weight, is {ends.last:.3g}, {ends.first:.3g} at first",
                    meaning="the reward is bought with it",
                    look="part_low",
                    part=part,
                )


def _proxy_gap(past: Past, watch: Watch) -> Iterator[Reading]:
    """A reward model that is trained against says more and more above its twin, which has seen other labels.

    Source: Bai et al. 2022, arXiv:2204.05862, section 4.2: models of disjoint halves agree until a policy finds what
    one of them happens to like.
    """
    for part in (name for name, weight in watch.weights.items() if weight > 0):
        ends = ends_of(past.of(f"reward/{part}.{GAP}"), watch.settings.window)
        if ends is not None:
            yield Reading(
                name="proxy_gap",
                value=ends.last,
                reference=ends.first,
                bound=ends.first + max(watch.settings.gap, ends.noise),
                what=f"{part} is {ends.last:.2f} deviations above its held-out twin, {ends.first:.2f} at first",
                meaning="the policy finds what this reward model happens to like, and others do not",
                look="part_high",
                part=f"{part}.{GAP}",
            )


FINDERS: Mapping[AlarmName, Callable[[Past, Watch], Iterator[Reading]]] = {
    "one_part": _one_part,
    "length_drift": _length_drift,
    "repetition_drift": _repetition_drift,
    "variance_collapse": _variance_collapse,
    "entropy_collapse": _entropy_collapse,
    "kl_accelerating": _kl_accelerating,
    "distinct_falling": _distinct_falling,
    "verifiable_falling": _verifiable_falling,
    "watched_falling": _watched_falling,
    "proxy_gap": _proxy_gap,
}
assert tuple(FINDERS) == get_args(AlarmName)
