"""The algebra of the key tables: each element arrives once, each mistake is caught, each field is classified."""

import dataclasses
import json
import re
import time
from tempfile import TemporaryDirectory

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import archport
from archport.errors import MappingError
from archport.files.header import Header
from archport.parity.references import variants
from archport.registry import architecture, skeleton
from archport.translate.fields import read_config
from archport.translate.planning import plan
from archport.translate.steps import StepKind
from archport.translate.table import Row, rearranged
from archport.translate.tensors import export_tensors

from .references import CLASSES, VARIANTS, context, hf_dict, reference, sequences

ARCHITECTURES = archport.architectures()
FIRST = ("gpt2", "gptj", "gpt_neox")


def meta_checkpoint(variant: str) -> tuple[dict, dict[str, Header]]:
    """A reference's config and the headers of the file it would write."""
    model = reference(variant)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        written = load_file(f"{folder}/model.safetensors")
    return hf_dict(model), {key: Header(tuple(t.shape), t.dtype) for key, t in written.items()}


@st.composite
def distinct_sizes(draw):
    """Sizes of which no two agree: heads, head width, layers, vocabulary, context, MLP."""
    heads = draw(st.integers(2, 5))
    head_width = draw(st.sampled_from([6, 8, 10, 12, 14]).filter(lambda w: w != heads))
    width = heads * head_width
    others = draw(
        st.lists(st.integers(7, 97).filter(lambda n: n not in (width, 3 * width)), min_size=3, max_size=3, unique=True)
    )
    layers = draw(st.integers(1, 3))
    return {
        "heads": heads,
        "width": width,
        "layers": layers,
        "vocab_size": others[0],
        "context": others[1],
        "mlp_width": others[2],
    }


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(FIRST), sizes=distinct_sizes(), tied=st.booleans())
def test_every_element_arrives_exactly_once_and_goes_back(name, sizes, tied):
    arch = architecture(name)
    more = {"rotary_width": 4} if name == "gptj" else {"rotary_fraction": 0.8} if name == "gpt_neox" else {}
    if name == "gpt_neox" and int(sizes["width"] // sizes["heads"] * 0.8) % 2:
        more = {"rotary_fraction": 1.0}
    config = arch.config_class(**sizes, tied=tied, **more)
    arrives_once_and_goes_back(arch, config)


@pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - set(FIRST)))
def test_in_every_variant_every_element_arrives_exactly_once_and_goes_back(name):
    arch = architecture(name)
    for fields in variants(arch).values():
        arrives_once_and_goes_back(arch, arch.config_class(**fields))


def arrives_once_and_goes_back(arch, config):
    outgoing = export_tensors(arch.table, config, dict(skeleton(arch, config).named_parameters()))
    start, theirs = 0, {}
    for key, (header, _) in outgoing.items():
        count = torch.Size(header.shape).numel()
        theirs[key] = torch.arange(start, start + count, dtype=torch.float64).view(header.shape)
        start += count
    hf = {"model_type": arch.name, **written_config(arch, config)}
    model = archport.from_state_dict(hf, theirs, dtype=torch.float64)
    ours = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(ours.sort().values, torch.arange(start, dtype=torch.float64))
    back = export_tensors(arch.table, config, dict(model.named_parameters()))
    assert back.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(back[key].make(), tensor), key


def written_config(arch, config):
    from archport.translate.fields import write_config

    return write_config(arch.table, config, arch.name, None)


@pytest.mark.parametrize("kind", ["weight", "bias"])
def test_the_fused_rows_are_what_view_and_permute_say(kind):
    """Our einops patterns against plain indexing of the reference's own module."""
    for name in FIRST:
        if kind == "bias" and name == "gptj":
            continue
        model = reference(name)
        port = archport.from_state_dict(hf_dict(model), model.state_dict())
        heads, head_width = port.config.heads, port.config.head_width
        ours = dict(port.blocks[1].attn.qkv.named_parameters())[kind]
        for head in range(heads):
            for part in range(3):
                for dim in (0, head_width - 1):
                    row = ours[(head * 3 + part) * head_width + dim]
                    assert torch.equal(row, reference_row(name, model, kind, part, head, dim, head_width))


def reference_row(name, model, kind, part, head, dim, head_width):
    if name == "gpt2":
        column = part * model.config.n_embd + head * head_width + dim
        return getattr(model.transformer.h[1].attn.c_attn, kind)[..., column]
    if name == "gptj":
        attention = model.transformer.h[1].attn
        return (attention.q_proj, attention.k_proj, attention.v_proj)[part].weight[head * head_width + dim]
    fused = getattr(model.gpt_neox.layers[1].attention.query_key_value, kind)
    return fused.view(model.config.num_attention_heads, 3, head_width, *fused.shape[1:])[head, part, dim]


def check(table, hf, headers):
    """The plan of a checkpoint under a table that may be wrong."""
    arch = architecture(hf["model_type"])
    config, _ = read_config(arch.table, arch.config_class, hf, "config")
    return plan(table, config, skeleton(arch, config), headers, dtype=torch.float32, where="test")


MUTATED = [name for name in VARIANTS if " " not in name] + ["gpt2 untied", "gpt_neox without attention bias"]


@pytest.mark.parametrize("variant", MUTATED)
def test_every_dropped_row_is_caught(variant):
    hf, headers = meta_checkpoint(variant)
    table = architecture(hf["model_type"]).table
    made = {step.name for step in check(table, hf, headers).mapped}
    for name in table.weights:
        ours = re.compile(re.sub(r"\\{[ne]\\}", r"\\d+", re.escape(name)).replace(r"\*", "(weight|bias)"))
        rows = {other: cell for other, cell in table.weights.items() if other != name}
        if name in table.tied and hf["tie_word_embeddings"]:
            continue  # a tied model's file has no such tensor, so its row is not needed
        if not any(map(ours.fullmatch, made)):
            continue  # a row for other configs
        with pytest.raises(MappingError) as caught:
            check(dataclasses.replace(table, weights=rows), hf, headers)
        assert any(ours.match(fault) and "no rows" in fault for fault in caught.value.faults)
        assert any(re.search("no (parameter|row of the key table) takes", fault) for fault in caught.value.faults)


@pytest.mark.parametrize("variant", MUTATED)
def test_every_misspelt_key_is_caught_with_the_nearest_name(variant):
    hf, headers = meta_checkpoint(variant)
    for key in headers:
        misspelt = re.sub(r"(\.weight|\.bias|)$", r"x\1", key, count=1)
        wrong = {misspelt if other == key else other: header for other, header in headers.items()}
        with pytest.raises(MappingError) as caught:
            check(architecture(hf["model_type"]).table, hf, wrong)
        *missing, unclaimed = sorted(caught.value.faults, key=lambda fault: "missing" not in fault)
        assert missing
        assert all(fault.startswith(f"{key}: missing") for fault in missing)  # one a parameter that it holds
        assert all(fault.endswith(f"nearest: {misspelt}") for fault in missing)
        assert unclaimed.startswith(f"{misspelt}: found {headers[key].shape}")
        assert unclaimed.endswith(f"nearest: {key}")


@pytest.mark.parametrize("variant", ["gpt2 untied", "gptj", "gpt_neox"])
def test_every_swapped_pair_of_rows_is_caught_by_shape_or_by_the_logits(variant):
    model = reference(variant)
    hf, headers = meta_checkpoint(variant)
    arch = architecture(hf["model_type"])
    ids = sequences(model)[0][:, : context(model)]
    right = model(ids).logits
    state = model.state_dict()
    names = list(arch.table.weights)
    by_plan = by_logits = 0
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            rows = dict(arch.table.weights)
            rows[one], rows[other] = rows[other], rows[one]
            wrong = dataclasses.replace(arch.table, weights=rows)
            try:
                check(wrong, hf, headers)
            except MappingError:
                by_plan += 1
                continue
            # The same shape in both places: only the numbers can tell.
            swapped = swap(arch, state, one, other, hf)
            ours = archport.from_state_dict(hf, swapped)(ids)
            assert (ours - right).abs().max() > 1e-2, f"{one} and {other} swapped go unnoticed"
            by_logits += 1
    assert by_plan > 20
    assert by_logits == {"gpt2 untied": 2, "gptj": 0, "gpt_neox": 2}[variant]  # norm_attn and norm_mlp; embed and head


def swap(arch, state, one, other, hf):
    """A state dict whose tensors for two rows have changed places."""
    result = dict(state)
    layers = hf.get("n_layer") or hf.get("num_hidden_layers")
    table, cfg = arch.table, read_config(arch.table, arch.config_class, hf, "config")[0]
    for n in range(layers):
        for star in ("weight", "bias"):
            names = [name.replace("{n}", str(n)).replace("*", star) for name in (one, other)]
            keys = [table.rows(name, cfg)[0].keys[0] for name in names]
            keys = [key if key in state else "lm_head.weight" for key in keys]
            if keys[0] in state and keys[1] in state:
                result[keys[0]], result[keys[1]] = state[keys[1]], state[keys[0]]
    return result


TWO_ROWS = {
    "the same key": {"blocks.{n}.norm_mlp.*": "gpt_neox.layers.{n}.input_layernorm.*"},
    "without its layer": {"blocks.{n}.mlp.up.*": "gpt_neox.layers.0.mlp.dense_h_to_4h.*"},
    "one of several": {
        "blocks.{n}.attn.qkv.*": rearranged(
            tuple(f"gpt_neox.layers.{{n}}.attention.{part}.*" for part in ("query", "key", "dense")),
            "[q k v] (head dim) ... -> (head [q k v] dim) ...",
        )
    },
    "twice in a row": {
        "blocks.{n}.attn.qkv.*": rearranged(
            tuple(f"gpt_neox.layers.{{n}}.attention.{part}.*" for part in ("query", "key", "query")),
            "[q k v] (head dim) ... -> (head [q k v] dim) ...",
        )
    },
    "by layer and by name": {"norm.*": "gpt_neox.layers.1.input_layernorm.*"},
    "of a tied head": {"head.weight": "gpt_neox.embed_in.weight"},
}
BOTH = {
    "the same key": "layers.0.input_layernorm.weight: .* of blocks.0.norm_attn.weight and of blocks.0.norm_mlp.weight",
    "without its layer": "layers.0.mlp.dense_h_to_4h.bias: .* of blocks.0.mlp.up.bias and of blocks.1.mlp.up.bias",
    "one of several": "layers.1.attention.dense.bias: .* of blocks.1.attn.qkv.bias and of blocks.1.attn.out.bias",
    "twice in a row": "layers.2.attention.query.bias: .* of blocks.2.attn.qkv.bias and of blocks.2.attn.qkv.bias",
    "by layer and by name": "layers.1.input_layernorm.bias: .* of blocks.1.norm_attn.bias and of norm.bias",
    "of a tied head": "gpt_neox.embed_in.weight: .* of embed.tokens.weight and of head.weight",
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", TWO_ROWS)
def test_a_key_that_two_rows_name_is_refused_before_anything_is_read_or_written(case, tied):
    hf, headers = meta_checkpoint("gpt_neox tied" if tied else "gpt_neox")
    arch = architecture("gpt_neox")
    table = dataclasses.replace(arch.table, weights=arch.table.weights | TWO_ROWS[case])
    with pytest.raises(MappingError) as caught:
        check(table, hf, headers)
    assert any(re.search(BOTH[case], fault) for fault in caught.value.faults)

    config, _ = read_config(arch.table, arch.config_class, hf, "config")
    parameters = dict(skeleton(arch, config).named_parameters())
    if tied and case == "of a tied head":
        assert export_tensors(table, config, parameters)  # the head's row is not used
        return
    with pytest.raises(MappingError, match="nothing was written") as caught:
        export_tensors(table, config, parameters)
    assert any(re.search(BOTH[case], fault) for fault in caught.value.faults)


def test_a_step_s_kind_is_the_text_that_is_printed():
    hf, headers = meta_checkpoint("gpt2")
    steps = check(architecture("gpt2").table, hf, headers).steps
    assert {f"{step.kind}" for step in steps} == {"in place", "in place, transposed", "rearranged"}
    assert all(isinstance(step.kind, StepKind) and step.how.startswith(step.kind.value) for step in steps)
    assert json.dumps([StepKind.TIED, StepKind.IGNORED]) == '["tied", "ignored"]'


def test_all_faults_come_in_one_error_in_order():
    hf, headers = meta_checkpoint("gpt_neox")
    wrong = dict(headers)
    del wrong["gpt_neox.layers.2.mlp.dense_h_to_4h.bias"]
    wrong["gpt_neox.layers.1.attention.dense.weight"] = Header((7, 5), torch.float32)
    wrong["gpt_neox.layers.0.input_layernorm.weight"] = Header((96,), torch.int64)
    wrong["score.weight"] = Header((2, 96), torch.float32)
    with pytest.raises(MappingError) as caught:
        check(architecture("gpt_neox").table, hf, wrong)
    assert list(caught.value.faults) == [
        "gpt_neox.layers.0.input_layernorm.weight: found torch.int64, expected a floating-point type for "
        "blocks.0.norm_attn.weight",
        "gpt_neox.layers.1.attention.dense.weight: found (7, 5), expected (96, 96) for "
        "blocks.1.attn.out.weight (96, 96)",
        "gpt_neox.layers.2.mlp.dense_h_to_4h.bias: missing, expected for blocks.2.mlp.up.bias (140,)",
        "score.weight: found (2, 96), but no parameter takes it",
    ]


def test_both_spellings_of_one_tensor_are_a_fault():
    hf, headers = meta_checkpoint("gpt_neox")
    headers["lm_head.weight"] = headers["embed_out.weight"]
    with pytest.raises(MappingError, match="which means the same"):
        check(architecture("gpt_neox").table, hf, headers)


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_the_reference_s_config_is_classified(name):
    config_class, model_class = CLASSES[name]
    table = architecture(name).table
    written = set(config_class().to_dict()) | set(transformers.PretrainedConfig().to_dict())
    opened = {field.partition(".")[0] for field in table.fields}
    assert {field for field in written - opened if not table.knows(field)} == set()
    rope = config_class().to_dict().get("rope_parameters") or {}
    assert set(inner_names("rope_parameters", rope)) <= table.fields
    assert model_class.__name__ in table.classes
    assert config_class.model_type == name


def inner_names(outer, fields):
    for name, value in fields.items():
        path = f"{outer}.{name}"
        yield from inner_names(path, value) if isinstance(value, dict) else [path]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_field_is_classified_twice(name):
    table = architecture(name).table
    used = {spelling for field in table.config for spelling in table.field(field).spellings}
    kinds = (used, set(table.requires), set(table.harmless), set(table.must_agree))
    assert sum(map(len, kinds)) == len(set().union(*kinds))


@pytest.mark.parametrize("name", CLASSES)
def test_our_defaults_are_the_reference_s(name):
    table = architecture(name).table
    arch = architecture(name)
    theirs, _ = read_config(table, arch.config_class, CLASSES[name][0]().to_dict(), "config")
    sizes = {item.name: getattr(theirs, item.name) for item in dataclasses.fields(theirs)}
    kept = {item.name for item in dataclasses.fields(theirs) if item.default is dataclasses.MISSING}
    kept |= {"mlp_width", "kv_heads", "head_width"}  # sizes too, though they have a rule
    if "rotary_scaling" in kept:  # no default, for the reference has one of the whole object
        kept |= {field for field in sizes if field.startswith("rotary_")}
    assert arch.config_class(**{field: sizes[field] for field in kept}) == theirs


# Parameter counts that the models' authors published; the same as a count over their checkpoints' keys.
PUBLISHED = {
    "openai-community/gpt2": 124439808,
    "distilbert/distilgpt2": 81912576,
    "openai-community/gpt2-medium": 354823168,
    "openai-community/gpt2-large": 774030080,
    "openai-community/gpt2-xl": 1557611200,
    "EleutherAI/gpt-j-6b": 6050882784,
    "EleutherAI/pythia-14m": 14067712,
    "EleutherAI/pythia-31m": 30494720,
    "EleutherAI/pythia-70m": 70426624,
    "EleutherAI/pythia-160m": 162322944,
    "EleutherAI/pythia-410m": 405334016,
    "EleutherAI/pythia-1b": 1011781632,
    "EleutherAI/pythia-1.4b": 1414647808,
    "EleutherAI/pythia-2.8b": 2775208960,
    "EleutherAI/pythia-6.9b": 6857302016,
    "EleutherAI/pythia-12b": 11846072320,
    "EleutherAI/gpt-neox-20b": 20554567680,
    "togethercomputer/RedPajama-INCITE-7B-Base": 6857302016,
}


def test_each_published_size_has_a_parameter_count():
    assert {hub_id for name in FIRST for hub_id in architecture(name).published} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_plans_without_a_fault(name):
    """Against the key list that transformers' own class has at that size, with the buffers of older files."""
    arch, sizes = published(name)
    model = skeleton(arch, arch.config_class(**sizes))
    hf, headers = published_headers(name)
    arch = architecture(hf["model_type"])
    start = time.perf_counter()
    result = check(arch.table, hf, headers)
    assert time.perf_counter() - start < 5  # a guard against quadratic work; the figure is in benchmarks/
    assert sum(torch.Size(step.shape).numel() for step in result.mapped) == PUBLISHED[name]
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[name]


def published(hub_id):
    archs = map(architecture, archport.architectures())
    return next((arch, arch.published[hub_id]) for arch in archs if hub_id in arch.published)


def published_headers(name):
    arch, sizes = published(name)
    model_type = arch.name
    hf = written_config(arch, arch.config_class(**sizes))
    config_class, model_class = CLASSES[model_type]
    with torch.device("meta"):
        model = model_class(config_class.from_dict(dict(hf)))
    state = model.state_dict()
    if hf["tie_word_embeddings"]:
        state.pop("lm_head.weight")
    headers = {key: Header(tuple(tensor.shape), torch.float16) for key, tensor in state.items()}
    for layer in range(sizes["layers"]):
        prefix = f"gpt_neox.layers.{layer}.attention." if model_type == "gpt_neox" else f"transformer.h.{layer}.attn."
        headers[prefix + "bias"] = Header((1, 1, sizes["context"], sizes["context"]), torch.uint8)
        headers[prefix + "masked_bias"] = Header((), torch.float32)
        if model_type == "gpt_neox":
            headers[prefix + "rotary_emb.inv_freq"] = Header((4,), torch.float16)
    return hf, headers


def test_an_ignored_pattern_is_anchored():
    """transformers' own pattern for the mask also matches c_attn.bias; ours must not."""
    for name in ARCHITECTURES:
        table, cfg = architecture(name).table, architecture(name).config_class(**architecture(name).sizes)
        for template in table.weights:
            for row in table.rows(template.replace("{n}", "0").replace("*", "bias"), cfg):
                assert all(table.reason(key) is None for key in row.keys)


def test_a_row_says_only_keys_patterns_and_fields():
    for name in ARCHITECTURES:
        cells = architecture(name).table.weights.values()
        for cell in (one for several in cells for one in (several if type(several) is tuple else (several,))):
            assert isinstance(cell, str) or (isinstance(cell, Row) and isinstance(cell.pattern, str | None))
