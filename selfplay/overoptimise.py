"""What a learned reward is worth when it is pushed: gold against proxy, under best-of-N and under training.

A known reward, gold, stands for what people want.  Two reward models learn it, one from few labels and one from many,
on conversations of the policy before training.  Then the policy is pushed to please them: by best-of-N from one pool,
and by training.  What they promise is the proxy; what it was worth is gold.

Legend: S scenarios, M conversations of a scenario.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from selfplay import checkpoint, models
from selfplay.best_of import conversation_values
from selfplay.config import to_yaml
from selfplay.dialog import Conversation, Split, id_order
from selfplay.errors import UserError
from selfplay.folder_lock import alone_in
from selfplay.interfaces import Env, Sampling
from selfplay.label_by import GoldLabeller
from selfplay.overoptimise_settings import Cell, Plan
from selfplay.pair_sampling import PairToLabel, dialogs_of, sample_pairs
from selfplay.pair_sampling import Sampling as PairSampling
from selfplay.play import draw_seed, make_group, play
from selfplay.players import PlayerSettings, make_players
from selfplay.reward_model.dialogs import Dialog, dialog_of
from selfplay.reward_model.examples import Example, split_examples
from selfplay.reward_model.info import RECORD
from selfplay.run_evaluation import evaluated_version
from selfplay.run_reader import RunReader
from selfplay.score import WeightedReward, has_failed, prepare
from selfplay.store import RunWriter
from selfplay.train_settings import RewardSpec
from selfplay.training_run import TrainingRun
from selfplay.whole_files import write_whole

__all__ = ["STUDY", "BestOfResult", "Point", "Tools", "TrainingResult", "read_results", "run_cell", "run_cells"]

STUDY = "overoptimise"
STUDY_SCHEMA, CELL_SCHEMA = "selfplay.overoptimise/1", "selfplay.overoptimise_cell/1"
INTERRUPTED = 130
DIGITS = 5
MOST_REFERENCE = 600  # dialogs of the policy before training that set a reward model's scale
DRAW_PAIRS = 2201  # first part of the spawn key

Say = Callable[[str], None]
# (a cell's name, file for what it says, its training run's folder) -> exit status
Launch = Callable[[str, Path, Path], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What only commands can make."""

    env: Env
    build_rewards: Callable[[Mapping[str, RewardSpec]], list[WeightedReward]]
    say: Say


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfResult:
    """A reward model, and what it and gold say of the pool."""

    cell: Cell
    seconds: float
    num_labels: int
    gold: list[list[float]]  # [S][M] a turn, of the policy before training
    proxy: list[list[float]]  # [S][M] the same conversations


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A trained policy, on held-out scenarios."""

    version: int  # updates; 0: before training
    ids: list[str]  # [S] of scenarios, the same in every point but for failed conversations
    gold: list[float]  # [S] a turn
    proxy: list[float]  # [S]
    kl: list[float]  # [S] nats of a conversation, from the policy before training
    tokens: list[int]  # [S] said


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What training against a reward model did."""

    cell: Cell
    seconds: float
    points: list[Point] = field(default_factory=list)


# ----- all cells -----


def run_cells(plan: Plan, *, launch: Launch, say: Say, report: Callable[[], None]) -> list[str]:
    """Do every cell that has not finished; return what went wrong, one sentence a cell.

    launch: does a cell, usually in a process of its own; report: is called whenever there is a new result.
    Raises UserError if the folder holds cells of other settings, or another process works in it; KeyboardInterrupt if
    a cell was interrupted.
    """
    with alone_in(plan.folder, what="this study"):
        _claim(plan)
        return _run_cells(plan, launch=launch, say=say, report=report)


def _run_cells(plan: Plan, *, launch: Launch, say: Say, report: Callable[[], None]) -> list[str]:
    problems, cells = [], plan.cells()
    for number, cell in enumerate(cells, start=1):
        if plan.cell_file(cell).exists():
            continue
        say(f"[{number}/{len(cells)}] {cell.name}: {_what(plan, cell)}")
        started = time.perf_counter()
        status = launch(cell.name, plan.log_file(cell), plan.training_run(cell))
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status != 0 or not plan.cell_file(cell).exists():
            problems.append(f"{cell.name} failed (what it said: {plan.log_file(cell)})")
            say(problems[-1])
            continue
        say(f"  {cell.name}: {time.perf_counter() - started:.0f} s")
        report()
    return problems


def _what(plan: Plan, cell: Cell) -> str:
    if cell.is_training:
        return f"{plan.settings.points[-1]} updates against the reward model of {plan.num_labels(cell.arm)} labels"
    return f"a reward model from {plan.num_labels(cell.arm)} labels, and best-of-N by it"


def _claim(plan: Plan) -> None:
    """Record what the study computes with; refuse a folder that holds cells of other settings."""
    file, now = plan.folder / "study.json", plan.record()
    if file.exists():
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored.get("schema") != STUDY_SCHEMA:
            raise UserError(f"out={plan.folder}: it holds another study; choose another folder")
        before = stored["settings"]
        changed = [key for key in now if json.dumps(before.get(key)) != json.dumps(now[key])]
        if changed and any((plan.folder / "runs").glob("*")):
            key = changed[0]
            raise UserError(
                f"out={plan.folder}: it was begun with {key}={before.get(key)}, not {now[key]}; "
                "choose another folder, or the same settings"
            )
    write_whole(file, json.dumps({"schema": STUDY_SCHEMA, "settings": now}, indent=1).encode() + b"\n")


# ----- one cell -----


def run_cell(plan: Plan, cell: Cell, tools: Tools) -> None:
    """Do one cell and store its result; what was done of it before is kept."""
    started = time.perf_counter()
    _ensure_reward_model(plan, cell, tools)
    result = _train(plan, cell, tools) if cell.is_training else _choose(plan, cell, tools)
    record = {
        "schema": CELL_SCHEMA,
        "arm": cell.arm,
        "seed": cell.seed,
        "is_training": cell.is_training,
        "num_labels": plan.num_labels(cell.arm),
        "seconds": round(time.perf_counter() - started, 1),
        **result,
    }
    plan.cell_file(cell).parent.mkdir(parents=True, exist_ok=True)
    write_whole(plan.cell_file(cell), json.dumps(record, allow_nan=False).encode() + b"\n")


def read_results(plan: Plan) -> tuple[list[BestOfResult], list[TrainingResult]]:
    """Return the results of the cells that have finished."""
    best: list[BestOfResult] = []
    trained: list[TrainingResult] = []
    for cell in plan.cells():
        file = plan.cell_file(cell)
        if not file.exists():
            continue
        data = json.loads(file.read_text(encoding="utf-8"))
        if data.get("schema") != CELL_SCHEMA:
            raise UserError(f"{file}: schema {data.get('schema')!r} is no cell of this study; move it away")
        if cell.is_training:
            points = [Point(**point) for point in data["points"]]
            trained.append(TrainingResult(cell=cell, seconds=data["seconds"], points=points))
        else:
            kept = {key: data[key] for key in ("seconds", "num_labels", "gold", "proxy")}
            best.append(BestOfResult(cell=cell, **kept))
    return best, trained


def _choose(plan: Plan, cell: Cell, tools: Tools) -> dict[str, Any]:
    """Return what gold and a reward model say of the pool, scenario by scenario."""
    settings = plan.settings
    pool = _played(plan, "pool", cell.seed, tools)
    groups: dict[str, list[Conversation]] = {}
    for conversation in pool:
        groups.setdefault(conversation.group, []).append(conversation)
    # A scenario whose conversations mostly failed has nothing to choose from.
    kept = [group for group in groups.values() if 2 * len(group) >= settings.candidates]
    if len(kept) < 2:
        raise UserError("nearly all conversations of the pool failed, so there is nothing to choose from")
    tools.say(f"scoring {sum(map(len, kept))} conversations on {len(kept)} scenarios")
    flat = [conversation for group in kept for conversation in group]
    gold, proxy = (_values(flat, rewards) for rewards in (_gold(plan, tools), _proxy(plan, cell, tools)))
    ends = np.cumsum([len(group) for group in kept])[:-1].tolist()
    return {
        "num_dropped": settings.scenarios - len(kept),
        "gold": [part.tolist() for part in np.split(gold, ends)],
        "proxy": [part.tolist() for part in np.split(proxy, ends)],
    }


def _values(conversations: Sequence[Conversation], rewards: Sequence[WeightedReward]) -> Any:
    return np.round(conversation_values(conversations, rewards), DIGITS)


def _gold(plan: Plan, tools: Tools) -> list[WeightedReward]:
    return tools.build_rewards(plan.gold())


def _proxy(plan: Plan, cell: Cell, tools: Tools) -> list[WeightedReward]:
    model = plan.reward_model(cell).resolve()
    rewards = tools.build_rewards({f"rm:{model.name}": RewardSpec.model_validate({"name": f"rm:{model}"})})
    prepare(rewards)
    return rewards


# ----- conversations of the policy before training -----


def _played(plan: Plan, kind: str, seed: int, tools: Tools) -> list[Conversation]:
    """Return the conversations of the pool, or those to label, that did not fail; play them if they are not there."""
    assert kind in ("labels", "pool")
    folder = plan.run("labels" if kind == "labels" else "pool", seed)
    if RunReader(folder).manifest.get("status") != "finished":
        # An interrupted run is played anew: it takes minutes.
        shutil.rmtree(folder, ignore_errors=True)
        _play(plan, folder, seed, tools, is_pool=kind == "pool")
    conversations = RunReader(folder).conversations()
    whole = [conversation for conversation in conversations if not has_failed(conversation)]
    return sorted(whole, key=lambda conversation: id_order(conversation.id))


def _play(plan: Plan, folder: Path, seed: int, tools: Tools, *, is_pool: bool) -> None:
    settings, env = plan.settings, tools.env
    num, size = (
        (settings.scenarios, settings.candidates)
        if is_pool
        else (settings.label_scenarios, settings.label_conversations)
    )
    split: Split = "held_out" if is_pool else "train"
    tools.say(f"playing {num * size} conversations: {size} on each of {num} scenarios")
    models.use_threads(settings.engine.threads)
    table = make_players(
        [settings.model],
        env=env,
        settings=PlayerSettings(
            sampling=Sampling(**settings.sampling.model_dump()),
            device=settings.engine.device,
            dtype=settings.engine.dtype,
            max_batch=settings.engine.max_batch,
            runs=settings.runs,
        ),
        say=tools.say,
        write=tools.say,
    )
    seats = dict.fromkeys(env.roles, settings.model)
    matches = (
        match
        for group in range(num)
        for match in make_group(env, seats, seed=seed, split=split, place=(0, group), size=size)
    )
    manifest = {"seed": seed, "env": env.name, "model": settings.model, "command": f"study {STUDY}"}
    with RunWriter.create(folder, manifest, to_yaml(settings), tokens="none") as writer:
        concurrency = settings.engine.concurrency
        for conversation in play(matches, env=env, players=table.players, concurrency=concurrency):
            writer.append(conversation)


# ----- reward models -----


def _ensure_reward_model(plan: Plan, cell: Cell, tools: Tools) -> None:
    folder = plan.reward_model(cell)
    if (folder / RECORD).exists():
        return
    from selfplay.reward_model.fit import fit
    from selfplay.reward_model.folder import save

    conversations = _played(plan, "labels", cell.seed, tools)
    examples = _labelled(plan, cell.seed, conversations, tools)[: plan.num_labels(cell.arm)]
    if len(examples) < plan.num_labels(cell.arm):
        raise UserError(
            f"{plan.num_labels(cell.arm)} labels were asked for and {len(examples)} pairs are there; "
            "raise label_scenarios or label_conversations, or lower many"
        )
    settings = plan.settings.rm.model_copy(update={"seed": cell.seed, "threads": plan.settings.engine.threads})
    models.use_threads(settings.threads)
    train, held_out = split_examples(examples, held_out=settings.held_out, seed=cell.seed)
    tools.say(f"training a reward model on {len(train)} labels, {len(held_out)} held out")
    model = fit(train, held_out, settings, reference=_reference(conversations), say=tools.say)
    save(model, folder)


def _labelled(plan: Plan, seed: int, conversations: Sequence[Conversation], tools: Tools) -> list[Example]:
    """Return pairs with what gold, which errs now and then, says of them; the first few are those of the other arm."""
    pairs = sample_pairs(
        conversations,
        n=plan.settings.many,
        sampling=PairSampling(seed=draw_seed(seed, (DRAW_PAIRS,), bits=31)),
    )
    labeller = GoldLabeller(_gold(plan, tools), name=STUDY, noise=plan.settings.label_noise, seed=seed)
    labels = labeller.label(pairs)
    return [_example(pair, label.probability) for pair, label in zip(pairs, labels, strict=True) if label is not None]


def _example(pair: PairToLabel, probability: float) -> Example:
    return Example(
        dialogs=dialogs_of(pair),
        kind="pair",
        targets=(probability,),
        judged=pair.judged,
        source=f"gold:{STUDY}",
        keys=(pair.left.id, pair.right.id),
    )


def _reference(conversations: Sequence[Conversation]) -> list[Dialog]:
    """Return dialogs of the policy before training, evenly spread over scenarios: both arms have the same scale."""
    dialogs = [
        dialog_of(conversation, role)
        for conversation in conversations
        for role in dict.fromkeys(turn.role for turn in conversation.turns)
    ]
    return dialogs[:: max(1, math.ceil(len(dialogs) / MOST_REFERENCE))]


# ----- training -----


def _train(plan: Plan, cell: Cell, tools: Tools) -> dict[str, Any]:
    """Train from point to point; every point ends with an evaluation on the same held-out scenarios."""
    folder = plan.training_run(cell)
    for steps in plan.settings.points:
        if (evaluated_version(folder) or 0) < steps:
            _train_to(plan, cell, tools, steps=steps)
            tools.say(f"{cell.name}: {steps} updates")
    return {"points": _points(plan, cell, tools, folder)}


def _train_to(plan: Plan, cell: Cell, tools: Tools, *, steps: int) -> None:
    folder, settings = plan.training_run(cell), plan.train_settings(cell, steps=steps)
    rewards = tools.build_rewards(settings.rewards)
    if checkpoint.newest(folder) is not None:
        run = TrainingRun.resume(folder, settings, env=tools.env, rewards=rewards)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        run = TrainingRun.create(settings, env=tools.env, rewards=rewards, folder=folder, is_described=True)
    run.train()


def _points(plan: Plan, cell: Cell, tools: Tools, folder: Path) -> list[dict[str, Any]]:
    """Return gold, proxy and KL of each evaluation of a run, conversation by conversation."""
    found: dict[int, list[tuple[Conversation, Mapping[str, Any]]]] = {}
    reader = RunReader(folder)
    for record, conversation in zip(reader.records(), reader.conversations(), strict=True):
        likelihood = _likelihood(record)
        is_whole = conversation.scenario.split == "held_out" and not has_failed(conversation)
        if likelihood is not None and is_whole:
            found.setdefault(conversation.step, []).append((conversation, likelihood))
    gold, proxy = _gold(plan, tools), _proxy(plan, cell, tools)
    return [_point(version, found[version], gold, proxy) for version in (0, *plan.settings.points) if version in found]


def _likelihood(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    notes = [note["data"] for note in record.get("annotations", ()) if note.get("kind") == "likelihood"]
    return cast("Mapping[str, Any]", notes[-1]) if notes else None


def _point(
    version: int,
    measured: Sequence[tuple[Conversation, Mapping[str, Any]]],
    gold: Sequence[WeightedReward],
    proxy: Sequence[WeightedReward],
) -> dict[str, Any]:
    conversations = [conversation for conversation, _ in measured]
    return {
        "version": version,
        "ids": [conversation.group.rpartition("-")[2] for conversation in conversations],
        "gold": _values(conversations, gold).tolist(),
        "proxy": _values(conversations, proxy).tolist(),
        "kl": [round(float(likelihood["kl"]), DIGITS) for _, likelihood in measured],
        "tokens": [int(likelihood["num_tokens"]) for _, likelihood in measured],
    }
