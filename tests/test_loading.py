"""What a load does beyond its table: a tied head is compared once, and a plan holds what happens to the tensors."""

import json
from dataclasses import replace

import pytest
import torch

import archport
from archport import exporting, load_plan, loading
from archport.cli import checkpoints
from archport.errors import AsideWarning

from .references import reference


@pytest.fixture
def folder(tmp_path):
    """A tied model's file that holds the head beside the embedding, as older files do."""
    model = reference("gpt2")
    model.save_pretrained(tmp_path, safe_serialization=True)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


@pytest.fixture
def comparisons(monkeypatch):
    """The shapes of the tensors that were compared."""
    shapes = []

    def counting(compare):
        return lambda a, *others: shapes.append(tuple(a.shape)) or compare(a, *others)

    monkeypatch.setattr(load_plan, "same_values", counting(load_plan.same_values))
    monkeypatch.setattr(exporting, "same_bytes", counting(exporting.same_bytes))
    return shapes


def test_a_load_compares_a_tied_head_once_and_an_export_never(folder, comparisons, tmp_path):
    model = archport.load(folder)
    assert comparisons == [(131, 60)]
    assert model.head.weight is model.embed.tokens.weight
    archport.export(model, tmp_path / "exported")
    assert len(comparisons) == 1


def test_an_export_compares_a_head_that_is_no_longer_the_embedding_once(folder, comparisons, tmp_path):
    model = archport.load(folder)
    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())
    archport.export(model, tmp_path / "exported")
    assert len(comparisons) == 2
    assert archport.load(tmp_path / "exported").config.tied


def test_the_command_compares_a_tied_head_once(folder, comparisons, capsys):
    checkpoints.load(str(folder), as_json=True)
    assert json.loads(capsys.readouterr().out)["tied"] == 1
    assert len(comparisons) == 1


def test_a_settled_plan_is_not_settled_again(folder, comparisons):
    plan = archport.plan(folder)
    assert not plan.settled
    settled = load_plan.settle_tie(plan)
    assert (settled.settled, settled.tensors) == (True, plan.tensors)
    loading.execute(load_plan.settle_tie(settled))
    assert len(comparisons) == 1


def test_a_head_of_its_own_is_compared_once_too(folder, comparisons):
    weights = torch.load(folder / "pytorch_model.bin")
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.warns(AsideWarning, match="the config ties lm_head.weight to transformer.wte.weight, but they differ"):
        model = archport.load(folder)
    assert not model.config.tied
    assert torch.equal(model.head.weight, weights["lm_head.weight"])
    assert len(comparisons) == 1


def test_a_plan_says_what_its_tensors_do(folder):
    plan = archport.plan(folder)
    tensors = plan.tensors
    for name in ("steps", "mapped", "dtype", "parameters", "bytes_in_place", "bytes_copied", "peak_bytes", "key_table"):
        assert getattr(plan, name) == getattr(tensors, name)
    assert plan.of_kind("tied") == tensors.of_kind("tied") == [step for step in plan.steps if step.kind == "tied"]
    assert plan.parameters == sum(parameter.numel() for parameter in archport.load(folder).parameters())
    fewer = replace(plan, tensors=replace(tensors, steps=tensors.steps[:1]))
    assert fewer.steps == plan.steps[:1]
