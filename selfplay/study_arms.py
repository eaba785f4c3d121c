"""Which studies there are: what is compared with what, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["STUDIES", "Study"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is compared with what."""

    name: str
    config: Path  # what all arms share, as `train config=` takes it
    arms: Mapping[str, tuple[str, ...]]  # arm -> words of `train` on top of it; {seed} in them is the cell's
    columns: Mapping[str, str]  # metric of the held-out evaluation -> what its column is called
    panels: Mapping[str, str]  # metric of a step -> title of its curves
    has_shared_base: bool = True  # whether all arms start from one policy and play one game


ARMS: Mapping[str, tuple[str, ...]] = {
    "no_kl": ("kl.controller=off",),
    "fixed_0.1": ("kl.controller=fixed", "kl.coefficient=0.1"),
    "fixed_1": ("kl.controller=fixed", "kl.coefficient=1"),
    "adaptive": ("kl.controller=adaptive", "kl.coefficient=0.3"),
    "question_no_kl": ("kl.controller=off", "rewards.question_density=0", "rewards.question=1"),
}
LANGUAGE_COLUMNS = {
    "kl/per_token_nats": "KL, nats a token",
    "reference/nll_per_token_nats": "NLL under the base, nats a token",
    "play/distinct_2": "distinct-2",
    "play/words_per_turn": "words a turn",
}
LANGUAGE_PANELS = {
    "kl/per_token_nats": "KL from the base, nats a token",
    "play/distinct_2": "distinct word pairs",
    "learn/reference_nll_per_token": "NLL under the base, nats a token",
    "play/words_per_turn": "words a turn",
}
GAME_COLUMNS = {
    "game/payoff": "payoff",
    "game/success": "success",
    "game/protocol_ok": "form kept",
    "game/turns": "turns",
}
GAME_PANELS = {"game/payoff": "payoff", "game/success": "share that reached the aim", "game/protocol_ok": "form kept"}
# Each goes on from its own supervised start, which these commands made (see docs/results/games.md):
#   sft from=scripted env=NAME out=runs/sft-NAME ...
POINTING = ("model=sft-pointing", "env=pointing", "env.difficulty=easy")
HAGGLE = ("model=sft-haggle", "env=haggle")
DEAL = ("model=sft-deal", "env=deal", "env.max_turns=4")
LETTERS_ASKED = ("model=sft-demand", "env=demand", "steps=24", "learner.learning_rate=0.0002", "kl.target=0.3")
PAST = ("partner=league", "league.save_steps=2", "league.window=4", "league.opponents=2")
SHARED = ("rewards.payoff=0", "rewards.shared_payoff=1")
GAME_ARMS: Mapping[str, tuple[str, ...]] = {
    "pointing": POINTING,
    "haggle": HAGGLE,
    "deal": DEAL,
    # The same games and starts, but each role is paid what both won, halved.
    "haggle_shared": (*HAGGLE, *SHARED),
    "deal_shared": (*DEAL, *SHARED),
    "twenty_questions": ("model=sft-twenty_questions", "env=twenty_questions", "env.candidates=4", "env.questions=3"),
    # A reply is one letter, which is far from its start sooner than a sentence is: more KL a token, and more updates.
    "demand": LETTERS_ASKED,
    "demand_held": (*LETTERS_ASKED, "kl.controller=fixed", "kl.coefficient=1"),
    "demand_short": (*LETTERS_ASKED, "steps=12"),  # the same updates, and no more
    # Whom the policy meets; the arms pointing and demand are mirror.
    "pointing_frozen": (*POINTING, "partner=frozen"),
    "pointing_league": (*POINTING, *PAST),
    "demand_frozen": (*LETTERS_ASKED, "partner=frozen"),
    "demand_league": (*LETTERS_ASKED, *PAST),
}
# Every seed has a random model of its own.
SIGNAL_ARMS: Mapping[str, tuple[str, ...]] = {
    "signal": ("model=tiny-letters:{seed}",),
    "no_entropy_bonus": ("model=tiny-letters:{seed}", "learner.entropy_bonus=0"),
    "symbols_8": ("model=tiny-letters:{seed}", "env.symbols=8", "steps=240"),
}
# Whom a policy meets, at a game where one role wins what the other loses and at one where both can gain.
AGAINST: Mapping[str, tuple[str, ...]] = {
    "mirror": ("partner=mirror",),
    "frozen": ("partner=frozen",),
    "league": ("partner=league", "league.save_steps=10", "league.window=8", "league.opponents=4"),
}
LEAGUE_ARMS: Mapping[str, tuple[str, ...]] = {
    # Every version that is kept plays the tournament afterwards.
    f"{game}_{partner}": (
        *("model=tiny-letters:{seed}", f"env={game}", "steps=120", "evaluation.conversations=300"),
        *("checkpoints.save_every=20", "checkpoints.keep=20", *words),
    )
    for game in ("kuhn", "demand")
    for partner, words in AGAINST.items()
}
HERE = Path(__file__).parent
STUDIES: Mapping[str, Study] = {
    "kl": Study(
        name="kl",
        config=HERE / "studies" / "kl.yaml",
        arms=ARMS,
        columns={
            "reward/question_density": "question density",
            "reward/question": "question reward",
            "play/question_rate": "turns that ask",
            "play/only_question_share": "turns of question words only",
            **LANGUAGE_COLUMNS,
        },
        panels={
            "reward/question_density": "question density",
            "play/question_rate": "share of turns that ask",
            **LANGUAGE_PANELS,
        },
    ),
    "games": Study(
        name="games",
        config=HERE / "studies" / "games.yaml",
        arms=GAME_ARMS,
        columns={**GAME_COLUMNS, **LANGUAGE_COLUMNS, "play/cut_share": "turns cut"},
        panels={**GAME_PANELS, **LANGUAGE_PANELS},
        has_shared_base=False,
    ),
    "signal": Study(
        name="signal",
        config=HERE / "presets" / "signal.yaml",
        arms=SIGNAL_ARMS,
        columns={**GAME_COLUMNS, "kl/per_token_nats": "KL, nats a token"},
        panels={"game/success": "share of rounds won", "entropy/per_token_nats": "entropy, nats a token"},
        has_shared_base=False,
    ),
    "league": Study(
        name="league",
        config=HERE / "presets" / "signal.yaml",
        arms=LEAGUE_ARMS,
        columns={**GAME_COLUMNS, "kl/per_token_nats": "KL, nats a token"},
        panels={"game/payoff": "payoff of trained roles", "entropy/per_token_nats": "entropy, nats a token"},
        has_shared_base=False,
    ),
    "chat": Study(
        name="chat",
        config=HERE / "presets" / "chat.yaml",
        arms={"chat": ()},
        columns={
            "reward/per_conversation": "reward of a conversation",
            "reward/question": "question reward",
            "play/question_rate": "turns that ask",
            "reward/sentiment": "sentiment",
            **LANGUAGE_COLUMNS,
            "play/cut_share": "turns cut",
        },
        panels={
            "reward/total": "reward of a turn",
            "play/question_rate": "share of turns that ask",
            **LANGUAGE_PANELS,
        },
    ),
}
