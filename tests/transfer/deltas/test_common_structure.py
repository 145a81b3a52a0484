from __future__ import annotations

import architectures
import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2Model, T5Config, T5EncoderModel

from transfer.deltas import Adapter, LoRA, Prefix, structure
from transfer.deltas.common_structure import common_names, head_sizes

# Common name -> end of the module's name in its block. What a model has beyond its family stands in `ARCHITECTURES`.
BERT = {
    "attn": "attention.self",
    "attn.q": "attention.self.query",
    "attn.k": "attention.self.key",
    "attn.v": "attention.self.value",
    "attn.proj": "attention.output.dense",
    "attn.norm": "attention.output.LayerNorm",
    "ff.w1": "intermediate.dense",
    "ff.w2": "output.dense",
    "ff.norm": "output.LayerNorm",
}
PROJ = {f"attn.{part}": f"self_attn.{part}_proj" for part in "qkv"}
LLAMA = PROJ | {
    "attn": "self_attn",
    "attn.proj": "self_attn.o_proj",
    "attn.norm": "input_layernorm",
    "ff.w1": "mlp.gate_proj",
    "ff.w2": "mlp.down_proj",
    "ff.w3": "mlp.up_proj",
    "ff.norm": "post_attention_layernorm",
}
BART = PROJ | {
    "attn": "self_attn",
    "attn.proj": "self_attn.out_proj",
    "attn.norm": "self_attn_layer_norm",
    "ff.w1": "fc1",
    "ff.w2": "fc2",
    "ff.norm": "final_layer_norm",
}
BART_DECODER = BART | {
    "crossattn": "encoder_attn",
    **{f"crossattn.{part}": f"encoder_attn.{part}_proj" for part in "qkv"},
    "crossattn.proj": "encoder_attn.out_proj",
    "crossattn.norm": "encoder_attn_layer_norm",
}


def t5(gated: bool = False, attention: str = "SelfAttention", decoder: bool = False) -> dict[str, object]:
    def sublayer(kind: str, number: int, name: str) -> dict[str, object]:
        layers = {kind: name, **{f"{kind}.{p}": f"{name}.{p}" for p in "qkv"}, f"{kind}.proj": f"{name}.o"}
        return {k: f"layer.{number}.{v}" for k, v in {**layers, f"{kind}.norm": "layer_norm"}.items()}

    ff = f"layer.{2 if decoder else 1}"
    return {
        **sublayer("attn", 0, attention),
        **(sublayer("crossattn", 1, "EncDecAttention") if decoder else {}),
        "ff.w1": f"{ff}.DenseReluDense.{'wi_0' if gated else 'wi'}",
        "ff.w2": f"{ff}.DenseReluDense.wo",
        **({"ff.w3": f"{ff}.DenseReluDense.wi_1"} if gated else {}),
        "ff.norm": f"{ff}.layer_norm",
    }


def fused(attention: str, layer: str) -> dict[str, object]:
    return {"attn": attention, **{f"attn.{part}": f"{attention}.{layer}" for part in "qkv"}}


CLIP = BART | {"attn.norm": "layer_norm1", "ff.w1": "mlp.fc1", "ff.w2": "mlp.fc2", "ff.norm": "layer_norm2"}
ALBERT = {
    **{"attn": "attention", "attn.q": "attention.query", "attn.k": "attention.key", "attn.v": "attention.value"},
    **{"attn.proj": "attention.dense", "attn.norm": "attention.LayerNorm"},
    **{"ff.w1": "ffn", "ff.w2": "ffn_output", "ff.norm": "full_layer_layer_norm"},
}
ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
ENCODER, DECODER = "encoder.block.0", "decoder.block.0"

# Architecture -> full name of a block -> (name of the module, its parts); "" for what is in no block
ARCHITECTURES: dict[str, dict[str, tuple[str, dict[str, object]]]] = {
    "bert": {ENCODER: ("encoder.layer.0", BERT), "": ("", {"encoder.embeddings": "embeddings.word_embeddings"})},
    "roberta": {
        ENCODER: ("roberta.encoder.layer.0", BERT),
        "": ("", {"encoder.embeddings": "roberta.embeddings.word_embeddings", "head": "lm_head.decoder"}),
    },
    "xlm-roberta": {ENCODER: ("encoder.layer.0", BERT), "": ("", {"encoder.embeddings": "embeddings.word_embeddings"})},
    "deberta": {
        ENCODER: ("encoder.layer.0", BERT | fused("attention.self", "in_proj")),
        "": ("", {"encoder.embeddings": "embeddings.word_embeddings"}),
    },
    "deberta-v2": {
        ENCODER: (
            "encoder.layer.0",
            BERT | {f"attn.{name[0]}": f"attention.self.{name}_proj" for name in ("query", "key", "value")},
        ),
        "": ("", {"encoder.embeddings": "embeddings.word_embeddings"}),
    },
    "distilbert": {
        ENCODER: (
            "distilbert.transformer.layer.0",
            {
                "attn": "attention",
                **{f"attn.{part}": f"attention.{part}_lin" for part in "qkv"},
                **{"attn.proj": "attention.out_lin", "attn.norm": "sa_layer_norm"},
                **{"ff.w1": "ffn.lin1", "ff.w2": "ffn.lin2", "ff.norm": "output_layer_norm"},
            },
        ),
        "": ("", {"encoder.embeddings": "distilbert.embeddings.word_embeddings", "head": "vocab_projector"}),
    },
    "albert": {
        ENCODER: (ALBERT_LAYER, ALBERT),
        "": ("", {"encoder.embeddings": "albert.embeddings.word_embeddings", "head": "predictions.decoder"}),
    },
    "albert-groups": {
        "encoder.block.3": ("encoder.albert_layer_groups.1.albert_layers.1", ALBERT),
        "": ("", {"encoder.embeddings": "embeddings.word_embeddings"}),
    },
    "mpnet": {
        ENCODER: (
            "encoder.layer.0",
            BERT
            | {"attn": "attention.attn", **{f"attn.{part}": f"attention.attn.{part}" for part in "qkv"}}
            | {"attn.proj": "attention.attn.o", "attn.norm": "attention.LayerNorm"},
        ),
        "": ("", {"encoder.embeddings": "embeddings.word_embeddings"}),
    },
    "electra": {
        ENCODER: ("electra.encoder.layer.0", BERT),
        "": (
            "",
            {
                "encoder.embeddings": "electra.embeddings.word_embeddings",
                "head": "discriminator_predictions.dense_prediction",
            },
        ),
    },
    "modernbert": {
        ENCODER: (
            "layers.0",  # the first block has no norm of its attention
            fused("attn", "Wqkv")
            | {"attn.proj": "attn.Wo", "ff.w1": "mlp.Wi", "ff.w2": "mlp.Wo", "ff.w3": "mlp.Wi"}
            | {"ff.norm": "mlp_norm"},
        ),
        "": ("", {"encoder.embeddings": "embeddings.tok_embeddings"}),
    },
    "t5": {
        ENCODER: ("encoder.block.0", t5()),
        DECODER: ("decoder.block.0", t5(decoder=True)),
        "": (
            "",
            {
                "encoder.embeddings": "encoder.embed_tokens",
                "decoder.embeddings": "decoder.embed_tokens",
                "head": "lm_head",
            },
        ),
    },
    "flan-t5": {
        ENCODER: ("encoder.block.0", t5(gated=True)),
        DECODER: ("decoder.block.0", t5(gated=True, decoder=True)),
    },
    "longt5": {ENCODER: ("encoder.block.0", t5(attention="LocalSelfAttention"))},
    "longt5-global": {
        ENCODER: ("encoder.block.0", t5(attention="TransientGlobalSelfAttention")),
        DECODER: ("decoder.block.0", t5(decoder=True)),
    },
    "bart": {
        ENCODER: ("model.encoder.layers.0", BART),
        DECODER: ("model.decoder.layers.0", BART_DECODER),
        "": (
            "",
            {
                "encoder.embeddings": "model.encoder.embed_tokens",
                "decoder.embeddings": "model.decoder.embed_tokens",
                "head": "lm_head",
            },
        ),
    },
    "mbart": {
        ENCODER: ("model.encoder.layers.0", BART),
        DECODER: ("model.decoder.layers.0", BART_DECODER),
    },
    "bigbird-pegasus": {
        ENCODER: (
            "model.encoder.layers.0",
            BART
            | {"attn": "self_attn.self", "attn.proj": "self_attn.output"}
            | {f"attn.{name[0]}": f"self_attn.self.{name}" for name in ("query", "key", "value")},
        ),
        DECODER: ("model.decoder.layers.0", BART_DECODER),
    },
    "xlm": {  # every part of a block stands in a list of its own
        ENCODER: (
            "",
            {
                **{"": "attentions.0", "attn": "attentions.0", "attn.proj": "attentions.0.out_lin"},
                **{f"attn.{part}": f"attentions.0.{part}_lin" for part in "qkv"},
                **{"attn.norm": "layer_norm1.0", "ff.norm": "layer_norm2.0"},
                **{"ff.w1": "ffns.0.lin1", "ff.w2": "ffns.0.lin2"},
            },
        ),
        "": ("", {"embeddings": "embeddings"}),
    },
    "openai-gpt": {
        DECODER: (
            "transformer.h.0",
            fused("attn", "c_attn")
            | {"attn.proj": "attn.c_proj", "attn.norm": "ln_1"}
            | {"ff.w1": "mlp.c_fc", "ff.w2": "mlp.c_proj", "ff.norm": "ln_2"},
        ),
        "": ("", {"embeddings": "transformer.tokens_embed", "head": "lm_head"}),
    },
    "gpt2": {
        DECODER: (
            "transformer.h.0",
            fused("attn", "c_attn")
            | {"attn.proj": "attn.c_proj", "attn.norm": "ln_1"}
            | {"ff.w1": "mlp.c_fc", "ff.w2": "mlp.c_proj", "ff.norm": "ln_2"},
        ),
        "": ("", {"decoder.embeddings": "transformer.wte", "head": "lm_head"}),
    },
    "gpt-neox": {
        DECODER: (
            "gpt_neox.layers.0",
            fused("attention", "query_key_value")
            | {"attn.proj": "attention.dense", "attn.norm": "input_layernorm"}
            | {"ff.w1": "mlp.dense_h_to_4h", "ff.w2": "mlp.dense_4h_to_h", "ff.norm": "post_attention_layernorm"},
        ),
        "": ("", {"decoder.embeddings": "gpt_neox.embed_in", "head": "lm_head"}),
    },
    "bloom": {
        DECODER: (
            "transformer.h.0",
            fused("self_attention", "query_key_value")
            | {"attn.proj": "self_attention.dense", "attn.norm": "input_layernorm"}
            | {"ff.w1": "mlp.dense_h_to_4h", "ff.w2": "mlp.dense_4h_to_h", "ff.norm": "post_attention_layernorm"},
        ),
    },
    "mpt": {
        DECODER: (
            "transformer.blocks.0",
            fused("attn", "Wqkv")
            | {"attn.proj": "attn.out_proj", "attn.norm": "norm_1"}
            | {"ff.w1": "ffn.up_proj", "ff.w2": "ffn.down_proj", "ff.norm": "norm_2"},
        ),
        "": ("", {"decoder.embeddings": "transformer.wte", "head": "lm_head"}),
    },
    "persimmon": {
        DECODER: (
            "model.layers.0",
            fused("self_attn", "query_key_value")
            | {"attn.proj": "self_attn.dense", "attn.norm": "input_layernorm"}
            | {"ff.w1": "mlp.dense_h_to_4h", "ff.w2": "mlp.dense_4h_to_h", "ff.norm": "post_attention_layernorm"},
        ),
        "": ("", {"decoder.embeddings": "model.embed_tokens", "head": "lm_head"}),
    },
    "opt": {
        DECODER: ("model.decoder.layers.0", BART),
        "": ("", {"decoder.embeddings": "model.decoder.embed_tokens", "head": "lm_head"}),
    },
    **{
        arch: {
            DECODER: ("model.layers.0", LLAMA),
            "": ("", {"decoder.embeddings": "model.embed_tokens", "head": "lm_head"}),
        }
        for arch in ("llama", "mistral", "qwen2", "qwen3", "gemma")
    },
    "gemma2": {
        DECODER: (
            "model.layers.0",
            LLAMA
            | {"attn.norm": ["input_layernorm", "post_attention_layernorm"]}
            | {"ff.norm": ["pre_feedforward_layernorm", "post_feedforward_layernorm"]},
        ),
    },
    "mixtral": {  # the experts' matrices are stacked in tensors, not in layers
        DECODER: ("model.layers.0", {part: place for part, place in LLAMA.items() if not part.startswith("ff.w")}),
    },
    "phi3": {
        DECODER: (
            "model.layers.0",
            LLAMA | fused("self_attn", "qkv_proj") | {f"ff.w{i}": "mlp.gate_up_proj" for i in (1, 3)},
        )
    },
    "vit": {
        ENCODER: (
            "vit.layers.0",
            {
                "attn": "attention",
                **{f"attn.{part}": f"attention.{part}_proj" for part in "qkvo" if part != "o"},
                **{"attn.proj": "attention.o_proj", "attn.norm": "layernorm_before"},
                **{"ff.w1": "mlp.fc1", "ff.w2": "mlp.fc2", "ff.norm": "layernorm_after"},
            },
        ),
        "": ("", {"encoder.embeddings": "vit.embeddings.patch_embeddings.projection", "head": "classifier"}),
    },
    "clip": {
        f"text.{ENCODER}": ("text_model.encoder.layers.0", CLIP),
        f"vision.{ENCODER}": ("vision_model.encoder.layers.0", CLIP),
        "": (
            "",
            {
                "text.encoder.embeddings": "text_model.embeddings.token_embedding",
                "vision.encoder.embeddings": "vision_model.embeddings.patch_embedding",
            },
        ),
    },
    "whisper": {
        ENCODER: ("model.encoder.layers.0", BART),
        DECODER: ("model.decoder.layers.0", BART_DECODER),
        "": ("", {"decoder.embeddings": "model.decoder.embed_tokens", "head": "proj_out"}),
    },
}
every_architecture = pytest.mark.parametrize("arch", architectures.MAKERS)


def test_every_architecture_has_its_expected_names():
    assert ARCHITECTURES.keys() == architectures.MAKERS.keys()


@every_architecture
def test_a_block_has_exactly_the_expected_names(arch):
    with torch.device("meta"):
        model = architectures.MAKERS[arch]()
    found: dict[str, list[str]] = {}
    for common in common_names(model):
        found.setdefault(common.full, []).append(common.place)
    for block, (module, parts) in ARCHITECTURES[arch].items():
        if block:
            wanted = {block: [module]}
            for part, ends in parts.items():
                places = [f"{module}.{end}".strip(".") for end in ([ends] if isinstance(ends, str) else ends)]
                wanted[f"{block}.{part}".rstrip(".")] = places
            assert {k: v for k, v in found.items() if k == block or k.startswith(f"{block}.")} == wanted
        else:
            assert {k: v for k, v in found.items() if ".block." not in k} == {k: [v] for k, v in parts.items()}


@every_architecture
def test_methods_go_on_change_the_output_and_come_off_exactly(arch):
    model = architectures.build(arch)
    called: set[str] = set()
    handles = [m.register_forward_hook(lambda *_, name=name: called.add(name)) for name, m in model.named_modules()]
    with torch.no_grad():
        before = architectures.run(arch, model)
        # A place that the model runs past would take a delta and do nothing.
        assert {place for places in structure(model).values() for place in places} <= called
        for handle in handles:
            handle.remove()
        methods = [LoRA(rank=2, where=("attn.q", "attn.v"))]
        methods += [Adapter(bottleneck=2)] if "ff.w2" in structure(model) else []
        for method in methods:
            attached = method.attach(model)
            assert torch.equal(architectures.run(arch, model), before)
            generator = torch.Generator().manual_seed(0)
            attached.load_state_dict(
                {n: torch.randn(x.shape, generator=generator) for n, x in attached.state_dict().items()}
            )
            assert not torch.allclose(architectures.run(arch, model), before, atol=1e-4)
            attached.detach()
            assert torch.equal(architectures.run(arch, model), before)


@pytest.mark.parametrize("arch", tiny.ARCHITECTURES)
def test_every_block_has_every_part_once(arch, tiny_model):
    found = structure(tiny_model(arch))
    blocks = 4 if arch in tiny.SEQ2SEQ else 2
    parts = ("block", "attn", "attn.q", "attn.k", "attn.v", "attn.proj", "attn.norm", "ff.w2", "ff.norm")
    assert [len(found[part]) for part in parts] == [blocks] * len(parts)
    assert ("crossattn" in found) == (arch in tiny.SEQ2SEQ)


def test_layers_that_albert_shares_are_there_once():
    with torch.device("meta"):
        model, groups = (architectures.MAKERS[arch]() for arch in ("albert", "albert-groups"))
    assert structure(model)["block"] == [ALBERT_LAYER]  # two layers by its config
    assert [common.block for common in common_names(groups) if common.part == "block"] == [0, 1, 2, 3]


@torch.no_grad()
def test_a_delta_on_layers_that_share_weights_acts_in_each_of_them():
    # One place that runs twice: what is trained is added each time, as a change of the shared weight would be.
    model = architectures.build("albert")
    attached = LoRA(rank=2, where="attn.q").attach(model)
    assert attached.places == [f"{ALBERT_LAYER}.attention.query"]
    calls = []
    handle = model.get_submodule(attached.places[0]).register_forward_hook(lambda *_: calls.append(1))
    attached.load_state_dict({name: torch.full_like(x, 0.3) for name, x in attached.state_dict().items()})
    changed = architectures.run("albert", model)
    assert len(calls) == model.config.num_hidden_layers == 2
    handle.remove()
    assert torch.allclose(architectures.run("albert", attached.merge()), changed, atol=1e-5)


def test_cross_attention_has_names_of_its_own(tiny_model):
    found = structure(tiny_model("t5"))
    assert found["crossattn.q"] == [f"decoder.block.{block}.layer.1.EncDecAttention.q" for block in (0, 1)]
    assert not set(found["crossattn.q"]) & set(found["attn.q"])


def test_cross_attention_of_a_fused_decoder_takes_its_queries_apart():
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=8, add_cross_attention=True)
    with torch.device("meta"):
        found = structure(GPT2Model(config))
    assert (found["crossattn.q"], found["crossattn.k"]) == (
        ["h.0.crossattention.q_attn"],
        ["h.0.crossattention.c_attn"],
    )
    assert found["crossattn.norm"] == ["h.0.ln_cross_attn"]


def test_one_embedding_shared_by_two_stacks_has_the_name_of_neither():
    # Tied by hand the two stacks have one module, which is then called; by default `shared` only lends its weight.
    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**architectures.T5))
    assert structure(model)["embeddings"] == ["encoder.embed_tokens"]
    model.set_input_embeddings(model.shared)
    assert structure(model)["embeddings"] == ["shared"]


def test_a_head_of_a_task_class_is_found():
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(**architectures.TEXT))
    assert structure(model)["head"] == ["classifier"]


def test_a_model_inside_others_keeps_its_parts(tiny_model):
    inner = tiny_model("bert")
    wrapped = torch.nn.ModuleDict({"outer": torch.nn.ModuleDict({"net": inner})})
    assert structure(wrapped) == {
        part: [f"outer.net.{place}" for place in places] for part, places in structure(inner).items()
    }
    assert {common.stack for common in common_names(wrapped)} == {"encoder"}


class Wrapper(torch.nn.Module):
    """As DistributedDataParallel holds its model: without a config, under `module`."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["bert", "bart", "gpt2", "deberta-v2"])
@pytest.mark.parametrize("method", [LoRA(), Adapter(), Prefix(length=2)], ids=lambda method: method.method)
def test_a_delta_on_a_wrapped_model_acts_as_on_the_model(arch, method, tiny_model, inputs_for, outputs, disturbed):
    model, inputs = tiny_model(arch), inputs_for(arch)
    attached = method.attach(model)
    tensors = disturbed(attached)
    expected = outputs(model, inputs)
    attached.detach()
    wrapped = Wrapper(model)
    method.attach(wrapped, {f"module.{name}": tensor for name, tensor in tensors.items()})
    assert torch.equal(outputs(wrapped, inputs), expected)


def test_a_model_that_peft_has_wrapped_keeps_its_parts(tiny_model):
    model = tiny_model("bert")
    expected = {part: [f"base_model.model.{place}" for place in places] for part, places in structure(model).items()}
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value", "dense"]))
    assert structure(wrapped) == expected


@torch.no_grad()
def test_deltas_stand_beside_those_of_peft(tiny_model, inputs_for, outputs, disturbed):
    inputs = inputs_for("bert")
    wrapped = get_peft_model(tiny_model("bert"), LoraConfig(r=2, init_lora_weights=False)).eval()
    before = outputs(wrapped, inputs)
    with wrapped.disable_adapter():
        bare = outputs(wrapped, inputs)
    for method in (LoRA(rank=2), Adapter(bottleneck=2), Prefix(length=2)):
        attached = method.attach(wrapped)
        disturbed(attached)
        both = outputs(wrapped, inputs)
        assert not torch.allclose(both, before, atol=1e-4)
        with wrapped.disable_adapter():
            assert not torch.allclose(outputs(wrapped, inputs), bare, atol=1e-4)
        attached.detach()
        assert torch.equal(outputs(wrapped, inputs), before)


def test_deltas_are_no_part_of_the_structure(tiny_model):
    model = tiny_model("bert")
    before = structure(model)
    LoRA().attach(model)
    assert structure(model) == before


def test_a_model_without_attention_has_no_common_parts():
    assert structure(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())) == {}


@pytest.mark.parametrize(("arch", "sizes"), [("bert", (4, 8)), ("t5", (4, 8)), ("gpt2", (4, 8)), ("llama", (2, 8))])
def test_head_sizes_are_those_of_keys_and_values(arch, sizes, tiny_model):
    model = tiny_model(arch)
    assert head_sizes(model.get_submodule(structure(model)["attn"][0])) == sizes
