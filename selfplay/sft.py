"""One supervised run from its folder to its result: a model learns to say what was said in given conversations."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from selfplay import checkpoint, models
from selfplay.cluster.model_files import ModelFiles
from selfplay.config import to_yaml
from selfplay.dialog import Conversation, id_order
from selfplay.errors import UserError
from selfplay.interfaces import Env, Weights
from selfplay.models import LoadedModel, Say
from selfplay.players import SCRIPTED, make_bridge
from selfplay.sft_data import Lesson, Lessons, Streams, streams_of
from selfplay.sft_games import BASE, TRAINED, Games, GameTally, changes_to_json, sides_to_json, tally_of
from selfplay.sft_settings import NO_ENV, SftSettings
from selfplay.store import RunWriter
from selfplay.training_run import BASE as BASE_FOLDER
from selfplay.training_run import default_name
from selfplay.whole_files import write_whole

if TYPE_CHECKING:
    from selfplay.sft_training import Imitation, Step

__all__ = ["RESULT", "Epoch", "SftResult", "SftRun", "result_to_json"]

RESULT = "sft.json"  # of a run: what it came to
SCHEMA = "selfplay.sft/1"
KIND = "sft"
KEPT = 2  # checkpoints
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One pass over the lessons; losses in nats a token, NaN where there was nothing to measure."""

    epoch: int  # from 1; 0: before the first
    version: int  # updates made
    train_loss: float  # mean over the pass, each batch before its update
    held_out_loss: float  # after the pass


@dataclass(frozen=True, slots=True, kw_only=True)
class SftResult:
    """What a run came to."""

    folder: Path
    version: int  # of the checkpoint that is the result
    epochs: tuple[Epoch, ...]  # the first is before training
    tokens_per_second: float  # of training, heard tokens included
    games: GameTally | None = None  # held-out ones before and after; None: none were played


@dataclass(slots=True, kw_only=True)
class SftRun:
    """A run that is about to train.  It cannot be resumed: interrupted, its newest checkpoint is a model as any other.

    Example: ``SftRun.create(settings, lessons, env=Signal()).train()``
    """

    settings: SftSettings
    lessons: Lessons
    env: Env | None
    writer: RunWriter
    say: Say = print

    @classmethod
    def create(cls, settings: SftSettings, lessons: Lessons, *, env: Env | None, command: str = "", say: Say) -> Self:
        """Make the run's folder; nothing heavy is loaded.  Raises UserError if it cannot be made."""
        settings = settings.model_copy(update={"model": models.pinned(settings.model, runs=settings.runs)})
        env_name = NO_ENV if env is None else env.name
        manifest = {
            "kind": KIND,
            "seed": settings.seed,
            "env": None if env is None else env_name,
            "model": settings.model,
            "view": "perspective",
            "from": settings.from_,
            "command": command,
        }
        named = f"{KIND}-{default_name(env_name if env is not None else 'chats', settings.model)}"
        make = RunWriter.create_numbered if settings.out is None else RunWriter.create
        target = settings.out or settings.runs / named
        writer = make(target, manifest, to_yaml(settings), tokens=settings.transcripts.tokens)
        return cls(settings=settings, lessons=lessons, env=env, writer=writer, say=say)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.writer.folder

    def train(self) -> SftResult:
        """Train to the last pass, between two rounds of held-out games.

        Whatever ends it, the newest checkpoint is whole; a run in which nothing was stored leaves no folder.
        """
        try:
            with self.writer:
                return self._train()
        except BaseException:
            self.writer.discard(also=[BASE_FOLDER])
            raise

    def _train(self) -> SftResult:
        settings = self.settings
        self.say(f"preparing {settings.model}")
        model = ModelFiles.of(settings.model, runs=settings.runs, say=self.say)
        self.writer.add_to_manifest({"start_weights": model.start_weights})
        models.use_threads(settings.engine.threads)
        session = _Session(run=self, loaded=self._load(model), games=self._games(model))
        result = session.train()
        text = json.dumps(result_to_json(result), indent=2)
        write_whole(self.folder / RESULT, text.encode() + b"\n")
        return result

    def _load(self, model: ModelFiles) -> LoadedModel:
        settings = self.settings
        loaded = model.load(device=settings.engine.device, dtype="float32", merged=False)
        if settings.method == "lora" and loaded.folder is None:
            # An adapter names the folder of its base, so a model that is made in memory needs one.
            return replace(loaded, folder=models.prepare_base(model.name, self.folder))
        return loaded

    def _games(self, model: ModelFiles) -> Games | None:
        if self.env is None or not self.settings.evaluation.conversations:
            return None
        games = Games(self.settings, self.env, model, roles=self._played_roles(self.env))
        self.writer.add_to_manifest(games.facts)
        self.writer.keep_tokenizers(games.tokenizers)
        return games

    def _played_roles(self, env: Env) -> Sequence[str]:
        """Return the roles that the model plays: those it imitates, or of chats, which have none of the game's, all."""
        return [role for role in self.lessons.roles if role in env.roles] or env.roles


def result_to_json(result: SftResult) -> dict[str, Any]:
    """Return a result as JSON values; what was not measured is None."""
    return {
        "schema": SCHEMA,
        "run": str(result.folder),
        "version": result.version,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "epochs": [{name: _finite(value) for name, value in asdict(epoch).items()} for epoch in result.epochs],
        "games": {} if result.games is None else sides_to_json(result.games),
        "paid_games": None if result.games is None else result.games.paid,
        "changes": {} if result.games is None else changes_to_json(result.games),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(slots=True, kw_only=True)
class _Session:
    """The part of a run that has its model."""

    run: SftRun
    loaded: LoadedModel
    games: Games | None
    _imitation: Any = None  # an Imitation, once the streams are known
    _num_tokens: int = 0  # trained on
    _seconds: float = 0.0

    def train(self) -> SftResult:
        run = self.run
        train, held_out = self._streams()
        before = self._play(BASE, version=0)
        for conversation in run.lessons.played:
            run.writer.append(conversation)
        imitation = self._build(train)
        epochs = [Epoch(epoch=0, version=0, train_loss=math.nan, held_out_loss=imitation.loss(held_out.all).per_token)]
        run.say(f"before: {_nats(epochs[0].held_out_loss)} on held-out conversations")
        best = epochs[0]
        state: Any = None
        for number in range(1, run.settings.epochs + 1):
            epochs.append(self._epoch(number, train, held_out))
            if not run.settings.patience or not best.epoch or epochs[-1].held_out_loss < best.held_out_loss:
                best, state = epochs[-1], imitation.state() if run.settings.patience else None
                self._save(best.version)
            elif number - best.epoch >= run.settings.patience:
                run.say(f"the held-out loss was best after pass {best.epoch}, which is the result")
                break
        if state is not None:
            imitation.go_back(state)
        after = self._play(TRAINED, version=best.version, weights=imitation.policy.weights(best.version))
        rate = self._num_tokens / self._seconds if self._seconds else math.nan
        return SftResult(
            folder=run.folder,
            version=best.version,
            epochs=tuple(epochs),
            tokens_per_second=rate,
            games=self._tally(before, after),
        )

    def _streams(self) -> tuple[Streams, Streams]:
        from selfplay.generate.served import context_of

        run = self.run
        bridge = make_bridge(self.loaded, view="perspective")
        context = context_of(self.loaded.model)

        def read(lessons: Sequence[Lesson]) -> Streams:
            return streams_of(lessons, bridge, context=context)

        train, held_out = read(run.lessons.train), read(run.lessons.held_out)
        num_too_long = train.num_too_long + held_out.num_too_long
        if num_too_long:
            run.say(f"{num_too_long} streams are longer than the {context} tokens that the model reads: left out")
        if not train.rows:
            raise UserError(f"model={run.settings.model} can read none of the conversations: there is nothing to learn")
        return train, held_out

    def _build(self, train: Streams) -> Imitation:
        from selfplay.sft_training import build_imitation

        settings = self.run.settings
        updates = settings.epochs * math.ceil(len(train.rows) / settings.batch)
        base_name = str(self.loaded.folder or self.loaded.name)
        self._imitation = build_imitation(self.loaded, settings, num_updates=updates, base_name=base_name)
        imitation: Imitation = self._imitation
        return imitation

    def _epoch(self, number: int, train: Streams, held_out: Streams) -> Epoch:
        from selfplay.sft_training import batches

        run, imitation = self.run, self._imitation
        steps: list[Step] = []
        said = time.monotonic()
        every = list(batches(train.rows, run.settings, epoch=number))
        for place, batch in enumerate(every, start=1):
            start = time.perf_counter()
            steps.append(imitation.step(batch))
            seconds = time.perf_counter() - start
            self._num_tokens, self._seconds = self._num_tokens + steps[-1].num_tokens, self._seconds + seconds
            numbers = _metrics(steps[-1], seconds=seconds, epoch=number)
            if place == len(every):
                loss = imitation.loss(held_out.all).per_token
                numbers |= {"sft/held_out_loss_per_token_nats": loss}
            run.writer.log_metrics(imitation.version - 1, numbers)
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                run.say(f"pass {number}: {place} of {len(every)} updates, {_nats(steps[-1].loss.per_token)}")
        train_loss = math.fsum(step.loss.nats for step in steps) / sum(step.loss.num_tokens for step in steps)
        rate = self._num_tokens / self._seconds
        run.say(f"pass {number}: {_nats(train_loss)}, held out {_nats(loss)}, {rate:,.0f} tokens/s")
        return Epoch(epoch=number, version=imitation.version, train_loss=train_loss, held_out_loss=loss)

    def _save(self, version: int) -> None:
        run, imitation = self.run, self._imitation

        def fill(folder: Path) -> None:
            imitation.policy.save(folder)
            self.loaded.tokenizer.save_pretrained(folder)

        info = {"model": run.settings.model, "method": run.settings.method}
        checkpoint.write(run.folder, version, fill, info=info, keep=KEPT)

    def _tally(self, before: Sequence[Conversation], after: Sequence[Conversation]) -> GameTally | None:
        if self.games is None:
            return None
        games = {BASE: before, TRAINED: after, SCRIPTED: self.games.by_scripts()}
        return tally_of(games, seed=self.run.settings.seed)

    def _play(self, name: str, *, version: int, weights: Weights | None = None) -> list[Conversation]:
        if self.games is None:
            return []
        run = self.run
        run.say(f"{name}: {run.settings.evaluation.conversations} games on held-out scenarios")
        games = sorted(self._watched(self.games.play(version, weights), name), key=lambda game: id_order(game.id))
        for game in games:
            run.writer.append(game)
        return games

    def _watched(self, games: Iterator[Conversation], name: str) -> Iterator[Conversation]:
        said = time.monotonic()
        for num, game in enumerate(games, start=1):
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                self.run.say(f"{name}: {num} of {self.run.settings.evaluation.conversations} games ended")
            yield game


def _metrics(step: Step, *, seconds: float, epoch: int) -> dict[str, float]:
    return {
        "sft/epoch": float(epoch),
        "sft/loss_per_token_nats": step.loss.per_token,
        "sft/said_tokens": float(step.loss.num_tokens),
        "sft/tokens": float(step.num_tokens),
        "sft/tokens_per_second": step.num_tokens / seconds,
        "sft/gradient_norm": step.gradient_norm,
        "sft/learning_rate": step.learning_rate,
    }


def _nats(loss: float) -> str:
    return f"loss {loss:.3f} nats a token" if math.isfinite(loss) else "no loss"
