"""Runs that pages must survive: one whose every text is an attack, one whose files were damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from six_conversations import IDS, write_six

from benchmarks.stored_run import PhraseTokenizer
from selfplay.dialog import Action, Conversation, Outcome, PlayerInfo, Scenario, ScoredConversation, Scores, Split, Turn
from selfplay.interfaces import TokenNumbers
from selfplay.score import Term
from selfplay.store import RunWriter

OWN = "document.title='owned'"
EVIL = (
    f'<script>document.title="owned"</script><img src=x onerror="{OWN}"><p onmouseover="{OWN}" onclick="{OWN}">here</p>'
    f'<svg onload="{OWN}"></svg><iframe src="javascript:parent.{OWN}"></iframe>'
)
REVERSED = "\u202egnorw ti sdaer\u202c \u2067mixed \u05d0\u05d1\u2069 &lt;b&gt; {{7*7}} ${7*7}"
ENDS_BLOCKS = "</script></style></textarea>--> ]]> \u2028\u2029\x00 end"
LONG = "W" * 100_000  # one word
HOSTILE = 'it\'s <img src=x onerror=alert(1)> & 100%25 "odd" #1 ?q=1 + \u00fc'  # a folder may be called so
HOST, GUEST = "host<b>", 'guest"<i>'
PART = "praise<img src=x>"
TOPIC = f"topic {EVIL}"
SECRETS = {HOST: "what only the host is told", GUEST: "what only the guest is told"}
SOURCE = f'"""{EVIL}"""\n'.encode()
# Two of a group, then versions 0 and 1 on one held-out scenario.
HOSTILE_IDS = ("000000-g00-0", "000000-g00-1", "000000-e00-0", "000001-e00-0")
FAILED_ID = "000000-g01-0"

NEW_ID, OLD_ID = "000006-g00-0", "000007-g00-0"
SKIPPED = (
    "conversations/train-000.jsonl:7: not valid JSON",
    "conversations/train-000.jsonl:8: schema 'selfplay.conversation/0'",
    "conversations/train-000.jsonl:9: the last line is incomplete",
)


def write_hostile(folder: Path) -> Path:
    """Write a run in which whatever a model, a scenario, a reward, a person or a setting says is markup and script."""
    encoder = PhraseTokenizer.trained(0)
    model = f"tiny{EVIL}"
    manifest = {"kind": "train", "env": EVIL, "model": model, "view": "perspective", "command": f"train {EVIL}"}
    manifest["tokenizers"] = {model: encoder.digest}
    config = json.dumps({"steps": 2, "rewards": {PART: 1.0}, "kl": {"controller": EVIL}, "env": {"opener": EVIL}})
    with RunWriter.create(folder, manifest, config) as writer:
        writer.keep_source(f"reward {PART}", SOURCE)
        writer.keep_tokenizers({encoder.digest: encoder.tokenizer.to_str()})
        for number, id in enumerate(HOSTILE_IDS):
            _append(writer, _conversation(id, encoder, model=model, version=int(id[:6])), praise=number)
        _append(writer, _failed(model), praise=0)
        first = HOSTILE_IDS[0]
        writer.annotate(first, by=f"person:{EVIL}", kind="tag", data={"tag": EVIL, "remove": False})
        writer.annotate(first, by=EVIL, kind="score", data={"name": EVIL, "raw": 1.0, "status": "ok"}, turn=0)
        writer.annotate(first, by=EVIL, kind=EVIL, data={EVIL: {EVIL: EVIL}})
        writer.log_metrics(0, {"reward/per_conversation": 1.0, "kl/per_token_nats": 0.1, EVIL: 1.0})
        writer.log_metrics(1, {"reward/per_conversation": 2.0, "kl/per_token_nats": 0.2, EVIL: 2.0})
    _add_line(folder / "alarms.jsonl", _alarm(first))
    (folder / "evaluation.json").write_text(json.dumps(_comparison()), encoding="ascii")
    return folder


def write_damaged(folder: Path) -> Path:
    """Write the six conversations and a seventh, NEW_ID, with fields of the future; then damage what can be.

    Its tokens are gone, and its training file ends with a line that is no JSON, one of an older schema, and half a one.
    """
    write_six(folder)
    shutil.rmtree(folder / "tokens")
    path = folder / "conversations" / "train-000.jsonl"
    record = json.loads(path.read_text(encoding="ascii").splitlines()[0])
    newer = {**record, "id": NEW_ID, "group": "000006-g00", "from_the_future": {"mood": [1, {}]}}
    newer["turns"] = [{**turn, "gesture": "nods"} for turn in record["turns"]]
    older = {**record, "id": OLD_ID, "schema": "selfplay.conversation/0"}
    lines = (json.dumps(newer), "this is not JSON", json.dumps(older))
    half = json.dumps({**record, "id": "000008-g00-0"})[:200]
    with path.open("a", encoding="ascii") as file:
        file.write("".join(f"{line}\n" for line in lines) + half)
    assert record["id"] == IDS[0]
    return folder


def _conversation(id: str, encoder: PhraseTokenizer, *, model: str, version: int) -> Conversation:
    split: Split = "held_out" if "-e" in id else "train"
    texts = [f"{EVIL} {REVERSED} {id}", LONG, f"{ENDS_BLOCKS} {id}", EVIL]
    turns = []
    for number, text in enumerate(texts):
        said = encoder.said(text[:500])
        heard = texts[number - 1] if number else EVIL
        turns.append(
            Turn(
                role=(HOST, GUEST)[number % 2],
                text=text,
                heard_text=heard,
                player=f"learner@{version}",
                stream=(HOST, GUEST)[number % 2],
                heard=encoder.heard(heard[:500], brief=""),
                said=said,
                logprobs=np.linspace(-3.0, -0.1, len(said), dtype=np.float32),
                finish="stop",
                action=Action(kind=EVIL, value={EVIL: EVIL}, legal=number > 0),
            )
        )
    return Conversation(
        id=id,
        scenario=_scenario(split),
        players=_players(model, version),
        turns=tuple(turns),
        outcome=Outcome(status="terminated", reason="turn_limit", by=GUEST, facts={EVIL: EVIL}),
    )


def _failed(model: str) -> Conversation:
    return Conversation(
        id=FAILED_ID,
        scenario=_scenario("train"),
        players=_players(model, 0),
        turns=(Turn(role=HOST, text=EVIL, heard_text="", player="learner@0"),),
        outcome=Outcome(status="failed", reason="player_error"),
        error=f"player_error: {EVIL}",
    )


def _scenario(split: Split) -> Scenario:
    return Scenario(
        env="chitchat",
        seed=1,
        split=split,
        roles=(HOST, GUEST),
        public={"topic": TOPIC, EVIL: [EVIL]},
        private={role: {EVIL: f"{secret} {EVIL}"} for role, secret in SECRETS.items()},
    )


def _players(model: str, version: int) -> dict[str, PlayerInfo]:
    return {
        role: PlayerInfo(
            policy="learner",
            version=version,
            model=model,
            trained=True,
            brief=f"{secret} {EVIL}",
            sampling={EVIL: EVIL},
        )
        for role, secret in SECRETS.items()
    }


def _append(writer: RunWriter, conversation: Conversation, *, praise: int) -> None:
    values = np.full(conversation.num_turns, float(praise), dtype=np.float32)
    scores = Scores(values=values, why=(EVIL,) * conversation.num_turns)
    scored = ScoredConversation(conversation=conversation, rewards=values, parts={PART: scores})
    writer.append(conversation, scored, terms={PART: Term(weight=1.0)})
    found = {
        number: TokenNumbers(kl=np.linspace(-1.0, 1.0, len(turn.said), dtype=np.float32))
        for number, turn in enumerate(conversation.turns)
        if len(turn.said)
    }
    writer.add_tokens(conversation, found)


def _alarm(id: str) -> dict[str, object]:
    known = {"schema": "selfplay.alarm/1", "at": "2026-11-22T05:12:40.000Z", "step": 1, "name": EVIL, "state": "began"}
    return {**known, "value": 1.0, "bound": 0.5, "text": f"alarm odd: {EVIL}", "look_at": [id, EVIL]}


def _comparison() -> dict[str, object]:
    row = {"base": 0.0, "trained": 1.0, "difference": 1.0, "low": 0.5, "high": 1.5}
    names = ("reward/per_conversation", "kl/per_token_nats", f"reward/{PART}", EVIL)
    known = {"version": 1, "schema": "selfplay.comparison/1", "num_scenarios": 1, "num_dropped": 0, "confidence": 0.95}
    return {**known, "metrics": dict.fromkeys(names, row)}


def _add_line(path: Path, record: dict[str, object]) -> None:
    with path.open("a", encoding="ascii") as file:
        file.write(json.dumps(record) + "\n")
