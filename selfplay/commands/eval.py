"""`selfplay eval`: a trained policy against the one it started from, on held-out scenarios."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.text import Text

from selfplay import checkpoint, models
from selfplay.cluster.model_files import ModelFiles
from selfplay.cluster.play_worker import PlayWorker
from selfplay.commands.building import build_env, build_rewards
from selfplay.commands.evaluation_table import print_comparison
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, read_config, resolve, to_yaml
from selfplay.dialog import Conversation, ScoredConversation, id_order
from selfplay.errors import UserError
from selfplay.evaluate import Comparison, Measured, compare, comparison_to_json
from selfplay.experience import trace
from selfplay.interfaces import Env, Weights
from selfplay.play import Match
from selfplay.run_folder import CONFIG
from selfplay.run_reader import RunReader, find_run
from selfplay.score import WeightedReward, score
from selfplay.store import RunWriter
from selfplay.train_settings import TrainSettings
from selfplay.trained import checkpoint_of
from selfplay.training_run import EVALUATION, dealer_of, play_plan
from selfplay.whole_files import write_whole

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "compare a trained policy with the one it started from"
USAGE = """
selfplay eval [RUN[@STEP]] [key=value ...] [--json]

Let the policy of a run and the one it started from play the same held-out scenarios, with the run's own settings, and
compare them: rewards, KL, likelihood under the base, distinct words, length; each with an interval.

  RUN                a path, or a name under runs/; nothing: the newest run.  @STEP: that checkpoint, not the latest
  conversations=32   how many scenarios each side plays (default: as many as the run itself evaluated)
  seed=1             draws other scenarios than the run's own evaluation did
  out=FOLDER         store both sides' conversations there, as a run of its own; nothing is stored otherwise
  --json             print the numbers as JSON

Examples:
  selfplay eval
  selfplay eval chat@20 conversations=100 seed=1
"""
DEFAULT_CONVERSATIONS = 32  # where the run evaluated none
NOTHING_COMPARED = 1
PROGRESS_SECONDS = 10.0
TOKENS_PER_MICROBATCH = 2048


class EvalSettings(Settings):
    """What `eval` accepts besides the run."""

    conversations: int = Field(default=0, ge=0)  # 0: as many as the run evaluated
    seed: int | None = Field(default=None, ge=0)  # None: the run's
    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: nothing is stored
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


def run(line: CommandLine) -> int:
    """Evaluate; return 0, or 1 if there was nothing to compare."""
    name = _only_name(line.words)
    settings = resolve(EvalSettings, [word for word in line.words if word != name])
    found = _find_checkpoint(name, settings.runs)
    trained = resolve(TrainSettings, [], under=read_config(str(found.parent.parent / CONFIG)))
    console = open_console(is_stderr=line.as_json)

    def say(text: str) -> None:
        console.print(Text(one_line(text), style="dim"))

    evaluation = _Evaluation(
        settings=_with_changes(trained, settings),
        found=found,
        env=build_env(trained.env),
        rewards=build_rewards(trained.rewards),
        say=say,
    )
    comparison = evaluation.compare(out=settings.out, command=" ".join(["eval", *line.words]))
    if line.as_json:
        known = {"run": str(evaluation.run), "version": evaluation.version, "base": trained.model}
        print(json.dumps({**known, **comparison_to_json(comparison)}))
    else:
        _show(console, comparison, evaluation, out=settings.out)
    return 0 if comparison.rows else NOTHING_COMPARED


def _only_name(words: Sequence[str]) -> str:
    names = [word for word in words if "=" not in word]
    if len(names) > 1:
        raise UserError(f"eval takes one run, not {len(names)}: {' '.join(names)}")
    return names[0] if names else ""


def _find_checkpoint(name: str, runs: Path) -> Path:
    found = checkpoint_of(name, runs) if name else None
    return found if found is not None else checkpoint.find(find_run(name, runs))


def _with_changes(trained: TrainSettings, settings: EvalSettings) -> TrainSettings:
    num = settings.conversations or trained.evaluation.conversations or DEFAULT_CONVERSATIONS
    seed = trained.seed if settings.seed is None else settings.seed
    evaluation = trained.evaluation.model_copy(update={"conversations": num})
    return trained.model_copy(update={"seed": seed, "evaluation": evaluation, "runs": settings.runs})


def _show(console: Console, comparison: Comparison, evaluation: _Evaluation, *, out: Path | None) -> None:
    console.print()
    print_comparison(console, comparison, kl_target=evaluation.settings.kl.steered_to)
    line = f"base: {evaluation.settings.model}; trained: {evaluation.run}, {plural(evaluation.version, 'update')}"
    console.print(Text(one_line(line), style="dim"))
    if out is not None:
        console.print(Text(one_line(f"stored in {out}"), style="dim"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluation:
    """One run's policy and its base, on the run's own terms."""

    settings: TrainSettings  # the run's, with this evaluation's seed and size
    found: Path  # the checkpoint
    env: Env
    rewards: Sequence[WeightedReward]
    say: Callable[[str], None]

    @property
    def run(self) -> Path:
        return self.found.parent.parent

    @property
    def version(self) -> int:
        return checkpoint.version_of(self.found)

    def compare(self, *, out: Path | None, command: str) -> Comparison:
        settings = self.settings
        if self.version == 0:
            raise UserError(f"{self.found} is the policy before its first update; there is nothing to compare")
        checkpoint.check(self.found)
        with _stored(out, self, command=command) as writer:
            played = self._play(writer)
            scored = [score(side, self.rewards, timeout_seconds=settings.reward_timeout_seconds) for side in played]
            base, trained = self._measure(scored)
            comparison = compare(base, trained, seed=settings.seed)
            if writer is not None:
                self._store(writer, base, version=0)
                self._store(writer, trained, version=self.version)
                text = json.dumps(comparison_to_json(comparison), indent=2)
                write_whole(writer.folder / EVALUATION, text.encode() + b"\n")
        return comparison

    def _store(self, writer: RunWriter, side: Sequence[Measured], *, version: int) -> None:
        terms = {weighted.name: weighted.term for weighted in self.rewards}
        for one in side:
            writer.append(one.scored.conversation, one.scored, terms=terms)
            writer.add_likelihood(one.scored.conversation, one.likelihood, by=f"learner@{version}")

    def _play(self, writer: RunWriter | None) -> list[list[Conversation]]:
        """Play all scenarios with the base, then with the trained policy."""
        settings = self.settings
        model = ModelFiles.of(settings.model, runs=settings.runs, say=self.say)
        before = RunReader(self.run).manifest.get("start_weights")
        if before and before != model.start_weights:
            raise UserError(
                f"model={settings.model} has other weights than when run {self.run} began, so it is not its base; "
                "give the old ones back to compare with them"
            )
        worker = PlayWorker(play_plan(settings, env=self.env, model=model, rewards=()))
        facts = worker.start()
        if writer is not None:
            writer.add_to_manifest({**facts, "kl_tokens": {"held_out": "k1"}})
            writer.keep_tokenizers(worker.tokenizers)
        dealer = dealer_of(settings, self.env)
        num = settings.evaluation.conversations
        base = self._play_side("base", worker, dealer.evaluation(0, conversations=num))
        trained = models.load(f"{self.run}@{self.version}", device="cpu", dtype="float32", runs=settings.runs)
        worker.load(Weights(version=self.version, state=trained.model.state_dict()))
        name = f"{self.run.name}@{self.version}"
        return [base, self._play_side(name, worker, dealer.evaluation(self.version, conversations=num))]

    def _play_side(self, name: str, worker: PlayWorker, matches: Sequence[Match]) -> list[Conversation]:
        self.say(f"{name}: {plural(len(matches), 'conversation')} on held-out scenarios")
        finished: list[Conversation] = []
        said = time.monotonic()
        for played in worker.play(matches):
            finished.append(played.conversation)
            if time.monotonic() - said >= PROGRESS_SECONDS:
                said = time.monotonic()
                self.say(f"{name}: {len(finished)} of {len(matches)} finished")
        return sorted(finished, key=lambda conversation: id_order(conversation.id))

    def _measure(self, sides: Sequence[Sequence[ScoredConversation]]) -> list[list[Measured]]:
        """Return both sides with what the base says of them."""
        from selfplay.learn.likelihood import likelihoods

        settings = self.settings
        self.say("scoring what was said under the base")
        base = models.load(settings.model, device=settings.engine.device, dtype="float32", runs=settings.runs)
        found = {
            likelihood.conversation: likelihood
            for likelihood in likelihoods(
                base.model,
                [trajectory for side in sides for one in side for trajectory in trace(one)],
                temperature=settings.sampling.temperature,
                tokens_per_microbatch=TOKENS_PER_MICROBATCH,
            )
        }
        return [
            [
                Measured(scored=one, likelihood=found[one.conversation.id])
                for one in side
                if one.conversation.id in found
            ]
            for side in sides
        ]


@contextmanager
def _stored(out: Path | None, evaluation: _Evaluation, *, command: str) -> Iterator[RunWriter | None]:
    """Open a run folder for the conversations; None: they are not stored."""
    if out is None:
        yield None
        return
    settings = evaluation.settings
    manifest = {
        "kind": "eval",
        "seed": settings.seed,
        "env": evaluation.env.name,
        "model": f"{evaluation.run}@{evaluation.version}",
        "view": settings.view,
        "command": command,
    }
    writer = RunWriter.create(out, manifest, to_yaml(settings), tokens=settings.transcripts.tokens)
    try:
        with writer:
            yield writer
    except BaseException:
        writer.discard()
        raise
