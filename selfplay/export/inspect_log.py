"""A log for Inspect (`inspect view` opens it): the run is the log, a conversation as one role saw it a sample.

A sample's id is scenario#role, and its epoch counts that scenario's conversations.  A part is a score: its value the
mean over the role's turns, its turns in the score's metadata.  A part that was skipped is no score of the sample; why
stands in the sample's metadata.
Lost: tokens, annotations, and in each sample what the other roles were told.

Source: inspect_ai's EvalLog, version 2 (inspect_ai 0.3.285, log/_log.py); nothing of it is imported.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfplay import __version__
from selfplay.dialog import OPENER, Conversation
from selfplay.export.chosen import Chosen, clean
from selfplay.export.private import last_name
from selfplay.export.request import Result
from selfplay.records_json import conversation_from_json, token_counts
from selfplay.run_reader import RunReader

__all__ = ["log_name", "write_inspect"]

LOG_VERSION = 2
STATUS = {"running": "started", "finished": "success", "interrupted": "cancelled", "killed": "cancelled"}
STOP_REASON = {"length": "max_tokens", "context_full": "model_length", "token_limit": "model_length"}
LIMIT = {"context_full": "context", "token_limit": "token"}
TOTAL = "reward"
TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}[:-]\d{2}[:-]\d{2}")

Record = Mapping[str, Any]


def log_name(folder: Path) -> str:
    """Return a file name that `inspect view` lists: it begins with a time."""
    created = re.sub(r"[^0-9T]", "-", _created(RunReader(folder).manifest)[: len("2026-11-22T08:19:41")])
    name = folder.resolve().name
    return f"{created}+00-00_{re.sub(r'[^A-Za-z0-9.-]', '-', name)}_{_id(name, 'task')}.json"


def write_inspect(chosen: Chosen, draft: Path) -> Result:
    """Write the log; its samples never are in memory together."""
    waiting = draft.with_name(f"{draft.name}.samples")
    tally = _write_samples(chosen, waiting)
    num = tally.num
    results = {"total_samples": num, "completed_samples": num - tally.num_errors, "scores": tally.scores()}
    head = json.dumps(clean({**_head(chosen), "results": results}), allow_nan=False)
    with draft.open("wb") as file, waiting.open("rb") as samples:
        # Who reads the head alone stops at the samples, so they come last.
        file.write(head[:-1].encode("ascii") + b', "samples": [')
        shutil.copyfileobj(samples, file)
        file.write(b"\n]}\n")
    is_listed = TIME.match(draft.name) is not None
    notes = (
        () if is_listed else ("`inspect view` opens it by name, and lists only files whose names begin with a time",)
    )
    return Result(path=draft, num=num, noun="sample", notes=notes)


def _write_samples(chosen: Chosen, path: Path) -> _Tally:
    """Write the samples, and return how many they are and what their scores come to."""
    tally, epochs = _Tally(), Counter[str]()
    with path.open("w", encoding="ascii", newline="\n") as file:
        for record in chosen.records():
            conversation = conversation_from_json(record)
            for role in conversation.scenario.roles:
                id = f"{conversation.scenario.env}/{conversation.scenario.seed}#{role}"
                epochs[id] += 1
                sample = _sample(conversation, record, role, id=id, epoch=epochs[id])
                file.write(("," if tally.num else "") + "\n" + json.dumps(clean(sample), allow_nan=False))
                tally.add(sample)
    return tally


@dataclass(slots=True)
class _Tally:
    """What the samples that go by come to."""

    num: int = 0
    num_errors: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)  # score -> its numbers

    def add(self, sample: Record) -> None:
        self.num += 1
        self.num_errors += "error" in sample
        for name, score in sample["scores"].items():
            self.values.setdefault(name, []).append(float(score["value"]))

    def scores(self) -> list[dict[str, Any]]:
        """Return what Inspect shows of each score above its samples.

        No standard error: the samples of one conversation, and of one scenario, are not independent.
        """
        return [
            {
                "name": name,
                "scorer": name,
                "scored_samples": len(values),
                "unscored_samples": self.num - len(values),
                "metrics": {"mean": {"name": "mean", "value": math.fsum(values) / len(values)}},
            }
            for name, values in self.values.items()
        ]


def _head(chosen: Chosen) -> dict[str, Any]:
    reader = RunReader(chosen.folder)
    manifest, status = reader.manifest, reader.status
    created = _created(manifest)
    env, model = manifest.get("env"), manifest.get("model")
    metadata = {"seed": manifest.get("seed")}
    if chosen.has_private:
        metadata |= {"where": chosen.where, "git": manifest.get("git"), "command": manifest.get("command")}
    else:
        env, model = (last_name(name) if isinstance(name, str) else name for name in (env, model))
    return {
        "version": LOG_VERSION,
        "status": STATUS.get(status, "error"),
        "eval": {
            "eval_id": _id(chosen.name, "eval"),
            "run_id": _id(chosen.name, "run"),
            "created": created,
            "task": chosen.name,
            "task_id": _id(chosen.name, "task"),
            "task_version": 0,
            "dataset": {"name": env if isinstance(env, str) else chosen.name, "samples": len(chosen.ids)},
            "model": model if isinstance(model, str) else "several",
            "config": {},
            "packages": {"selfplay-dialog": str(manifest.get("package") or __version__)},
            "metadata": metadata,
        },
        "plan": {"name": "selfplay"},
        "stats": {"started_at": created, "completed_at": manifest.get("ended_at") or ""},
        **({} if status != "failed" else {"error": _error("the run failed")}),
    }


def _created(manifest: Record) -> str:
    return str(manifest.get("created_at") or "1970-01-01T00:00:00Z")


def _id(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogatepass")).hexdigest()[:22]


def _error(message: str) -> dict[str, str]:
    return {"message": message, "traceback": message, "traceback_ansi": message}


def _sample(conversation: Conversation, record: Record, role: str, *, id: str, epoch: int) -> dict[str, Any]:
    messages = list(_messages(conversation, role))
    first = next((message["content"] for message in messages if message["role"] == "user"), OPENER)
    scores, skipped = _scores(record, role)
    limit = _limit(conversation, record, role)
    return {
        "id": id,
        "epoch": epoch,
        "input": first,
        "target": "",
        "messages": messages,
        "output": _output(conversation, messages, role),
        "scores": scores,
        "metadata": _metadata(conversation, record, role, skipped),
        "total_time": conversation.seconds,
        "started_at": conversation.started_at or None,
        **({} if conversation.error is None else {"error": _error(conversation.error)}),
        **({} if limit is None else {"limit": limit}),
    }


def _messages(conversation: Conversation, role: str) -> Iterator[dict[str, Any]]:
    """Yield the chat as `chat_messages` has it, then what the role heard no more: the others' last words."""
    player = conversation.players.get(role)
    if player is not None and player.brief:
        yield {"role": "system", "content": player.brief}
    last = -1
    for number, turn in enumerate(conversation.turns):
        if turn.role != role:
            continue
        heard = turn.heard_text or (OPENER if last < 0 else "")
        if heard:
            yield {"role": "user", "content": heard}
        yield {"role": "assistant", "content": turn.text, "model": turn.player, "metadata": {"turn": number}}
        last = number
    after = [turn.text for turn in conversation.turns[last + 1 :]]
    if after:
        yield {"role": "user", "content": "\n".join(after)}


def _output(conversation: Conversation, messages: Sequence[Record], role: str) -> dict[str, Any]:
    own = conversation.turns_of(role)
    player = conversation.players.get(role)
    answers = [message for message in messages if message["role"] == "assistant"]
    choices = [{"message": answers[-1], "stop_reason": STOP_REASON.get(own[-1].finish, "stop")}] if own else []
    return {"model": player.model if player is not None else "", "choices": choices}


def _limit(conversation: Conversation, record: Record, role: str) -> dict[str, Any] | None:
    """Return what truncated the conversation: how many tokens the role's stream held then."""
    outcome = conversation.outcome
    if outcome is None or outcome.status != "truncated":
        return None
    counts = zip(conversation.turns, token_counts(record), strict=True)
    held = sum(count.heard + count.said for turn, count in counts if turn.role == (outcome.by or role))
    return {"type": LIMIT[outcome.reason], "limit": float(held), "reason": outcome.reason}


def _metadata(conversation: Conversation, record: Record, role: str, skipped: Mapping[str, str]) -> dict[str, Any]:
    player = conversation.players.get(role)
    return {
        "conversation": conversation.id,
        "group": conversation.group,
        "step": record.get("step"),
        "split": conversation.scenario.split,
        "role": role,
        "player": player.label if player is not None else None,
        "trained": player is not None and player.trained,
        "scenario": {
            "public": record["scenario"].get("public", {}),
            "private": record["scenario"].get("private", {}).get(role, {}),
        },
        "outcome": record.get("outcome"),
        "skipped": dict(skipped),
        "annotations": record.get("annotations", []),
    }


def _scores(record: Record, role: str) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return a role's scores by name, and why the parts that have none were skipped."""
    block = record.get("rewards") or {}
    scores, skipped = {}, {}
    total = block.get("per_role", {}).get(role)
    if total is not None:
        scores[TOTAL] = {"value": total, "explanation": "the sum over the role's turns"}
    by_name: dict[str, list[Record]] = {}
    for part in block.get("parts", ()):
        if part.get("role") in (role, None):
            by_name.setdefault(part["name"], []).append(part)
    for name, parts in by_name.items():
        counted = [part for part in parts if part["status"] == "ok" and part["raw"] is not None]
        if counted:
            scores[name] = _score(counted)
        else:
            skipped[name] = _whys(parts) or parts[0]["status"]
    return scores, skipped


def _score(parts: Sequence[Record]) -> dict[str, Any]:
    counting = {"gate": True} if parts[0].get("gate") else {"weight": parts[0].get("weight")}
    turns = [{key: part.get(key) for key in ("turn", "raw", "value", "why")} for part in parts]
    value = math.fsum(part["raw"] for part in parts) / len(parts)
    return {"value": value, "explanation": _whys(parts) or None, "metadata": {**counting, "turns": turns}}


def _whys(parts: Sequence[Record]) -> str:
    return "; ".join(dict.fromkeys(str(part["why"]) for part in parts if part.get("why")))
