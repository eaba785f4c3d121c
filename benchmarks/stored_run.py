"""A stored training run without training: what pages, indexes and exports are tried and measured on.

    python -m benchmarks.stored_run OUT [conversations=400] [steps=20] [turns=8] [seed=0] [tokens=sample:0.1] [pause=0]

Nothing is played: small talk is put together from phrases, more of them questions and fewer of them new as the run goes
on.  Everything else is as `train` has it: its dealer, its rewards, its writer, its metrics.  The phrases' own tokenizer
is trained and kept with the run.  What the learner would add is drawn.  With pause=SECONDS between the steps the run is
one that goes on, to look at while it is written.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.measure import words
from benchmarks.small_talk import LEAVING, MODEL, PhraseTokenizer, Talk
from envs.chitchat import ChitChat
from rewards.asking import Question
from rewards.repetition import ConversationRepetition, UtteranceRepetition
from rewards.sentiment import Sentiment
from selfplay import alarms
from selfplay.alarms_reading import Reading
from selfplay.alarms_to_read import conversations_to_read
from selfplay.config import resolve, to_yaml
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, ScoredConversation, Scores
from selfplay.evaluate import Measured, compare, comparison_to_json
from selfplay.interfaces import Likelihood, TokenNumbers
from selfplay.metrics import step_metrics
from selfplay.play import Match
from selfplay.plugins import source_digest
from selfplay.run_evaluation import EVALUATION
from selfplay.run_folder import ALARMS, MANIFEST, now
from selfplay.score import Term, WeightedReward, has_failed, score
from selfplay.store import RunWriter
from selfplay.train_settings import RewardSpec, TrainSettings

__all__ = ["PhraseTokenizer", "StoredRun", "write_run"]

DEFAULTS = {"conversations": 400, "steps": 20, "turns": 8, "seed": 0, "tokens": "sample:0.1", "pause": 0.0}
PERSON = "person:anon-3f"
GROUP_SIZE, TRAINING_SHARE = 4, 0.9
SOURCE = '''"""A reward of one's own: whether a reply asks something back."""

from selfplay.function_reward import reward


@reward(range=(0, 1))
def asks_back(turn, heard):
    if len(heard.split()) < 4:
        return None, "fewer than 4 words to answer"
    return float(turn.endswith("?")), "ends with a question" if turn.endswith("?") else ""
'''


def main() -> None:
    """Write the run that the words describe, and say how long it took."""
    out, sys.argv[1:] = next(iter(sys.argv[1:]), ""), sys.argv[2:]
    if not out or "=" in out:
        raise SystemExit("write python -m benchmarks.stored_run OUT [conversations=400] ...")
    chosen, start = words(DEFAULTS), time.perf_counter()
    pause = chosen.pop("pause")
    made = StoredRun.create(Path(out), **chosen)
    for _ in made.steps():
        time.sleep(pause)
    made.finish()
    print(f"{chosen['conversations']} conversations in {out}, {time.perf_counter() - start:.1f} s")


def write_run(  # noqa: PLR0913 (what a reader of a test wants to see said)
    folder: Path,
    *,
    conversations: int = 400,
    steps: int = 20,
    turns: int = 8,
    seed: int = 0,
    tokens: str = "sample:0.1",
    is_live: bool = False,
) -> Path:
    """Write a whole run, and return its folder; the same arguments give the same conversations.

    conversations: of training and of both evaluations together.  is_live: it ends like a run that was killed before its
    last step; to write one that goes on, take `StoredRun` and its steps.
    """
    made = StoredRun.create(folder, conversations=conversations, steps=steps, turns=turns, seed=seed, tokens=tokens)
    for step in made.steps():
        if is_live and step == max(0, steps - 2):
            made.leave()
            return folder
    made.finish()
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class AsksBack:
    """The reward of SOURCE."""

    name: ClassVar[str] = "asks_back"
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; a turn that answers fewer than four words has none."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        values, why = np.full(conversation.num_turns, np.nan, dtype=np.float32), []
        for number, turn in enumerate(conversation.turns):
            if len(turn.heard_text.split()) < 4:
                why.append("fewer than 4 words to answer")
                continue
            values[number] = float(turn.text.endswith("?"))
            why.append("ends with a question" if values[number] else "")
        return Scores(values=values, why=tuple(why))


@dataclass(slots=True, kw_only=True)
class StoredRun:
    """A run that is being written; while it is, its writer holds its lock."""

    settings: TrainSettings
    writer: RunWriter
    talk: Talk
    num_evaluated: int
    _drawn: np.random.Generator
    _num: int = 0  # conversations so far
    _base: list[Measured] = field(default_factory=list)
    _last: dict[str, float] = field(default_factory=dict)  # metrics of the newest step
    _on: tuple[str, ...] = ()  # alarms

    @classmethod
    def create(cls, folder: Path, *, conversations: int, steps: int, turns: int, seed: int, tokens: str) -> StoredRun:
        """Make the folder; ValueError: the conversations are fewer than a group a step and two to evaluate."""
        per_step = int(conversations * TRAINING_SHARE) // steps // GROUP_SIZE * GROUP_SIZE
        num_evaluated = (conversations - per_step * steps) // 2
        if not per_step or not num_evaluated:
            raise ValueError(f"conversations={conversations} are too few for steps={steps}; try {6 * steps}")
        settings = _settings(per_step, steps=steps, turns=turns, seed=seed, tokens=tokens, evaluated=num_evaluated)
        encoder = PhraseTokenizer.trained(seed)
        manifest = {
            "kind": "train",
            "seed": seed,
            "env": "chitchat",
            "model": MODEL,
            "view": "perspective",
            "partner": "mirror",
            "device": "cpu",
            "dtype": "float32",
            "command": f"python -m benchmarks.stored_run {folder.name} conversations={conversations} steps={steps}",
            "tokenizers": {MODEL: encoder.digest},
        }
        writer = RunWriter.create(folder, manifest, to_yaml(settings), tokens=tokens)
        writer.keep_source("reward asks_back", SOURCE.encode())
        writer.keep_tokenizers({encoder.digest: encoder.tokenizer.to_str()})
        return cls(
            settings=settings,
            writer=writer,
            talk=Talk(encoder=encoder, drawn=random.Random(seed), max_turns=turns),
            num_evaluated=num_evaluated,
            _drawn=np.random.default_rng(np.random.SeedSequence(seed)),
        )

    @property
    def rewards(self) -> list[WeightedReward]:
        """What conversations are rewarded for."""
        return [
            WeightedReward(reward=Question()),
            WeightedReward(reward=Sentiment(), weight=0.5),
            WeightedReward(reward=UtteranceRepetition(), weight=0.2),
            WeightedReward(reward=ConversationRepetition(), weight=0.0),
            WeightedReward(reward=AsksBack(), weight=0.0, source=source_digest(SOURCE.encode())),
        ]

    @property
    def terms(self) -> dict[str, Term]:
        """What each of them counts for."""
        return {weighted.name: weighted.term for weighted in self.rewards}

    def steps(self) -> Iterator[int]:
        """Write the evaluation of the base, then step after step; yield each when its lines are written."""
        self._base = self._evaluate(0)
        for step in range(self.settings.steps):
            self._train(step)
            yield step

    def finish(self) -> None:
        """Write the last evaluation, the comparison and what people added, and close the run."""
        version = self.settings.steps
        trained = self._evaluate(version)
        comparison = compare(self._base, trained, seed=self.settings.seed)
        text = json.dumps({"version": version, **comparison_to_json(comparison)}, indent=2)
        (self.writer.folder / EVALUATION).write_text(f"{text}\n", encoding="ascii")
        id = trained[0].scored.conversation.id
        self.writer.annotate(id, by=PERSON, kind="tag", data={"tag": "asks too much", "remove": False})
        self._rescore(trained[0].scored)
        self.writer.close()

    def leave(self) -> None:
        """End like a process that was killed: nobody writes the run any more, and it says that it is running."""
        self.writer.close()
        path = self.writer.folder / MANIFEST
        manifest = json.loads(path.read_text(encoding="ascii"))
        path.write_text(json.dumps({**manifest, "status": "running", "ended_at": None}, indent=2), encoding="ascii")

    def _evaluate(self, version: int) -> list[Measured]:
        matches = self._dealer.evaluation(version, conversations=self.num_evaluated)
        scored = self._play(matches, version=version)
        measured = []
        for one in scored:
            id = one.conversation.id
            drawn = self._arrays(one.conversation, progress=version / self.settings.steps)
            self.writer.append(one.conversation, one, terms=self.terms)
            if has_failed(one.conversation) or not drawn:
                continue
            known = {name: drawn[name] for name in ("logprobs_reference", "kl")}
            found = Likelihood(
                conversation=id,
                num_tokens=len(drawn["kl"]),
                nll=-float(drawn["logprobs_reference"].sum()),
                kl=float(drawn["kl"].sum()),
                tokens=_by_turn(one.conversation, known),
            )
            self.writer.add_likelihood(one.conversation, found, by=f"learner@{version}")
            measured.append(Measured(scored=one, likelihood=found))
        return measured

    def _train(self, step: int) -> None:
        scored = self._play(self._dealer.training(step), version=step)
        advantages = _advantages(scored)
        sums: dict[str, list[float]] = {"kl": [], "logprobs_reference": [], "entropy": [], "host": [], "guest": []}
        for one in scored:
            conversation = one.conversation
            drawn = {} if has_failed(conversation) else self._arrays(conversation, step / self.settings.steps)
            if not drawn:
                self._keep(one, {})
                continue
            sizes = [len(turn.said) for turn in conversation.turns]
            drawn["advantage"] = np.repeat(advantages[conversation.id], sizes)
            self._keep(one, drawn)
            roles = np.repeat([turn.role for turn in conversation.turns], sizes)
            note = {
                "advantage": {r: float(drawn["advantage"][roles == r].mean()) for r in dict.fromkeys(roles.tolist())},
                "kl_per_token": float(drawn["kl"].mean()),
            }
            self.writer.annotate(conversation.id, by=f"learner@{step + 1}", kind="learner", data=note)
            for name in ("kl", "logprobs_reference", "entropy"):
                sums[name].append(float(drawn[name].mean()))
            for role in ("host", "guest"):
                sums[role].append(float(drawn["kl"][roles == role].mean()) if (roles == role).any() else 0.0)
        self._log(step, scored, {name: float(np.mean(values)) for name, values in sums.items()})

    def _play(self, matches: Sequence[Match], *, version: int) -> list[ScoredConversation]:
        played = []
        for match in matches:
            played.append(self.talk.play(match, version=version, progress=version / self.settings.steps, num=self._num))
            self._num += 1
        return score(played, self.rewards)

    def _arrays(self, conversation: Conversation, progress: float) -> dict[str, np.ndarray]:
        """Return what the learner finds of every said token, all turns in a row: [S] each; {}: there are none."""
        sampled = [turn.logprobs for turn in conversation.turns]
        if not sampled:
            return {}
        logprobs = np.concatenate(sampled).astype(np.float64)
        kl = self._drawn.normal(0.07 * progress, 0.25 * (0.1 + progress), len(logprobs))
        return {
            "logprobs_learner": logprobs + self._drawn.normal(0.0, 1e-4, len(logprobs)),
            "logprobs_reference": logprobs - kl,
            "kl": kl,
            "entropy": self._drawn.gamma(2.0, 1.1 - 0.6 * progress, len(logprobs)),
        }

    def _keep(self, one: ScoredConversation, drawn: Mapping[str, np.ndarray]) -> None:
        """Store a conversation, and its tokens once more with what the learner found of them."""
        conversation = one.conversation
        self.writer.append(conversation, one, terms=self.terms)
        self.writer.add_tokens(conversation, _by_turn(conversation, drawn))

    def _log(self, step: int, scored: Sequence[ScoredConversation], found: Mapping[str, float]) -> None:
        progress, num = step / self.settings.steps, sum(t.num_turns for t in (one.conversation for one in scored))
        said = float(sum(len(turn.said) for one in scored for turn in one.conversation.turns))
        update = {
            "learn/learning_rate": self.settings.learner.learning_rate * (1.0 - progress),
            "learn/gradient_norm": float(self._drawn.gamma(9.0, 0.1)),
            "learn/ratio_max": 1.0 + float(self._drawn.gamma(2.0, 1e-4)),
            "learn/ratio_min": 1.0 - float(self._drawn.gamma(2.0, 1e-4)),
            "learn/sampler_gap_nats": float(self._drawn.gamma(2.0, 1e-4)),
            "entropy/per_token_nats": found["entropy"],
            "learn/stale_tokens": 0.0,
            "loss/policy": float(self._drawn.normal(0.0, 0.02)),
            "learn/capped_share": 0.0,
            "loss/kl": found["kl"] / 2,
            "learn/clip_share": 0.0,
            "learn/acted_tokens": said,
            "kl/per_token_nats": found["kl"],
            "kl/per_turn_nats": found["kl"] * said / max(1, num),
            "kl/host/per_token_nats": found["host"],
            "kl/guest/per_token_nats": found["guest"],
            "learn/reference_nll_per_token": -found["logprobs_reference"],
            "learn/tokens": 3.0 * said,
            "kl/coefficient": 1.0 + 0.5 * progress,
            "cluster/replaced_play_workers": 0.0,
            "cluster/replaced_reward_workers": 0.0,
        }
        self._last = step_metrics(
            scored, play_seconds=0.011 * said, learn_seconds=0.008 * said, rewards=self.rewards, update=update
        )
        self._tell(step, scored)
        self._last |= {f"{alarms.METRIC}{name}": float(name in self._on) for name in ("one_part", "length_drift")}
        self.writer.log_metrics(step, self._last)

    def _tell(self, step: int, scored: Sequence[ScoredConversation]) -> None:
        """Raise two alarms, one in the middle of the run and one near its end."""
        due = {self.settings.steps // 2: "one_part", max(1, self.settings.steps - 2): "length_drift"}
        if step not in due:
            return
        self._on = (*self._on, due[step])
        readings = {
            "one_part": {
                "value": 0.86, "reference": 0.61, "bound": 0.8, "look": "part_high", "part": "question",
                "what": "question makes 86% of the reward's variance, 61% at first",
                "meaning": "the other rewards no longer matter",
            },
            "length_drift": {
                "value": 1.71, "reference": 1.0, "bound": 1.6, "look": "long",
                "what": f"{self._last['play/words_per_turn']:.1f} words a turn, 1.71 times as many as at first",
                "meaning": "length may be what is rewarded",
            },
        }  # fmt: skip
        reading = Reading(name=due[step], **readings[due[step]])  # type: ignore[arg-type]
        look_at = conversations_to_read(reading, scored, {})
        run = self.writer.name
        record = alarms.alarm_to_json(reading, step=step, at=now(), run=run, look_at=look_at)
        alarms.append_alarms(self.writer.folder / f"{ALARMS}.jsonl", [record])

    def _rescore(self, one: ScoredConversation) -> None:
        """Add a new score, as `rescore` does."""
        per_turn = [float(len(turn.text.split()) > 5) for turn in one.conversation.turns]
        roles = [turn.role for turn in one.conversation.turns]
        per_role = {role: sum(v for v, r in zip(per_turn, roles, strict=True) if r == role) for role in set(roles)}
        data = {"set": "sha256:4be1c0de", "per_turn": per_turn, "per_role": per_role}
        data |= {"weights": {"own_length": 1.0}, "raw": {"own_length": per_turn}}
        self.writer.annotate(one.conversation.id, by="rescore", kind="score", data=data)

    @property
    def _dealer(self) -> Dealer:
        settings = self.settings
        env = ChitChat(max_turns=self.talk.max_turns, leaving=(LEAVING,))
        return Dealer(env=env, seed=settings.seed, conversations=settings.conversations, group_size=GROUP_SIZE)


def _settings(per_step: int, *, steps: int, turns: int, seed: int, tokens: str, evaluated: int) -> TrainSettings:
    settings = resolve(
        TrainSettings,
        [
            "preset=chat",
            f"seed={seed}",
            f"steps={steps}",
            f"conversations={per_step}",
            f"evaluation.conversations={evaluated}",
            f"env.max_turns={turns}",
            f"env.leaving=[{LEAVING}]",
            f"transcripts.tokens={tokens}",
        ],
    )
    rewards = {
        "question": RewardSpec(),
        "sentiment": RewardSpec(weight=0.5),
        "utterance_repetition": RewardSpec(weight=0.2),
        "conversation_repetition": RewardSpec(weight=0.0),
        "asks_back": RewardSpec(name="my_rewards.py:asks_back", weight=0.0),
    }
    return settings.model_copy(update={"rewards": rewards})


def _by_turn(conversation: Conversation, drawn: Mapping[str, np.ndarray]) -> dict[int, TokenNumbers]:
    """Return what was found of all said tokens in a row [S], turn by turn."""
    ends = np.cumsum([len(turn.said) for turn in conversation.turns])[:-1]
    parts = {name: np.split(values.astype(np.float32), ends) for name, values in drawn.items()}
    return {
        number: TokenNumbers(**{name: of_turns[number] for name, of_turns in parts.items()})
        for number in range(conversation.num_turns if drawn else 0)
    }


def _advantages(scored: Sequence[ScoredConversation]) -> dict[str, np.ndarray]:
    """Return id -> [K] what each turn's own rewards from there on are above its group's mean, by their deviation."""
    found: dict[str, np.ndarray] = {}
    for _, group in groupby(scored, key=lambda one: one.conversation.group):
        ahead = {one.conversation.id: _ahead(one) for one in group if not has_failed(one.conversation)}
        together = np.concatenate([np.zeros(0), *ahead.values()])
        for id, values in ahead.items():
            found[id] = (values - together.mean()) / (together.std() + 1e-6)
    return found


def _ahead(one: ScoredConversation) -> np.ndarray:
    """Return [K] the sum of the rewards of a turn and its speaker's later ones."""
    roles, rewards = [turn.role for turn in one.conversation.turns], one.rewards.tolist()
    return np.array([sum(r for r, role in zip(rewards[k:], roles[k:], strict=True) if role == roles[k])
                     for k in range(len(roles))])  # fmt: skip


if __name__ == "__main__":
    main()
