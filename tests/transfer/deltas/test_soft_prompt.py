"""The soft prompt: by hand, in generation, and what it refuses."""

from __future__ import annotations

import functools

import pytest
import tiny
import torch
import transformers
from torch import nn

from transfer.deltas import LoRA, SoftPrompt
from transfer.errors import ConfigError, DeltaError

P = 4  # vectors in the tests


def attach(model, disturbed, **settings):
    attached = SoftPrompt(length=P, **settings).attach(model)
    tensors = disturbed(attached)
    return attached, next(iter(tensors.values()))


def embedded(model, inputs, prompt):
    """The prompt in front of the text's embeddings, and the mask for both."""
    text = model.get_input_embeddings()(inputs["input_ids"])
    rows = prompt.to(text).expand(len(text), -1, -1)
    return torch.cat([rows, text], dim=1), nn.functional.pad(inputs["attention_mask"], (P, 0), value=1)


@torch.no_grad()
@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_it_is_the_model_on_longer_embeddings(arch, tiny_model, inputs_for, outputs, disturbed):
    """In double precision, without a single hook."""
    model, inputs = tiny_model(arch).double(), inputs_for(arch)
    attached, prompt = attach(model, disturbed)
    found = outputs(model, inputs)
    attached.detach()
    embeds, mask = embedded(model, inputs, prompt)
    more = {name: value for name, value in inputs.items() if name.startswith("decoder_")}
    whole = model(inputs_embeds=embeds, attention_mask=mask, **more)
    if arch in tiny.SEQ2SEQ:
        expected = whole.logits.flatten(0, 1)
    else:
        states = whole.logits if hasattr(whole, "logits") else whole.last_hidden_state
        expected = states[:, P:][inputs["attention_mask"].bool()]
    assert torch.allclose(found, expected, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
def test_two_prompts_are_one_of_both_lengths(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    long = SoftPrompt(length=5).attach(model)
    tensors = disturbed(long)
    expected = outputs(model, inputs)
    long.detach()
    for length, rows in ((2, slice(0, 2)), (3, slice(2, 5))):
        SoftPrompt(length=length).attach(model, {name: tensor[rows] for name, tensor in tensors.items()})
    assert torch.allclose(outputs(model, inputs), expected, atol=1e-5)


@pytest.mark.parametrize("arch", [*tiny.CAUSAL, *tiny.SEQ2SEQ])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_is_the_same_with_and_without_cache(arch, settings, tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    inputs.pop("decoder_input_ids", None)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 1, **settings}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    bare = model.generate(**inputs, **settings)
    attach(model, disturbed)
    with_cache, without = (model.generate(**inputs, **settings, use_cache=use) for use in (True, False))
    assert torch.equal(with_cache.sequences, without.sequences)
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(with_cache.logits, without.logits, strict=True))
    assert not torch.allclose(with_cache.logits[0], bare.logits[0], atol=1e-3)


@pytest.mark.parametrize("arch", tiny.CAUSAL)
def test_generation_is_that_of_forward_passes_one_by_one(arch, tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    attach(model, disturbed)
    inputs = {name: value[:1] for name, value in inputs.items()}  # a row without padding
    ids = inputs["input_ids"]
    for _ in range(5):
        ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None), ids)


@torch.no_grad()
@pytest.mark.parametrize("arch", tiny.CAUSAL)
def test_a_cache_by_hand_goes_on_where_it_was(arch, tiny_model, inputs_for, disturbed):
    model, ids = tiny_model(arch), inputs_for(arch)["input_ids"][:1]
    attach(model, disturbed)
    whole = model(input_ids=ids).logits
    for mask in (None, torch.ones_like(ids)):
        masks = [{} if mask is None else {"attention_mask": mask[:, :n]} for n in (6, ids.shape[1])]
        first = model(input_ids=ids[:, :6], use_cache=True, **masks[0])
        rest = model(input_ids=ids[:, 6:], past_key_values=first.past_key_values, **masks[1])
        assert torch.allclose(torch.cat([first.logits, rest.logits], dim=1), whole, atol=1e-5)


@torch.no_grad()
def test_a_cache_that_lacks_the_prompt_is_refused(tiny_model, inputs_for, disturbed):
    model, ids = tiny_model("llama"), inputs_for("llama")["input_ids"]
    bare = model(input_ids=ids[:, :6], use_cache=True)
    attach(model, disturbed)
    with pytest.raises(DeltaError, match="the cache was not filled with the soft prompt"):
        model(input_ids=ids[:, 6:], past_key_values=bare.past_key_values, attention_mask=torch.ones_like(ids))


def test_a_static_cache_is_refused(tiny_model, inputs_for, disturbed):
    model = tiny_model("llama")
    attach(model, disturbed)
    with pytest.raises(DeltaError, match="needs a mask of shape"):
        model.generate(**inputs_for("llama"), max_new_tokens=3, cache_implementation="static", disable_compile=True)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["gpt2", "llama", "t5", "bart"])
def test_labels_and_logits_line_up_with_the_text(arch, tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    attach(model, disturbed)
    if arch in tiny.SEQ2SEQ:
        labels = torch.randint(5, 200, (3, 6))
        inputs.pop("decoder_input_ids")
        found = model(**inputs, labels=labels)
        logits, targets = found.logits, labels
    else:
        labels = inputs["input_ids"]
        found = model(**inputs, labels=labels)
        logits, targets = found.logits[:, :-1], labels[:, 1:]
        assert found.logits.shape[:2] == labels.shape
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert torch.allclose(found.loss, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5", "bart"])
def test_embeddings_in_place_of_ids_give_the_same(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    attach(model, disturbed)
    expected = outputs(model, inputs)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    assert torch.allclose(outputs(model, inputs), expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", tiny.SEQ2SEQ)
def test_what_was_encoded_before_is_read_as_it_is(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    plain = outputs(model, inputs)
    encode = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    bare = model.get_encoder()(**encode)
    attach(model, disturbed)
    expected = outputs(model, inputs)
    prompted = model.get_encoder()(**encode)
    assert prompted.last_hidden_state.shape[1] == bare.last_hidden_state.shape[1] + P
    del inputs["input_ids"]
    assert torch.allclose(outputs(model, {**inputs, "encoder_outputs": prompted}), expected, atol=1e-5)
    assert torch.allclose(outputs(model, {**inputs, "encoder_outputs": bare}), plain, atol=1e-5)


@torch.no_grad()
def test_everything_that_comes_out_lines_up_with_the_text(tiny_model, inputs_for, disturbed):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    model.set_attn_implementation("eager")
    attach(model, disturbed)
    types = torch.zeros_like(inputs["input_ids"])
    settings = {**inputs, "token_type_ids": types, "output_hidden_states": True, "output_attentions": True}
    found = model(**settings)
    assert found.last_hidden_state.shape == (3, 9, 32)
    assert [states.shape for states in found.hidden_states] == [(3, 9, 32)] * 3
    assert [weights.shape for weights in found.attentions] == [(3, 4, 9, 9 + P)] * 2
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)
    assert torch.equal(found.pooler_output, model.pooler(found.last_hidden_state))  # of the text's first token
    states, pooled, hidden, attentions, *_ = model(**settings, return_dict=False)
    assert torch.equal(states, found.last_hidden_state)
    assert torch.equal(pooled, found.pooler_output)
    assert hidden[0].shape == (3, 9, 32)
    assert attentions[0].shape == (3, 4, 9, 9 + P)


@torch.no_grad()
def test_token_types_and_position_ids_keep_to_their_tokens(tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model("bert"), inputs_for("bert")
    types = torch.randint(0, 2, inputs["input_ids"].shape)
    attached, prompt = attach(model, disturbed)
    positions = torch.arange(9)[None]
    found = outputs(model, {**inputs, "token_type_ids": types, "position_ids": positions})
    assert torch.equal(outputs(model, {**inputs, "token_type_ids": types}), found)
    attached.detach()
    embeds, mask = embedded(model, inputs, prompt)
    types = nn.functional.pad(types, (P, 0))
    whole = model(inputs_embeds=embeds, attention_mask=mask, token_type_ids=types).last_hidden_state
    assert torch.allclose(found, whole[:, P:][inputs["attention_mask"].bool()], atol=1e-5)


@torch.no_grad()
def test_roberta_counts_from_the_padding_on_wherever_it_stands(tiny_model, inputs_for, disturbed):
    model, ids = tiny_model("roberta"), inputs_for("roberta")["input_ids"][:1]
    attach(model, disturbed)
    expected = model(input_ids=ids).last_hidden_state
    for behind in ((0, 3), (3, 0)):
        padded = nn.functional.pad(ids, behind, value=1)
        found = model(input_ids=padded, attention_mask=(padded != 1).long()).last_hidden_state
        assert torch.allclose(found[padded != 1], expected[0], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "gpt2", "t5"])
def test_other_deltas_act_on_the_text_as_before(arch, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    results = []
    for order in ((LoRA(), SoftPrompt(length=P)), (SoftPrompt(length=P), LoRA())):
        both = [method.attach(model) for method in order]
        for attached in both:
            disturbed(attached)
        results.append(outputs(model, inputs))
        for attached in both:
            attached.detach()
    assert torch.allclose(*results, atol=1e-5)


@torch.no_grad()
def test_it_finds_its_way_into_models_around_the_encoder(tiny_model, inputs_for, disturbed):
    bert = tiny_model("bert")
    model = transformers.BertForSequenceClassification(bert.config).eval()
    inputs = inputs_for("bert")
    attached, _ = attach(model, disturbed)
    assert attached.places == ["bert.embeddings.word_embeddings"]
    assert model(**inputs).logits.shape == (3, 2)
    attached.detach()
    outer = nn.ModuleDict({"inside": bert})
    assert SoftPrompt().places(outer) == ["inside.embeddings.word_embeddings"]


OTHERS = {
    "distilbert": functools.partial(
        transformers.DistilBertConfig, dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=320
    ),
    "albert": functools.partial(transformers.AlbertConfig, embedding_size=16),
    "electra": functools.partial(transformers.ElectraConfig, embedding_size=16),
    "mpnet": transformers.MPNetConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
    "opt": functools.partial(transformers.OPTConfig, ffn_dim=64, word_embed_proj_dim=16),
    "gemma3_text": functools.partial(transformers.Gemma3TextConfig, head_dim=8, num_key_value_heads=2),
    "gpt_neox": transformers.GPTNeoXConfig,
    "marian": functools.partial(
        transformers.MarianConfig,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        scale_embedding=True,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_models_take_it_too(name, outputs, inputs_for, disturbed):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = OTHERS[name](**{**({} if name in ("distilbert", "marian") else sizes), "pad_token_id": 1})
    config.vocab_size = 320
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    inputs = inputs_for("t5" if config.is_encoder_decoder else "bert")
    if config.is_encoder_decoder:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    before = outputs(model, inputs)
    attached, _ = attach(model, disturbed)
    changed = outputs(model, inputs)
    assert not torch.allclose(changed, before, atol=1e-4)
    inputs["input_ids"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], 1)
    assert torch.allclose(outputs(model, inputs), changed, atol=1e-5)  # padding is not seen
    attached.detach()
    assert torch.equal(outputs(model, inputs), before)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["llama", "t5", "gpt2", "bart"])
def test_vocabulary_rows_read_like_tokens(arch, tiny_model, disturbed):
    """A prompt of the embeddings of four tokens, against the four tokens."""
    model = tiny_model(arch)
    ids = torch.randint(5, 200, (1, 9))
    more = {"decoder_input_ids": torch.randint(5, 200, (1, 3))} if arch in tiny.SEQ2SEQ else {}
    expected = model(input_ids=ids, **more).logits[:, 0 if more else P :]
    rows = model.get_input_embeddings()(ids[0, :P])
    place = SoftPrompt().places(model)[0]
    SoftPrompt(length=P).attach(model, {f"{place}.prompt_embeddings": rows})
    assert torch.allclose(model(input_ids=ids[:, P:], **more).logits, expected, atol=1e-5)


@torch.no_grad()
def test_scaled_embeddings_are_scaled_once(disturbed):
    """Marian scales what it looks up, not what it is given."""
    config = OTHERS["marian"](vocab_size=320, pad_token_id=1)
    torch.manual_seed(0)
    model = transformers.MarianModel(config).eval()
    ids, decoder = torch.randint(5, 200, (1, 9)), torch.randint(5, 200, (1, 3))
    expected = model(input_ids=ids, decoder_input_ids=decoder).last_hidden_state
    rows = model.get_input_embeddings()(ids[0, :P]) * 32**0.5
    place = SoftPrompt().places(model)[0]
    SoftPrompt(length=P).attach(model, {f"{place}.prompt_embeddings": rows})
    found = model(input_ids=ids[:, P:], decoder_input_ids=decoder).last_hidden_state
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_start_is_random_or_of_the_vocabulary(tiny_model):
    model = tiny_model("bert")
    name = "embeddings.word_embeddings.prompt_embeddings"
    random = SoftPrompt(length=50).draw(model)[name]
    assert random.abs().max() <= 0.5
    assert random.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.05)
    method = SoftPrompt(length=50, init="vocabulary")
    drawn = method.draw(model)[name]
    table = model.embeddings.word_embeddings.weight.detach().half().float()
    assert all((table == row).all(dim=1).any() for row in drawn)
    assert len({tuple(row.tolist()) for row in drawn}) > 30
    assert torch.equal(method.draw(model)[name], drawn)
    assert not torch.equal(method.draw(model, seed=1)[name], drawn)
    # They must not be taken for one another when a start is looked up.
    assert method.start_settings(model) != SoftPrompt(length=50).start_settings(model)


def test_a_text_beyond_the_last_position_is_refused(tiny_model):
    for arch, most in (("bert", 160), ("roberta", 160), ("bart", 160), ("gpt2", 160)):
        model = tiny_model(arch)
        SoftPrompt(length=16).attach(model)
        more = {"decoder_input_ids": torch.tensor([[5]])} if arch == "bart" else {}
        model(input_ids=torch.randint(5, 200, (1, most - 16)), **more)
        with pytest.raises(DeltaError, match=f"{most - 15} tokens and a soft prompt of 16"):
            model(input_ids=torch.randint(5, 200, (1, most - 15)), **more)


def test_models_that_take_no_embeddings_are_refused_by_name():
    vision = transformers.ViTModel(
        transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    )
    with pytest.raises(DeltaError, match="a soft prompt cannot be put on ViTModel"):
        SoftPrompt().attach(vision)
    config = transformers.WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4)
    config.decoder_attention_heads, config.vocab_size, config.pad_token_id = 4, 320, 1
    whisper = transformers.WhisperModel(config)
    with pytest.raises(DeltaError, match="its encoder takes no inputs_embeds"):
        SoftPrompt().attach(whisper)
    with pytest.raises(DeltaError, match="its model takes no inputs_embeds"):
        SoftPrompt().attach(nn.ModuleDict({"layer": nn.Linear(3, 4)}))


def test_places_that_are_no_input_are_refused_by_name(tiny_model):
    with pytest.raises(DeltaError, match=r"(?s)attention\.self\.query.*no embedding of tokens"):
        SoftPrompt(where="layer.0.attention.self.query").attach(tiny_model("bert"))
    with pytest.raises(DeltaError, match="does not read its input through"):
        SoftPrompt(where="position_embeddings").attach(tiny_model("bert"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"length": 0}, "length must be at least 1"),
        ({"init": "text"}, "no init named 'text'"),
        ({"exclude": "decoder"}, "nothing to leave out"),
    ],
)
def test_settings_outside_their_range_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        SoftPrompt(**wrong)
