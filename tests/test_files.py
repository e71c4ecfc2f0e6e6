"""Through files: what transformers writes reads back equal, and what archport writes is the same bytes."""

import copy
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import archport
from archport.errors import (
    AsideWarning,
    CheckpointError,
    ConfigError,
    ExportError,
    MappingError,
    SourceError,
    UnsupportedError,
)
from archport.files.write import check_target, whole_file
from archport.registry import architecture

from .references import FAMILIES, SIZES, VARIANTS, bound, hf_dict, pretrained, reference, sequences, with_attention

ARCHITECTURES = list(SIZES)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def logits(model, ids):
    with torch.no_grad():
        output = model(ids)
    return output if isinstance(output, torch.Tensor) else output.logits


def close(port, model) -> bool:
    ids = sequences(model)[0]
    theirs = logits(model, ids)
    return bool((logits(port, ids) - theirs).abs().max() <= bound(port.architecture, theirs))


def bits(folder: Path) -> dict[str, list[int]]:
    """Every tensor of a folder's safetensors as its bytes."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = {key: tensor for path in files for key, tensor in load_file(path).items()}
    return {key: (str(t.dtype), tuple(t.shape), t.flatten().view(torch.uint8).tolist()) for key, t in tensors.items()}


def write(folder: Path, state: dict[str, torch.Tensor], hf: dict, name: str = "model.safetensors", **options) -> Path:
    """A checkpoint folder of these tensors under these keys."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf))
    own = {key: tensor.detach().contiguous().clone() for key, tensor in state.items()}
    if name.endswith(".safetensors"):
        save_file(own, folder / name)
    else:
        torch.save(own, folder / name, **options)
    return folder


def written(variant: str, folder: Path) -> tuple[object, dict[str, torch.Tensor], dict]:
    """A reference model, and the tensors and config of the files it writes."""
    model = reference(variant)
    model.save_pretrained(folder)
    return model, load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


# All ways to write a file for the first three and one model of each family, one of them for the family's variants.
WAYS = [(dtype, shard) for dtype in DTYPES for shard in ("5GB", "30KB")]
WRITTEN = [
    (variant, *way)
    for at, (variant, (name, _)) in enumerate(VARIANTS.items())
    for way in (WAYS if variant == name or name not in FAMILIES else [WAYS[at % len(WAYS)]])
]


@pytest.mark.parametrize(("variant", "dtype", "shard"), WRITTEN, ids=str)
def test_what_transformers_writes_loads_equal_and_exports_the_same_bytes(variant, dtype, shard, tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model = with_attention(reference(variant), "eager").to(dtype)
    model.save_pretrained(theirs, max_shard_size=shard)
    assert (len(list(theirs.glob("*.safetensors"))) > 1) == (shard == "30KB")
    port = archport.load(theirs)
    assert {parameter.dtype for parameter in port.parameters()} == {dtype}
    assert dtype != torch.float32 or close(port, model)

    archport.export(port, ours, max_shard_size=shard)
    assert bits(ours) == bits(theirs)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (theirs, ours))
    assert before == after
    if variant == VARIANTS[variant][0]:  # the bytes of the others are transformers' own too
        again, report = pretrained(ours, dtype, output_loading_info=True)
        assert not any(report.values()), report
        ids = sequences(model)[0]
        assert torch.equal(logits(again, ids), logits(pretrained(theirs, dtype), ids))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_single_file_is_equal_byte_for_byte(name, tmp_path):
    written(name, tmp_path / "theirs")
    archport.export(archport.load(tmp_path / "theirs"), tmp_path / "ours")
    file = "model.safetensors"
    assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()


@pytest.mark.filterwarnings("ignore::archport.errors.NotFiniteWarning")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nan_payloads_and_negative_zero_survive(name, tmp_path):
    _, state, hf = written(name, tmp_path / "theirs")
    for tensor in state.values():
        flat = tensor.view(-1).view(torch.int32)
        flat[0], flat[1], flat[2] = 0x7FC12345, -0x80000000, -0x3EDCBB
    write(tmp_path / "odd", state, hf)
    archport.export(archport.load(tmp_path / "odd"), tmp_path / "ours")
    assert bits(tmp_path / "ours") == bits(tmp_path / "odd")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_built_from_scratch_exports_a_folder_transformers_loads(name, tmp_path):
    sizes = {"vocab_size": 53, "context": 29, "width": 40, "layers": 2, "heads": 5, "mlp_width": 72}
    more = {"gptj": {"rotary_width": 6}, "gpt_neox": {"rotary_fraction": 0.75, "rotary_base": 777.0}}.get(name, {})
    if name == "gpt_neox":
        more |= {"rotary_scaling": "linear", "rotary_factor": 2.0, "activation": "gelu_tanh", "parallel": False}
    port = archport.build(name, dict(architecture(name).sizes) if name in FAMILIES else sizes | more).eval()
    archport.export(port, tmp_path / "ours")
    model, report = pretrained(tmp_path / "ours", torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    assert close(port, model)
    assert archport.load(tmp_path / "ours").config == port.config


def test_what_we_do_not_use_comes_along(tmp_path):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    written("gpt2", theirs)
    hf = json.loads((theirs / "config.json").read_text())
    hf |= {"eos_token_id": 17, "task_specific_params": {"text-generation": {"max_length": 50}}, "made_up": [1]}
    (theirs / "config.json").write_text(json.dumps(hf))
    (theirs / "generation_config.json").write_text('{ "temperature": 0.5, "as": "it was" }')
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (theirs / name).write_text(f"{name} as it was")
    (theirs / "secret.py").write_text("not ours to carry")
    archport.export(archport.load(theirs), ours)
    assert json.loads((ours / "config.json").read_text()) == hf
    assert (ours / "merges.txt").read_text() == "merges.txt as it was"
    assert (ours / "generation_config.json").read_text() == '{ "temperature": 0.5, "as": "it was" }'
    assert not (ours / "secret.py").exists()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_export_in_another_dtype_says_so(name, tmp_path):
    written(name, tmp_path / "theirs")
    port = archport.load(tmp_path / "theirs")
    archport.export(port, tmp_path / "ours", dtype=torch.bfloat16)
    model = pretrained(tmp_path / "ours", "auto")
    assert model.dtype == torch.bfloat16
    assert archport.load(tmp_path / "ours").embed.tokens.weight.dtype == torch.bfloat16
    assert port.embed.tokens.weight.dtype == torch.float32


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pickle_checkpoints(name, container, tmp_path):
    model, state, hf = written(name, tmp_path / "theirs")
    zipped = container == "zip"
    folder = write(tmp_path / "bin", state, hf, "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert close(archport.load(folder), model)
    assert [step.kind for step in archport.plan(folder).steps] == [
        step.kind for step in archport.plan(tmp_path / "theirs").steps
    ]


def test_sharded_pickle_checkpoints(tmp_path):
    model, state, hf = written("gpt2", tmp_path / "theirs")
    keys, weight_map = list(state), {}
    for shard, part in enumerate((keys[::2], keys[1::2])):
        file = f"pytorch_model-0000{shard + 1}-of-00002.bin"
        write(tmp_path / "bin", {key: state[key] for key in part}, hf, file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1234.0}, "weight_map": weight_map}
    (tmp_path / "bin" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert close(archport.load(tmp_path / "bin"), model)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_prefix_may_be_missing(name, tmp_path):
    model, state, hf = written(name, tmp_path / "theirs")
    bare = {key.removeprefix(architecture(name).table.prefix): tensor for key, tensor in state.items()}
    assert bare.keys() != state.keys()
    assert close(archport.load(write(tmp_path / "bare", bare, hf)), model)


def test_gpt_neox_head_under_both_its_names(tmp_path):
    model, state, hf = written("gpt_neox", tmp_path / "theirs")
    assert "embed_out.weight" in state
    state["lm_head.weight"] = state.pop("embed_out.weight")
    port = archport.load(write(tmp_path / "renamed", state, hf))
    assert close(port, model)
    archport.export(port, tmp_path / "ours")
    assert bits(tmp_path / "ours") == bits(tmp_path / "theirs")


def test_a_duplicate_head_that_equals_the_embedding_is_tied(tmp_path):
    model, state, hf = written("gpt2", tmp_path / "theirs")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    folder = write(tmp_path / "both", state, hf)
    port = archport.load(folder)
    assert port.head.weight is port.embed.tokens.weight
    assert [step.name for step in archport.plan(folder).of_kind("tied")] == ["head.weight"]
    assert close(port, model)


def test_a_duplicate_head_that_differs_makes_an_untied_model(tmp_path):
    _, state, hf = written("gpt2", tmp_path / "theirs")
    state["lm_head.weight"] = state["transformer.wte.weight"].flip(0)
    with pytest.warns(AsideWarning, match="they differ: loaded untied, as transformers 5 does"):
        port = archport.load(write(tmp_path / "both", state, hf))
    assert not port.config.tied
    assert torch.equal(port.head.weight, port.embed.tokens.weight.flip(0))
    untied = write(tmp_path / "untied", state, hf | {"tie_word_embeddings": False})
    model = pretrained(untied, torch.float32)
    assert close(port, model)
    archport.export(port, tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["tie_word_embeddings"] is False
    assert bits(tmp_path / "ours") == bits(tmp_path / "both")


BUFFERS = {
    "gpt2": ("transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias"),
    "gptj": ("transformer.h.{}.attn.bias", "transformer.h.{}.attn.masked_bias"),
    "gpt_neox": (
        "gpt_neox.layers.{}.attention.bias",
        "gpt_neox.layers.{}.attention.masked_bias",
        "gpt_neox.layers.{}.attention.rotary_emb.inv_freq",
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.bool], ids=str)
@pytest.mark.parametrize("name", BUFFERS)
def test_legacy_buffers_of_any_dtype_are_ignored_with_a_reason(name, dtype, tmp_path):
    model, state, hf = written(name, tmp_path / "theirs")
    for layer in range(3):
        for key in BUFFERS[name]:
            state[key.format(layer)] = torch.ones(1, 1, 5, 5).to(dtype)
    folder = write(tmp_path / "old", state, hf)
    port = archport.load(folder)
    assert close(port, model)
    ignored = archport.plan(folder).of_kind("ignored")
    assert len(ignored) == 3 * len(BUFFERS[name])
    assert all(step.why for step in ignored)
    assert {parameter.dtype for parameter in port.parameters()} == {torch.float32}


def test_a_base_model_of_a_tied_gpt2_loads(tmp_path):
    model, _, _ = written("gpt2", tmp_path / "theirs")
    model.transformer.save_pretrained(tmp_path / "base")
    assert json.loads((tmp_path / "base" / "config.json").read_text())["architectures"] == ["GPT2Model"]
    assert close(archport.load(tmp_path / "base"), model)


@pytest.mark.parametrize("name", ["gptj", "gpt_neox"])
def test_a_base_model_without_the_head_it_needs_is_refused(name, tmp_path):
    reference(name).base_model.save_pretrained(tmp_path)
    with pytest.raises(MappingError, match=r"(lm_head|embed_out)\.weight: missing, expected for head\.weight"):
        archport.load(tmp_path)


def test_a_reward_head_is_refused(tmp_path):
    _, state, hf = written("gpt_neox", tmp_path / "theirs")
    state["out_proj.weight"] = state.pop("embed_out.weight")[:1]
    with pytest.raises(MappingError) as caught:
        archport.load(write(tmp_path / "b", state, hf | {"architectures": None}))
    assert len(caught.value.faults) == 2


def test_dtype_auto_is_what_the_config_says_else_what_the_weights_are(tmp_path):
    _, state, hf = written("gpt_neox", tmp_path / "theirs")
    bare = {key: value for key, value in hf.items() if key not in ("dtype", "torch_dtype")}
    half = {key: tensor.half() for key, tensor in state.items()}
    for hf_dtype, tensors, expected in [
        ({"torch_dtype": "bfloat16"}, state, torch.bfloat16),
        ({"dtype": "float16"}, state, torch.float16),
        ({}, half, torch.float16),
        ({}, state, torch.float32),
    ]:
        folder = write(tmp_path / "x", tensors, bare | hf_dtype)
        assert archport.load(folder).norm.weight.dtype == expected
        if "dtype" not in hf_dtype or int(transformers.__version__.split(".")[0]) >= 5:
            assert pretrained(folder, "auto").dtype == expected  # transformers 4 does not know the name `dtype`


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cast_is_torch_s_own(name, target, tmp_path):
    model, _, _ = written(name, tmp_path)
    port = archport.load(tmp_path, dtype=target)
    expected = archport.from_state_dict(
        hf_dict(model), {k: v.to(target) for k, v in model.state_dict().items()}, dtype=target
    )
    for (key, ours), theirs in zip(port.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs), key


@pytest.mark.parametrize(
    ("name", "kinds"), [("gpt_neox", {"in place"}), ("gpt2", {"in place", "in place, transposed", "rearranged"})]
)
def test_what_is_in_place_shares_the_file_s_memory(name, kinds, tmp_path):
    written(name, tmp_path)
    plan = archport.plan(tmp_path)
    assert {step.kind for step in plan.mapped} == kinds
    assert plan.bytes_in_place + plan.bytes_copied == sum(step.bytes for step in plan.mapped)
    before = (tmp_path / "model.safetensors").read_bytes()
    port = archport.load(tmp_path)
    mapped = mapped_ranges(tmp_path / "model.safetensors")
    for step in plan.mapped:
        address = port.get_parameter(step.name).data_ptr()
        inside = any(start <= address < end for start, end in mapped)
        assert inside == step.kind.startswith("in place"), step
    with torch.no_grad():
        for parameter in port.parameters():
            parameter.zero_()  # training writes to private pages
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="what of a file is in memory is Linux's to say")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "gptj", "bloom", "codegen", "falcon", "gpt_bigcode", "mpt", "phi3"])
def test_of_what_is_copied_nothing_of_the_file_stays_in_memory(name, dtype, tmp_path):
    """However the pieces lie that are copied: queries, keys and values one after another, or head by head."""
    sizes = dict(architecture(name).sizes) | {"width": 1024, "heads": 8, "layers": 2}
    archport.export(archport.build(name, sizes), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    code = (
        "import sys, archport; model = archport.load(sys.argv[1], dtype=sys.argv[2])\n"
        "lines = iter(open('/proc/self/smaps'))\n"
        "of_file = (one for one in lines if one.rstrip().endswith(sys.argv[3]))\n"
        "print(sum(int(next(one for one in lines if one.startswith('Rss:')).split()[1]) for _ in of_file))"
    )
    words = [sys.executable, "-c", code, path.parent, dtype, path.name]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 1024 * int(done.stdout) < 0.15 * path.stat().st_size  # the edges of tensors


def mapped_ranges(path: Path) -> list[tuple[int, int]]:
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [tuple(int(part, 16) for part in line.split()[0].split("-")) for line in lines]


def test_a_state_dict_in_memory_is_shared():
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    assert port.embed.tokens.weight.data_ptr() == model.gpt_neox.embed_in.weight.data_ptr()


def test_export_into_an_empty_folder_is_readable_by_others(tmp_path):
    (tmp_path / "new").mkdir()
    folder = archport.export(archport.load(), tmp_path / "new")
    assert all(path.stat().st_mode & stat.S_IROTH for path in [folder, *folder.iterdir()])


def test_a_folder_that_is_not_there(tmp_path):
    for source in (tmp_path / "nothing", "./nothing", "a/b/c"):
        with pytest.raises(SourceError, match="no such folder"):
            archport.load(source)
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="a file, expected a folder"):
        archport.load(tmp_path / "file")


def test_an_unknown_model_type_lists_what_there_is(tmp_path):
    with pytest.raises(UnsupportedError, match=r"'mamba', archport builds bloom, codegen, .*starcoder2"):
        archport.load(write(tmp_path, {"x": torch.ones(1)}, {"model_type": "mamba"}))
    with pytest.raises(ConfigError, match="model_type: missing"):
        archport.load(write(tmp_path, {"x": torch.ones(1)}, {}))


def test_a_folder_has_no_revisions(tmp_path):
    for source in (None, tmp_path):
        with pytest.raises(SourceError, match="a folder has no revisions"):
            archport.load(source, revision="step3000")
    with pytest.raises(SourceError, match="the source is empty"):
        archport.load("")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_pickle_of_parameters_loads(container, tmp_path):
    model, _, hf = written("gptj", tmp_path / "theirs")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "config.json").write_text(json.dumps(hf))
    torch.save(
        dict(model.named_parameters()),
        tmp_path / "bin" / "pytorch_model.bin",
        _use_new_zipfile_serialization=container == "zip",
    )
    assert close(archport.load(tmp_path / "bin"), model)


def test_an_untied_model_from_shared_memory_is_really_untied():
    model = reference("gpt2")
    port = archport.from_state_dict(hf_dict(model) | {"tie_word_embeddings": False}, model.state_dict())
    with torch.no_grad():
        port.head.weight.zero_()
    assert port.embed.tokens.weight.abs().sum() > 0


def exported_again(port, folder: Path):
    archport.export(port, folder)
    again, report = pretrained(folder, torch.float32, output_loading_info=True)
    assert not any(report.values())
    return again


def test_a_broken_tie_is_exported_as_what_it_is(tmp_path):
    model = reference("gpt2")
    port = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    port.head.weight = torch.nn.Parameter(port.head.weight.detach() * 2 + 0.1)
    again = exported_again(port, tmp_path / "untied")
    assert again.config.tie_word_embeddings is False
    assert close(port, again)
    port.head.weight = torch.nn.Parameter(port.embed.tokens.weight.detach().clone())
    again = exported_again(port, tmp_path / "tied")
    assert again.config.tie_word_embeddings is True
    assert close(port, again)


def test_a_tied_model_assigned_from_a_state_dict_is_exported(tmp_path):
    model = reference("gpt2")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    empty = archport.build("gpt2", port.config, device="meta")
    empty.load_state_dict(port.state_dict(), assign=True)
    assert close(port, exported_again(empty.eval(), tmp_path / "a"))


def drop_a_block(port):
    del port.blocks[1]


def another_vocabulary(port):
    port.embed.tokens = torch.nn.Embedding(110, 96)


def an_extra_module(port):
    port.extra = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("change", [drop_a_block, another_vocabulary, an_extra_module, lambda port: port.to("meta")])
def test_a_model_that_is_not_what_its_config_says_is_not_exported(change, tmp_path):
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()))
    change(port)
    with pytest.raises(ExportError, match=r"the model is not what its config says|40 of 40 parameters are on meta"):
        archport.export(port, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_share_weights_are_written_out(tmp_path):
    model = reference("gpt_neox")
    port = archport.from_state_dict(hf_dict(model), model.state_dict())
    port.blocks[1] = port.blocks[0]
    assert close(port, exported_again(port, tmp_path / "a"))


def test_mixed_dtypes_are_kept(tmp_path):
    port = archport.load()
    port.head.float()
    archport.export(port, tmp_path / "a")
    assert load_file(tmp_path / "a" / "model.safetensors")["embed_out.weight"].dtype == torch.float32
    assert json.loads((tmp_path / "a" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64, "int8", "nonsense"])
def test_a_dtype_weights_cannot_have_is_refused_everywhere(dtype, tmp_path):
    sizes = {"vocab_size": 11, "context": 5, "width": 8, "layers": 1, "heads": 2}
    for call in (
        lambda: archport.load(dtype=dtype),
        lambda: archport.build("gpt2", sizes, dtype=dtype),
        lambda: archport.export(archport.load(), tmp_path / "a", dtype=dtype),
    ):
        with pytest.raises(ConfigError, match="dtype: found"):
            call()
    assert archport.build("gpt2", sizes, dtype="float16").norm.weight.dtype == torch.float16


@pytest.mark.parametrize("size", [0, -5, None, "many"])
def test_a_shard_size_that_makes_no_sense_is_refused(size, tmp_path):
    with pytest.raises(ExportError, match="cannot be written"):
        archport.export(archport.load(), tmp_path / "a", max_shard_size=size)
    assert list(tmp_path.iterdir()) == []


def test_rotary_dim_null_is_exported_as_a_number(tmp_path):
    port = archport.build("gptj", {"model_type": "gptj", **SIZES["gptj"], "rotary_dim": None})
    archport.export(port, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["rotary_dim"] == 14


def test_a_state_dict_that_is_none_is_an_error_of_ours():
    for state in (None, {"a": 1}, {"a": torch.ones(1, device="meta")}, {1: torch.ones(1)}):
        with pytest.raises(CheckpointError, match="expected a mapping"):
            archport.from_state_dict(hf_dict(reference("gpt2")), state)


def test_the_generation_config_is_read_when_the_folder_is(tmp_path):
    written("gpt2", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7], "top_k": 3}')
    for model in (archport.load(tmp_path), archport.plan(tmp_path).checkpoint):
        assert model.origin.generation == {"eos_token_id": [7], "top_k": 3}
    (tmp_path / "generation_config.json").unlink()
    assert archport.load(tmp_path).origin.generation is None


# --- one file, whole or not at all ---


def test_a_file_is_written_whole(tmp_path):
    path = tmp_path / "page.html"
    whole_file(path, b"one")
    whole_file(path, b"another")
    assert path.read_bytes() == b"another"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    for name in ("n" * 255, "\N{SNOWMAN}" * 85):  # as long as names may be, in bytes
        whole_file(tmp_path / name, b"long")
        assert (tmp_path / name).read_bytes() == b"long"


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_bytes(b"before")
    write = Path.write_bytes

    def half(self, content):
        write(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(ExportError, match=r"page\.html: cannot be written: No space left on device") as caught:
        whole_file(path, b"x" * 1000)
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.undo()
    assert path.read_bytes() == b"before"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    for target in (tmp_path / "none" / "page.html", tmp_path / ("n" * 256), tmp_path / "a\0b", tmp_path):
        with pytest.raises(ExportError, match="cannot be written"):
            whole_file(target, b"x")
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


KILLED = """
import os, pathlib, signal, sys
from archport.files.write import whole_file
write = pathlib.Path.write_bytes
def half(self, content):
    write(self, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.write_bytes = half
whole_file(pathlib.Path(sys.argv[1]), b"x" * 1000)
"""


def test_a_writer_that_was_killed_leaves_the_target_and_is_cleared_up_by_the_next(tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 3  # half a file and its lock
    whole_file(path, b"after")
    assert path.read_bytes() == b"after"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


TURNS = """
import pathlib, sys
from archport.files.write import whole_file
path, letter = pathlib.Path(sys.argv[1]), sys.argv[2].encode()
for _ in range(100):
    whole_file(path, letter * 1000)
    content = path.read_bytes()
    assert content == content[:1] * 1000, "half of one and half of another"
"""


def test_writers_to_one_file_at_once(tmp_path):
    path = tmp_path / "page.html"
    words = [sys.executable, "-c", TURNS, str(path)]
    running = [subprocess.Popen([*words, letter], stderr=subprocess.PIPE, text=True) for letter in "abcd"]
    for process in running:
        _, message = process.communicate(timeout=120)
        assert process.returncode == 0, message
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_a_target_is_looked_at_before_anything_is_computed(tmp_path):
    (tmp_path / "page.html").write_text("precious")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to("nowhere")
    for name, message in (
        ("page.txt", r"page\.txt: expected a name ending in \.html or \.htm"),
        ("page.html", "is there already: choose another name, or --force"),
        ("link.html", "is there already"),
        ("folder.html", "is a folder"),
        ("n" * 255 + ".html", "found a name of 260 bytes, which is too long"),
        ("none/page.html", "cannot be written: there is no folder"),
    ):
        with pytest.raises(ExportError, match=message):
            check_target(tmp_path / name, (".html", ".htm"))
    check_target(tmp_path / "page.html", (".html", ".htm"), force=True)
    check_target(tmp_path / "new.HTM", (".html", ".htm"))
    assert (tmp_path / "page.html").read_text() == "precious"


# --- real files, where they are at hand ---


def test_the_real_tiny_gpt2(shared):
    port = archport.load(shared / "checkpoints" / "tiny-gpt2")
    plan = archport.plan(shared / "checkpoints" / "tiny-gpt2")
    assert {step.file_dtype for step in plan.of_kind("ignored")} == {torch.uint8, torch.float32}
    assert port.head.weight is port.embed.tokens.weight
    cases = json.loads((shared / "expected" / "tiny-gpt2.json").read_text())["cases"]
    for case in [case for case in cases if "ids" in case]:
        ids = torch.tensor([case["ids"]])
        ours = logits(port, ids)[0]
        assert torch.allclose(ours[-1, :8], torch.tensor(case["last_logits_first8"]), rtol=0, atol=1e-7)
        assert ours[-1].argmax() == case["last_argmax"]
        assert torch.nn.functional.cross_entropy(ours[:-1], ids[0, 1:]).item() == pytest.approx(case["loss"], abs=1e-5)


def test_the_real_key_list_of_pythia_12b_plans_without_a_fault(shared):
    from archport.files.header import Header
    from archport.registry import architecture, skeleton
    from archport.translate.fields import read_config
    from archport.translate.planning import plan

    hf = json.loads((shared / "configs" / "pythia-12b" / "config.json").read_text())
    index = json.loads((shared / "indexes" / "pythia-12b" / "pytorch_model.bin.index.json").read_text())
    arch = architecture("gpt_neox")
    config, unknown = read_config(arch.table, arch.config_class, hf, "config.json")
    model = skeleton(arch, config)
    shapes = {}
    for name, parameter in model.named_parameters():
        shapes[arch.table.row(name, config).keys[0]] = tuple(parameter.shape)
    headers = {key: Header(shapes.get(key, (1,)), torch.float16) for key in index["weight_map"]}
    result = plan(arch.table, config, model, headers, dtype=torch.float16, where="pythia-12b")
    assert unknown == ()
    assert (len(result.mapped), len(result.of_kind("ignored"))) == (36 * 12 + 4, 36 * 3)
    assert sum(step.bytes for step in result.mapped) == 2 * 11846072320


@pytest.mark.parametrize("name", ["gpt2-xl", "gpt-j-6b", "pythia-12b"])
def test_the_real_configs_read_as_transformers_reads_them(name, shared):
    from transformers import AutoConfig

    folder = shared / "configs" / name
    hf = json.loads((folder / "config.json").read_text())
    ours = archport.build(hf["model_type"], hf, device="meta").config
    assert ours == archport.build(hf["model_type"], AutoConfig.from_pretrained(folder), device="meta").config


def test_a_file_that_the_system_does_not_map_is_one_line(folders, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError(
            "unable to mmap 41109203654 bytes from file <model.safetensors>: Cannot allocate memory (12)"
        )

    monkeypatch.setattr("safetensors.safe_open", refuse)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: cannot be mapped into memory: unable to mmap 4110920"
    ):
        archport.load(folders["main"])
