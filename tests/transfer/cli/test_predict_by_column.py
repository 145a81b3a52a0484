"""`transfer predict --delta-column`: each row is answered by the module that the file names for it."""

from __future__ import annotations

import json

import pytest
import small

WORDS = ["a warm film", "a thin plot", "a cold hotel"]


def test_each_row_is_answered_by_the_module_it_names(transfer, backbone_folder, tmp_path):
    folder = backbone_folder("bert")
    from transfer.backbones import load_backbone

    zoo = small.make_zoo(load_backbone(str(folder)), "lora", tmp_path / "zoo")
    first, second = [module.id for module in zoo][:2]
    path = tmp_path / "new.csv"
    path.write_text(
        "text,by\n" + "".join(f"{text},{by}\n" for text, by in zip(WORDS, (first, "", second), strict=True))
    )
    common = ("--choices", "bad,good", "--backbone", folder, "--zoo", zoo.path, "--json")
    ran = transfer("predict", "--file", path, "--delta-column", "by", *common)
    assert ran.code == 0, ran.err
    for text, by, line in zip(WORDS, (first, None, second), json.loads(ran.out), strict=True):
        alone = tmp_path / "alone.csv"
        alone.write_text(f"text\n{text}\n")
        single = transfer("predict", "--file", alone, *(("--delta", by) if by else ()), *common)
        assert line["probabilities"] == pytest.approx(json.loads(single.out)[0]["probabilities"], abs=1e-4)

    none = transfer("predict", "--file", path, "--input-column", "text", *common[2:])
    assert none.code == 1
    assert "no choices to answer" in none.err
    assert "--choices no,yes, or --delta" in none.err

    both = transfer("predict", "--file", path, "--delta-column", "by", "--delta", first, *common)
    assert both.code == 1
    assert "exclude each other" in both.err
    path.write_text("text,by\nfine,nobody\n")
    unknown = transfer("predict", "--file", path, "--delta-column", "by", *common)
    assert unknown.code == 1
    assert "no folder and no module named 'nobody'" in unknown.err
