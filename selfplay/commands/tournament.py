"""`selfplay tournament`: checkpoints of several runs, models and scripts against each other at one game."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.tournament_table import print_tournament
from selfplay.commands.words import CommandLine
from selfplay.config import (
    WRITTEN_PATH,
    EngineSettings,
    PluginSpec,
    SamplingSettings,
    Settings,
    TranscriptSettings,
    complete_spec,
    read_config,
    resolve,
    to_yaml,
)
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.evaluate_play import BASE
from selfplay.interfaces import Env, Game, Sampling, View
from selfplay.players import CHANCE, PlayerSettings, PlayerTable
from selfplay.run_folder import CONFIG
from selfplay.run_reader import RunReader
from selfplay.sft_settings import NO_ENV
from selfplay.store import RunWriter
from selfplay.tournament import Entry, Tournament, tournament_of
from selfplay.tournament_json import TOURNAMENT, tournament_to_json
from selfplay.tournament_play import (
    Entrant,
    base_entrant,
    base_of,
    entrants_of,
    make_entrants,
    pays,
    play_matches,
    tournament_matches,
    without_doubles,
)
from selfplay.whole_files import write_whole
from selfplay.written import Source

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "checkpoints, models and scripts against each other: ratings and payoffs"
USAGE = """
selfplay tournament RUN[@STEP[,STEP ...]] ... [against=base,scripted,chance] [key=value ...] [--json]

Let every two entries meet on the same held-out scenarios, each in each role, and each also itself.  Printed are the
entries' ratings, by role too, and what each got against each, all with intervals.  The same seed gives the same table.

  RUN                  a path, or a name under runs/: its latest checkpoint; @10,20: these; @0: the model that it
                       started from; @all: every checkpoint and every past policy of its league.  A model stands there
                       as well: smollm2-135m, tiny, a folder
  against=base,scripted,chance
                       more entries, as above; base is the model that the first RUN started from, scripted and chance
                       are the environment's own players (default: none)
  by=judge model=NAME  where a game pays nothing: each entry has all roles of one conversation on each scenario, and
                       a language model says whose is better; also constitution=FILE, few_shot=2.  Printed are Elo
                       points: 100 more are preferred in 64% of what is no tie.  anchor=ENTRY has 0 points
  by=rm:PATH           the same by a reward model's values
  by=labels            nothing is played: people's labels in the runs (labels:judge: a judge's) say whose was better
  env=deal             which game; env.KEY=VALUE sets one of its settings (default: the first RUN's)
  conversations=16     how many scenarios; two entries meet twice on each, with the roles swapped
  seed=0               the same scenarios and draws as eval's of that seed
  sampling.temperature=1
                       also max_new_tokens and the like, the same for all models (default: the first RUN's); view=
  engine.threads=1     also device, dtype, max_batch, concurrency
  out=FOLDER           store all conversations there, as a run of its own, with tournament.json (elo.json by=...), which
                       says for each pair which filter shows its conversations; nothing is stored otherwise
  --json               print the numbers as JSON; with by=, also both conversations of each comparison and who said what

Examples:
  selfplay tournament mirror frozen league against=base,scripted out=runs/final
  selfplay tournament league@all conversations=8
  selfplay tournament scripted chance env=haggle
  selfplay tournament chat@10,20,30 against=base by=judge model=my-judge anchor=base out=runs/elo
"""
NOTHING_PLAYED = 1
SEVERAL_STEPS = re.compile(r".+@[0-9]+(,[0-9]+)+")
INHERITED = ("env", "view", "sampling", "engine")  # what a tournament takes from the first run


class TournamentSettings(Settings):
    """What `tournament` accepts besides the entries."""

    against: str = ""  # more entries, separated by commas
    by: str = ""  # who says which conversation is better: "judge", "rm:PATH", "labels"; "": payoffs
    model: str = ""  # with by=judge: the language model that judges
    constitution: str = ""  # what it judges by; "": what comes with the package
    few_shot: int = Field(default=0, ge=0)  # examples that it is shown
    anchor: str = ""  # with by=: the entry that has 0 points; "": the mean of all is 0
    env: PluginSpec = PluginSpec(name=NO_ENV)  # which game; none: the first run's
    conversations: int = Field(default=16, ge=1)  # scenarios; each pair of entries plays each in all castings
    seed: int = Field(default=0, ge=0)  # every draw derives from it
    view: View = "perspective"
    sampling: SamplingSettings = SamplingSettings(temperature=1.0, max_new_tokens=24)  # of all language models
    engine: EngineSettings = EngineSettings()
    transcripts: TranscriptSettings = TranscriptSettings()
    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: nothing is stored
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A tournament that is about to be held."""

    settings: TournamentSettings
    env: Env
    entrants: tuple[Entrant, ...]
    command: str  # as it was typed
    say: Callable[[str], None]

    @classmethod
    def of(cls, line: CommandLine, *, say: Callable[[str], None]) -> Held:
        """Find out who takes part, and at which game; nothing is loaded.

        Raises UserError for what is no entry, and for runs of another game.
        """
        settings = resolve(TournamentSettings, line.settings)
        words = [*line.names, *_listed(settings.against)]
        named = {word: [] if word == BASE else entrants_of(word, runs=settings.runs) for word in words}
        runs = [one.run for several in named.values() for one in several if one.run is not None]
        if runs:
            settings = resolve(TournamentSettings, line.settings, under=_terms_of(runs[0]))
        if BASE in named:
            named[BASE] = [base_entrant(_base_of(runs, where=settings.runs))]
        if settings.env.name == NO_ENV:
            raise UserError("a tournament without a RUN needs a game: say which, such as env=deal")
        env = build_env(settings.env)
        spec = complete_spec(settings.env, env)
        for run in dict.fromkeys(runs):
            _check_same_game(run, env)
            for difference in _other_settings(run, spec):
                say(difference)
        return cls(
            settings=settings.model_copy(update={"env": spec}),
            env=env,
            entrants=tuple(without_doubles([one for several in named.values() for one in several])),
            command=" ".join(["tournament", *line.words]),
            say=say,
        )

    @property
    def entries(self) -> list[Entry]:
        """The entries, in the order in which they were named."""
        return [one.entry for one in self.entrants]

    @property
    def names(self) -> list[str]:
        """The entries' names."""
        return [entry.name for entry in self.entries]

    @property
    def player_settings(self) -> PlayerSettings:
        """How all language models among the players are run."""
        settings = self.settings
        return PlayerSettings(
            view=settings.view,
            sampling=Sampling(**settings.sampling.model_dump()),
            device=settings.engine.device,
            dtype=settings.engine.dtype,
            max_batch=settings.engine.max_batch,
            runs=settings.runs,
        )

    def check_game(self) -> None:
        """Raise UserError unless there are two entries, and payoffs say who is better."""
        env = self.env
        if len(self.entrants) < 2:
            given = f"only {self.names[0]}" if self.names else "nobody"
            raise UserError(f"a tournament needs two entries, and {given} takes part: add against=base,scripted")
        if len(env.roles) == 1:
            raise UserError(f"env {env.name} has one role, so nobody is met there; `eval RUN at=0,latest` compares")
        if CHANCE in self.names and not isinstance(env, Game):
            raise UserError(f"env {env.name} has no player by chance; leave chance out")
        if not isinstance(env, Game) and not pays(env, seed=self.settings.seed):
            raise UserError(f"env {env.name} pays nothing, so its payoffs say nothing of who is better; use by=judge")

    def make_players(self, writer: RunWriter | None) -> PlayerTable:
        """Load everybody, and record of them what a manifest has.  Raises UserError if a model cannot be had."""
        engine = self.settings.engine
        if any(entry.model for entry in self.entries):
            models.use_threads(engine.threads)
        table = make_entrants(self.entrants, env=self.env, settings=self.player_settings, say=self.say)
        if writer is not None:
            compute = {} if table.engine is None else models.compute_of(device=engine.device, dtype=engine.dtype)
            writer.add_to_manifest({"tokenizers": dict(table.tokenizers), **compute})
            writer.keep_tokenizers(table.descriptions)
        return table

    @contextmanager
    def open(self) -> Iterator[RunWriter | None]:
        """Make the run folder for the conversations; None: nothing is to be stored."""
        settings = self.settings
        if settings.out is None:
            yield None
            return
        manifest = {
            "kind": "tournament",
            "seed": settings.seed,
            "env": self.env.name,
            "model": next((entry.model for entry in self.entries if entry.model), None),
            "view": settings.view,
            "command": self.command,
            "entries": [asdict(entry) for entry in self.entries],
        }
        writer = RunWriter.create(settings.out, manifest, to_yaml(settings), tokens=settings.transcripts.tokens)
        try:
            with writer:
                yield writer
        except BaseException:
            writer.discard()
            raise


def run(line: CommandLine) -> int:
    """Hold the tournament; return 0, or 1 if nothing was played to its end."""
    console = open_console(is_stderr=line.as_json)

    def say(text: str) -> None:
        console.print(Text(one_line(text), style="dim"))

    if resolve(TournamentSettings, line.settings).by:
        from selfplay.commands.tournament_elo import run_by

        return run_by(line)
    _check_is_compared(line)
    held = Held.of(line, say=say)
    held.check_game()
    with held.open() as writer:
        result = _hold(held, writer)
    if line.as_json:
        out = held.settings.out
        print(json.dumps({"run": None if out is None else str(out), **tournament_to_json(result)}))
    else:
        print_tournament(console, result, out=held.settings.out)
    return 0 if any(cell.num_conversations for cell in result.cells) else NOTHING_PLAYED


def _hold(held: Held, writer: RunWriter | None) -> Tournament:
    settings, env = held.settings, held.env
    matches = tournament_matches(env, held.names, seed=settings.seed, num_scenarios=settings.conversations)
    players = held.make_players(writer)
    held.say(f"{plural(len(matches), 'conversation')} on {plural(settings.conversations, 'held-out scenario')}")
    conversations: list[Conversation] = []
    for one in play_matches(
        matches,
        env=env,
        players=players,
        settings=held.player_settings,
        concurrency=settings.engine.concurrency,
        say=held.say,
    ):
        conversations.append(one)
        if writer is not None:
            writer.append(one)
    result = tournament_of(conversations, held.entries, env=env.name, roles=env.roles, seed=settings.seed)
    if writer is not None:
        write_whole(writer.folder / TOURNAMENT, json.dumps(tournament_to_json(result), indent=2).encode() + b"\n")
    return result


# ----- who takes part -----


def _check_is_compared(line: CommandLine) -> None:
    """Refuse what only says something where entries are compared: a model that takes part is named without model=."""
    for word in line.settings:
        name = word.partition("=")[0]
        if name in ("model", "constitution", "few_shot", "anchor"):
            raise UserError(
                f"{word}: {name}= says nothing without by=, such as by=judge; who takes part is named without {name}="
            )


def _listed(text: str) -> list[str]:
    """Return the entries of `against=`; a number belongs to the RUN@STEP before it."""
    found: list[str] = []
    for word in filter(None, map(str.strip, text.split(","))):
        if SEVERAL_STEPS.fullmatch(f"{found[-1]},{word}" if found else ""):
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def _terms_of(run: Path) -> Source:
    """Return what a run's settings say of how its game is played."""
    source = read_config(str(run / CONFIG))
    tree = {key: source.tree[key] for key in INHERITED if key in source.tree}
    return replace(source, tree=tree)


def _base_of(runs: Sequence[Path], *, where: Path) -> str:
    """Return the model that the first run started from.  Raises UserError if there is no run, or it has changed."""
    if not runs:
        raise UserError("base is the model that a RUN started from, and no RUN is named; name the model itself")
    return base_of(runs[0], runs=where)


def _check_same_game(run: Path, env: Env) -> None:
    """Refuse a run of another game; one that never knew a game may play any."""
    learnt = RunReader(run).manifest.get("env")
    if learnt not in (None, "", NO_ENV, env.name):
        raise UserError(
            f"run {run} learnt env {learnt}, and this tournament is of env {env.name}: leave it out, or hold one of "
            f"its own with env={learnt}"
        )


def _other_settings(run: Path, spec: PluginSpec) -> Iterator[str]:
    """Yield a sentence if a run learnt the game with other settings than those that are played."""
    learnt = read_config(str(run / CONFIG)).tree.get("env")
    if not isinstance(learnt, dict) or learnt.get("name") in (None, NO_ENV):
        return
    before = PluginSpec.model_validate(learnt).settings
    others = [name for name, value in spec.settings.items() if name in before and before[name] != value]
    if others:
        then = ", ".join(f"env.{name}={before[name]}" for name in others)
        now = ", ".join(f"env.{name}={spec.settings[name]}" for name in others)
        yield f"run {run.name} learnt with {then}; here all play with {now}"
