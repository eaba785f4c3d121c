"""`selfplay eval`: a trained policy against the one it started from, and games against opponents, held-out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.text import Text

from selfplay import checkpoint
from selfplay.cluster.play_worker import PlayWorker
from selfplay.commands.building import build_env, build_rewards
from selfplay.commands.evaluation_table import print_comparison
from selfplay.commands.game_table import print_game_evaluation
from selfplay.commands.imitated import refuse_imitation
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, EngineSettings, Settings, read_config, resolve, to_yaml
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Measured, compare, comparison_to_json
from selfplay.evaluate_games import GAME_EVALUATION, GameEvaluation, evaluate_games, game_evaluation_to_json, without
from selfplay.evaluate_play import (
    BASE,
    SELF,
    Evaluated,
    check_opponents,
    game_matches,
    reference_matches,
    reference_players,
)
from selfplay.game_numbers import contest_of, unfitting
from selfplay.interfaces import Game
from selfplay.play_plan import dealer_of
from selfplay.players import SCRIPTED
from selfplay.run_evaluation import EVALUATION
from selfplay.run_folder import CONFIG
from selfplay.run_reader import find_run
from selfplay.store import RunWriter
from selfplay.train_settings import TrainSettings
from selfplay.trained import checkpoint_of
from selfplay.whole_files import write_whole
from selfplay.written import Source

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "compare a trained policy with the one it started from"
USAGE = """
selfplay eval [RUN[@STEP]] [at=0,latest] [against=base,scripted] [key=value ...] [--json]

Let the policy of a run and the one it started from play the same held-out scenarios, with the run's own settings, and
compare them: rewards, KL, likelihood under the base, distinct words, length; each with an interval.  At a game they
meet opponents, with the roles swapped: on every scenario the policy has each of its roles in turn.  Then payoff,
who won, success, the form and who broke it are compared too, beside what scripts and chance get in every role.

  RUN                  a path, or a name under runs/; nothing: the newest run.  @STEP: that checkpoint, not the latest
  at=0,latest          versions of the policy: 0 is the one before training, latest the checkpoint; or numbers, of
                       checkpoints or of a league's past policies
  against=base,scripted
                       who has the other roles: self (the policy itself), base (the policy before training), scripted,
                       chance, a model, or RUN@STEP (default: base,scripted at a game; self where nothing is paid
                       or nobody is met)
  conversations=32     how many scenarios each side plays (default: as many as the run itself evaluated)
  seed=1               draws other scenarios than the run's own evaluation did
  engine.threads=1     also device, dtype, max_batch, concurrency (default: the run's)
  out=FOLDER           store all conversations there, as a run of its own; nothing is stored otherwise
  --json               print the numbers as JSON

Examples:
  selfplay eval
  selfplay eval chat@20 conversations=100 seed=1
  selfplay eval deals at=0,10,latest against=base,scripted,smollm2-135m
"""
DEFAULT_CONVERSATIONS = 32  # where the run evaluated none
NOTHING_COMPARED = 1
LATEST = "latest"


class EvalSettings(Settings):
    """What `eval` accepts besides the run."""

    at: str = f"0,{LATEST}"  # versions of the policy, separated by commas
    against: str = ""  # opponents, separated by commas; "": base and script at a game, itself elsewhere
    conversations: int = Field(default=0, ge=0)  # 0: as many as the run evaluated
    seed: int | None = Field(default=None, ge=0)  # None: the run's
    engine: EngineSettings = EngineSettings()  # what is not said is the run's
    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: nothing is stored
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


def run(line: CommandLine) -> int:
    """Evaluate; return 0, or 1 if there was nothing to compare."""
    name = _only_name(line.words)
    words = [word for word in line.words if word != name]
    settings = resolve(EvalSettings, words)
    found = _find_checkpoint(name, settings.runs)
    refuse_imitation(
        found.parent.parent, "sft printed its losses and held-out games before and after, and {run}/sft.json holds them"
    )
    trained = resolve(TrainSettings, [], under=read_config(str(found.parent.parent / CONFIG)))
    settings = resolve(EvalSettings, words, under=_engine_of(trained))
    console = open_console(is_stderr=line.as_json)

    def say(text: str) -> None:
        console.print(Text(one_line(text), style="dim"))

    evaluated = Evaluated(
        settings=_with_changes(trained, settings),
        found=found,
        env=build_env(trained.env),
        rewards=build_rewards(trained.rewards),
        say=say,
    )
    plan = _Plan.of(settings, evaluated)
    store = _Store(evaluated=evaluated, out=settings.out, command=" ".join(["eval", *line.words]))
    checkpoint.check(found)
    result = _compare(evaluated, store) if plan.is_comparison else _evaluate(evaluated, plan, store)
    if line.as_json:
        known = {"run": str(evaluated.run), "version": evaluated.version, "base": trained.model}
        print(json.dumps({**known, **_to_json(result)}))
    else:
        _show(console, result, evaluated, out=settings.out)
    return 0 if _has_numbers(result) else NOTHING_COMPARED


def _only_name(words: Sequence[str]) -> str:
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"eval takes one run, not {len(names)}: {' '.join(names)}")
    return names[0] if names else ""


def _find_checkpoint(name: str, runs: Path) -> Path:
    found = checkpoint_of(name, runs) if name else None
    return found if found is not None else checkpoint.find(find_run(name, runs))


def _engine_of(trained: TrainSettings) -> Source:
    return Source(name="the run", tree={"engine": trained.engine.model_dump(mode="json")}, root=None)


def _with_changes(trained: TrainSettings, settings: EvalSettings) -> TrainSettings:
    num = settings.conversations or trained.evaluation.conversations or DEFAULT_CONVERSATIONS
    seed = trained.seed if settings.seed is None else settings.seed
    evaluation = trained.evaluation.model_copy(update={"conversations": num})
    changes = {"seed": seed, "evaluation": evaluation, "engine": settings.engine, "runs": settings.runs}
    return trained.model_copy(update=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Which versions play, against whom."""

    versions: tuple[int, ...]  # ascending
    opponents: tuple[str, ...]
    is_comparison: bool  # base and trained policy, each with itself: what `train` measures at its end

    @classmethod
    def of(cls, settings: EvalSettings, evaluated: Evaluated) -> _Plan:
        """Raise UserError for a version without a checkpoint, and for what is no opponent."""
        versions = sorted({_version(word, evaluated) for word in _listed("at", settings.at)})
        usual = f"{BASE},{SCRIPTED}" if isinstance(evaluated.env, Game) and len(evaluated.env.roles) > 1 else SELF
        opponents = _listed("against", settings.against or usual)
        check_opponents(opponents, evaluated.env, runs=settings.runs)
        is_usual = settings.at == EvalSettings().at and opponents == [SELF]
        return cls(
            versions=tuple(versions),
            opponents=tuple(opponents),
            is_comparison=is_usual or (versions == [0, evaluated.version] and opponents == [SELF]),
        )


def _listed(key: str, text: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UserError(f"{key}={text} names nothing; separate several by commas, as in {key}=0,{LATEST}")
    return words


def _version(word: str, evaluated: Evaluated) -> int:
    if word == LATEST:
        return evaluated.version
    if not word.isascii() or not word.isdigit() or len(word) > 12:
        raise UserError(f"at={word}: a version is a number of updates, or {LATEST}")
    # Version 0 is the model that the run started from; it needs no checkpoint.
    found = checkpoint_of(f"{evaluated.run}@{word}", evaluated.settings.runs) if int(word) else None
    return 0 if found is None else checkpoint.version_of(found)


# ----- base and trained policy, each with itself -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Base and trained policy, and at a game what scripts and chance get on the same scenarios."""

    comparison: Comparison
    references: GameEvaluation | None  # without lines; None: nothing is paid


def _compare(evaluated: Evaluated, store: _Store) -> _Compared:
    settings, env, version = evaluated.settings, evaluated.env, evaluated.version
    if version == 0:
        raise UserError(f"{evaluated.found} is the policy before its first update; there is nothing to compare")
    with store.open() as writer:
        names = reference_players(env) if isinstance(env, Game) else []
        worker = evaluated.start(names)
        store.describe(writer, worker.facts, worker.tokenizers)
        dealer, num = dealer_of(settings, env), settings.evaluation.conversations
        played = [evaluated.play(BASE, worker, dealer.evaluation(0, conversations=num))]
        evaluated.use(worker, version)
        name = f"{evaluated.run.name}@{version}"
        played.append(evaluated.play(name, worker, dealer.evaluation(version, conversations=num)))
        # As `train` does: what the policy said nothing in counts on neither side.
        sides = [[one for one in side if one.likelihood.num_tokens] for side in evaluated.measure(played)]
        references = _play_references(evaluated, worker, names)
        talks = [one.scored.conversation for side in sides for one in side]
        unfit = unfitting(talks, contest=contest_of(chain(talks, *references.values())))
        comparison = without(compare(sides[0], sides[1], seed=settings.seed), unfit)
        beside = _evaluation({}, evaluated, references) if references else None
        for side, at in zip(sides, (0, version), strict=True):
            store.keep(writer, side, version=at)
        store.conclude(writer, EVALUATION, comparison_to_json(comparison))
        if beside is not None:
            store.keep_talks(writer, references)
            store.conclude(writer, GAME_EVALUATION, game_evaluation_to_json(beside))
    return _Compared(comparison=comparison, references=beside)


# ----- versions against opponents -----


def _evaluate(evaluated: Evaluated, plan: _Plan, store: _Store) -> GameEvaluation:
    names = reference_players(evaluated.env)
    with store.open() as writer:
        worker = evaluated.start([*plan.opponents, *names], meets_base=BASE in plan.opponents)
        store.describe(writer, worker.facts, worker.tokenizers)
        played: dict[tuple[int, str], list[Conversation]] = {}
        for version in plan.versions:
            if version:
                evaluated.use(worker, version)
            for name, matches in game_matches(evaluated, plan.opponents, version=version).items():
                played[version, name] = evaluated.play(f"version {version} against {name}", worker, matches)
        references = _play_references(evaluated, worker, names)
        measured = dict(zip(played, evaluated.measure(list(played.values())), strict=True))
        evaluation = _evaluation(measured, evaluated, references)
        for (version, _), side in measured.items():
            store.keep(writer, side, version=version)
        store.keep_talks(writer, references)
        store.conclude(writer, GAME_EVALUATION, game_evaluation_to_json(evaluation))
    return evaluation


def _play_references(evaluated: Evaluated, worker: PlayWorker, names: Sequence[str]) -> dict[str, list[Conversation]]:
    """Return player -> its conversations with itself."""
    if not names:
        return {}
    played = evaluated.play(" and ".join(names), worker, reference_matches(evaluated, names))
    return {
        name: [one for one in played if all(player.policy == name for player in one.players.values())] for name in names
    }


def _evaluation(
    measured: Mapping[tuple[int, str], Sequence[Measured]],
    evaluated: Evaluated,
    references: Mapping[str, Sequence[Conversation]],
) -> GameEvaluation:
    env = evaluated.env
    sheet = env.sheet() if isinstance(env, Game) else None
    return evaluate_games(measured, env=env.name, seed=evaluated.settings.seed, references=references, sheet=sheet)


# ----- what is stored, and what is shown -----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Store:
    """A run folder for the conversations, if there is to be one; without it, a writer is None and nothing is kept."""

    evaluated: Evaluated
    out: Path | None
    command: str

    @contextmanager
    def open(self) -> Iterator[RunWriter | None]:
        if self.out is None:
            yield None
            return
        settings = self.evaluated.settings
        manifest = {
            "kind": "eval",
            "seed": settings.seed,
            "env": self.evaluated.env.name,
            "model": f"{self.evaluated.run}@{self.evaluated.version}",
            "view": settings.view,
            "command": self.command,
        }
        writer = RunWriter.create(self.out, manifest, to_yaml(settings), tokens=settings.transcripts.tokens)
        try:
            with writer:
                yield writer
        except BaseException:
            writer.discard()
            raise

    def describe(self, writer: RunWriter | None, facts: Mapping[str, Any], tokenizers: Mapping[str, str]) -> None:
        if writer is not None:
            writer.add_to_manifest({**facts, "kl_tokens": {"held_out": "k1"}})
            writer.keep_tokenizers(tokenizers)

    def keep(self, writer: RunWriter | None, side: Sequence[Measured], *, version: int) -> None:
        if writer is None:
            return
        terms = {weighted.name: weighted.term for weighted in self.evaluated.rewards}
        for one in side:
            writer.append(one.scored.conversation, one.scored, terms=terms)
            if one.likelihood.num_tokens:
                writer.add_likelihood(one.scored.conversation, one.likelihood, by=f"learner@{version}")

    def keep_talks(self, writer: RunWriter | None, references: Mapping[str, Sequence[Conversation]]) -> None:
        """Keep conversations in which the policy has no part; the run's rewards are not asked about them."""
        if writer is not None:
            for conversation in chain(*references.values()):
                writer.append(conversation)

    def conclude(self, writer: RunWriter | None, file: str, data: Mapping[str, Any]) -> None:
        if writer is not None:
            write_whole(writer.folder / file, json.dumps(data, indent=2).encode() + b"\n")


def _to_json(result: _Compared | GameEvaluation) -> dict[str, Any]:
    if isinstance(result, GameEvaluation):
        return game_evaluation_to_json(result)
    beside = {} if result.references is None else game_evaluation_to_json(result.references)
    return {
        **comparison_to_json(result.comparison),
        **{key: beside[key] for key in ("references", "promised") if key in beside},
    }


def _has_numbers(result: _Compared | GameEvaluation) -> bool:
    if isinstance(result, _Compared):
        return bool(result.comparison.rows)
    return any(line.num_conversations for line in result.lines)


def _show(console: Console, result: _Compared | GameEvaluation, evaluated: Evaluated, *, out: Path | None) -> None:
    console.print()
    if isinstance(result, _Compared):
        print_comparison(console, result.comparison, kl_target=evaluated.settings.kl.steered_to)
    games = result.references if isinstance(result, _Compared) else result
    if games is not None:
        print_game_evaluation(console, games)
    line = f"base: {evaluated.settings.model}; trained: {evaluated.run}, {plural(evaluated.version, 'update')}"
    console.print(Text(one_line(line), style="dim"))
    if out is not None:
        console.print(Text(one_line(f"stored in {out}"), style="dim"))
