"""Members of a reward model, made, read and written: which backbone has which files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfplay.errors import UserError
from selfplay.models import MODELS, Say, check_name
from selfplay.reward_model.scorer import Scorer
from selfplay.reward_model.sentence_scorer import (
    Sentences,
    SentenceScorer,
    load_sentence_scorers,
    save_sentence_scorers,
)
from selfplay.reward_model.settings import MINILM, FitSettings, Scope
from selfplay.sentences import MINILM as ENCODER
from selfplay.sentences import WordVectors, encoder_of
from selfplay.written import nearest

__all__ = [
    "MEMBERS",
    "WORDS",
    "check_backbone",
    "is_on_sentences",
    "load_members",
    "new_members",
    "save_members",
    "sentences_of",
    "tokenizer_hash_of",
]

WORDS = "words"  # a backbone that needs no files: which words a message holds
MEMBERS = "members"  # the folder of several language models


def check_backbone(backbone: str, *, runs: Path) -> None:
    """Raise UserError, one sentence, if nothing of this name reads dialogs; nothing is loaded or fetched."""
    if is_on_sentences(backbone):
        return
    try:
        check_name(backbone, key="backbone", runs=runs)
    except UserError as error:
        if "there is no such model" not in str(error):
            raise
        names = (MINILM, WORDS, *MODELS)
        hint = nearest(backbone, names, is_list_shown=False)
        raise UserError(
            f"backbone={backbone}: there is none of this name{hint} ({MINILM} and {WORDS} train in minutes; "
            f"or take a language model: {', '.join(MODELS)}, a local Hugging Face folder, RUN or RUN@STEP of a "
            "training run, or a hub id such as owner/name)"
        ) from error


def is_on_sentences(backbone: str) -> bool:
    """Whether a backbone is vectors of texts, not a language model."""
    return backbone in (MINILM, WORDS)


def sentences_of(backbone: str) -> Sentences:
    """Return what turns dialogs into the features of a backbone on vectors of texts."""
    return Sentences(WordVectors() if backbone == WORDS else encoder_of(ENCODER))


def new_members(settings: FitSettings, seeds: Sequence[int], *, scope: Scope, say: Say) -> list[Scorer]:
    """Return untrained members, one for each seed, of settings whose automatic ones are filled in."""
    if is_on_sentences(settings.backbone):
        sentences = sentences_of(settings.backbone)
        return [SentenceScorer.new(sentences, hidden=settings.hidden, seed=seed) for seed in seeds]
    from selfplay.reward_model.lm_scorer import build_lm_scorer

    return [build_lm_scorer(settings.backbone, scope=scope, settings=settings, seed=seed, say=say) for seed in seeds]


def save_members(members: Sequence[Scorer], folder: Path) -> None:
    """Write the members' files: the only language model into the folder itself, where other programs look for it."""
    on_sentences = [member for member in members if isinstance(member, SentenceScorer)]
    if on_sentences:
        save_sentence_scorers(on_sentences, folder)
        return
    for member, place in zip(members, _places(folder, len(members)), strict=True):
        place.mkdir(parents=True, exist_ok=True)
        member.save(place)


def load_members(folder: Path, num: int, *, settings: FitSettings, scope: Scope, is_trainable: bool) -> list[Scorer]:
    """Return the members of a folder.

    settings: what they were trained with or, if they are to be trained further, what they will be.
    Raises UserError, one sentence, if one is missing or does not fit.
    """
    if is_on_sentences(settings.backbone):
        found: list[Scorer] = [*load_sentence_scorers(folder, sentences_of(settings.backbone))]
        if len(found) != num:
            raise UserError(f"{folder} holds {len(found)} of the reward model's {num} members: it is not whole")
        return found
    from selfplay.reward_model.lm_scorer import load_lm_scorer

    return [
        load_lm_scorer(place, base=settings.backbone, scope=scope, is_trainable=is_trainable, settings=settings)
        for place in _places(folder, num)
    ]


def tokenizer_hash_of(member: Scorer) -> str:
    """Return which tokens a language model reads; "" for a member on vectors of texts."""
    return "" if isinstance(member, SentenceScorer) else str(getattr(member, "tokenizer_hash", ""))


def _places(folder: Path, num: int) -> list[Path]:
    return [folder] if num == 1 else [folder / MEMBERS / str(number) for number in range(num)]
