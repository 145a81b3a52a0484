"""Every option comes to the function that does the work: the first call of it is looked at, and ends the command."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest

from zoo import Zoo

TARGET = ("--target", "sentiment", "--source", "sample", "--examples", 8)
SOMETHING = "something"  # whatever it is
OPTIONS = {"rank": None, "energy": None, "density": None, "scale": None}


class Arrived(Exception):
    """What a function was called with, by name."""

    def __init__(self, arguments):
        super().__init__()
        self.arguments = arguments


@pytest.fixture
def called(monkeypatch, transfer):
    """`called("init", words, "transfer.initializing.initialize")`: the arguments of that call, defaults filled in."""

    def call(function, *words):
        place, _, name = function.rpartition(".")
        module = __import__(place, fromlist=[name])
        signature = inspect.signature(getattr(module, name))

        def recorder(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            raise Arrived(bound.arguments)

        monkeypatch.setattr(module, name, recorder)
        with pytest.raises(Arrived) as arrived:
            transfer(*words)
        return arrived.value.arguments

    return call


@pytest.fixture
def no_backbone(monkeypatch):
    """Commands that stop before they use one need not load it."""
    monkeypatch.setattr("transfer.cli.options.read_backbone", lambda *_: SimpleNamespace(kind="encoder"))


def follow(arguments, path):
    """`settings.tune.steps` of the arguments."""
    first, *rest = path.split(".")
    value = arguments[first]
    for name in rest:
        value = getattr(value, name)
    return value


INIT = [
    (("--method", "adapter"), "method", "adapter"),
    (("--estimator", "embedding"), "estimator", "embedding"),
    (("--temperature", 0.1), "temperature", 0.1),
    (("--top-k", 3), "top_k", 3),
    (("--how", "uniform"), "how", "uniform"),
    (("--how", "learned", "--budget", 7), "budget", 7.0),
    (("--merge", "ties"), "merge", "ties"),
    (
        ("--merge", "ties", "--density", 0.5),
        "merge_options",
        {"rank": None, "energy": None, "density": 0.5, "scale": None},
    ),
    (("--per-block",), "per_block", True),
    (("--exclude", "mr,sst2"), "exclude", ["mr", "sst2"]),
    (("--include-own",), "include_own", True),
    (("--no-guard",), "guard", False),
    (("--guard-steps", 7), "guard_steps", 7),
    (("--batch-size", 4), "batch_size", 4),
    (("--seed", 3), "seed", 3),
    (("--force",), "force", True),
    (("--auto",), "auto", True),
    (("--explain",), "explain", True),
]


@pytest.mark.parametrize(("words", "name", "value"), INIT, ids=lambda value: str(value))
def test_of_init(words, name, value, called, no_backbone, tmp_path):
    found = called("transfer.initializing.initialize", "init", *TARGET, "--out", tmp_path / "out", *words)
    assert found[name] == value
    if words[0] != "--seed":
        assert found["seed"] == 0


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--method", "prefix"), "method", "prefix"),
        (("--estimator", "neighbours"), "estimator", "neighbours"),
        (("--exclude", "mr"), "exclude", ["mr"]),
        (("--include-own",), "include_own", True),
        (("--seed", 3), "seed", 3),
        (("--force",), "force", True),
    ],
    ids=lambda value: str(value),
)
def test_of_score(words, name, value, called, no_backbone):
    assert called("transfer.similarity.score", "score", *TARGET, *words)[name] == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--method", "adapter"), "method", "adapter"),
        (("--steps", 7), "steps", 7),
        (("--lr", 0.5), "learning_rate", 0.5),
        (("--batch-size", 4), "batch_size", 4),
        (("--seed", 3), "seed", 3),
        (("--eval-every", 2), "eval_every", 2),
        (("--patience", 9), "patience", 9),
        (("--patience", 0), "patience", None),
        (("--keep", "average"), "keep", "average"),
        (("--folds", 3), "folds", 3),
        (("--keep", "mixing", "--exclude", "mr"), "exclude", ["mr"]),
        (("--category", "films"), "target.category", "films"),
        (("--method", "sora", "--xi", 0.5), "method.xi", 0.5),
        (("--method", "sora", "--xi", 0.5, "--schedule", "linear"), "schedule.values", SOMETHING),
    ],
    ids=lambda value: str(value),
)
def test_of_finetune(words, name, value, called, no_backbone, tmp_path):
    found = called("transfer.finetuning.finetune", "finetune", *TARGET, "--out", tmp_path / "out", *words)
    if value is SOMETHING:
        assert found["schedule"] is not None
    else:
        assert follow(found, name) == value
    assert found["add_to"] is None


def test_of_finetune_that_adds(called, no_backbone, tmp_path):
    words = ("finetune", *TARGET, "--out", tmp_path / "out", "--add", "--zoo", tmp_path / "zoo")
    assert called("transfer.finetuning.finetune", *words)["add_to"].path == tmp_path / "zoo"


def test_of_evaluate(called, no_backbone):
    words = ("evaluate", "--target", "sentiment", "--source", "sample", "--split", "dev")
    assert called("transfer.evaluation.evaluate", *words)["split"] == "dev"


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--methods", "lora,adapter"), "settings.methods", ("lora", "adapter")),
        (("--only", "a,b"), "only", ["a", "b"]),
        (("--most-tasks", 3), "settings.most_tasks", 3),
        (("--any-licence",), "settings.commercial", False),
        (("--steps", 7), "settings.tune.steps", 7),
        (("--batch-size", 5), "settings.tune.batch_size", 5),
        (("--seed", 3), "settings.tune.seed", 3),
        (("--workers", 2), "workers", 2),
        (("--backbone", "bert"), "settings.backbone", "bert"),
        (("--kind", "causal"), "settings.kind", "causal"),
        (("--precision", "fp32"), "settings.precision", "fp32"),
        (("--max-length", 64), "settings.max_length", 64),
    ],
    ids=lambda value: str(value),
)
def test_of_build(words, name, value, called, tmp_path):
    found = called("transfer.building.build_zoo", "zoo", "build", "--tasks", tmp_path, "--out", tmp_path / "z", *words)
    assert follow(found, name) == value


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (("--task", "films"), "task", "films"),
        (("--category", "sentiment"), "category", "sentiment"),
        (("--license", "MIT"), "license", "MIT"),
        (("--allow-pickle",), "allow_pickle", True),
    ],
    ids=lambda value: str(value),
)
def test_of_add(words, name, value, called, no_backbone, tmp_path):
    common = ("zoo", "add", tmp_path / "lora", "--backbone", "bert", "--zoo", tmp_path / "zoo")
    assert called("transfer.importing.import_checkpoint", *common, *words)[name] == value


def test_of_add_with_a_signature(called, no_backbone, tmp_path):
    common = ("zoo", "add", tmp_path / "lora", "--backbone", "bert", "--zoo", tmp_path / "zoo")
    found = called("transfer.importing.import_checkpoint", *common, "--signature", "sentiment")
    assert found["data"].name == "sentiment"


@pytest.mark.parametrize("command", ["init", "score", "finetune", "evaluate"])
def test_of_the_backbone(command, called, tmp_path):
    words = (command, "--target", "sentiment", "--source", "sample", "--backbone", "bert", "--kind", "causal")
    found = called("transfer.backbones.load_backbone", *words, "--precision", "fp32", "--max-length", 64)
    assert (found["name"], found["kind"]) == ("bert", "causal")
    assert (found["precision"], found["max_length"]) == ("fp32", 64)


@pytest.mark.parametrize("command", ["init", "score", "finetune"])
def test_of_the_data(command, called, tmp_path):
    words = ("--input-column", "a,b", "--label-column", "c", "--choices", "no, yes", "--examples", 9, "--seed", 3)
    found = called("transfer.tasks.load_task", command, "--target", tmp_path / "r.csv", "--source", "path", *words)
    assert (found["input_column"], found["label_column"], found["choices"]) == ("a,b", "c", ["no", "yes"])
    assert (found["examples"], found["seed"], found["source"]) == (9, 3, "path")


def test_scores_are_printed_as_the_function_gives_them(transfer, backbone_folder, reviews_csv, tmp_path):
    import json

    import small

    from transfer import score
    from transfer.backbones import load_backbone
    from transfer.tasks import load_task

    folder = backbone_folder("bert")
    backbone = load_backbone(str(folder))
    zoo = small.make_zoo(backbone, "lora", tmp_path / "zoo")
    data = {"input_column": "review", "label_column": "verdict", "choices": ["bad", "good"]}
    words = ("--target", reviews_csv, "--input-column", "review", "--label-column", "verdict", "--choices", "bad,good")
    ran = transfer("score", *words, "--backbone", folder, "--zoo", zoo.path, "--top", 2, "--json", "--examples", 16)
    assert ran.code == 0, ran.err
    expected = score(load_task(reviews_csv, examples=16, **data), Zoo(tmp_path / "zoo"), backbone).top(2)
    found = json.loads(ran.out)
    assert found["estimator"] == "gradient:first-order"
    assert [row["id"] for row in found["scores"]] == [module_id for module_id, _ in expected]
    assert [row["score"] for row in found["scores"]] == pytest.approx([value for _, value in expected], rel=1e-5)
