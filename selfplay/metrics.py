"""Metrics: what a step of training is measured by, and where the numbers go besides `metrics.jsonl`.

Names are paths with units.  A mean of nothing is NaN: files write null for it and loggers leave it out.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from selfplay.dialog import Conversation, Floats, ScoredConversation, Status, Turn
from selfplay.errors import UserError
from selfplay.game_numbers import add_up, game_sums, is_scored, trained_roles
from selfplay.interfaces import Logger
from selfplay.score import WeightedReward
from selfplay.spoken_words import is_only_question, words_of
from selfplay.train_settings import LogGroup

TENSORBOARD_FOLDER = "tensorboard"
WANDB_ID_FILE = "wandb_id.txt"
NOTHING: Mapping[str, float] = MappingProxyType({})


def step_metrics(
    scored: Sequence[ScoredConversation],
    *,
    play_seconds: float,
    learn_seconds: float,
    rewards: Sequence[WeightedReward] = (),
    update: Mapping[str, float] = NOTHING,
    stale_dropped: int = 0,
) -> dict[str, float]:
    """Return every number of one step: the learner's own, `update`, and what was played and how it was rewarded.

    Rewards are means over the turns of trained players: `reward/total` weighted, `reward/<part>` raw, each with
    `/count`, the turns where it applies, and `/<role>` where there are several.  `reward/per_conversation` is the mean
    of a conversation's weighted sum, with its `/deviation` over conversations; where several `rewards` have weight,
    `reward/<part>/variance_share` is a part's covariance with what they add up to, over the variance of that: together
    they make 1.  `play/cut_share` and what is counted in texts are of the same turns: `play/repeat_rate`, turns equal
    to an earlier one of their conversation; `play/repeated_pairs`, word pairs that their turn has had before.
    Where games pay, `game/count` conversations give the means of `selfplay.game_numbers` over what trained players got.
    Of failed conversations only `play/failed`, `play/said_tokens` and the rates know.
    """
    played = [one for one in scored if not _has_failed(one.conversation)]
    said = sum(len(turn.said) for one in scored for turn in one.conversation.turns)
    return {
        **_reward_metrics(played),
        **_variance_shares(played, rewards),
        **_text_metrics(played),
        **_game_metrics(played),
        "play/conversations": float(len(scored)),
        "play/failed": float(len(scored) - len(played)),
        "play/truncated": float(sum(_status(one.conversation) == "truncated" for one in played)),
        "play/turns": float(sum(one.conversation.num_turns for one in played)),
        "play/said_tokens": float(said),
        "play/seconds": play_seconds,
        "play/tokens_per_second": _rate(said, play_seconds),
        "play/stale_dropped": float(stale_dropped),
        **update,
        "learn/seconds": learn_seconds,
        "learn/tokens_per_second": _rate(update.get("learn/tokens", 0.0), learn_seconds),
    }


def open_loggers(settings: LogGroup, folder: Path, manifest: Mapping[str, Any], *, first_step: int = 0) -> list[Logger]:
    """Return the loggers that the settings ask for; their packages are imported here and nowhere else.

    The manifest becomes the W&B run's configuration.  A run that goes on at `first_step` continues the same curves.
    Raises UserError if one cannot start; those that did start are closed.
    """
    loggers: list[Logger] = []
    try:
        if settings.tensorboard:
            start = partial(TensorBoardLogger, folder / TENSORBOARD_FOLDER, first_step=first_step)
            loggers.append(_started("log.tensorboard=true", "tensorboard", start))
        if settings.wandb:
            start_wandb = partial(WandbLogger, settings.wandb, folder, manifest)
            loggers.append(_started(f"log.wandb={settings.wandb}", "wandb", start_wandb))
    except BaseException:
        for logger in loggers:
            with suppress(Exception):
                logger.close()
        raise
    return loggers


class Loggers:
    """Hands every step to several loggers; one that fails is reported once and left out from then on."""

    def __init__(self, loggers: Sequence[Logger], *, say: Callable[[str], None]) -> None:
        self._loggers = list(loggers)
        self._say = say

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the finite ones among the metrics; nothing is raised."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        for logger in list(self._loggers):
            try:
                logger.log(step, finite)
            except Exception as error:  # noqa: BLE001 (a logger may raise anything; no run ends for it)
                self._loggers.remove(logger)
                self._say(f"{_name_of(logger)} failed and gets no more metrics; the run goes on: {_sentence(error)}")
                with suppress(Exception):
                    logger.close()

    def close(self) -> None:
        """Close them all; calling it again does nothing."""
        while self._loggers:
            logger = self._loggers.pop()
            try:
                logger.close()
            except Exception as error:  # noqa: BLE001 (as above)
                self._say(f"{_name_of(logger)} could not write its last metrics: {_sentence(error)}")


class TensorBoardLogger:
    """Writes event files for `tensorboard --logdir`."""

    name: ClassVar[str] = "TensorBoard"

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # The curves that an earlier process wrote are cut off where this one goes on.
        purge_step = first_step if first_step > 0 else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WandbLogger:
    """Sends metrics to a Weights & Biases project; a resumed run goes on under its id."""

    name: ClassVar[str] = "Weights & Biases"

    def __init__(self, project: str, folder: Path, manifest: Mapping[str, Any]) -> None:
        wandb: Any = importlib.import_module("wandb")
        id_file = folder / WANDB_ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.exists() else None
        self._run = wandb.init(
            project=project, name=folder.name, dir=str(folder), config=dict(manifest), id=known, resume="allow"
        )
        # W&B's own step may not go back, and a resumed run's does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        id_file.write_text(f"{self._run.id}\n", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def _started(setting: str, package: str, start: Callable[[], Logger]) -> Logger:
    try:
        return start()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise UserError(f"{setting}: cannot start: {_sentence(error)}") from error
        install = f"pip install {package}, or leave {setting.partition('=')[0]} out"
        raise UserError(f"{setting}: the package {package} is not installed; {install}") from error
    except Exception as error:  # whatever the package raises; the user asked for it, so the run must not start without
        raise UserError(f"{setting}: cannot start: {_sentence(error)}") from error


def _reward_metrics(played: Sequence[ScoredConversation]) -> dict[str, float]:
    metrics = _means("reward/total", [(one.conversation, one.rewards) for one in played])
    for name in dict.fromkeys(name for one in played for name in one.parts):
        found = [(one.conversation, one.parts[name].values) for one in played if name in one.parts]
        metrics |= _means(f"reward/{name}", found)
    sums = [math.fsum(value for _, value in _trained_turns(one.conversation, one.rewards.tolist())) for one in played]
    deviation = float(np.std(sums)) if sums else math.nan
    return {**metrics, "reward/per_conversation": _mean(sums), "reward/per_conversation/deviation": deviation}


def _variance_shares(played: Sequence[ScoredConversation], rewards: Sequence[WeightedReward]) -> dict[str, float]:
    counted = [weighted for weighted in rewards if weighted.weight and not weighted.is_gate]
    if len(counted) < 2 or not played:
        return {}
    table = np.array([[_part_sum(one, weighted) for weighted in counted] for one in played])  # [conversations, parts]
    centred = table - table.mean(axis=0)
    total = centred.sum(axis=1)
    variance = float(total @ total)
    shares = centred.T @ total / variance if variance > 0 else np.full(len(counted), np.nan)
    return {f"reward/{weighted.name}/variance_share": float(s) for weighted, s in zip(counted, shares, strict=True)}


def _part_sum(one: ScoredConversation, weighted: WeightedReward) -> float:
    if weighted.name not in one.parts:
        return 0.0
    added = weighted.term.value(one.parts[weighted.name].values)
    return math.fsum(value for _, value in _trained_turns(one.conversation, added.tolist()))


def _means(path: str, found: Sequence[tuple[Conversation, Floats]]) -> dict[str, float]:
    of_role: dict[str, list[float]] = {}
    for conversation, values in found:
        for turn, value in _trained_turns(conversation, values.tolist()):
            if math.isfinite(value):
                of_role.setdefault(turn.role, []).append(value)
    together = [value for values_of_role in of_role.values() for value in values_of_role]
    by_role = {f"{path}/{role}": _mean(of_role[role]) for role in sorted(of_role)} if len(of_role) > 1 else {}
    return {path: _mean(together), f"{path}/count": float(len(together)), **by_role}


def _text_metrics(played: Sequence[ScoredConversation]) -> dict[str, float]:
    turns = [turn for one in played for turn, _ in _trained_turns(one.conversation, range(one.conversation.num_turns))]
    words = [words_of(turn.text) for turn in turns]
    pairs_of_turns = [list(pairwise(spoken)) for spoken in words]
    pairs = [pair for of_turn in pairs_of_turns for pair in of_turn]
    num_repeated = sum(len(of_turn) - len(set(of_turn)) for of_turn in pairs_of_turns)
    return {
        "play/cut_share": _mean([turn.is_cut for turn in turns]),
        "play/words_per_turn": _mean([len(spoken) for spoken in words]),
        "play/question_rate": _mean(["?" in turn.text for turn in turns]),
        "play/only_question_share": _mean([is_only_question(turn.text) for turn in turns]),
        "play/distinct_2": len(set(pairs)) / len(pairs) if pairs else math.nan,
        "play/repeat_rate": _mean([is_again for one in played for is_again in _repeats(one.conversation)]),
        "play/repeated_pairs": num_repeated / len(pairs) if pairs else math.nan,
    }


def _game_metrics(played: Sequence[ScoredConversation]) -> dict[str, float]:
    scored = [one.conversation for one in played if is_scored(one.conversation)]
    sums = add_up(game_sums(conversation, trained_roles(conversation)) for conversation in scored)
    means = {name: top / count for name, (top, count) in sums.items() if count}
    return {**means, "game/count": float(len(scored))} if means else {}


def _repeats(conversation: Conversation) -> list[bool]:
    """Return for each trained turn whether an earlier turn of anybody has the same text."""
    texts = [turn.text for turn in conversation.turns]
    is_again = [texts[k] in texts[:k] for k in range(len(texts))]
    return [bool(again) for _, again in _trained_turns(conversation, is_again)]


def _trained_turns(conversation: Conversation, values: Sequence[float]) -> list[tuple[Turn, float]]:
    players = conversation.players
    pairs = zip(conversation.turns, values, strict=True)
    return [(turn, value) for turn, value in pairs if turn.role in players and players[turn.role].trained]


def _has_failed(conversation: Conversation) -> bool:
    return _status(conversation) == "failed"


def _status(conversation: Conversation) -> Status | None:
    return None if conversation.outcome is None else conversation.outcome.status


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else math.nan


def _name_of(logger: Logger) -> str:
    return str(getattr(logger, "name", type(logger).__name__))


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
