"""The labels of a round, and the reward model that learns from those of all rounds so far."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selfplay import models
from selfplay.dialog import Conversation
from selfplay.iterate_rounds import NothingToLearnError, Round, read_result, write_result
from selfplay.iterate_settings import JUDGE, IterateSettings, fit_settings, seed_of
from selfplay.iterate_table import doubt_of
from selfplay.label_by import AutoLabeller, is_mostly_ties, label_run, labels_text
from selfplay.pair_sampling import Sampling, key_of_preference, sample_pairs
from selfplay.preferences import Preference, read_preferences
from selfplay.rescore import stored_conversations
from selfplay.reward_model.accuracy import Share, measured_accuracy
from selfplay.reward_model.card import card_of
from selfplay.reward_model.dialogs import Dialog, dialog_of
from selfplay.reward_model.examples import Example, Split, split_examples
from selfplay.reward_model.fit import Halves, fit
from selfplay.reward_model.folder import load, save
from selfplay.reward_model.model import RewardModel
from selfplay.reward_model.readers import run_examples, without_overlap
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
    num_skipped = sum(_label_part(part, place, labeller, tools) for part in _parts(place, settings))
    mine = _labels_by(labeller, place)
    if len(mine) < settings.labels:
        tools.say(
            f"labels={settings.labels}: there are {len(mine)}, for there are no more pairs on one scenario; "
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
            "judge": _measures(place, labeller.by, tools) if settings.by == JUDGE else None,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Some of a round's labels, and how their pairs are drawn."""

    sampling: Sampling
    num: int
    ids: Collection[str]  # of the conversations that are compared


def _parts(place: Round, settings: IterateSettings) -> list[_Part]:
    """Return what is labelled one after the other.

    Accuracy on pairs that members dispute says nothing of other pairs.  So what is to measure them is drawn uniformly.
    """
    seed, found = seed_of(settings, "label", place.number), _conversations(place)
    if not _is_disputed(place, settings):
        sampling = Sampling(unit=settings.unit, seed=seed)
        return [_Part(sampling=sampling, num=settings.labels, ids={one.id for one in found})]
    apart = _held_out_scenarios(place, settings)
    others = frozenset(one.scenario.seed for one in found) - apart
    disputed = Sampling(
        sampler="disagreement",
        unit=settings.unit,
        model=load(place.previous().newest_rm(settings)),
        candidates=settings.candidates,
        scenarios=others,
        seed=seed,
    )
    uniform = Sampling(unit=settings.unit, scenarios=apart, seed=seed)
    num_uniform = max(1, round(settings.rm.held_out * settings.labels)) if settings.labels > 1 else 0
    wanted = ((uniform, apart, num_uniform), (disputed, others, settings.labels - num_uniform))
    return [
        _Part(sampling=sampling, num=num, ids={one.id for one in found if one.scenario.seed in seeds})
        for sampling, seeds, num in wanted
    ]


def _label_part(part: _Part, place: Round, labeller: AutoLabeller, tools: Tools) -> int:
    """Have what is missing of a part labelled; return how many pairs had no answer."""
    before = [one for one in _labels_by(labeller, place) if one.left in part.ids]
    # One part of several may lack pairs; a round that has none at all is told why.
    may_end = bool(before) or part.sampling.scenarios is not None
    if len(before) >= part.num or (may_end and not _is_pair_left(part, place, before)):
        return 0
    summary = label_run(
        place.talk, labeller, n=part.num - len(before), sampling=part.sampling, on_progress=tools.on_label
    )
    return summary.num_skipped


def _is_pair_left(part: _Part, place: Round, before: Sequence[Preference]) -> bool:
    exclude = {key_of_preference(one) for one in before}
    uniform = Sampling(unit=part.sampling.unit, scenarios=part.sampling.scenarios)
    return bool(sample_pairs(_conversations(place), n=1, sampling=uniform, exclude=exclude))


def _labels_by(labeller: AutoLabeller, place: Round) -> list[Preference]:
    return [one for one in read_preferences(place.talk).preferences if one.by == labeller.by]


def _conversations(place: Round) -> list[Conversation]:
    return [one.conversation for one in stored_conversations(RunReader(place.talk), with_tokens=False)]


def _is_disputed(place: Round, settings: IterateSettings) -> bool:
    # The first round has no reward model yet whose members could disagree.
    return settings.sampler == "disagreement" and place.number > 0


def _held_out_scenarios(place: Round, settings: IterateSettings) -> frozenset[int]:
    """Return the seeds of the scenarios whose labels measure alone; at least one, and never all."""
    seeds = sorted({one.scenario.seed for one in _conversations(place)})
    num = min(max(1, round(settings.rm.held_out * len(seeds))), len(seeds) - 1)
    order = np.random.default_rng(seed_of(settings, "split", place.number)).permutation(len(seeds))
    return frozenset(seeds[number] for number in order[:num].tolist())


def _say_ties(num: int, num_ties: int, settings: IterateSettings, tools: Tools) -> None:
    tools.say(f"  {labels_text(num, num_ties)}")
    if is_mostly_ties(num, num_ties):
        advice = (
            "the judge rarely prefers one; try another model, judge.model="
            if settings.by == JUDGE
            else "gold rarely differs between two conversations; try another gold, or a larger talk_group"
        )
        tools.say(f"  over half of the labels are ties: {advice}")


def _measures(place: Round, by: str, tools: Tools) -> dict[str, Any]:
    """Return, and say, how far a judge can be trusted by all labels that it gave in this round."""
    from selfplay.judge.measures import measures_text
    from selfplay.judge.stored import measures_of_run

    measured = measures_of_run(place.talk, by)
    for line in measures_text(measured):
        tools.say(f"  {line}")
    return measured.to_json()


# ----- the reward model -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """Labels of one round or several, parted once and for all."""

    own: Sequence[Example]  # to train the reward model on
    twin: Sequence[Example]  # to train its twin on
    held_out: Sequence[Example]

    @property
    def train(self) -> list[Example]:
        """All that is trained on."""
        return [*self.own, *self.twin]


def refit(place: Round, settings: IterateSettings, *, tools: Tools) -> None:
    """Fit a reward model to the labels of all rounds so far, and measure the old and the new on the newest.

    A label that is held out in one round is held out for good, and a label of the twin is the twin's for good: no model
    is measured on what an older one learnt.  Held-out labels that read as one that is trained on are left out.
    """
    labels = _labels_so_far(place, settings)
    newest = _labels_of(place, settings)
    kept, overlap = without_overlap(labels.train, newest.held_out)
    newest = replace(newest, held_out=kept)
    if overlap:
        tools.say(
            f"  {len(overlap)} held-out label{'s' if len(overlap) > 1 else ''} left out: trained on the same text"
        )
    before = None
    if place.number > 0:
        before = measured_accuracy(load(place.previous().newest_rm(settings)), newest.held_out)
    after = twin = None
    if place.number == 0 or settings.rm.refit == "refreshed":
        labels = replace(labels, held_out=without_overlap(labels.train, labels.held_out)[0])
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
            Halves(own=labels.own, twin=labels.twin),
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
        own=[example for labels in parted for example in labels.own],
        twin=[example for labels in parted for example in labels.twin],
        held_out=[example for labels in parted for example in labels.held_out],
    )


def _labels_of(place: Round, settings: IterateSettings) -> _Labels:
    """Return a round's labels; their sides do not depend on other rounds, nor on what was fitted to them."""
    found = _apart(place, settings)
    train, held_out = split_examples(
        found, held_out=settings.rm.held_out, seed=seed_of(settings, "split", place.number)
    )
    free = [replace(example, split=None) for example in train]
    own, twin = split_examples(free, held_out=0.5, seed=seed_of(settings, "halves", place.number))
    return _Labels(own=own, twin=twin, held_out=held_out)


def _apart(place: Round, settings: IterateSettings) -> Sequence[Example]:
    """Return a round's labels; where they are of disputed pairs, with the side that was decided before."""
    by = read_result(place.labels)["by"]
    if not _is_disputed(place, settings):
        return run_examples(place.talk, by=by).examples
    apart = _held_out_scenarios(place, settings)
    ids: dict[Split, set[str]] = {"train": set(), "held_out": set()}
    for one in _conversations(place):
        ids["held_out" if one.scenario.seed in apart else "train"].add(one.id)
    return [
        replace(example, split=side)
        for side, its in ids.items()
        for example in run_examples(place.talk, by=by, ids=its).examples
    ]


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
