"""What rows of a key table can say of tensors: each against plain slicing, with numbers that are all different."""

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from archport.errors import MappingError
from archport.files.header import Header
from archport.layers import QKV
from archport.translate.planning import plan
from archport.translate.steps import StepKind
from archport.translate.table import Table, only, rearranged, sections
from archport.translate.tensors import export_tensors, import_tensor

KV, GROUP, DIM, WIDTH, MLP, EXPERTS, SHARDS, LAYERS = 3, 4, 8, 11, 7, 6, 2, 9
AXES = {
    "kv": KV,
    "group": GROUP,
    "dim": DIM,
    "head": KV * GROUP,
    "e": EXPERTS,
    "shard": SHARDS,
    "n": LAYERS,
    "rotary": 6,
}
HALF = 3
AXES["half"] = HALF


def numbered(*shape, start=0) -> torch.Tensor:
    """No number twice."""
    count = torch.Size(shape).numel()
    return torch.arange(start, start + count, dtype=torch.float32).reshape(shape)


def by_group(q, k, v):
    """Our fused rows, put together one by one: of each group its queries, its key, its value."""
    rows = []
    for group in range(KV):
        rows += [q[(group * GROUP + query) * DIM : (group * GROUP + query + 1) * DIM] for query in range(GROUP)]
        rows += [part[group * DIM : (group + 1) * DIM] for part in (k, v)]
    return torch.cat(rows)


def a_key_a_slot(*more):
    q = numbered(KV * GROUP * DIM, *more)
    k, v = (numbered(KV * DIM, *more, start=10_000 * part) for part in (1, 2))
    keys = {"q.*": q, "k.*": k, "v.*": v}
    return {"qkv.*": rearranged(tuple(keys), f"{QKV} ... -> {QKV} ...")}, keys, {"qkv.*": by_group(q, k, v)}


def in_sections(*more):
    _, keys, ours = a_key_a_slot(*more)
    return {"qkv.*": sections("fused.*", f"{QKV} ... -> {QKV} ...")}, {"fused.*": torch.cat([*keys.values()])}, ours


def other_order():
    """CodeGen: in each shard all queries, then all values, then all keys."""
    heads, theirs = 3, numbered(SHARDS * 3 * 3 * DIM, WIDTH)
    at = theirs.view(SHARDS, 3, heads, DIM, WIDTH)
    ours = [at[shard, slot, head] for shard in range(SHARDS) for head in range(heads) for slot in (0, 2, 1)]
    row = rearranged("fused.*", "(shard [q v k] each dim) ... -> (shard each [q k v] dim) ...")
    return {"qkv.*": row}, {"fused.*": theirs}, {"qkv.*": torch.cat(ours)}


def two_of_one():
    theirs = numbered(2 * MLP, WIDTH)
    rows = {
        f"{slot}.*": rearranged("gate_up.*", f"([gate up] mlp) ... -> ([{slot}] mlp) ...") for slot in ("gate", "up")
    }
    return rows, {"gate_up.*": theirs}, {"gate.*": theirs[:MLP], "up.*": theirs[MLP:]}


def experts_of_one():
    theirs = numbered(EXPERTS, 2 * MLP, WIDTH)
    row = "{e} ([gate up] mlp) ... -> "
    rows = {f"experts.{{e}}.{one}.*": rearranged("all", f"{row}([{one}] mlp) ...") for one in ("gate", "up")}
    ours = {f"experts.{e}.gate.*": theirs[e, :MLP] for e in range(EXPERTS)}
    return rows, {"all": theirs}, ours | {f"experts.{e}.up.*": theirs[e, MLP:] for e in range(EXPERTS)}


def experts_interleaved():
    """gpt_oss: (expert, in, out), gate and up in turns."""
    theirs = numbered(EXPERTS, WIDTH, 2 * MLP)
    row = "{e} width (mlp [gate up]) -> "
    rows = {f"experts.{{e}}.{one}.*": rearranged("all", f"{row}([{one}] mlp) width") for one in ("gate", "up")}
    ours = {f"experts.{e}.gate.*": theirs[e, :, 0::2].T for e in range(EXPERTS)}
    return rows, {"all": theirs}, ours | {f"experts.{e}.up.*": theirs[e, :, 1::2].T for e in range(EXPERTS)}


def experts_transposed():
    theirs = numbered(EXPERTS, MLP, WIDTH)
    rows = {"experts.{e}.down.*": rearranged("all", "{e} mlp width -> width mlp")}
    return rows, {"all": theirs}, {f"experts.{e}.down.*": theirs[e].T for e in range(EXPERTS)}


def a_key_a_head():
    """StableLM: the norm of each head is a key."""
    theirs = {f"norms.{head}.*": numbered(DIM, start=100 * head) for head in range(KV)}
    return (
        {"norm.*": rearranged("norms.{i}.*", "[kv] ... -> [kv] ...")},
        theirs,
        {"norm.*": torch.stack([*theirs.values()])},
    )


def stacked_experts():
    theirs = {f"w.{e}.*": numbered(MLP, WIDTH, start=1000 * e) for e in range(EXPERTS)}
    return {"w.*": rearranged("w.{i}.*", "[e] ... -> [e] ...")}, theirs, {"w.*": torch.stack([*theirs.values()])}


def layers_of_one():
    """All layers of a part in one tensor."""
    theirs = numbered(LAYERS, KV * (GROUP + 2) * DIM, WIDTH)
    row = rearranged("all", "{n} (kv [group k v] dim) ... -> (kv [group k v] dim) ...")
    return {"layers.{n}.qkv.*": row}, {"all": theirs}, {f"layers.{n}.qkv.*": theirs[n] for n in range(LAYERS)}


def rotary_pairs():
    """Meta's Llama: in q and k the first 6 of 8 elements of a head lie pair by pair, in ours by halves."""
    keys, ours = a_key_a_slot(WIDTH)[1:]
    pairs = torch.tensor([0, 3, 1, 4, 2, 5, 6, 7])
    theirs = {key: one.view(-1, DIM, WIDTH)[:, pairs].flatten(0, 1) for key, one in keys.items()}
    theirs["v.*"] = keys["v.*"]
    row = rearranged(tuple(theirs), f"{QKV} ... -> {QKV} ...; group k: (pair side) -> (side pair)")
    return {"qkv.*": row}, theirs, ours


def rotary_halves():
    """The other way round, of three keys with as many heads each."""
    theirs = {f"{slot}.*": numbered(KV * DIM, WIDTH, start=1000 * at) for at, slot in enumerate("qkv")}
    by_head = {key: one.view(KV, DIM, WIDTH) for key, one in theirs.items()}
    pairs = torch.tensor([0, 3, 1, 4, 2, 5, 6, 7])
    ours = [one[head] if key == "v.*" else one[head, pairs] for head in range(KV) for key, one in by_head.items()]
    row = rearranged(tuple(theirs), "(kv [q k v] dim) ... -> (kv [q k v] dim) ...; q k: (side pair) -> (pair side)")
    return {"qkv.*": row}, theirs, {"qkv.*": torch.cat(ours)}


def an_axis_of_one():
    """minGPT: a table of positions that is a batch of one."""
    theirs = numbered(1, MLP, WIDTH)
    return (
        {"positions.*": rearranged("pos", "1 context width -> context width")},
        {"pos": theirs},
        {"positions.*": theirs[0]},
    )


def transposed_thirds():
    """GPT-2, whose groups have one query: columns are all q, all k, all v."""
    theirs = numbered(WIDTH, 3 * KV * DIM)
    at = theirs.T.view(3, KV, DIM, WIDTH)
    row = rearranged("fused.*", "... ([q k v] kv dim) -> (kv [q k v] dim) ...")
    return (
        {"qkv.*": row},
        {"fused.*": theirs},
        {"qkv.*": torch.cat([at[s, head] for head in range(KV) for s in range(3)])},
    )


def neighbours():
    """Meta's files and torchtune: the two of a rotary pair are neighbours, where ours are half a head apart."""
    heads = KV * GROUP
    theirs = numbered(heads * 2 * HALF, WIDTH)
    order = [head * 2 * HALF + 2 * pair + one for head in range(heads) for one in range(2) for pair in range(HALF)]
    row = rearranged("q.*", "(head half two) ... -> (head two half) ...")
    return {"q.*": row}, {"q.*": theirs}, {"q.*": theirs[order]}


CASES = {
    "a key a slot": (*a_key_a_slot(WIDTH), None),
    "a key a slot, of a bias": (*a_key_a_slot(), None),
    "sections of one key": (*in_sections(WIDTH), None),
    "sections of one key, of a bias": (*in_sections(), None),
    "slots in another order": (*other_order(), None),
    "two of one": (*two_of_one(), StepKind.IN_PLACE),
    "experts of one": (*experts_of_one(), StepKind.IN_PLACE),
    "experts interleaved": (*experts_interleaved(), None),  # a product would copy a view of every second number
    "experts transposed": (*experts_transposed(), StepKind.TRANSPOSED),
    "a key a head": (*a_key_a_head(), None),
    "experts stacked": (*stacked_experts(), None),
    "transposed thirds": (*transposed_thirds(), None),
    "layers of one": (*layers_of_one(), StepKind.IN_PLACE),
    "rotary pairs": (*rotary_pairs(), None),
    "rotary halves": (*rotary_halves(), None),
    "an axis of one": (*an_axis_of_one(), StepKind.IN_PLACE),
    "neighbours": (*neighbours(), None),
}


def table_of(rows) -> Table:
    return Table(classes=("X",), prefix="", config={}, requires={}, harmless=frozenset(), weights=rows)


def named(tensors) -> dict[str, torch.Tensor]:
    return {name.replace("*", "weight"): tensor for name, tensor in tensors.items()}


def model_of(ours) -> nn.Module:
    model = nn.Module()
    for name, tensor in ours.items():
        *path, leaf = name.split(".")
        part = model
        for one in path:
            if not hasattr(part, one):
                part.add_module(one, nn.Module())
            part = getattr(part, one)
        part.register_parameter(leaf, nn.Parameter(torch.empty(tensor.shape, device="meta")))
    return model


def planned(rows, theirs, ours, dtype=torch.float32):
    headers = {key: Header(tuple(tensor.shape), tensor.dtype) for key, tensor in theirs.items()}
    cfg = SimpleNamespace(axes=AXES, grouped=True)
    return plan(table_of(rows), cfg, model_of(ours), headers, dtype=dtype, where="test"), cfg


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_row_reads_what_plain_slicing_reads_and_writes_it_back(case, dtype):
    rows, theirs, ours, kind = CASES[case]
    theirs, ours = named(theirs), named(ours)
    result, cfg = planned(rows, theirs, ours, dtype)
    parameters = {}
    for step in result.mapped:
        tensor, copies = import_tensor(step, AXES, theirs.__getitem__)
        for target, source, _ in copies:
            target.copy_(source)
        assert torch.equal(tensor, ours[step.name].to(dtype)), step.name
        if dtype == torch.float32:
            assert kind is None or step.kind == kind
            shared = tensor.untyped_storage().data_ptr() in {
                one.untyped_storage().data_ptr() for one in theirs.values()
            }
            assert shared == step.in_place == (not copies)
        parameters[step.name] = tensor.to(torch.float32)
    outgoing = export_tensors(table_of(rows), cfg, parameters)
    assert outgoing.keys() == theirs.keys()
    for key, one in outgoing.items():
        assert one.header.shape == theirs[key].shape
        assert torch.equal(one.make(), theirs[key]), key


@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_a_key_of_another_shape_is_a_fault_that_names_it(case, data):
    rows, theirs, ours, _ = CASES[case]
    theirs, ours = named(theirs), named(ours)
    key = data.draw(st.sampled_from(sorted(theirs)))
    axis = data.draw(st.integers(0, theirs[key].ndim - 1))
    shape = list(theirs[key].shape)
    shape[axis] += data.draw(st.sampled_from([-1, 1]))
    with pytest.raises(MappingError, match=rf"{key}: found \({', '.join(map(str, shape))}"):
        planned(rows, theirs | {key: torch.empty(shape)}, ours)


def test_a_layer_that_no_row_takes_is_a_fault():
    rows, theirs, ours, _ = CASES["layers of one"]
    ours = {name: tensor for name, tensor in ours.items() if ".5." not in name}
    with pytest.raises(MappingError, match=r"no row of the key table takes layer 5, group; layer 5, k; layer 5, v"):
        planned(rows, named(theirs), named(ours))
    with pytest.raises(MappingError, match=r"takes one layer, but found no \{n\} in the name of ours"):
        planned({"x.*": rows["layers.{n}.qkv.*"]}, named(theirs), {"x.weight": numbered(2)})


@pytest.mark.parametrize("case", ["two of one", "experts of one", "experts interleaved"])
def test_what_no_row_takes_of_a_key_is_a_fault(case):
    rows, theirs, ours, _ = CASES[case]
    rows = {name: row for name, row in rows.items() if "up" not in name}
    ours = {name: tensor for name, tensor in ours.items() if ".up" not in name and not name.startswith("up")}
    with pytest.raises(MappingError, match=r"no row of the key table takes (up|expert 0, up; expert 1, up;)"):
        planned(rows, named(theirs), named(ours))
    with pytest.raises(MappingError, match="nothing was written"):
        export_tensors(table_of(rows), SimpleNamespace(axes=AXES), named(ours))


def test_two_rows_that_take_the_same_slot_are_a_fault():
    rows, theirs, ours, _ = CASES["two of one"]
    with pytest.raises(MappingError, match=r"gate_up\.weight: two rows .* of gate\.weight and of up\.weight"):
        planned(rows | {"up.*": rows["gate.*"]}, named(theirs), named(ours))


def test_of_alternatives_the_one_in_the_file_is_read_and_the_first_is_written():
    apart, theirs, ours = a_key_a_slot(WIDTH)
    fused, together, _ = in_sections(WIDTH)
    both = {"qkv.*": (apart["qkv.*"], fused["qkv.*"])}
    for file in (theirs, together):
        result, cfg = planned(both, named(file), named(ours))
        [step] = result.mapped
        tensor, copies = import_tensor(step, AXES, named(file).__getitem__)
        for target, source, _ in copies:
            target.copy_(source)
        assert torch.equal(tensor, named(ours)["qkv.weight"])
    assert export_tensors(table_of(both), cfg, named(ours)).keys() == named(theirs).keys()
    assert export_tensors(table_of(both), cfg, named(ours), present=named(together)).keys() == named(together).keys()


@pytest.mark.parametrize(("grouped", "key"), [(True, "a.weight"), (False, "b.weight")])
def test_a_row_may_count_for_some_configs_only(grouped, key):
    table = table_of({"x.*": (only("a.*", grouped=True), only("b.*", grouped=False))})
    cfg = SimpleNamespace(axes=AXES, grouped=grouped)
    ours = {"x.weight": numbered(3, 2)}
    assert [*export_tensors(table, cfg, ours)] == [key]
    assert [row.keys for row in table.rows("x.weight", cfg)] == [(key,)]
    none = table_of({"x.*": only("a.*", grouped=True)})
    assert len(none.rows("x.weight", cfg)) == grouped


FUSED, BOTH = f"{QKV} ... -> {QKV} ...", "([gate up] mlp) ... -> "
SLIPS = {  # a cell for x.*, and what is said of it
    "no arrow": (rearranged("y.*", "(kv dim) ..."), "is no pattern, expected theirs -> ours"),
    "other axes": (rearranged("y.*", "(kv dim) ... -> (kv head) ..."), "do not have the same axes, found dim, head on"),
    "an axis twice": (rearranged("y.*", "kv kv ... -> kv kv ..."), "found kv twice on a side, expected once"),
    "no bracket of ours": (rearranged("y.*", f"{BOTH}mlp ..."), r"found \[..\] on one only"),
    "no closing parenthesis": (
        rearranged("y.*", "([gate up] mlp ... -> ([gate] mlp) ..."),
        r"the side .*, expected axes",
    ),
    "parentheses in parentheses": (rearranged("y.*", "((kv) dim) ... -> ..."), r"the side .*, expected axes"),
    "two brackets": (
        rearranged("y.*", "([q k] [a b]) ... -> ([q] [a]) ..."),
        "found 2 brackets on a side, expected at",
    ),
    "a slot misspelt": (rearranged("y.*", f"{BOTH}([gat] mlp) ..."), "found slot gat, expected some of gate, up"),
    "a key too few": (rearranged(("q.*", "k.*"), FUSED), "found 2 keys, expected 1, or 3, one a slot"),
    "keys without slots": (rearranged(("q.*", "k.*"), "kv ... -> kv ..."), "found 2 keys, expected 1, or a slot for"),
    "rows without keys": (rearranged(("q.*", "k.*"), "[kv] ... -> [kv] ..."), "found 2 keys, expected 1, or 3, one a"),
    "sections of no slots": (sections("y.*", "kv ... -> kv ..."), "found no slots to cut sections for, expected some"),
    "rows of an unknown axis": (rearranged("y.{i}.*", "[kvv] ... -> [kvv] ..."), "found slots kvv, expected .* of kv,"),
    "rows of no axis": (rearranged("y.{i}.*", "kv ... -> kv ..."), "found slots none, expected one a key"),
    "rows of no pattern": ("y.{i}.*", "found slots none, expected one a key"),
    "an expert of none": (rearranged("y", "{e} mlp width -> width mlp"), r"found no \{e\} in the name of ours"),
    "an expert's key of none": ("y.{e}.*", r"y.\{e\}.*: found \{e\}, which the name of ours has not"),
    "pairs of no slot": (rearranged("y.*", f"{FUSED}; q: (pair side) -> (side pair)"), "expected slots of group, k, v"),
    "pairs that are none": (
        rearranged("y.*", f"{FUSED}; k: (pair) -> (pair)"),
        r"found 'k: \(pair\) -> \(pair\)', exp",
    ),
    "a field misspelt": (only("y.*", gruoped=True), "only for gruoped, expected fields of Config"),
    "a shape that does not fit": (
        rearranged("y.{n}.*", "(mlp width) ... -> (mlp width) ..."),
        r"not fit shape \(60, 11\)",
    ),
    "an alternative misspelt": (
        ("y.*", rearranged("z.*", f"{BOTH}([gat] mlp) ...")),
        "found slot gat, expected some of",
    ),
}


@pytest.mark.parametrize("way", ["plan", "export"])
@pytest.mark.parametrize("slip", SLIPS)
def test_a_row_that_makes_no_sense_is_one_line_that_names_it(slip, way):
    """Of all the parameters that it makes, for it is the row that is wrong."""
    cell, words = SLIPS[slip]
    ours = {f"{name}.{leaf}": numbered(60, 11) for name in ("layers.0.x", "layers.1.x") for leaf in ("weight", "bias")}
    rows = {"layers.{n}.x.*": cell}
    there = {name.replace("layers", "y").replace(".x.", "."): tensor for name, tensor in ours.items()}
    export = partial(export_tensors, table_of(rows), SimpleNamespace(axes=AXES, grouped=True), ours)
    with pytest.raises(MappingError) as caught:
        planned(rows, there, ours) if way == "plan" else export()
    assert ("nothing was written" in str(caught.value)) == (way == "export")
    [fault] = {re.sub(r"layers.\d.x.(weight|bias)", "layers.{n}.x.*", fault) for fault in caught.value.faults}
    assert fault.startswith("layers.{n}.x.*: ")
    assert re.search(words, fault), fault


def test_an_expert_of_a_config_without_experts_is_a_fault():
    rows, _, ours, _ = CASES["experts transposed"]
    cfg = SimpleNamespace(axes={"kv": KV})
    with pytest.raises(MappingError, match=r"expected an axis e in Config.axes: kv") as caught:
        export_tensors(table_of(rows), cfg, named(ours))
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("heads", [1, 2, 5])
def test_as_many_keys_as_there_are_heads_be_it_one(heads):
    rows, _, _, _ = CASES["a key a head"]
    outgoing = export_tensors(
        table_of(rows), SimpleNamespace(axes={"kv": heads}), {"norm.weight": numbered(heads, DIM)}
    )
    assert {key: one.header.shape for key, one in outgoing.items()} == {
        f"norms.{n}.weight": (DIM,) for n in range(heads)
    }
    assert torch.equal(torch.stack([one.make() for one in outgoing.values()]), numbered(heads, DIM))


@given(case=st.sampled_from(sorted(CASES)), data=st.data())
def test_a_pattern_with_one_character_wrong_is_at_worst_a_fault(case, data):
    rows, theirs, ours, _ = CASES[case]
    name = data.draw(st.sampled_from(sorted(rows)))
    text = rows[name].pattern
    at, other = data.draw(st.integers(0, len(text) - 1)), data.draw(st.sampled_from(["", *" ()[]{}.->e1kq"]))
    wrong = rows | {name: replace(rows[name], pattern=text[:at] + other + text[at + 1 :])}
    with suppress(MappingError):
        planned(wrong, named(theirs), named(ours))
    with suppress(MappingError):
        export_tensors(table_of(wrong), SimpleNamespace(axes=AXES), named(ours))
