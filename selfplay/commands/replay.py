"""Going on from a stored conversation: which one is meant, and what may differ from how it was played."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from selfplay.config import PlaySettings, PluginSpec, read_config, resolve
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Env, PluginError
from selfplay.players import CHANCE, HUMAN, SCRIPTED
from selfplay.records_json import plain_json
from selfplay.store import CONFIG, RunReader, find_run
from selfplay.written import Source

# Settings that belong to the stored run alone.
NOT_INHERITED = frozenset(("conversations", "from", "out", "runs", "turn"))
LOST_TOKENS = (
    "its tokens were not stored, so its turns are quoted as text and the continuation may differ from the stored one"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored conversation, and the settings of its run, which lie under those of who goes on from it."""

    conversation: Conversation
    settings: Source  # without NOT_INHERITED
    seed: int  # of its run
    env: PluginSpec  # of its run

    def seed_of(self, settings: PlaySettings) -> int | None:
        """Return the seed of a continuation; None: the stored one, for the seed is that of the stored run."""
        return None if settings.seed == self.seed else settings.seed

    def num_kept(self, settings: PlaySettings) -> int:
        """Return how many turns stay."""
        return self.conversation.num_turns if settings.turn is None else settings.turn

    def note(self, settings: PlaySettings, assigned: Mapping[str, str]) -> str:
        """Return what a person should know before it goes on; empty: nothing."""
        kept = self.conversation.turns[: self.num_kept(settings)]
        is_lost = any(turn.stream and not turn.heard.size and not turn.said.size for turn in kept)
        if is_lost and set(assigned.values()) - {HUMAN, SCRIPTED, CHANCE}:
            return LOST_TOKENS
        before = {turn.role: self.conversation.players[turn.role] for turn in kept}
        others = [role for role, player in before.items() if player.model and player.model != assigned[role]]
        if others:
            return f"{assigned[others[0]]} goes on as {others[0]}; what {before[others[0]].label} said is quoted to it"
        return ""


def find_stored(settings: PlaySettings, *, given: Collection[str]) -> Stored | None:
    """Return the conversation that `from=` names, in a word or a file; None: play afresh.

    given: the keys among the words.  Raises UserError if there is no such conversation, or several are asked for.
    """
    if not settings.from_:
        if settings.turn is not None:
            raise UserError("turn= says where to go on in a stored conversation; name it with from=RUN/ID")
        return None
    # Words go on from a conversation of a file that plays many; a file that says both means both.
    explicit = given if "from" in given else settings.model_fields_set
    if "conversations" in explicit and settings.conversations != 1:
        raise UserError(f"conversations={settings.conversations}: from= goes on from one conversation; leave it out")
    name, slash, reference = settings.from_.rpartition("/")
    if not slash:
        raise UserError(
            f"from={settings.from_}: expected RUN/ID, such as from=my-run/000000-g00-0; `ls my-run` lists ids"
        )
    reader = RunReader(find_run(name, settings.runs))
    conversation = reader.conversation(reference)
    source = read_config(str(reader.folder / CONFIG))
    inherited = replace(source, tree={key: value for key, value in source.tree.items() if key not in NOT_INHERITED})
    was = resolve(PlaySettings, [], under=inherited)
    return Stored(conversation=conversation, settings=inherited, seed=was.seed, env=was.env)


def check_same(stored: Stored, settings: PlaySettings, env: Env) -> None:
    """Refuse settings that contradict what was said already: raises UserError."""
    conversation = stored.conversation
    if settings.view != conversation.view:
        raise UserError(
            f"view={settings.view}: the stored conversation was played with view={conversation.view}, "
            "and goes on with nothing else"
        )
    if env.name != conversation.scenario.env:
        raise UserError(
            f"env={settings.env.name}: the stored conversation was played with env {conversation.scenario.env}, "
            "and goes on with nothing else"
        )
    scenario = conversation.scenario
    if settings.split != scenario.split:
        raise UserError(f"split={settings.split}: the stored conversation's scenario is of split={scenario.split}")
    if settings.env != stored.env and _draws_another(env, conversation):
        raise UserError(
            f"env={settings.env.name}: with these settings its scenario would be another one, and it keeps the stored "
            "one; leave out what changes the scenario"
        )
    for role in dict.fromkeys(turn.role for turn in conversation.turns[: stored.num_kept(settings)]):
        if role in conversation.players and _brief(env, conversation, role) != conversation.players[role].brief:
            raise UserError(
                f"env={settings.env.name}: with these settings {role}'s brief is not the one under which it spoke; "
                "leave the briefs as they were stored, or go on with turn=0"
            )


def _draws_another(env: Env, conversation: Conversation) -> bool:
    stored = conversation.scenario
    try:
        drawn = env.scenario(stored.seed, stored.split)
    except Exception as error:
        raise PluginError(f"env {env.name!r} raised {type(error).__name__}: {error} (seed {stored.seed})") from error
    return bool(plain_json([drawn.public, drawn.private]) != plain_json([stored.public, stored.private]))


def _brief(env: Env, conversation: Conversation, role: str) -> str:
    try:
        return env.brief(conversation.scenario, role)
    except Exception as error:
        raise PluginError(f"env {env.name!r} raised {type(error).__name__}: {error} (brief of {role})") from error
