"""What other libraries make of an export: they read it back."""

import json

import pytest
from six_conversations import IDS, write_six

from selfplay.commands import main
from selfplay.export import Request, export

# Libraries that warn while they are imported, or of their own use of others.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_six(tmp_path_factory.mktemp("runs") / "six")


def test_inspect_reads_the_log_with_scores_limits_and_errors(run, tmp_path):
    inspect_log = pytest.importorskip("inspect_ai.log")
    out = tmp_path / "six.json"
    export(run, Request(to="inspect", out=out))
    log = inspect_log.read_eval_log(str(out))
    assert log.status == "success"
    assert len(log.samples) == 12
    samples = {(sample.metadata["conversation"], sample.metadata["role"]): sample for sample in log.samples}
    host = samples[IDS[0], "host"]
    assert (host.id, host.epoch) == ("chitchat/7#host", 1)
    assert (samples[IDS[1], "host"].id, samples[IDS[1], "host"].epoch) == ("chitchat/7#host", 2)
    assert [message.role for message in host.messages] == ["system", "user", "assistant", "user"]
    assert host.output.completion == "Hello there, rain?"
    assert host.scores["question"].value == 1.0
    assert samples[IDS[1], "guest"].scores["reward"].value == -1.0
    skipped = samples[IDS[3], "guest"]
    assert "praise" not in skipped.scores
    assert skipped.metadata["skipped"] == {"praise": "nothing to praise"}
    assert samples[IDS[5], "host"].limit.type == "context"
    assert samples[IDS[4], "host"].error.message == "empty_reply: said nothing"
    header = inspect_log.read_eval_log(str(out), header_only=True)
    scores = {score.name: score for score in header.results.scores}
    # Raw praise of host and guest: 0, 0; -1, -2; 1, 0; 0 and none: -2 / 7.
    assert scores["praise"].metrics["mean"].value == pytest.approx(-2 / 7)
    # Samples of one conversation hang together: a standard error would say too little.
    assert set(scores["praise"].metrics) == {"mean"}
    # Two roles of the conversation that failed.
    assert (header.results.total_samples, header.results.completed_samples) == (12, 10)
    assert (scores["praise"].scored_samples, scores["praise"].unscored_samples) == (7, 5)


def test_inspect_lists_a_log_under_its_usual_name(run, tmp_path, monkeypatch):
    inspect_log = pytest.importorskip("inspect_ai.log")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "six", f"runs={run.parent}", "to=inspect"]) == 0
    (found,) = inspect_log.list_eval_logs(str(tmp_path))
    assert found.task == "six"


def test_inspect_finds_no_two_samples_of_one_id_and_epoch(run, tmp_path):
    out = tmp_path / "six.json"
    export(run, Request(to="inspect", out=out))
    samples = json.loads(out.read_text())["samples"]
    assert len({(sample["id"], sample["epoch"]) for sample in samples}) == len(samples)


@pytest.mark.parametrize("kind", ["supervised", "unpaired", "preference"])
def test_trl_takes_the_lines_as_its_conversational_type(run, tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    data_utils = pytest.importorskip("trl.data_utils")
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "lines.jsonl"
    where = "step=3 | step=0"
    if kind == "preference":
        run = _with_choice(tmp_path / "labelled")
    export(
        run, Request(to="trl", out=out, kind=kind, where=where, source="labels" if kind == "preference" else "rewards")
    )
    data = datasets.load_dataset("json", data_files=str(out), cache_dir=str(tmp_path / "cache"), split="train")
    expected = {
        "supervised": {"prompt", "completion"},
        "unpaired": {"prompt", "completion", "label"},
        "preference": {"prompt", "chosen", "rejected"},
    }
    assert set(data.column_names) == expected[kind]
    assert all(data_utils.is_conversational(row) for row in data)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), chat_template=TEMPLATE)
    rendered = data_utils.maybe_apply_chat_template(dict(data[0]), tokenizer)
    assert rendered["prompt"].endswith("<|im_start|>assistant\n")
    answer = rendered["chosen" if kind == "preference" else "completion"]
    assert answer.endswith("<|im_end|>\n")


def test_openai_lines_are_read_by_datasets(run, tmp_path):
    datasets = pytest.importorskip("datasets")
    out = tmp_path / "lines.jsonl"
    export(run, Request(to="openai", out=out))
    data = datasets.load_dataset("json", data_files=str(out), cache_dir=str(tmp_path / "cache"), split="train")
    assert len(data) == 9
    assert data[0]["messages"][-1] == {"role": "assistant", "content": "Hello there, rain?"}


def _with_choice(folder):
    from selfplay.preferences import Preference, append_entry

    run = write_six(folder)
    choice = Preference(
        at="2026-11-22T10:00:00.000Z",
        left=IDS[0],
        right=IDS[2],
        focus="host",
        question="Who?",
        choice="left",
        by="person:anon-3f",
    )
    append_entry(run, choice)
    return run


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer
