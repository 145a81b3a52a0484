"""The catalogue: every entry is whole, and worded like the rest."""

from __future__ import annotations

import pytest

from transfer.tasks import catalogue
from transfer.tasks.template import Template

CATEGORIES = {
    "acceptability", "fact_checking", "intent", "multiple_choice_qa", "nli", "other", "paraphrase", "sentiment",
    "summarization", "text_generation", "topic", "toxicity", "yes_no_qa",
}  # fmt: skip


def test_it_knows_at_least_forty_tasks():
    assert len(catalogue.names()) >= 40
    assert {"boolq", "rte", "cb", "sst2", "copa", "trec", "snli"} <= set(catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_is_whole(name):
    entry = catalogue.find(name)
    assert entry.dataset.count("/") == 1, "an id has an owner; bare names are redirects that may end"
    assert entry.facts.category in CATEGORIES
    assert entry.facts.license
    assert entry.splits.keys() <= {"train", "dev", "test"}
    assert "train" in entry.splits
    columns = entry.columns
    assert Template.parse(columns.template).marks[0] == columns.template.partition(":")[0]
    if entry.facts.kind == "generation":
        assert columns.output
        return
    assert columns.label
    assert (columns.choices is None) == (entry.facts.kind == "multiple_choice")
    if columns.choices is None:
        assert columns.choice_columns
    else:
        assert len(set(columns.choices)) == len(columns.choices) >= 2
        assert columns.values is None or len(columns.values) == len(columns.choices)


def test_aliases_lead_to_tasks_and_hide_none():
    content = catalogue._content()
    assert set(content["aliases"].values()) <= set(content["tasks"])
    assert not set(content["aliases"]) & set(content["tasks"])
    assert not set(content["refused"]) & set(content["tasks"])
    assert catalogue.find("rotten_tomatoes").name == "mr"


def test_an_unknown_name_has_no_entry():
    assert catalogue.find("nothing") is None


def test_a_bare_dataset_id_makes_an_entry():
    entry = catalogue.Entry.uncatalogued("owner/name:config")
    assert (entry.name, entry.dataset, entry.parts[0].config) == ("name_config", "owner/name", "config")
