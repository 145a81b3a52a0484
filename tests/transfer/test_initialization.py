"""Saving, loading and attaching; the folders in real peft."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import small
import tiny
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    GPT2ForSequenceClassification,
    LlamaForSequenceClassification,
    T5ForSequenceClassification,
)

from transfer import Initialization, initialize
from transfer.errors import ConfigError
from transfer.initialization import base_model_prefix
from zoo import FingerprintError, FormatError, PathError

peft = pytest.importorskip("peft")


@pytest.fixture
def initialized(small_zoo):
    """Makes (backbone, initialization)."""

    def make(arch: str = "bert", method: str = "lora", guard: bool = False):
        backbone, zoo = small_zoo(arch, method)
        made = initialize(
            small.toy_target(), zoo, backbone, method, guard=guard, guard_steps=1, batch_size=8, temperature=1.0
        )
        return backbone, made

    return make


def inputs(backbone, rows=4):
    texts = [row["input"] for row in tiny.sentiment_rows(rows, 9)]
    return backbone.tokenizer(texts, return_tensors="pt", padding=True)


def hidden(model, batch):
    out = model(**batch)
    states = out.last_hidden_state if "last_hidden_state" in out else out.logits
    return states[batch["attention_mask"].bool()]


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_what_is_loaded_is_what_was_saved(method, initialized, tmp_path):
    _, made = initialized(method=method, guard=method == "lora")
    folder = made.save(tmp_path / "there")
    loaded = Initialization.load(folder)
    assert loaded.delta.tensors.keys() == made.delta.tensors.keys()
    assert all(torch.equal(loaded.delta.tensors[name], value) for name, value in made.delta.tensors.items())
    assert loaded.delta.settings == made.delta.settings
    assert loaded.recipe == made.recipe
    assert loaded.verdict == made.verdict
    assert loaded.name == made.name


@pytest.mark.parametrize("method", ["lora", "adapter", "prefix"])
def test_a_loaded_one_gives_the_same_outputs(method, initialized, tmp_path):
    backbone, made = initialized(method=method)
    rows = small.toy_target().test
    with backbone.use(made.delta):
        expected = backbone.choice_logits(rows)
    loaded = Initialization.load(made.save(tmp_path / "there"))
    loaded.attach(backbone)
    try:
        assert torch.equal(backbone.choice_logits(rows), expected)
    finally:
        backbone.detach()


@pytest.mark.parametrize("arch", ["bert", "roberta", "gpt2", "llama"])
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_peft_loads_the_folder_with_equal_outputs(arch, method, initialized, tmp_path):
    backbone, made = initialized(arch, method)
    folder = made.save(tmp_path / "there")
    batch = inputs(backbone)
    with torch.no_grad():
        bare = hidden(backbone.model, batch)
        with backbone.use(made.delta):
            ours = hidden(backbone.model, batch)
        theirs = hidden(peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(folder)).eval(), batch)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours, bare, atol=1e-4)


def test_training_goes_on_in_peft_from_a_lora(initialized, tmp_path):
    backbone, made = initialized()
    folder = made.save(tmp_path / "there")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(folder), is_trainable=True)
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert len(trainable) == len(made.delta.tensors)
    before = {name: value.detach().clone() for name, value in trainable.items()}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    batch, losses = inputs(backbone), []
    for _ in range(5):
        loss = hidden(model, batch)[:, 0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in trainable.values())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[name], value) for name, value in trainable.items())


def test_training_goes_on_in_peft_from_a_prefix_without_is_trainable(initialized, tmp_path):
    backbone, made = initialized(method="prefix")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), str(made.save(tmp_path / "there")))
    prompt = next(value for name, value in model.named_parameters() if "prompt_encoder" in name)
    prompt.requires_grad_(True)  # PEFT refuses is_trainable=True for a prefix
    optimizer = torch.optim.AdamW([prompt], lr=1e-2)
    batch, losses = inputs(backbone), []
    for _ in range(5):
        loss = hidden(model, batch)[:, 0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert float(prompt.grad.abs().sum()) > 0
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def sequence_classifier(backbone):
    config = copy.deepcopy(backbone.model.config)
    config.num_labels = 2
    model = BertForSequenceClassification(config).eval()
    model.bert.load_state_dict(backbone.model.state_dict(), strict=False)
    return model


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_for_a_task_class_peft_loads_the_delta_and_training_goes_on(method, initialized, tmp_path):
    backbone, made = initialized(method=method)
    folder = made.save(tmp_path / "there", for_model="sequence-classification")
    plain = sequence_classifier(backbone)
    batch = inputs(backbone)
    with torch.no_grad():
        bare = plain(**batch).logits
        with backbone.use(made.delta):
            states = backbone.model(**batch).last_hidden_state
        expected = plain.classifier(plain.bert.pooler(states))
    trainable = {"is_trainable": True} if method == "lora" else {}
    model = peft.PeftModel.from_pretrained(plain, str(folder), **trainable).eval()
    with torch.no_grad():
        found = model(**batch).logits
    assert not torch.allclose(found, bare, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    model.base_model.classifier.requires_grad_(True)
    model(**batch, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    parts = {"lora": ("lora_A", "lora_B", "classifier"), "prefix": ("prompt_encoder", "classifier")}[method]
    for part in parts:
        grads = [value.grad for name, value in model.named_parameters() if part in name]
        assert grads
        assert all(float(grad.abs().sum()) > 0 for grad in grads)


@pytest.mark.parametrize("method", ["lora", "prefix"])
@pytest.mark.parametrize(
    ("arch", "kind"), [("gpt2", GPT2ForSequenceClassification), ("llama", LlamaForSequenceClassification)]
)
def test_a_task_class_of_a_language_model_takes_it_too(arch, kind, method, initialized, tmp_path):
    backbone, made = initialized(arch, method)
    folder = made.save(tmp_path / "there", for_model="sequence-classification")
    config, batch = copy.deepcopy(backbone.model.config), inputs(backbone)
    config.pad_token_id = backbone.tokenizer.pad_token_id
    plain = kind(config).eval()
    plain.base_model.load_state_dict(backbone.model.base_model.state_dict())
    with torch.no_grad(), backbone.use(made.delta):
        expected = backbone.model.base_model(**batch).last_hidden_state
    model = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    with torch.no_grad():
        found = model(**batch, output_hidden_states=True).hidden_states[-1]
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


def test_a_task_class_of_an_encoder_decoder_takes_it_too(initialized, tmp_path):
    backbone, made = initialized("t5")
    folder = made.save(tmp_path / "there", for_model="sequence-classification")
    plain = T5ForSequenceClassification(backbone.model.config).eval()
    model = peft.PeftModel.from_pretrained(plain, str(folder))
    loaded = {name for name, value in model.named_parameters() if "lora_B" in name and value.any()}
    assert len(loaded) == sum("lora_B" in name for name in made.delta.tensors)


def test_without_for_model_peft_leaves_a_task_class_as_it_is(initialized, tmp_path):
    """Why `for_model` is there: all that is said is a warning."""
    backbone, made = initialized()
    plain, batch = sequence_classifier(backbone), inputs(backbone)
    folder = str(made.save(tmp_path / "there"))
    with torch.no_grad():
        bare = plain(**batch).logits
        with pytest.warns(UserWarning, match="missing adapter keys"):
            model = peft.PeftModel.from_pretrained(plain, folder).eval()
        assert torch.equal(model(**batch).logits, bare)


def test_a_folder_for_a_task_class_is_read_by_load(initialized, tmp_path):
    _, made = initialized()
    loaded = Initialization.load(made.save(tmp_path / "there", for_model="sequence-classification"))
    assert loaded.recipe == made.recipe
    assert all(torch.equal(loaded.delta.tensors[name], value) for name, value in made.delta.tensors.items())


@pytest.mark.parametrize(
    ("arch", "front"), [("bert", "bert."), ("roberta", "roberta."), ("gpt2", ""), ("llama", ""), ("t5", "transformer.")]
)
def test_the_front_of_a_task_class(arch, front, tiny_model):
    model = tiny_model(arch)
    assert base_model_prefix(model) == front
    place = next(name for name, module in model.named_modules() if name.endswith("0") and "." in name)
    config = copy.deepcopy(model.config)
    config.pad_token_id = 1
    task_class = AutoModelForSequenceClassification.from_config(config)
    assert f"{front}{place}" in dict(task_class.named_modules())


def test_for_a_task_class_peft_must_hold_the_delta(initialized, tmp_path):
    _, adapter = initialized(method="adapter")
    with pytest.raises(FormatError, match="PEFT does not hold it"):
        adapter.save(tmp_path / "there", for_model="sequence-classification")
    with pytest.raises(ConfigError, match="no kind of model named 'chat'"):
        adapter.save(tmp_path / "there", for_model="chat")
    assert not any(tmp_path.iterdir())


def test_a_foreign_backbone_is_refused_unless_forced(initialized, tiny_backbone):
    backbone, made = initialized()
    other = tiny_backbone("bert", seed=1)
    with pytest.raises(FingerprintError, match="made for"):
        made.attach(other)
    made.attach(other, force=True)
    assert other.delta is not None
    assert backbone.delta is None


def test_an_initialization_takes_the_place_of_an_older_one(initialized, tmp_path):
    _, lora = initialized()
    _, adapter = initialized(method="adapter")
    folder = lora.save(tmp_path / "there")
    adapter.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["delta.safetensors", "delta_config.json", "recipe.json"]
    assert Initialization.load(folder).recipe["method"] == "adapter"
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("what", ["a file", "other files", "an initialization and notes", "a link"])
def test_nothing_else_is_replaced(what, initialized, tmp_path):
    _, made = initialized()
    folder = tmp_path / "there"
    if what == "a file":
        folder.write_text("mine")
    elif what == "a link":
        folder.symlink_to(made.save(tmp_path / "elsewhere"))
    else:
        if what == "an initialization and notes":
            made.save(folder)
        folder.mkdir(exist_ok=True)
        (folder / "notes.txt").write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(PathError, match="holds something else"):
        made.save(folder)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_error_while_writing_leaves_the_older_one(initialized, tmp_path, monkeypatch):
    _, made = initialized()
    folder = made.save(tmp_path / "there")
    broken = dataclasses.replace(made, recipe={**made.recipe, "notes": float("nan")})
    with pytest.raises(ValueError):
        broken.save(folder)
    assert Initialization.load(folder).recipe == made.recipe
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
