"""The embedded MiniLM, in few tests: it is the one large model here."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer

from transfer.backbones import load_backbone
from transfer.backbones.loading import embedded_folder

# Of all-MiniLM-L6-v2 wherever it is from; modules in many zoos carry it.
FINGERPRINT = "34bf8dafdd8ab6947dcdb662883bdd7f1b93759e5077a5cd2c762e4dff8af064"
TEXTS = ["The harbour is open in winter.", "Ships may enter the port from November on.", "no"]


def test_the_fingerprint_never_changes(embedded):
    assert embedded.fingerprint == FINGERPRINT
    assert (embedded.name, embedded.kind, embedded.width, embedded.max_length) == ("embedded", "encoder", 384, 128)


def test_embedding_and_loss_by_hand():
    embedded = load_backbone("embedded", precision="fp32")  # bf16, where the processor has it, is coarser
    tokenizer, model = AutoTokenizer.from_pretrained(embedded_folder()), AutoModel.from_pretrained(embedded_folder())
    by_hand = []
    with torch.inference_mode():
        for text in TEXTS:
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            by_hand.append(mean / mean.norm())
    by_hand = torch.stack(by_hand)
    torch.testing.assert_close(embedded.embed(TEXTS), by_hand, atol=1e-5, rtol=1e-4)
    assert by_hand[0] @ by_hand[1] > 0.3 > by_hand[0] @ by_hand[2]  # it is a trained sentence encoder
    row = {"input": TEXTS[0], "choices": TEXTS[1:], "label": 1}
    expected = cross_entropy(by_hand[1:] @ by_hand[0] / 0.05, torch.tensor(1))
    torch.testing.assert_close(embedded.loss([row])[0], expected, atol=1e-3, rtol=1e-3)


def test_a_long_input_keeps_the_question(embedded):
    row = {"input": "question: who is it? context: " + "The harbour of Tellin. " * 90, "choices": ["no"], "label": 0}
    [encoded] = embedded.encode([row], ("question", "context"))
    assert len(encoded.input) == 128
    text = embedded.tokenizer.decode(encoded.input)
    assert text.startswith("[CLS] question : who is it? context : the harbour")
    assert text.endswith("[SEP]")
