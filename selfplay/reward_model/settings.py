"""What `reward train` accepts besides its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from selfplay.config import WRITTEN_PATH, Settings

__all__ = ["MINILM", "REWARD_MODELS", "FitSettings", "Scope"]

MINILM = "minilm"
REWARD_MODELS = Path("reward_models")  # where they are written, and looked up by name
# What a number is about: each of a role's turns, or its whole conversation.
Scope = Literal["turn", "conversation"]


class FitSettings(Settings):
    """How a reward model is trained."""

    seed: int = Field(default=0, ge=0)  # every draw derives from it
    backbone: str = Field(default=MINILM, min_length=1)  # minilm: sentence vectors; words: which words a message
    # holds, without any download; or a language model as model= takes it
    method: Literal["lora", "full"] = "lora"  # of a language model; the sentence encoder itself is never trained
    scope: Literal["auto", "turn", "conversation"] = "auto"  # auto: turn, but conversation where a language model
    # learns from verdicts about conversations
    ensemble: int = Field(default=0, ge=0)  # members; 0: 3 on sentence vectors, 1 on a language model
    start: str = ""  # another reward model to start from (preference pre-training)
    held_out: float = Field(default=0.2, gt=0, lt=1)  # share of the examples that are not trained on
    validation: float = Field(default=0.15, ge=0, lt=1)  # of the others: decides when to stop, and which state is kept
    max_examples: int = Field(default=0, ge=0)  # to train on, drawn by seed; 0: all
    noise: float = Field(default=0.0, ge=0, lt=1)  # share of labels taken to be drawn blindly (Christiano: 0.1);
    # of pairs and rankings, not of best-of-K and ratings
    clamp: float = Field(default=1.0, gt=0.5, le=1)  # targets stay within 1 - clamp and clamp (Constitutional AI: 0.6);
    # of pairs and a ranking's pairs, not of best-of-K and ratings
    ties: bool = True  # false: ties are left out
    epochs: int = Field(default=0, ge=0)  # most passes over the data; 0: 60 on sentence vectors, 3 on a language model
    patience: int = Field(default=0, ge=0)  # evaluations without a better validation loss that end it; 0: 6 and 2
    batch_size: int = Field(default=32, ge=1)  # examples; all dialogs of an example are in one batch
    learning_rate: float = Field(default=0.0, ge=0)  # 0: 1e-3 on sentence vectors, 1e-4 with lora, 1e-5 in full
    weight_decay: float = Field(default=0.01, ge=0)
    hidden: int = Field(default=64, ge=0)  # width of the layer on sentence vectors; 0: a linear head
    max_tokens: int = Field(default=0, ge=0)  # of a dialog; 0: what the model can read.  Longer ones lose old messages
    tokens_per_microbatch: int = Field(default=2048, ge=1)  # whose activations exist at once
    twin: bool = False  # train a second one on the other half of the labels, which is always scored beside it; with
    # start= it goes on from that one's twin
    reference: str = ""  # runs, with commas, whose turns, or with scope=conversation whose conversations, score mean
    # 0 and deviation 1; "": the training data's
    threads: int = Field(default=0, ge=0)  # 0: all cores
    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: reward_models/NAME-OF-THE-DATA
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")  # where run folders are looked up
    question: str = "interesting"  # of rated chats: witty, upbeat or interesting
    min_gap: int = Field(default=2, ge=1)  # of rated chats: ratings of a pair differ by so much
    by: str = ""  # of runs: only what this one said, such as person, judge, gold; "": everybody
