"""What a judge's stored labels of a run say of it, whenever they were given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selfplay.dialog import Scenario
from selfplay.judge.measures import Measures, measure
from selfplay.judge.pairs import PairVerdict
from selfplay.label_by import AutoLabeller
from selfplay.pair_sampling import PairToLabel, dialogs_of
from selfplay.preferences import Preference, read_preferences
from selfplay.rescore import stored_conversations
from selfplay.run_reader import RunReader

__all__ = ["StoredVerdict", "measures_of_run", "stored_verdicts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVerdict:
    """A pair of a run and what a judge said of it."""

    pair: PairToLabel
    verdict: PairVerdict


def measures_of_run(folder: Path, by: str, *, gold: AutoLabeller | None = None) -> Measures:
    """Return how far a judge can be trusted by all its labels of a run, of this attempt and of those before.

    gold: what knows better; None: nobody does.  Pairs of one scenario are counted as no independent evidence.
    """
    found = list(stored_verdicts(folder, by, with_tokens=gold is not None and gold.needs_tokens))
    pairs = [one.pair for one in found]
    known = None if gold is None else [0.5 if one is None else one.probability for one in gold.label(pairs)]
    return measure(
        [dialogs_of(pair) for pair in pairs],
        [one.verdict for one in found],
        gold=known,
        groups=[_scenario_of(pair.left.scenario) for pair in pairs],
    )


def stored_verdicts(folder: Path, by: str, *, with_tokens: bool = False) -> Iterator[StoredVerdict]:
    """Yield what a judge said of a run's conversations; what is no verdict of a judge is passed over."""
    labels = [one for one in read_preferences(folder).preferences if one.by == by]
    stored = stored_conversations(RunReader(folder), with_tokens=with_tokens)
    conversations = {one.conversation.id: one.conversation for one in stored}
    for label in labels:
        verdict = _verdict_of(label)
        if verdict is not None and label.left in conversations and label.right in conversations:
            left, right = conversations[label.left], conversations[label.right]
            pair = PairToLabel(left=left, right=right, focus=label.focus, turns=label.turns, sampler=label.sampler)
            yield StoredVerdict(pair=pair, verdict=verdict)


def _verdict_of(label: Preference) -> PairVerdict | None:
    if label.probability_left is None or label.principle is None:
        return None
    return PairVerdict(
        probability_first=label.probability_left,
        principle=label.principle,
        first_order=label.detail.get("first_order"),
        second_order=label.detail.get("second_order"),
        is_truncated=bool(label.detail.get("is_truncated", False)),
    )


def _scenario_of(scenario: Scenario) -> tuple[str, str, int]:
    return scenario.env, scenario.split, scenario.seed
