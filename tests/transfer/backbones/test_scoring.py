"""What every backbone promises of its scores, and the hand formula of each kind."""

from __future__ import annotations

import copy
import pickle

import pytest
import tiny
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from transfer.backbones.causal import ANSWER_MARK
from transfer.backbones.encoding import Encoded
from transfer.deltas import Delta, LoRA, Prefix, SoftPrompt
from transfer.errors import BackboneError, ConfigError, DataError

every = pytest.mark.parametrize("backbone", tiny.ARCHITECTURES, indirect=True)
encoders = pytest.mark.parametrize("backbone", tiny.ENCODERS, indirect=True)
seq2seq = pytest.mark.parametrize("backbone", tiny.SEQ2SEQ, indirect=True)
causal = pytest.mark.parametrize("backbone", tiny.CAUSAL, indirect=True)
generative = pytest.mark.parametrize("backbone", [*tiny.SEQ2SEQ, *tiny.CAUSAL], indirect=True)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


@every
def test_scores_are_those_of_each_row_alone(backbone, mixed_rows):
    logits, losses = backbone.outputs(mixed_rows)
    for number, row in enumerate(mixed_rows):
        alone, loss = backbone.outputs([row])
        torch.testing.assert_close(logits[number, : alone.shape[1]], alone[0], **CLOSE)
        torch.testing.assert_close(losses[number], loss[0], equal_nan=True, **CLOSE)


@every
def test_scores_do_not_depend_on_batch_size_or_order(backbone, mixed_rows):
    logits, losses = backbone.outputs(mixed_rows)
    order = [4, 0, 6, 2, 5, 1, 3]
    usual = backbone.batch_size
    try:
        for size in (1, 3):
            backbone.batch_size = size
            mixed, mixed_losses = backbone.outputs([mixed_rows[i] for i in order])
            torch.testing.assert_close(mixed, logits[order], **CLOSE)
            torch.testing.assert_close(mixed_losses, losses[order], equal_nan=True, **CLOSE)
    finally:
        backbone.batch_size = usual


@every
def test_absent_choices_are_minus_infinity(backbone, mixed_rows):
    logits = backbone.choice_logits(mixed_rows)
    assert logits.shape == (7, 4)
    for row, scores in zip(mixed_rows, logits, strict=True):
        assert torch.isfinite(scores[: len(row["choices"])]).all()
        assert (scores[len(row["choices"]) :] == -torch.inf).all()


@every
def test_a_row_without_label_has_no_loss(backbone, mixed_rows):
    losses = backbone.loss(mixed_rows)
    assert losses.isnan().tolist() == [False] * 6 + [True]
    assert backbone.loss([{**mixed_rows[0], "label": None}]).isnan().all()


@every
def test_encoded_examples_score_as_the_examples_do(backbone, mixed_rows):
    encoded = backbone.encode(mixed_rows)
    assert torch.equal(backbone.choice_logits(encoded), backbone.choice_logits(mixed_rows))


@every
def test_scores_can_be_used_with_gradients(backbone, mixed_rows):
    weight = torch.ones((), requires_grad=True)
    (backbone.loss(mixed_rows[:2]).sum() * weight + backbone.embed(["a"]).sum() * weight).backward()
    assert weight.grad is not None


@every
def test_forward_is_the_training_loss(backbone, mixed_rows):
    rows = backbone.encode(mixed_rows[:6])
    expected = backbone.loss(rows)
    for train in (False, True):
        out = backbone(**backbone.collate(rows, train=train))
        torch.testing.assert_close(out["losses"], expected, **CLOSE)
        torch.testing.assert_close(out["loss"], expected.mean(), **CLOSE)


@every
def test_forward_without_labels_gives_logits_only(backbone, mixed_rows):
    batch = backbone.collate(backbone.encode(mixed_rows[:2]))
    batch["labels"] = None
    assert set(backbone(**batch)) == {"logits"}


@every
def test_the_loss_has_gradients_for_the_delta_alone(backbone, mixed_rows):
    with backbone.use(LoRA(rank=2)) as attached:
        backbone(**backbone.collate(backbone.encode(mixed_rows[:3]), train=True))["loss"].backward()
        grads = {name: tensor.grad for name, tensor in attached.named_tensors()}
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
        own = {id(tensor) for _, tensor in attached.named_tensors()}
        assert all(parameter.grad is None for parameter in backbone.parameters() if id(parameter) not in own)


@encoders
def test_encoder_loss_is_the_cross_entropy_of_cosines(backbone, mixed_rows):
    def mean(text):
        states = backbone.model(**backbone.tokenizer(text, return_tensors="pt")).last_hidden_state
        return states[0].mean(dim=0)

    for row in mixed_rows[:6]:
        cosines = torch.stack([cosine_similarity(mean(row["input"]), mean(c), dim=0) for c in row["choices"]])
        expected = cross_entropy(cosines / 0.05, torch.tensor(row["label"]))
        torch.testing.assert_close(backbone.loss([row])[0], expected, atol=2e-4, rtol=1e-3)


@seq2seq
def test_seq2seq_loss_is_that_of_transformers(backbone, mixed_rows):
    for row in mixed_rows[:6]:
        for number, choice in enumerate(row["choices"]):
            labels = backbone.tokenizer(choice, add_special_tokens=False)["input_ids"] + [
                backbone.tokenizer.eos_token_id
            ]
            ids = backbone.encode([row])[0].input
            assert row["input"] == "" or ids == backbone.tokenizer(row["input"])["input_ids"]
            expected = backbone.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
            torch.testing.assert_close(backbone.choice_logits([row])[0, number], -expected, **CLOSE)
        torch.testing.assert_close(backbone.loss([row])[0], -backbone.choice_logits([row])[0, row["label"]])


@causal
def test_causal_loss_is_that_of_transformers(backbone, mixed_rows):
    for row in mixed_rows[:6]:
        prompt = backbone.tokenizer(row["input"] + ANSWER_MARK, add_special_tokens=False)["input_ids"]
        if not row["input"]:
            prompt = [backbone.tokenizer.eos_token_id, *prompt]
        for number, choice in enumerate(row["choices"]):
            answer = backbone.tokenizer(f" {choice}")["input_ids"] + [backbone.tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(prompt) + answer])
            expected = backbone.model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
            torch.testing.assert_close(backbone.choice_logits([row])[0, number], -expected, **CLOSE)
        torch.testing.assert_close(backbone.loss([row])[0], -backbone.choice_logits([row])[0, row["label"]])


@causal
def test_a_prompt_and_its_longest_choice_fit_whatever_else_is_encoded(backbone, mixed_rows):
    long = [
        {"input": "warm " * 80, "choices": ["no", "yes"], "label": 0},
        {"input": "warm " * 80, "choices": ["no", "funny " * 60], "label": 1},
    ]
    together = backbone.encode(long)
    assert [row.length for row in together] == [backbone.max_length] * 2
    assert together == [backbone.encode([row])[0] for row in long]


@causal
def test_no_logits_are_made_for_the_prompt(backbone):
    rows = backbone.encode([{"input": "warm " * 30, "choices": ["no", "yes"], "label": 0}])
    made = []
    handle = backbone.model.lm_head.register_forward_hook(lambda module, args, output: made.append(output.shape[1]))
    backbone.loss(rows)
    handle.remove()
    assert made == [max(len(choice) for choice in rows[0].choices) + 1]


@generative
def test_a_forward_pass_has_batch_size_choices_at_most(backbone):
    rows = backbone.encode([{"input": "a", "choices": list("abcdefgh"), "label": 0}] * 9)
    made = []
    handle = backbone.model.lm_head.register_forward_hook(lambda module, args, output: made.append(output.shape[0]))
    backbone.loss(rows)
    handle.remove()
    assert made == [32, 32, 8]


@causal
def test_no_room_for_the_input_is_a_config_error(backbone):
    usual = backbone.max_length
    backbone.max_length = 8
    try:
        with pytest.raises(ConfigError, match="leaves no token for the input"):
            backbone.encode([{"input": "a", "choices": ["contradiction"], "label": 0}])
    finally:
        backbone.max_length = usual


@generative
def test_a_generation_example_has_its_output_as_the_only_choice(backbone):
    row = {"input": "text: a warm film", "output": "funny"}
    as_choice = {"input": "text: a warm film", "choices": ["funny"], "label": 0}
    assert backbone.encode([row]) == backbone.encode([as_choice])
    assert torch.isfinite(backbone.loss([row])).all()


@every
def test_examples_without_choices_cannot_be_scored(backbone):
    with pytest.raises(DataError):
        backbone.choice_logits([{"input": "text: a warm film"}])
    with pytest.raises(DataError):
        backbone.choice_logits([Encoded([5, 6], [[7]], 0), Encoded([5, 6])])


@every
def test_a_label_that_is_none_of_the_choices_cannot_be_scored(backbone, mixed_rows):
    odd = {"input": "x", "choices": ["no", "yes"], "label": 2}
    for rows in ([odd], [*mixed_rows, odd]):
        with pytest.raises(DataError, match="the label 2, but 2 choices"):
            backbone.loss(rows)


@every
def test_no_examples_give_no_scores(backbone):
    logits, losses = backbone.outputs([])
    assert logits.shape == (0, 0)
    assert losses.shape == (0,)
    assert backbone.embed([]).shape == (0, backbone.width)


@every
def test_embed_is_the_mean_of_the_states_at_unit_length(backbone):
    texts = ["text: a warm film", "x", "the plot is thin and the jokes are tired"]
    embedded = backbone.embed(texts)
    assert embedded.shape == (3, backbone.width)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    for text, found in zip(texts, embedded, strict=True):
        ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
        if backbone.kind == "seq2seq":
            states = backbone.model.get_encoder()(input_ids=ids).last_hidden_state
        elif backbone.kind == "causal":
            states = backbone.model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        else:
            states = backbone.model(input_ids=ids).last_hidden_state
        mean = states[0].mean(dim=0)
        torch.testing.assert_close(found, mean / mean.norm(), **CLOSE)


@every
def test_embed_does_not_depend_on_what_else_is_embedded(backbone):
    texts = ["text: a warm film", "", "the plot is thin and the jokes are tired"]
    embedded = backbone.embed(texts)
    assert torch.isfinite(embedded).all()
    for number, text in enumerate(texts):
        torch.testing.assert_close(backbone.embed([text])[0], embedded[number], **CLOSE)


@every
def test_bf16_is_close_to_fp32(backbone, mixed_rows):
    expected, losses = backbone.outputs(mixed_rows[:6])
    embedded = backbone.embed(["text: a warm film"])
    backbone.precision = "bf16"
    try:
        found, found_losses = backbone.outputs(mixed_rows[:6])
        assert not torch.equal(found, expected)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=0.35, rtol=0.02)
        torch.testing.assert_close(found_losses, losses, atol=0.35, rtol=0.02)
        torch.testing.assert_close(backbone.embed(["text: a warm film"]), embedded, atol=0.01, rtol=0.05)
    finally:
        backbone.precision = "fp32"


def continued_by_hand(backbone, text, most):
    """The likeliest token after what stands there, again and again."""
    causal = backbone.kind == "causal"
    ids = backbone.tokenizer(text + ANSWER_MARK if causal else text)["input_ids"]
    out = [] if causal else [backbone.model.config.decoder_start_token_id]
    first = len(out)
    while len(out) < first + most and out[first:][-1:] != [backbone.tokenizer.eos_token_id]:
        read = {"input_ids": [ids + out]} if causal else {"input_ids": [ids], "decoder_input_ids": [out]}
        with torch.inference_mode():
            logits = backbone.model(**{name: torch.tensor(value) for name, value in read.items()}).logits
        out.append(int(logits[0, -1].argmax()))
    return backbone.tokenizer.decode(out[first:], skip_special_tokens=True).strip()


@generative
def test_generate_is_greedy_whatever_the_model_is_set_to(backbone, monkeypatch):
    rows = [{"input": text} for text in ("text: a warm film", "x", "question: is the harbour open in winter")]
    wanted = [continued_by_hand(backbone, row["input"], 6) for row in rows]
    assert backbone.generate(rows, max_new_tokens=6) == wanted
    settings = backbone.model.generation_config
    monkeypatch.setattr(settings, "repetition_penalty", 9.0)
    monkeypatch.setattr(settings, "no_repeat_ngram_size", 1)
    monkeypatch.setattr(settings, "min_new_tokens", 6)
    monkeypatch.setattr(settings, "forced_bos_token_id", 0)  # as a published BART has
    assert backbone.generate(rows, max_new_tokens=6) == wanted
    assert backbone.model.generation_config is settings


@generative
def test_no_new_tokens_are_a_config_error(backbone):
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1"):
        backbone.generate([{"input": "a"}], max_new_tokens=0)


@generative
def test_generate_stays_within_the_positions(backbone):
    usual = backbone.max_length
    backbone.max_length = 160  # all that the tiny models have
    try:
        assert len(backbone.generate([{"input": "warm and funny " * 80}], max_new_tokens=200)) == 1
    finally:
        backbone.max_length = usual


@causal
def test_generate_leaves_room_for_the_positions_of_a_delta(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "max_length", 160)
    tensors = Prefix().draw(backbone.model)
    for method in (Prefix(), SoftPrompt()):
        with backbone.use(method):
            assert len(backbone.generate([{"input": "warm and funny " * 80}], max_new_tokens=64)) == 1
    with backbone.serve([Delta(Prefix(), tensors)]) as server:
        assert len(server.generate([{"input": "warm and funny " * 80}] * 2, [0, None], max_new_tokens=64)) == 2


@encoders
def test_an_encoder_cannot_generate(backbone):
    with pytest.raises(BackboneError, match=r"encoder and cannot generate") as caught:
        backbone.generate([{"input": "a"}])
    assert "--backbone" in caught.value.hint
    with pytest.raises(DataError, match="generated text"):
        backbone.encode([{"input": "a", "output": "b"}])


@every
def test_settings_outside_their_range_are_refused(backbone):
    for wrong in ({"max_length": 7}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            type(backbone)(backbone.model, backbone.tokenizer, name="x", fingerprint="0" * 64, **wrong)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
@pytest.mark.parametrize("arch", ["bert", "t5", "gpt2"])
def test_a_copy_scores_the_same_with_its_delta(arch, make, mixed_rows):
    backbone = tiny.tiny_backbone(arch)
    start = LoRA(rank=2).draw(backbone.model)
    attached = backbone.attach(LoRA(rank=2), {name: value + 0.1 for name, value in start.items()})
    twin = make(backbone)
    assert torch.equal(twin.choice_logits(mixed_rows), backbone.choice_logits(mixed_rows))
    assert twin.delta is not attached
    twin.detach()
    assert backbone.delta is attached
