"""`transfer inspect`: what it prints, what it refuses, and the page that ctrl-C ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
import tiny

from transfer.deltas import LoRA, structure
from transfer.deltas.tree_text import TIMES

MAIN = "from transfer.cli.app import main; main()"


@pytest.fixture
def config_folder(tmp_path):
    """A folder with a configuration and nothing else."""
    tiny.tiny_model("llama").config.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_the_embedded_model_is_shown_in_eighty_columns(transfer):
    ran = transfer("inspect")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert f"layer.0-5  {TIMES}6 BertLayer" in ran.out
    assert "  frozen    22,713,216  100.00%" in lines
    assert "\x1b" not in ran.out


def test_a_folder_needs_no_weights_and_the_delta_is_counted(transfer, config_folder):
    ran = transfer(
        "inspect", config_folder, "--delta", "lora", "--where", "attn.q,attn.v", "-w", "ff.w2", "--set", "rank=2"
    )
    attached = LoRA(rank=2, where=("attn.q", "attn.v", "ff.w2")).attach(tiny.tiny_model("llama"))
    assert f"lora at {len(attached.places)} places" in ran.out
    assert f"trained   {attached.n_parameters:,} of" in ran.out
    ran = transfer("inspect", config_folder, "--delta", "lora", "--exclude", "attn.v", "--quiet")
    attached = LoRA(where=("attn.q",)).attach(tiny.tiny_model("llama"))
    sizes = f"{tiny.tiny_model('llama').num_parameters()}\t{attached.n_parameters}"
    assert ran.out == f"{config_folder}\tLlamaForCausalLM\t{sizes}\n"


def test_depth_and_all_show_less_and_more(transfer, config_folder):
    usual, shallow, everything = (
        transfer("inspect", config_folder, *flags).out.splitlines() for flags in ([], ["--depth", "1"], ["--all"])
    )
    assert len(shallow) < len(usual) < len(everything)
    assert any("layers.0-1" in line for line in usual)
    assert any("layers.1 " in line for line in everything)
    assert any("rotary_emb" in line for line in everything)  # it has no parameters


def test_json_is_one_document(transfer, config_folder):
    said = json.loads(transfer("inspect", config_folder, "--json", "-d", "adapter", "--exclude", "ff").out)
    assert said["class"] == "LlamaForCausalLM"
    assert said["common"] == dict(structure(tiny.tiny_model("llama")))
    assert said["delta"]["places"] == said["common"]["attn.proj"]


def test_a_regular_expression_may_have_commas(transfer, config_folder):
    said = json.loads(
        transfer("inspect", config_folder, "--json", "-d", "lora", "-w", r"re:layers\.\d{1,2}\..*q_proj").out
    )
    assert said["delta"]["places"] == said["common"]["attn.q"]


def test_a_stored_module_is_shown_where_it_goes(transfer):
    listed = json.loads(transfer("zoo", "ls", "--json").out)
    name = next(row["id"] for row in listed if "-lora-" in row["id"])
    said = json.loads(transfer("inspect", "--json", "--delta", name).out)
    assert said["delta"]["method"] == "lora"
    assert said["delta"]["places"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--delta", "lorra"], "no method, folder or module named 'lorra'"),
        (["--delta", "lora", "--where", "attn.qq"], "closest: attn.q"),
        (["--delta", "lora", "--set", "rank"], "cannot read --set rank"),
        (["--delta", "lora", "--set", "rnk=3"], "lora has no setting named 'rnk'"),
        (["--where", "attn.q"], "--delta lora"),
        (["--delta", "x-lora-1", "--where", "attn.q"], "go with the name of a method"),
        (["--delta", "prefix", "--where", "ff.w2"], "a prefix cannot be put on"),
        (["--web", "--json"], "one of them"),
        (["--web", "--depth", "1"], "folds by itself"),
        (["--no-open"], "add --web"),
    ],
)
def test_what_cannot_be_is_explained(transfer, words, said):
    ran = transfer("inspect", *words)
    assert ran.code == 1
    assert said in ran.err
    assert ran.out == ""


def interruptible():
    """A process begun in the background inherits that ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_page_is_served_until_ctrl_c(config_folder):
    words = ["inspect", str(config_folder), "--web", "--no-open", "--delta", "lora", "--set", "rank=3"]
    done = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    try:
        assert done.stdout is not None
        address = next(line.strip() for line in done.stdout if line.startswith("http://127.0.0.1:"))
        begun = json.load(urllib.request.urlopen(address + "begin", timeout=60))
        assert begun["chosen"]["settings"] == {"rank": 3}
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address[:-2] + "/", timeout=60)
        done.send_signal(signal.SIGINT)
        out, err = done.communicate(timeout=60)
        assert (done.returncode, err) == (0, "")
        assert out.splitlines()[-1] == "The page is closed."
    finally:
        done.kill()
        done.wait()
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)
