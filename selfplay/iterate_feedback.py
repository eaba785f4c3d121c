"""The labels of a round, and the reward model that learns from those of all rounds so far."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from selfplay import models
from selfplay.iterate_rounds import NothingToLearnError, Round, read_result, write_result
from selfplay.iterate_settings import JUDGE, IterateSettings, fit_settings, seed_of
from selfplay.iterate_table import doubt_of
from selfplay.label_by import AutoLabeller, LabelSummary, is_mostly_ties, label_run, labels_text
from selfplay.pair_sampling import Sampling, dialogs_of, key_of_preference, sample_pairs
from selfplay.preferences import read_preferences
from selfplay.rescore import stored_conversations
from selfplay.reward_model.accuracy import Share, measured_accuracy
from selfplay.reward_model.card import card_of
from selfplay.reward_model.dialogs import Dialog, dialog_of
from selfplay.reward_model.examples import Example, split_examples
from selfplay.reward_model.fit import fit
from selfplay.reward_model.folder import load, save
from selfplay.reward_model.model import RewardModel
from selfplay.reward_model.readers import run_examples
from selfplay.reward_model.report import report_on, report_to_json
from selfplay.run_reader import RunReader

if TYPE_CHECKING:
    from selfplay.iterate import Tools

__all__ = ["label", "refit"]

CARD, REPORT = "README.md", "report.json"  # of a reward model's folder, where `reward report` looks


# ----- labels -----


def label(place: Round, settings: IterateSettings, *, tools: Tools) -> None:
    """Have pairs of the round's conversations labelled, those that are not yet."""
    labeller = tools.make_labeller(seed_of(settings, "label", place.number))
    num_before, is_pair_left = _labelled_before(place, settings, labeller)
    num_new = num_skipped = 0
    measures: dict[str, Any] | None = None
    if num_before < settings.labels and (is_pair_left or not num_before):
        summary = label_run(
            place.talk,
            labeller,
            n=settings.labels - num_before,
            sampling=_sampling(place, settings),
            on_progress=tools.on_label,
        )
        num_new, num_skipped = summary.num_labels, summary.num_skipped
        measures = _measures(summary, settings, tools)
    mine = [one for one in read_preferences(place.talk).preferences if one.by == labeller.by]
    if num_before + num_new < settings.labels:
        tools.say(
            f"labels={settings.labels}: there are {num_before + num_new}, for there are no more pairs on one scenario; "
            "a larger talk_conversations or talk_group gives more"
        )
    num_ties = sum(one.choice == "tie" for one in mine)
    _say_ties(len(mine), num_ties, settings, tools)
    write_result(
        place.labels,
        {
            "by": labeller.by,
            "num": len(mine),
            "num_ties": num_ties,
            "num_skipped": num_skipped,
            "sampler": mine[-1].sampler if mine else "",
            "judge": measures,
        },
    )


def _labelled_before(place: Round, settings: IterateSettings, labeller: AutoLabeller) -> tuple[int, bool]:
    """Return how many labels are there from an attempt that was interrupted, and whether any pair has none."""
    before = [one for one in read_preferences(place.talk).preferences if one.by == labeller.by]
    if not before:
        return 0, True
    conversations = [one.conversation for one in stored_conversations(RunReader(place.talk), with_tokens=False)]
    exclude = {key_of_preference(one) for one in before}
    return len(before), bool(sample_pairs(conversations, n=1, sampling=Sampling(unit=settings.unit), exclude=exclude))


def _say_ties(num: int, num_ties: int, settings: IterateSettings, tools: Tools) -> None:
    tools.say(f"  {labels_text(num, num_ties)}")
    if is_mostly_ties(num, num_ties):
        advice = (
            "the judge rarely prefers one; try another model, judge.model="
            if settings.by == JUDGE
            else "gold rarely differs between two conversations; try another gold, or a larger talk_group"
        )
        tools.say(f"  over half of the labels are ties: {advice}")


def _measures(summary: LabelSummary, settings: IterateSettings, tools: Tools) -> dict[str, Any] | None:
    """Return, and say, how far a judge can be trusted by the labels it gave just now; None: there was no judge."""
    if settings.by != JUDGE:
        return None
    from selfplay.judge.measures import measure, measures_text
    from selfplay.judge.pairs import PairVerdict

    verdicts = [
        PairVerdict(
            probability_first=one.label.probability,
            principle=one.label.principle or "",
            first_order=one.label.detail["first_order"],
            second_order=one.label.detail["second_order"],
        )
        for one in summary.labelled
    ]
    measured = measure([dialogs_of(one.pair) for one in summary.labelled], verdicts)
    for line in measures_text(measured):
        tools.say(f"  {line}")
    return measured.to_json()


def _sampling(place: Round, settings: IterateSettings) -> Sampling:
    seed = seed_of(settings, "label", place.number)
    # The first round has no reward model yet whose members could disagree.
    if settings.sampler == "uniform" or place.number == 0:
        return Sampling(unit=settings.unit, seed=seed)
    return Sampling(
        sampler="disagreement",
        unit=settings.unit,
        model=load(place.previous().newest_rm(settings)),
        candidates=settings.candidates,
        seed=seed,
    )


# ----- the reward model -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """Labels of one round or several, parted once and for all."""

    train: Sequence[Example]
    held_out: Sequence[Example]


def refit(place: Round, settings: IterateSettings, *, tools: Tools) -> None:
    """Fit a reward model to the labels of all rounds so far, and measure the old and the new on the newest.

    A label that is held out in one round is held out for good, so no model is measured on what an older one learnt.
    """
    newest = _labels_of(place, settings)
    before = None
    if place.number > 0:
        before = measured_accuracy(load(place.previous().newest_rm(settings)), newest.held_out)
    after = twin = None
    if place.number == 0 or settings.rm.refit == "refreshed":
        labels = _labels_so_far(place, settings)
        model = _fit(labels, place, settings, tools)
        save(model, place.rm, more=_described(model, labels, place, tools))
        after = measured_accuracy(model, newest.held_out)
        twin = None if model.twin is None else measured_accuracy(model.twin, newest.held_out)
    found = {
        "num_train": len(newest.train),
        "num_held_out": len(newest.held_out),
        "before": _share_to_json(before),
        "after": _share_to_json(after),
        "twin_after": _share_to_json(twin),
    }
    doubt = doubt_of(found)
    if doubt:
        tools.say(f"  the reward model may know nothing: {doubt}")
    write_result(place.refit, found)


def _fit(labels: _Labels, place: Round, settings: IterateSettings, tools: Tools) -> RewardModel:
    if all(example.targets == (0.5,) for example in labels.train):
        raise NothingToLearnError(
            f"none of {len(labels.train)} labels prefers one conversation to another, so nothing can be learnt from "
            "them; start in another folder with more labels, or a reward of which the first policy shows something"
        )
    wanted = fit_settings(settings, number=place.number)
    models.use_threads(wanted.threads)
    with tools.fitting() as on_progress:
        return fit(
            labels.train,
            labels.held_out,
            wanted,
            reference=_reference(place),
            say=tools.say,
            on_progress=on_progress,
        )


def _described(model: RewardModel, labels: _Labels, place: Round, tools: Tools) -> dict[str, bytes]:
    """Return the card and the report that `reward train` would write too."""
    seed = model.info.settings.seed
    report = report_on(model, labels.held_out, labels.train, tools.heuristics(), seed=seed)
    by = read_result(place.labels)["by"]
    card = card_of(
        model.info,
        report,
        name=place.rm.name,
        folder=str(place.rm),
        data=[str(one.talk) for one in place.so_far()],
        notes=[
            f"labels by {by}, of {place.ordinal} round{'s' if place.number else ''} of `iterate`",
            "the other half of the labels to train on is the twin's",
        ],
    )
    return {CARD: card.encode(), REPORT: json.dumps(report_to_json(report), indent=1).encode() + b"\n"}


def _labels_so_far(place: Round, settings: IterateSettings) -> _Labels:
    parted = [_labels_of(one, settings) for one in place.so_far()]
    return _Labels(
        train=[example for labels in parted for example in labels.train],
        held_out=[example for labels in parted for example in labels.held_out],
    )


def _labels_of(place: Round, settings: IterateSettings) -> _Labels:
    found = run_examples(place.talk, by=read_result(place.labels)["by"]).examples
    seed = seed_of(settings, "split", place.number)
    train, held_out = split_examples(found, held_out=settings.rm.held_out, seed=seed)
    return _Labels(train=train, held_out=held_out)


def _reference(place: Round) -> list[Dialog]:
    """Return what scores mean 0 and deviation 1 in every round, so that rounds can be compared: the first policy's."""
    stored = stored_conversations(RunReader(place.so_far()[0].talk), with_tokens=False)
    return [
        dialog_of(one.conversation, role)
        for one in stored
        for role in dict.fromkeys(turn.role for turn in one.conversation.turns)
    ]


def _share_to_json(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(share).items()
    }
