"""`selfplay play`: two players talk, and everything they say is stored."""

from __future__ import annotations

import difflib
import json
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.text import Text

from selfplay import models
from selfplay.commands.building import build_env
from selfplay.commands.play_scoring import Kept, Scoring, scoring_of, with_rewards
from selfplay.commands.play_tally import Tally
from selfplay.commands.replay import Stored, check_same, find_stored
from selfplay.commands.rewards_text import ending_lines
from selfplay.commands.run_terms import RunTerms, find_terms
from selfplay.commands.terminal import one_line, open_console, plural, print_ending, print_header, print_turn, printable
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import PlaySettings, complete_spec, resolve, sampling_of, to_yaml
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.play import Match, continue_match, make_group, play
from selfplay.players import CHANCE, HUMAN, POLICY, SCRIPTED, PlayerSettings, PlayerTable, make_players
from selfplay.plugins import source_file
from selfplay.store import RunExistsError, RunWriter
from selfplay.written import nearest

SUMMARY = "two players talk; the conversations are stored in a run folder"
USAGE = """
selfplay play [key=value ...] [-r REWARD=WEIGHT ...] [--dry-run] [--json]

Let two copies of a language model talk to each other, show the first conversation, store all of them.

  conversations=4          how many; group_size=1: of them on each scenario, where several can be compared with `label`
  model=smollm2-135m       a name from `list models`, a local Hugging Face folder, a hub id, or RUN[@STEP]: what a
                           `train` or `sft` learnt, at its env, with its view and sampling, unless words say others
  env=chitchat             which game; env.KEY=VALUE sets one of its settings, such as env.max_turns
  players.ROLE=NAME        who fills a role instead of the model: human, scripted, another model, or at a game chance
  view=perspective         one stream a role; shared: one for both, half the tokens to read
  sampling.temperature=0.7 also top_k, top_p, min_p, max_new_tokens, max_stream_tokens
  seed=0  split=train      the same seed gives the same conversations; held_out: scenarios never trained on
  out=FOLDER               the run folder (default: runs/ENV-MODEL-DATE-TIME)
  preset=NAME config=FILE  settings from `list presets` or a YAML file; other words win over both
  from=RUN/ID turn=K       go on from a stored conversation, before its turn K, with its settings; another seed=
                           goes on differently; --dry-run shows the settings
  best_of=1                above 1: play so many candidates for each conversation and keep the one that a reward likes
                           best, by its mean over the turns (a sum, as `ls` shows, would go by length)
  by=REWARD                which reward, such as question or rm:FOLDER
  best_of_unit=conversation   turn: so many for each turn of a model, so that a person may be the partner
  -r REWARD=WEIGHT         a reward and its weight, repeatable: the conversations are stored with their scores, and
                           without by= the sum says which candidate is best
  engine.device=auto       also dtype, threads, max_batch, concurrency
  --dry-run                print all settings and stop

Examples:
  selfplay play
  selfplay play conversations=32 env.max_turns=8 sampling.temperature=1 out=runs/warm
  selfplay play players.guest=human
  selfplay play model=my-run@20
  selfplay play from=warm/000000-g03-0 turn=2 seed=7
  selfplay play best_of=8 by=question conversations=16 out=runs/best
"""
INTERRUPTED, ALL_FAILED = 130, 1
PROGRESS_SECONDS = 5.0


def run(line: CommandLine) -> int:
    """Play; return 0, 1 if every conversation failed, or 130 if it was interrupted."""
    given = {word.partition("=")[0] for word in line.words}
    settings = resolve(PlaySettings, line.words)
    stored = find_stored(settings, given=given)
    terms = None if stored is not None else find_terms(settings, line.words)
    if stored is not None:
        settings = _of_one(resolve(PlaySettings, line.words, under=stored.settings), given)
    elif terms is not None:
        settings = terms.settings
    settings = with_rewards(settings, line.rewards)
    env = build_env(settings.env) if terms is None else terms.build_env()
    settings = settings.model_copy(update={"env": complete_spec(settings.env, env)})
    assigned = _assign(settings, env)
    is_one_at_a_time = HUMAN in assigned.values() and "conversations" not in given
    if stored is not None or is_one_at_a_time:
        settings = settings.model_copy(update={"conversations": 1})
    if stored is not None:
        check_same(stored, settings, env)
    scoring = scoring_of(settings, assigned)
    if line.dry_run:
        tree = settings.model_dump(mode="json", by_alias=True)
        print(json.dumps(tree, indent=2) if line.as_json else to_yaml(settings).rstrip())
        return 0
    if line.as_json and HUMAN in assigned.values():
        raise UserError("--json shows no turns, so no person can play; leave it out, or give the role to a model")
    matches = _matches(settings, env, assigned, stored=stored)
    return _Session(
        settings=settings,
        env=env,
        assigned=assigned,
        matches=scoring.matches(matches),
        line=line,
        note=_note(settings, assigned, stored=stored, terms=terms),
        scoring=scoring,
    ).run()


def _of_one(settings: PlaySettings, given: Collection[str]) -> PlaySettings:
    """Let a conversation that was the best of several go on alone, unless words ask for several again."""
    if "best_of" in given or settings.best_of_unit == "turn":
        return settings
    return settings.model_copy(update={"best_of": 1, "by": settings.by if "by" in given else ""})


def _note(settings: PlaySettings, assigned: Mapping[str, str], *, stored: Stored | None, terms: RunTerms | None) -> str:
    if stored is not None:
        return stored.note(settings, assigned)
    return "" if terms is None else terms.note(settings.env)


def _matches(
    settings: PlaySettings, env: Env, assigned: Mapping[str, str], *, stored: Stored | None
) -> Iterator[Match]:
    if stored is None:
        return _drawn(settings, env, assigned)
    turn, seed = stored.num_kept(settings), stored.seed_of(settings)
    return iter([continue_match(stored.conversation, assigned, turn=turn, seed=seed)])


def _drawn(settings: PlaySettings, env: Env, assigned: Mapping[str, str]) -> Iterator[Match]:
    """Yield as many conversations as are asked for, `group_size` on each scenario; the last one may have fewer."""
    for group, start in enumerate(range(0, settings.conversations, settings.group_size)):
        size = min(settings.group_size, settings.conversations - start)
        yield from make_group(env, assigned, seed=settings.seed, split=settings.split, place=(0, group), size=size)


def _assign(settings: PlaySettings, env: Env) -> dict[str, str]:
    """Return role -> player's name."""
    for role in settings.players:
        if role not in env.roles:
            raise UserError(f"players.{role}: env {env.name} has no such role{nearest(role, list(env.roles))}")
    assigned = {role: settings.players.get(role, POLICY) for role in env.roles}
    for role, name in assigned.items():
        close = difflib.get_close_matches(name, (POLICY, SCRIPTED, CHANCE, HUMAN), n=1)
        if close and name not in close and name not in models.MODELS:
            raise UserError(f"players.{role}={name}: there is no such player; did you mean {close[0]}?")
    for role, name in assigned.items():
        if name not in (POLICY, SCRIPTED, CHANCE, HUMAN):
            models.check_name(name, key=f"players.{role}", runs=settings.runs)
    models.check_name(settings.model, runs=settings.runs)
    return {role: settings.model if name == POLICY else name for role, name in assigned.items()}


def _default_folder(settings: PlaySettings, env: Env) -> Path:
    model = Path(settings.model).name.replace(":", "-")
    return settings.runs / f"{env.name}-{model}-{datetime.now():%m%d-%H%M%S}"


@dataclass(slots=True, kw_only=True)
class _Session:
    """One run of the command."""

    settings: PlaySettings
    env: Env
    assigned: Mapping[str, str]
    matches: Iterator[Match]
    line: CommandLine
    note: str  # said before anyone speaks; empty: nothing
    scoring: Scoring

    def run(self) -> int:
        """Play, store and report; return the exit status."""
        settings = self.settings
        manifest = {
            "seed": settings.seed,
            "env": self.env.name,
            "model": settings.model,
            "view": settings.view,
            "command": " ".join(["play", *self.line.words, *(f"-r {reward}" for reward in self.line.rewards)]),
            **self.scoring.facts,
        }
        console = open_console(is_stderr=self.line.as_json)
        writer = self._create_writer(manifest)
        folder = writer.folder
        tally = Tally(by=self.scoring.by, unit=self.scoring.unit)
        _interrupt_when_terminated()
        try:
            with writer:
                source = source_file(settings.env)
                if source is not None:
                    writer.keep_source("env", source.read_bytes())
                table = self._make_players(console)
                writer.add_to_manifest({"tokenizers": table.tokenizers, **self._compute(table)})
                writer.keep_tokenizers(table.descriptions)
                for note in filter(None, (self.note, self.scoring.say())):
                    console.print(_dim(note))
                self.scoring.prepare()
                self._play(table, writer, tally, _Watched(console, is_quiet=self.line.as_json))
        except KeyboardInterrupt:
            writer.discard()
            console.print()
            if not tally.conversations:
                raise
            console.print(_dim(f"interrupted: {plural(tally.conversations, 'finished conversation')} kept in {folder}"))
            return INTERRUPTED
        except BaseException:
            writer.discard()
            raise
        self._report(tally, folder, console)
        return ALL_FAILED if tally.failed + tally.silent == tally.conversations else 0

    def _create_writer(self, manifest: Mapping[str, object]) -> RunWriter:
        """Make the run folder; where nobody chose its name, a taken one gets a number."""
        settings = self.settings
        config, tokens = to_yaml(settings), settings.transcripts.tokens
        if settings.out is not None:
            return RunWriter.create(settings.out, manifest, config, tokens=tokens)
        default, number = _default_folder(settings, self.env), 1
        while True:
            folder = default if number == 1 else default.with_name(f"{default.name}-{number}")
            try:
                return RunWriter.create(folder, manifest, config, tokens=tokens)
            except RunExistsError:
                number += 1

    def _compute(self, table: PlayerTable) -> dict[str, str]:
        engine = self.settings.engine
        return {} if table.engine is None else models.compute_of(device=engine.device, dtype=engine.dtype)

    def _make_players(self, console: Console) -> PlayerTable:
        settings = self.settings
        if set(self.assigned.values()) - {HUMAN, SCRIPTED, CHANCE}:
            models.use_threads(settings.engine.threads)
        return make_players(
            self.assigned.values(),
            env=self.env,
            settings=PlayerSettings(
                view=settings.view,
                sampling=sampling_of(settings),
                device=settings.engine.device,
                dtype=settings.engine.dtype,
                max_batch=settings.engine.max_batch,
                runs=settings.runs,
            ),
            say=lambda text: console.print(_dim(text)),
            write=lambda text: console.print(Text(printable(text), style="italic")),
        )

    def _play(self, table: PlayerTable, writer: RunWriter, tally: Tally, watched: _Watched) -> None:
        scoring = self.scoring
        has_human = watched.has_human = HUMAN in self.assigned.values()
        first = next(self.matches)
        watched.first_id = scoring.id_of(first)
        if has_human:
            watched.show_past(first)
        started = time.perf_counter()
        conversations = play(
            chain([first], self.matches),
            env=self.env,
            players=scoring.players(table.players),
            view=self.settings.view,
            concurrency=1 if has_human else self.settings.engine.concurrency,
            # Which of several will stay is not known while they are played.
            on_turn=None if scoring.is_of_conversations else watched.show_turn,
        )
        num_past = len(first.turns)
        for played in scoring.conversations(conversations, num_past=num_past):
            kept = scoring.store(played, writer)
            if scoring.is_of_conversations:
                watched.show_turns(kept.conversation)
            seconds = time.perf_counter() - started
            tally.add(kept.conversation, num_past=num_past, seconds=seconds, choices=kept.choices)
            watched.show_end(kept)
            watched.show_progress(tally, self.settings.conversations)

    def _report(self, tally: Tally, folder: Path, console: Console) -> None:
        if self.line.as_json:
            print(json.dumps({"run": str(folder), **tally.as_json()}))
            return
        console.print()
        for text in tally.lines():
            console.print(Text(text))
        if tally.failed:
            console.print(Text(f"{tally.failed} failed; the first: {one_line(tally.first_error)}", style="red"))
        if tally.silent:
            why = "no room was left for a first word: the brief, or the past, fills the stream's limit or the context"
            console.print(
                Text(f"{plural(tally.silent, 'conversation')} ended before a word was said: {why}", style="red")
            )
        if tally.over:
            console.print(_dim("the stored conversation was over already; turn=K goes on before its turn K"))
        console.print(_dim(f"stored in {folder}"))
        run = folder.name if folder.parent == self.settings.runs else str(folder)
        console.print(_dim(f"all of them:    {program_name()} ls {run}"))
        if tally.conversations > 1:
            console.print(_dim(f"another one:    {program_name()} show {run} 1"))


def _interrupt_when_terminated() -> None:
    """Let SIGTERM, which a cluster sends before it kills, end a run as Ctrl-C does."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)


class _Watched:
    """Shows conversations while they are being played."""

    def __init__(self, console: Console, *, is_quiet: bool) -> None:
        self.first_id = ""
        self.has_human = False  # who sees every conversation, for they come one after another
        self._said = time.perf_counter()
        self._console = console
        self._is_quiet = is_quiet
        self._shown: set[str] = set()

    def show_past(self, match: Match) -> None:
        """Show a person the turns that were spoken before the conversation goes on."""
        self._shown.add(match.id)
        past = Conversation(id=match.id, scenario=match.scenario, turns=match.turns)
        for number in range(past.num_turns):
            print_turn(self._console, past, number=number)

    def show_turn(self, conversation: Conversation) -> None:
        if not self._is_watched(conversation):
            return
        if conversation.id not in self._shown:
            self._shown.add(conversation.id)
            if not self.has_human:  # who must not read the partner's brief
                print_header(self._console, conversation)
            # What a replay goes on from.
            for number in range(conversation.num_turns - 1):
                print_turn(self._console, conversation, number=number)
        if conversation.turns[-1].player != HUMAN:  # who has just typed it
            print_turn(self._console, conversation)

    def show_turns(self, conversation: Conversation) -> None:
        """Show a conversation that could not be watched while it was played."""
        for number in range(1, conversation.num_turns + 1):
            self.show_turn(replace(conversation, turns=conversation.turns[:number]))

    def show_progress(self, tally: Tally, num_matches: int) -> None:
        """Say how far it is, now and then, once the watched conversation is over."""
        now = time.perf_counter()
        if (
            self._is_quiet
            or self.has_human
            or tally.conversations == num_matches
            or now - self._said < PROGRESS_SECONDS
        ):
            return
        self._said = now
        finished = f"{tally.conversations} of {num_matches} conversations finished"
        self._console.print(_dim(f"{finished}, {tally.tokens_per_second:.0f} tokens/s"))

    def show_end(self, kept: Kept) -> None:
        if not self._is_watched(kept.conversation):
            return
        print_ending(self._console, kept.conversation)
        for text in ending_lines(kept.record):
            self._console.print(text)

    def _is_watched(self, conversation: Conversation) -> bool:
        return not self._is_quiet and (self.has_human or conversation.id == self.first_id)


def _dim(text: str) -> Text:
    return Text(one_line(text), style="dim")
