"""Examples in, a reward model out: an ensemble whose members differ in their draws, put on one scale."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from selfplay.errors import UserError
from selfplay.models import MODELS, Say, pinned
from selfplay.reward_model.dialogs import Dialog, Judged
from selfplay.reward_model.examples import Example, Split, split_examples
from selfplay.reward_model.folder import RECORD, TWIN, find, info_of, trained_on_of
from selfplay.reward_model.members import is_on_sentences, load_members, new_members, tokenizer_hash_of
from selfplay.reward_model.model import ModelInfo, RewardModel, accuracy_of
from selfplay.reward_model.normaliser import Normaliser, normaliser_of
from selfplay.reward_model.scorer import Scorer
from selfplay.reward_model.sentence_scorer import SentenceScorer
from selfplay.reward_model.settings import FitSettings, Scope
from selfplay.reward_model.trained_on import digests_of, is_known
from selfplay.reward_model.training import Progress, Task, train_member

__all__ = ["Halves", "Progress", "check_start", "filled_in", "fit"]

logger = logging.getLogger(__name__)

# First parts of spawn keys.
DRAW_EXAMPLES, DRAW_START, DRAW_BATCHES, DRAW_REFERENCE, DRAW_TWIN, DRAW_BOOTSTRAP, DRAW_VALIDATION = range(2101, 2108)
MOST_REFERENCE = 1000  # dialogs of the training data that set the scale
# What 0 means, on sentence vectors and on a language model.
SENTENCES: Mapping[str, float] = {"ensemble": 3, "epochs": 60, "patience": 6, "learning_rate": 1e-3}
LANGUAGE_MODEL: Mapping[str, float] = {"ensemble": 1, "epochs": 3, "patience": 2}
RATES = {"lora": 1e-4, "full": 1e-5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Labels that were parted between a reward model and its twin before, and stay so when more come."""

    own: Sequence[Example]
    twin: Sequence[Example]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What both of two twins share."""

    settings: FitSettings  # automatic ones filled in
    held_out: Sequence[Example]
    reference: Sequence[Dialog]
    reference_name: str
    judged: Judged
    say: Say
    on_progress: Callable[[Progress], None]


def fit(
    labels: Sequence[Example] | Halves,
    held_out: Sequence[Example],
    settings: FitSettings,
    *,
    reference: Sequence[Dialog] | None = None,
    say: Say = logger.info,
    on_progress: Callable[[Progress], None] | None = None,
) -> RewardModel:
    """Train a reward model, and its twin if the settings ask for one.

    labels: what to train on; a twin gets half of it, drawn by seed, or the half that is given.
    reference: dialogs whose turns, or with scope=conversation which themselves, are to score mean 0 and deviation 1;
    None: dialogs of the training data.  Raises UserError if there is nothing to train on, or the backbone or the start
    do not fit.
    """
    given = [*labels.own, *labels.twin] if isinstance(labels, Halves) else labels
    train, held_out = _usable(given, settings), _usable(held_out, settings)
    train = _drawn(train, settings.max_examples, settings.seed)
    if not train:
        raise UserError("there is nothing to train on: no example is left, or all are ties and ties=false")
    judged = Counter(example.judged for example in train).most_common(1)[0][0]
    plan = _Plan(
        settings=filled_in(settings, judged),
        held_out=held_out,
        reference=_reference(train, settings.seed) if reference is None else list(reference),
        reference_name="dialogs of the training data" if reference is None else settings.reference or "given dialogs",
        judged=judged,
        say=say,
        on_progress=on_progress or (lambda _: None),
    )
    if not plan.reference:
        raise UserError("the reference has no dialogs, so nothing can be set to mean 0 and deviation 1")
    if settings.start:
        check_start(settings)
    if not settings.twin:
        return _fit_one(train, plan, is_twin=False)
    own, others = _given(train, labels) if isinstance(labels, Halves) else _halves(train, settings)
    if not own or not others:
        raise UserError("twin=true needs labels of at least two kinds of dialog; these cannot be parted into halves")
    model = _fit_one(own, plan, is_twin=False)
    model.twin = _fit_one(others, plan, is_twin=True)
    return model


def _given(train: Sequence[Example], halves: Halves) -> tuple[list[Example], list[Example]]:
    # What is trained on is some of these very examples.
    own = {id(example) for example in halves.own}
    return [one for one in train if id(one) in own], [one for one in train if id(one) not in own]


def _halves(train: Sequence[Example], settings: FitSettings) -> tuple[list[Example], list[Example]]:
    """Return a model's labels and its twin's: what one of them has learnt before, the other does not learn now."""
    known, of_twin = (
        (trained_on_of(_start(settings, is_twin=is_twin)) or () for is_twin in (False, True))
        if settings.start
        else ((), ())
    )
    sides: list[Split | None] = [
        "train" if is_known(example, known) else "held_out" if is_known(example, of_twin) else None for example in train
    ]
    parted = [replace(example, split=side) for example, side in zip(train, sides, strict=True)]
    return split_examples(parted, held_out=0.5, seed=_seed(settings.seed, DRAW_TWIN))


def filled_in(settings: FitSettings, judged: Judged) -> FitSettings:
    """Return settings with a number or a word for each automatic one; judged: what most examples are about."""
    on_sentences = is_on_sentences(settings.backbone)
    if on_sentences and settings.scope == "conversation":
        raise UserError(f"scope=conversation does not go with backbone={settings.backbone}: it reads single turns")
    defaults = SENTENCES if on_sentences else {**LANGUAGE_MODEL, "learning_rate": RATES[settings.method]}
    values = {name: getattr(settings, name) or type(getattr(settings, name))(value) for name, value in defaults.items()}
    reads_all = not on_sentences and judged == "conversation"
    scope = settings.scope if settings.scope != "auto" else "conversation" if reads_all else "turn"
    places = {} if on_sentences else _lasting(settings)
    return settings.model_copy(update={**values, "scope": scope, **places})


def _lasting(settings: FitSettings) -> dict[str, object]:
    """Return a language model's name and where runs are so that they mean the same later, and elsewhere."""
    name = pinned(settings.backbone, runs=settings.runs)
    folder = Path(name).expanduser()
    if name.partition(":")[0] not in (*MODELS, "tiny") and folder.is_dir():
        name = str(folder.resolve())
    return {"backbone": name, "runs": settings.runs.resolve()}


def _usable(examples: Sequence[Example], settings: FitSettings) -> list[Example]:
    for example in examples:
        if not all(any(message.is_focus for message in dialog.messages) for dialog in example.dialogs):
            at = f"{example.where}: " if example.where else ""
            raise UserError(f"{at}a dialog has no message of the role that is judged; there is nothing to score")
    return [example for example in examples if settings.ties or not _is_tie(example)]


def _is_tie(example: Example) -> bool:
    if example.kind == "ranking":
        return len(set(example.targets)) == 1
    return example.kind == "pair" and example.targets[0] == 0.5


def _drawn(examples: list[Example], most: int, seed: int) -> list[Example]:
    """Return at most so many; fewer are always among more."""
    if not most or most >= len(examples):
        return examples
    order = _rng(seed, DRAW_EXAMPLES).permutation(len(examples))
    return [examples[number] for number in sorted(order[:most].tolist())]


def _reference(train: Sequence[Example], seed: int) -> list[Dialog]:
    dialogs = list(dict.fromkeys(dialog for example in train for dialog in example.dialogs))
    order = _rng(seed, DRAW_REFERENCE).permutation(len(dialogs))
    return [dialogs[number] for number in sorted(order[:MOST_REFERENCE].tolist())]


# ----- one model -----


def _fit_one(train: Sequence[Example], plan: _Plan, *, is_twin: bool) -> RewardModel:
    settings = plan.settings
    members = _members(plan, is_twin=is_twin)
    fitted, validation = _parted(train, settings, is_twin=is_twin)
    if not validation:
        plan.say("too few labels to set some aside: training goes on to the last epoch")
    if isinstance(members[0], SentenceScorer):
        dialogs = [dialog for example in (*train, *plan.held_out) for dialog in example.dialogs]
        members[0].sentences.remember(dialogs, say=plan.say)
    accuracies = []
    for number, member in enumerate(members):
        task = Task(
            train=_bootstrap(fitted, number, settings, is_twin=is_twin),
            validation=validation,
            settings=settings,
            evaluations_per_epoch=1 if is_on_sentences(settings.backbone) else 2,
            starts_trained=bool(settings.start),
            on_progress=plan.on_progress,
            is_twin=is_twin,
        )
        rng = _rng(settings.seed, DRAW_BATCHES, is_twin, number)
        accuracies.append(train_member(member, number, task, rng))
    model = _on_one_scale(members, _info(train, plan, members, accuracies), plan)
    model.info = replace(model.info, accuracy=accuracy_of(model, plan.held_out))
    before = trained_on_of(_start(settings, is_twin=is_twin)) if settings.start else frozenset()
    # Of a start that does not say what it has read, nothing is known of the whole.
    model.trained_on = None if before is None else digests_of(train) | before
    if isinstance(members[0], SentenceScorer):
        members[0].sentences.forget()
    return model


def _members(plan: _Plan, *, is_twin: bool) -> list[Scorer]:
    settings = plan.settings
    scope: Scope = "conversation" if settings.scope == "conversation" else "turn"
    if not settings.start:
        seeds = [_seed(settings.seed, DRAW_START, is_twin, number) for number in range(settings.ensemble)]
        return new_members(settings, seeds, scope=scope, say=plan.say)
    folder = _start(settings, is_twin=is_twin)
    info = info_of(folder)
    wanted = (settings.backbone, scope, settings.ensemble)
    if (info.backbone, info.scope, info.num_members) != wanted:
        raise UserError(
            f"start={settings.start} has backbone={info.backbone} scope={info.scope} ensemble={info.num_members}, and "
            f"this model backbone={wanted[0]} scope={wanted[1]} ensemble={wanted[2]}; they must be the same"
        )
    return load_members(folder, info.num_members, settings=settings, scope=scope, is_trainable=True)


def check_start(settings: FitSettings) -> None:
    """Raise UserError, one sentence, if a model to start from is not there, or lacks the twin that a twin needs."""
    folder = find(settings.start)
    info_of(folder)
    if settings.twin and not (folder / TWIN / RECORD).is_file():
        raise UserError(
            f"twin=true start={settings.start}: that reward model has no twin to start the twin from, and one that "
            "started from the model itself would have learnt the same labels; train it with twin=true first"
        )


def _start(settings: FitSettings, *, is_twin: bool) -> Path:
    """Return what a model goes on from: a twin must not learn the labels of the model that it is compared with."""
    folder = find(settings.start)
    return folder / TWIN if is_twin else folder


def _parted(train: Sequence[Example], settings: FitSettings, *, is_twin: bool) -> tuple[list[Example], list[Example]]:
    """Return what is learnt from and what decides when to stop; nothing that is reported is measured on either."""
    free = [replace(example, split=None) for example in train]
    seed = _seed(settings.seed, DRAW_VALIDATION, is_twin)
    fitted, validation = split_examples(free, held_out=settings.validation, seed=seed)
    return (fitted, validation) if fitted else (validation, [])


def _bootstrap(train: Sequence[Example], number: int, settings: FitSettings, *, is_twin: bool) -> list[Example]:
    """Return as many examples, drawn with replacement, where there are several members to differ."""
    if settings.ensemble == 1:
        return list(train)
    drawn = _rng(settings.seed, DRAW_BOOTSTRAP, is_twin, number).integers(len(train), size=len(train))
    return [train[place] for place in drawn.tolist()]


def _info(
    train: Sequence[Example], plan: _Plan, members: Sequence[Scorer], accuracies: Sequence[float | None]
) -> ModelInfo:
    return ModelInfo(
        settings=plan.settings,
        scope=members[0].scope,
        judged=plan.judged,
        num_members=len(members),
        num_train=len(train),
        num_held_out=len(plan.held_out),
        sources=dict(sorted(Counter(example.source for example in train).items())),
        validation_accuracies=tuple(accuracies),
        tokenizer_hash=tokenizer_hash_of(members[0]),
        reference=f"{len(plan.reference)} {plan.reference_name}",
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _on_one_scale(members: Sequence[Scorer], info: ModelInfo, plan: _Plan) -> RewardModel:
    """Return the model with each member, then their mean, at mean 0 and deviation 1 on the reference.

    What is normalised is what the reward returns: each turn's number, or with scope=conversation each dialog's.
    """
    model = RewardModel(
        info=info,
        members=members,
        normalisers=[Normaliser()] * len(members),
        mixture=Normaliser(),
        held_out=plan.held_out,
    )
    raw = model.raw_numbers(plan.reference)  # [numbers, M]
    model.normalisers = [normaliser_of(raw[:, number]) for number in range(len(members))]
    own = np.stack([norm.apply(raw[:, number]) for number, norm in enumerate(model.normalisers)], axis=1)
    model.mixture = normaliser_of(own.mean(axis=1))
    return model


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(int(part) for part in key)))


def _seed(seed: int, *key: int) -> int:
    sequence = np.random.SeedSequence(seed, spawn_key=tuple(int(part) for part in key))
    return int(sequence.generate_state(1, np.uint32)[0])
