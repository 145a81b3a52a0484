"""The Hub: `datasets.load_dataset` is pointed at local folders, everything else is the real thing."""

from __future__ import annotations

import http.server
import json
import shutil
import threading

import datasets
import datasets.config
import pytest

from transfer.errors import DataError, UnknownNameError
from transfer.tasks import catalogue, load_task

load_dataset = datasets.load_dataset


class Answering(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Tests are quiet."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in reach, whose datasets are folders: `hub("google/boolq", train=Dataset, ...)` uploads one."""
    root = tmp_path / "hub"

    def upload(dataset, config=None, **splits):
        folder = root / dataset / (config or "default")
        folder.mkdir(parents=True, exist_ok=True)
        for name, split in splits.items():
            split.to_parquet(folder / f"{name}-00000-of-00001.parquet")

    def local(path, config=None, **arguments):
        folder = root / path / (config or "default")
        return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **arguments)

    monkeypatch.setattr(datasets, "load_dataset", local)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield upload
    server.shutdown()
    server.server_close()


def made(features=None, **columns):
    return datasets.Dataset.from_dict(columns, features and datasets.Features(features))


TEXT = datasets.Value("string")


def boolq(n=20, start=0):
    return made(
        question=[f"is {i} even" for i in range(start, start + n)],
        answer=[i % 2 == 0 for i in range(start, start + n)],
        passage=[f"Of  numbers,\n{i} is one." for i in range(start, start + n)],
    )


def test_a_catalogued_task_is_worded_as_the_local_folders_are(hub):
    hub("google/boolq", train=boolq(40), validation=boolq(10, 100))
    task = load_task("boolq")
    assert (task.origin, task.name, task.category) == ("hub", "boolq", "yes_no_qa")
    assert task.source == "Hub dataset google/boolq"
    row = next(row for row in task.test if row["input"].startswith("question: is 104 "))
    assert row == {
        "input": "question: is 104 even context: Of numbers, 104 is one.",
        "choices": ["no", "yes"],
        "label": 1,
    }
    assert task.fields == ("question", "context")
    assert task.sizes == {"train": 36, "dev": 4, "test": 10}
    assert "test is the Hub's validation split" in task.notes
    assert "no dev split: 4 rows were split off train for it" in task.notes


def test_unlabelled_rows_are_left_out_and_told(hub):
    features = {"premise": TEXT, "hypothesis": TEXT, "label": datasets.ClassLabel(names=["e", "n", "c"])}
    split = made(features, premise=list("abcd"), hypothesis=list("efgh"), label=[0, -1, 2, 1])
    hub("stanfordnlp/snli", train=split, validation=split, test=split)
    task = load_task("snli")
    assert task.train[:] == {
        "input": ["premise: a hypothesis: e", "premise: c hypothesis: g", "premise: d hypothesis: h"],
        "choices": [["entailment", "neutral", "contradiction"]] * 3,
        "label": [0, 2, 1],
    }
    assert "train: 1 rows without a label left out" in task.notes


@pytest.mark.parametrize("as_structs", [False, True])
def test_choices_in_a_struct_with_letters(hub, as_structs):
    columns = {"question": ["q1", "q2"], "answerKey": ["C", "2"]}
    texts, letters = [["x", "y", "z"], ["u", "v"]], [["A", "B", "C"], ["1", "2"]]
    if as_structs:
        columns["choices"] = [
            [{"text": t, "label": a} for t, a in zip(ts, ls, strict=True)]
            for ts, ls in zip(texts, letters, strict=True)
        ]
    else:
        columns["choices"] = [{"text": ts, "label": ls} for ts, ls in zip(texts, letters, strict=True)]
    split = made(**columns)
    hub("allenai/ai2_arc", "ARC-Easy", train=split, validation=split, test=split)
    task = load_task("arc_easy")
    assert task.kind == "multiple_choice"
    assert task.test[0] == {"input": "question: q1", "choices": ["x", "y", "z"], "label": 2}
    assert task.test[1] == {"input": "question: q2", "choices": ["u", "v"], "label": 1}


def test_rows_with_a_blank_choice_are_left_out_and_told(hub):
    options = [["a", "b", "c", "d"], ["a", "", "c", "d"], ["a", "b", "b", "d"]]
    split = made(article=list("xyz"), question=list("pqr"), options=options, answer=["D", "A", "D"])
    hub("ehovy/race", "high", train=split, validation=split, test=split)
    task = load_task("race_high")
    assert task.test["label"][:] == [3, 3]
    assert task.test["input"][1] == "question: r context: z"
    assert "test: 1 rows with a blank choice left out" in task.notes


def test_several_configurations_become_one_task(hub):
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["none", "against", "favor"])}
    for part in catalogue.find("tweet_stance").parts:
        split = made(features, text=[f"on {part.config}"] * 2, label=[1, 2])
        hub("cardiffnlp/tweet_eval", part.config, train=split, validation=split, test=split)
    task = load_task("tweet_stance")
    assert len(task.test) == 10
    assert task.test[0]["input"] == "target: legalization of abortion text: on stance_abortion"
    assert task.test[9]["input"] == "target: Hillary Clinton text: on stance_hillary"
    assert task.fields == ("target", "text")


def test_values_are_rewritten_as_the_local_folders_have_them(hub):
    copa = made(premise=["p", "p"], question=["cause", "effect"], choice1=["a", "b"], choice2=["c", "d"], label=[0, 1])
    hub("aps/super_glue", "copa", train=varied(copa), validation=copa)
    assert load_task("copa").test["input"][:] == [
        "premise: p question: what was the cause?",
        "premise: p question: what happened as a result?",
    ]
    liar = made(statement=["s"], speaker=["barack-obama"], subject=["job-creation,taxes"], label=[4])
    hub("ucsbnlp/liar", train=liar, validation=liar, test=liar)
    task = load_task("liar")
    assert task.test["input"][0] == "claim: s speaker: barack obama subject: job-creation, taxes"
    assert task.labels[task.test["label"][0]] == "barely true"


def varied(split, times=6):
    """Enough different rows to split a dev set off."""
    rows = [row | {"premise": f"{row['premise']} {i}"} for i in range(times) for row in split]
    return datasets.Dataset.from_list(rows)


def test_ratings_become_labels_even_in_32_bit(hub):
    ratings = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    split = made({"content": TEXT, "rating": datasets.Value("float32")}, content=list("abcdef"), rating=ratings)
    hub("google-research-datasets/google_wellformed_query", train=split, validation=split, test=split)
    assert load_task("query_wellformedness").test["label"][:] == [0, 0, 0, 0, 1, 1]


def test_names_behind_labels_stand_for_them_whatever_their_order(hub):
    names = ["zzz", "oos", "freeze_account", "translate"]
    features = {"text": TEXT, "intent": datasets.ClassLabel(names=names)}
    split = made(features, text=["a", "b", "c"], intent=[2, 3, 1])
    hub("clinc/clinc_oos", "small", train=split, validation=split, test=split)
    task = load_task("clinc_domains")
    assert [task.labels[i] for i in task.test["label"]] == ["banking", "travel"]


def test_long_inputs_are_cut_at_the_longest_field_after_a_word(hub):
    long = made(
        question=["is it so"] * 20, answer=[True, False] * 10, passage=[f"{i} " + "word " * 1000 for i in range(20)]
    )
    hub("google/boolq", train=long, validation=long)
    text = load_task("boolq").test["input"][0]
    assert 1990 < len(text) <= 2000
    assert text.startswith("question: is it so context: 0 word")
    assert text.endswith(" word")


def test_a_dataset_outside_the_catalogue_has_its_columns_guessed(hub):
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["ham", "spam"])}
    split = made(features, text=[f"t{i}" for i in range(20)], label=[0, 1] * 10)
    hub("someone/mail", train=split, test=split)
    task = load_task("someone/mail", source="hub")
    assert (task.name, task.origin, task.labels) == ("mail", "hub", ["ham", "spam"])
    assert task.test["input"][0] == "text: t0"
    task = load_task("someone/mail", source="hub", template="mail: {text}", choices=["good", "bad"])
    assert task.test[1] == {"input": "mail: t1", "choices": ["good", "bad"], "label": 1}


def test_scripts_are_replaced_by_the_hubs_own_conversion(hub, tmp_path, monkeypatch):
    features = {"text": TEXT, "coarse_label": datasets.ClassLabel(names=["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"])}
    split = made(features, text=[f"t{i}" for i in range(20)], coarse_label=[i % 6 for i in range(20)])
    for name in ("train", "test"):
        (tmp_path / "converted" / "default" / name).mkdir(parents=True)
        split.to_parquet(tmp_path / "converted" / "default" / name / "0000.parquet")

    def script(path, config=None, *, revision=None, data_files=None):
        if revision is None:
            raise RuntimeError(f"Dataset scripts are no longer supported, but found {path}.py")
        assert revision == "refs/convert/parquet"
        return load_dataset(str(tmp_path / "converted"), data_files=data_files, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", script)
    task = load_task("trec")
    assert task.test["input"][0] == "question: t0"
    assert task.labels[task.test["label"][3]] == "person"


def test_a_split_or_column_that_the_hub_renamed_is_a_clear_error(hub):
    hub("google/boolq", train=boolq())
    with pytest.raises(DataError, match="google/boolq has no split 'validation'"):
        load_task("boolq", source="hub")
    renamed = boolq().rename_column("passage", "text")
    hub("google/boolq", train=renamed, validation=renamed)
    with pytest.raises(DataError, match="has no column 'passage'"):
        load_task("boolq", source="hub")


def configured(folder, monkeypatch, names):
    """A dataset at `folder` that has configurations, which its card names."""
    lines = ["---", "configs:"]
    for name in names:
        (folder / name).mkdir(parents=True)
        made(text=[f"{name} {i}" for i in range(20)], label=["a", "b"] * 10).to_parquet(folder / name / "train.parquet")
        lines += [f"- config_name: {name}", f"  data_files: {name}/train.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))

    def local(path, config=None, **arguments):
        return load_dataset(str(folder), config, cache_dir=str(folder.parent / "cache"), **arguments)

    monkeypatch.setattr(datasets, "load_dataset", local)


@pytest.mark.parametrize(
    ("asked", "message"),
    [("some/glue", "some/glue has 2 configurations"), ("some/glue:sst", "some/glue has no configuration 'sst'")],
)
def test_a_configuration_that_is_missing_or_wrong_lists_those_there_are(asked, message, hub, tmp_path, monkeypatch):
    configured(tmp_path / "glue", monkeypatch, ["cola", "sst2"])
    with pytest.raises(DataError, match=message) as caught:
        load_task(asked, source="hub")
    assert caught.value.found == "cola, sst2"
    assert caught.value.hint == "say which: --source hub --target some/glue:cola"
    assert load_task("some/glue:sst2", source="hub").train[0]["input"].startswith("text: sst2")


def test_a_dataset_outside_the_catalogue_that_is_not_handed_out_says_so(hub):
    with pytest.raises(DataError, match="the Hub's dataset some/thing is out of reach") as caught:
        load_task("some/thing", source="hub")
    assert "cannot load some/thing" in caught.value.found
    assert caught.value.hint == "download its files and give a path"


def test_labels_that_are_hidden_in_a_dataset_outside_the_catalogue(hub):
    features = {"text": TEXT, "label": datasets.ClassLabel(names=["ham", "spam"])}
    split = made(features, text=[f"t{i}" for i in range(40)], label=[0, 1] * 20)
    hidden = made(features, text=[f"u{i}" for i in range(9)], label=[-1] * 9)
    hub("someone/mail", train=split, validation=split, test=hidden)
    task = load_task("someone/mail", source="hub")
    assert task.sizes == {"train": 36, "dev": 40, "test": 4}
    assert "test: no row has a label, so it counts as missing" in task.notes


def test_what_the_hub_does_not_hand_out_falls_back_to_the_sample(hub):
    task = load_task("boolq")
    assert task.origin == "sample"
    assert "cannot load google/boolq" in task.notes[0]


def test_offline_mode_still_finds_the_local_cache(tmp_path, monkeypatch):
    source, cache = tmp_path / "boolq", tmp_path / "cache"
    source.mkdir()
    boolq(40).to_parquet(source / "train.parquet")
    boolq(10, 100).to_parquet(source / "validation.parquet")
    load_dataset(str(source), cache_dir=str(cache))
    shutil.move(cache / "boolq", cache / "google___boolq")  # as a download from google/boolq is stored
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    task = load_task("boolq")
    assert (task.origin, len(task.test)) == ("hub", 10)
    assert "local cache" in task.notes[0]
    assert json.dumps(task.notes)


def test_known_tasks_of_refused_kinds_are_refused_by_name():
    for name, kind in catalogue.refused().items():
        with pytest.raises(DataError, match=f"'{name}' is a {kind} task"):
            load_task(name)


def test_the_hub_alone_does_not_know_a_made_up_name():
    with pytest.raises(UnknownNameError, match="no task named 'bolq'") as caught:
        load_task("bolq", source="hub")
    assert caught.value.found == "tried the Hub (not in the catalogue)"
    assert "did you mean boolq" in caught.value.hint
