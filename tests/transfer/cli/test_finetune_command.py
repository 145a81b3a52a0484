"""`transfer finetune` where something is there already, and `transfer compare`."""

from __future__ import annotations

import json

import pytest
from zoo_toys import card_of, module_of, tensors_of

from zoo import Module, Zoo
from zoo.writing import save_module

COLUMNS = ("--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")


@pytest.fixture
def finetune(transfer, backbone_folder, reviews_csv, tmp_path):
    """Runs a quick one on the reviews with more words."""
    common = ("--target", reviews_csv, *COLUMNS, "--backbone", backbone_folder("bert"), "--zoo", tmp_path / "zoo")
    quick = ("--max-length", 48, "--examples", 16, "--steps", 2, "--out", tmp_path / "tuned")
    return lambda *words: transfer("finetune", *common, *quick, *words)


def test_a_finished_result_is_replaced_only_when_asked(finetune, tmp_path):
    assert finetune().code == 0
    first = Module.load(tmp_path / "tuned").id
    again = finetune("--seed", 1)
    assert again.code == 1
    assert "already holds a finished result" in again.err
    assert "--overwrite" in again.err
    assert Module.load(tmp_path / "tuned").id == first
    replaced = finetune("--seed", 1, "--overwrite")
    assert replaced.code == 0, replaced.err
    assert Module.load(tmp_path / "tuned").id != first
    assert not list(tmp_path.glob(".tuned*")), "checkpoints and what was replaced are gone"


def test_overwrite_begins_an_unfinished_run_again(finetune, tmp_path):
    checkpoints = tmp_path / ".tuned-checkpoints"
    checkpoints.mkdir()
    (checkpoints / "run.json").write_text('{"another": "run"}')
    unfinished = finetune()
    assert unfinished.code == 1
    assert "holds another run" in unfinished.err
    assert finetune("--overwrite").code == 0


def test_overwrite_spares_what_is_no_result(finetune, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "thesis.txt").write_text("mine")
    for words in ((), ("--overwrite",)):
        ran = finetune(*words)
        assert ran.code == 1
        assert "thesis.txt" in ran.err
    assert (tmp_path / "tuned" / "thesis.txt").read_text() == "mine"


def test_overwrite_spares_a_module_with_something_beside_it(finetune, tmp_path):
    assert finetune().code == 0
    (tmp_path / "tuned" / "thesis.txt").write_text("mine")
    ran = finetune("--overwrite")
    assert ran.code == 1
    assert (tmp_path / "tuned" / "thesis.txt").read_text() == "mine"


def test_the_method_is_the_start_s_own(finetune, tmp_path):
    begin = save_module(module_of(method="adapter"), tmp_path / "begin")
    ran = finetune("--start", begin, "--method", "lora")
    assert ran.code == 1
    assert "--method lora with a start that is adapter" in ran.err
    assert "leave --method out" in ran.err
    foreign = finetune("--start", begin, "--method", "adapter")  # agrees, so the next thing is looked at
    assert foreign.code == 1
    assert "another backbone" in foreign.err


def test_an_unknown_method_or_start_is_named(finetune):
    unknown = finetune("--method", "lorra")
    assert unknown.code == 1
    assert "did you mean 'lora'" in unknown.err
    nowhere = finetune("--start", "no-such-folder")
    assert nowhere.code == 1
    assert "no folder and no module named 'no-such-folder'" in nowhere.err


def result(folder, accuracy, n=400, task="boolq", **provenance):
    """A folder as `transfer finetune` leaves it."""
    card = card_of(
        task, metrics={"test": {"loss": 0.5, "accuracy": accuracy}}, data={"sizes": {"test": n}}, provenance=provenance
    )
    return save_module(Module.new(card, tensors_of("lora", seed=round(accuracy * 1000))), folder)


def test_results_side_by_side(transfer, tmp_path):
    first = result(tmp_path / "from init", 0.75, started_from="initialization for boolq")
    second = result(tmp_path / "scratch", 0.5, started_from="scratch")
    rows = json.loads(transfer("compare", first, second, "--json").out)
    assert [row["accuracy"] for row in rows] == [0.75, 0.5]
    assert [row["from"] for row in rows] == ["initialization for boolq", "scratch"]
    assert rows[0]["n"] == 400
    # Wilson: (.75 + z^2 / 800 -+ z sqrt(.75 * .25 / 400 + z^2 / 640000)) / (1 + z^2 / 400)
    assert [round(edge, 3) for edge in rows[0]["interval_95"]] == [0.705, 0.790]
    shown = transfer("compare", first, second)
    assert shown.code == 0
    assert "0.750" in shown.out
    assert "0.705 to 0.790" in shown.out
    assert "note:" not in shown.out
    assert max(len(line) for line in shown.out.splitlines()) <= 80
    assert transfer("compare", first, second, "--quiet").out == f"{first}\t0.7500\n{second}\t0.5000\n"


def test_results_on_different_tasks_are_told_apart(transfer, tmp_path):
    folders = [result(tmp_path / name, 0.75, task=name) for name in ("boolq", "sentiment")]
    ran = transfer("compare", *folders)
    assert "note: results on 2 tasks" in ran.out
    rows = json.loads(transfer("compare", *folders, "--json").out)
    assert [row["task"] for row in rows] == ["boolq", "sentiment"]


def test_long_names_of_folders_stay_on_one_line(transfer, tmp_path):
    names = "sentiment-lora-scratch", "sentiment-lora-tuned", "boolq-lora-tuned"
    folders = [
        result(tmp_path / "demo" / name, 0.75, task=name.split("-")[0], started_from="sentiment-lora") for name in names
    ]
    lines = transfer("compare", *folders).out.splitlines()
    for name in names:
        (line,) = [line for line in lines if name in line]
        assert "0.705 to 0.790" in line
    assert max(map(len, lines)) <= 80
    assert "test examples: 400 of boolq, 400 of sentiment" in lines


def test_folders_of_one_name_are_shown_with_their_paths(transfer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a", "b"):
        result(tmp_path / place / "tuned", 0.75)
    out = transfer("compare", "a/tuned", "b/tuned").out
    assert "a/tuned" in out
    assert "b/tuned" in out


def test_a_tune_that_diverged_says_so(finetune):
    ran = finetune("--lr", 1e9, "--steps", 4, "--eval-every", 1)
    assert ran.code == 0, ran.err
    said = " ".join(ran.out.split())
    assert "training diverged after step" in said
    assert "a smaller --learning-rate" in said
    ran = finetune("--lr", 1e9, "--steps", 4, "--eval-every", 1, "--overwrite", "--json")
    assert None in [row["loss"] for row in json.loads(ran.out)["history"]]
    assert "NaN" not in ran.out


def test_what_finetune_wrote_can_be_compared(finetune, transfer, tmp_path):
    ran = finetune("--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(transfer("compare", tmp_path / "tuned", "--json").out)
    after = json.loads(ran.out)["after"]
    assert row["accuracy"] == after["metrics"]["accuracy"]
    assert row["n"] == after["n"]
    assert row["interval_95"] == after["interval_95"]
    assert row["task"] == after["task"]
    assert row["from"] == "scratch"


def test_what_cannot_be_compared_is_told(transfer, tmp_path):
    bare = save_module(module_of(), tmp_path / "bare")
    ran = transfer("compare", bare)
    assert ran.code == 1
    assert "holds no accuracy on test" in ran.err
    for number, odd in enumerate(({"data": {"sizes": None}}, {"metrics": {"test": {"accuracy": -1.0}}})):
        card = card_of("boolq", **{"metrics": {"test": {"accuracy": 0.5}}, "data": {"sizes": {"test": 9}}} | odd)
        stranger = save_module(Module.new(card, tensors_of("lora", seed=number)), tmp_path / f"odd-{number}")
        assert "holds no accuracy on test" in transfer("compare", stranger).err
    missing = transfer("compare", tmp_path / "nowhere")
    assert missing.code == 1
    assert "nowhere" in missing.err
    assert "Traceback" not in missing.err
    assert transfer("compare").code == 2


def test_where_a_result_was_added_is_said(finetune, tmp_path):
    ran = finetune("--add")
    assert ran.code == 0, ran.err
    assert "note: there is no zoo" not in ran.err  # it is made
    (added,) = Zoo(tmp_path / "zoo").ids()
    assert f"added to {tmp_path / 'zoo'} as {added}" in ran.out
    told = json.loads(finetune("--add", "--overwrite", "--json").out)
    assert told["added"] == {"id": added, "zoo": str(tmp_path / "zoo")}
    assert json.loads(finetune("--overwrite", "--json").out)["added"] is None


def test_predict_builds_inputs_as_they_were_trained(finetune, transfer, backbone_folder, tmp_path):
    """The guess would put a mark before the text, which training did not see here."""
    assert finetune().code == 0
    assert Module.load(tmp_path / "tuned").card.data["template"] == "{review}"
    path = tmp_path / "new.csv"
    path.write_text("review\na warm film\n")
    common = ("--file", path, "--delta", tmp_path / "tuned", "--backbone", backbone_folder("bert"), "--json")
    as_trained, told, guessed = (
        transfer("predict", *common, *more)
        for more in ((), ("--input-column", "review"), ("--template", "text: {review}"))
    )
    assert as_trained.code == 0, as_trained.err
    assert json.loads(as_trained.out) == json.loads(told.out)
    assert json.loads(guessed.out)[0]["probabilities"] != json.loads(told.out)[0]["probabilities"]


def test_answers_take_the_place_of_nothing_unasked(transfer, backbone_folder, tmp_path):
    path, out = tmp_path / "new.csv", tmp_path / "answers.jsonl"
    path.write_text("text\na warm film\n")
    common = ("predict", "--file", path, "--choices", "bad,good", "--backbone", backbone_folder("bert"))
    over = transfer(*common, "--out", path, "--overwrite")
    assert (over.code, path.read_text()) == (1, "text\na warm film\n")
    assert "is the file that is read" in over.err
    out.write_text("mine")
    there = transfer(*common, "--out", out)
    assert (there.code, out.read_text()) == (1, "mine")
    assert "--overwrite" in there.err
    device = transfer(*common, "--out", "/dev/null", "--overwrite")
    assert device.code == 1
    assert "/dev/null is no file" in device.err
    link = tmp_path / "link.jsonl"
    link.symlink_to(out)
    assert transfer(*common, "--out", link, "--overwrite").code == 0
    assert link.is_symlink()
    assert json.loads(out.read_text())["answer"] in ("bad", "good")


def test_a_wrong_setting_is_refused_before_anything_is_read(transfer, tmp_path):
    for words, said in (
        (("--steps", 0), "steps must be at least 1"),
        (("--lr", -1), "learning_rate must be"),
        (("--method", "loar"), "lora"),
    ):
        ran = transfer("finetune", "--target", tmp_path / "no such.csv", *words)
        assert ran.code == 1
        assert said in ran.err
        assert "no such.csv" not in ran.err
