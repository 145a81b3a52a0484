"""What the starter zoo is held to: small, whole, useful, free to use, and readable by PEFT."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from transfer.building.licences import forbids_commercial_use
from transfer.deltas.delta import Delta
from zoo import Module, Zoo
from zoo.signature import MODULE_FIELDS, TASK_FIELDS

MOST_TASKS, MOST_BYTES, LEAST_LORA = 40, 25 << 20, 25
CRITERION = 1.65  # paired standard errors by which a module beats each baseline on dev
_PATH = re.compile(r"""(?:^|[\s"'(=,])(?:/|~/|[A-Za-z]:[\\/])\w""")


@pytest.fixture(scope="module")
def starter() -> Zoo:
    return Zoo.starter()


@pytest.fixture(scope="module")
def modules(starter) -> list[Module]:
    return list(starter)


def texts(value: object) -> list[str]:
    """Every text in a JSON value, names included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_nothing_is_damaged(starter):
    assert starter.verify() == []
    assert starter.unreadable() == {}


def test_it_is_small(starter, modules):
    assert len({module.card.task for module in modules}) <= MOST_TASKS
    files = [path for path in starter.path.rglob("*") if path.is_file() and ".build" not in path.parts]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_there_is_enough_to_choose_from(modules):
    tasks = {module.card.task for module in modules if module.card.method == "lora"}
    assert len(tasks) >= LEAST_LORA
    assert {module.card.method for module in modules} <= {"lora", "adapter", "prefix"}


def test_a_task_has_one_module_of_a_method(modules):
    count = Counter((module.card.task, module.card.method) for module in modules)
    assert set(count.values()) == {1}


def test_no_licence_forbids_commercial_use(modules):
    forbidden = {module.id: module.card.license for module in modules if forbids_commercial_use(module.card.license)}
    assert forbidden == {}
    assert all(module.card.license for module in modules)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_card_tells_what_was_reached_and_by_what_it_is_measured(split, modules):
    for module in modules:
        metrics = module.card.metrics
        for found in (metrics[split], metrics["untrained"][split], metrics["majority"][split]):
            assert 0 <= found["accuracy"] <= 1, module.id


def test_every_module_clearly_beats_both_baselines(modules):
    for module in modules:
        metrics = module.card.metrics
        for baseline in ("untrained", "majority"):
            assert metrics["z"][baseline] > CRITERION, f"{module.id}, {baseline}"
            assert metrics["dev"]["accuracy"] > metrics[baseline]["dev"]["accuracy"], f"{module.id}, {baseline}"


def test_all_modules_of_a_method_have_one_start(starter, modules):
    named = {method: {m.card.start for m in modules if m.card.method == method} for method in methods(modules)}
    assert {method: len(names) for method, names in named.items()} == dict.fromkeys(named, 1)
    assert {path.stem for path in (starter.path / "starts").iterdir()} == set().union(*named.values())
    for method in named:
        first = next(module for module in modules if module.card.method == method)
        shapes = {name: tensor.shape for name, tensor in first.tensors().items()}
        assert {name: tensor.shape for name, tensor in first.start().items()} == shapes


def methods(modules: list[Module]) -> list[str]:
    return sorted({module.card.method for module in modules})


def test_all_modules_of_a_method_have_the_same_settings(modules):
    for method in methods(modules):
        settings = [module.card.settings for module in modules if module.card.method == method]
        assert all(other == settings[0] for other in settings)


def test_every_module_has_its_whole_signature(modules):
    for module in modules:
        assert module.signature.holds == (*TASK_FIELDS, *MODULE_FIELDS), module.id


def test_no_file_tells_of_the_machine_it_was_built_on(starter):
    files = [path for path in sorted(starter.path.rglob("*.json")) if ".build" not in path.parts]
    assert len(files) > LEAST_LORA
    for path in files:
        told = [text for text in texts(json.loads(path.read_text(encoding="utf-8"))) if _PATH.search(text)]
        assert told == [], path


def test_a_path_would_be_noticed():
    for text in ("/home/ann/tasks", "read from /srv/x", "C:\\data", "~/tasks", "data=/tmp/a"):
        assert _PATH.search(text), text
    for text in ("github a/b data/c.txt", "https://example.org/a", "CC BY 4.0 / MIT", "yes/no", "and/or"):
        assert not _PATH.search(text), text


def test_the_modules_are_for_the_embedded_backbone(modules, embedded):
    assert {module.card.fingerprint for module in modules} == {embedded.fingerprint}
    assert {module.card.max_length for module in modules} == {embedded.max_length}


@torch.no_grad()
def test_peft_loads_a_lora_with_equal_outputs(modules, embedded):
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    from transfer.backbones.loading import embedded_folder

    module = next(module for module in modules if module.card.method == "lora")
    batch = embedded.tokenizer(["text: a warm and funny film", "no"], padding=True, return_tensors="pt")
    real = batch["attention_mask"].bool()
    bare = embedded.model(**batch).last_hidden_state[real]
    with embedded.use(Delta.from_module(module)):
        ours = embedded.model(**batch).last_hidden_state[real]
    assert isinstance(module.folder, Path)
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(embedded_folder()), str(module.folder)).eval()
    torch.testing.assert_close(model(**batch).last_hidden_state[real], ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, bare, atol=1e-2)
