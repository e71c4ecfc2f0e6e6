"""A person's own module in any style: filled by its rows, and its rows found."""

import copy
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import archport
from archport import rearranged, sections
from archport.errors import ArchportError, MappingError, NotFiniteWarning
from archport.foreign.rows import Rows
from archport.foreign.sizes import Sizes
from archport.foreign.tiny import tiny
from archport.parity.by_name import LOADING, verify_by_name
from archport.registry import architecture

from .hub_server import REPO
from .references import VARIANTS, reference
from .styles import STYLES, Style, changed

ROOT = Path(__file__).parents[1]
IDS = torch.randint(0, 60, (2, 23), generator=torch.Generator().manual_seed(3))
ROUNDING = 3e-6  # of the largest logit: rotary tables of some styles are in float32


def logits(style: Style, module: nn.Module) -> torch.Tensor:
    """What a style's module says, in whatever it is wrapped."""
    with torch.no_grad():
        result = module(IDS) if style.forward is None else style.forward(module, IDS)
    if isinstance(result, dict):
        result = result["logits"]
    return result[0] if isinstance(result, tuple | list) else result


def apart(style: Style, module: nn.Module, hf: nn.Module) -> float:
    """How far its logits are from transformers', in parts of the largest."""
    with torch.no_grad():
        theirs = hf(IDS).logits
    return ((logits(style, module) - theirs).abs().max() / theirs.abs().max()).item()


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.clone() for name, one in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one, before[name]) for name, one in module.state_dict().items())


# --- filled by its rows ---


@pytest.mark.parametrize("name", STYLES)
def test_a_module_in_any_style_is_filled_by_its_rows(name, tmp_path):
    style = STYLES[name]
    hf = style.reference().double()
    hf.save_pretrained(tmp_path)
    for source in (hf, tmp_path, str(tmp_path)):
        module = style.made(hf).double().eval()
        assert archport.fill(module, source, style.rows) == style.rows
        assert apart(style, module, hf) < ROUNDING


@pytest.mark.parametrize("name", STYLES)
def test_every_fault_of_the_rows_comes_in_one_error_and_nothing_is_filled(name):
    """A row left out, a key misspelt, a row for nothing: each says what of whose is concerned."""
    style = STYLES[name]
    hf = style.reference()
    module = style.made(hf)
    before = state(module)
    first, second, third = [key for key in style.rows if "head" not in key][:3]
    rows = {**style.rows, "blocks.{n}.attn.qvk.weight": "nowhere"}
    del rows[first]
    rows[second], wrong = misspelt(rows[second])
    with pytest.raises(MappingError, match="nothing was filled") as caught:
        archport.fill(module, hf, rows)
    assert unchanged(module, before)
    faults = "\n".join(caught.value.faults)
    assert f"{first.replace('{n}', '0').replace('*', 'weight')}: no rows" in faults
    assert f"{wrong.replace('{n}', '0').replace('*', 'weight')}: missing, expected for" in faults
    assert "blocks.{n}.attn.qvk.weight: a row for none of the parameters" in faults
    assert type(module).__name__ in str(caught.value)
    assert third.replace("{n}", "0").replace("*", "weight") + ":" not in faults


def test_rows_may_be_of_parts_that_other_architectures_have():
    """As one table is for a class with options: what this checkpoint's architecture lacks is left aside."""
    hf = NANO.reference()
    others = (
        "embed.norm.*",
        "blocks.{n}.norm.weight",
        "blocks.{n}.attn.q_norm.*",
        "blocks.{n}.mlp.gate.weight",
        "head.bias",
    )
    module = NANO.made(hf)
    rows = {**dict.fromkeys(others, "h.{n}.nowhere"), **NANO.rows}
    archport.fill(module, hf, rows)
    assert archport.verify(module, reference=hf, rows=rows).ok


def misspelt(cell):
    """A row with its first key misspelt, and that key."""
    if isinstance(cell, str):
        return cell + "x", cell + "x"
    wrong = cell.keys[0] + "x"
    return rearranged((wrong, *cell.keys[1:]), cell.pattern), wrong


@pytest.mark.parametrize("name", STYLES)
def test_what_no_row_takes_of_theirs_is_a_fault(name):
    style = STYLES[name]
    hf = style.reference()
    module = style.made(hf)
    module.more = nn.Linear(3, 2, bias=False)
    before = state(module)
    with pytest.raises(MappingError, match=r"more\.weight: found \(2, 3\)") as caught:
        archport.fill(module, hf, style.rows)
    assert len(caught.value.faults) == 1
    assert unchanged(module, before)


@pytest.mark.parametrize("name", STYLES)
def test_shapes_that_differ_are_said_in_their_names(name):
    style = STYLES[name]
    hf, module = style.reference(), style.made(style.reference(vocab_size=90))
    with pytest.raises(MappingError, match="nothing was filled") as caught:
        archport.fill(module, hf, style.rows)
    theirs = {name for name, one in module.named_parameters() if 90 in one.shape}
    assert theirs
    for fault in caught.value.faults:
        assert re.search(r"found \(.*90.*\), expected \(.*\) for (embed|head)", fault), fault
        assert fault.partition(":")[0] in theirs


NANO = STYLES["gpt2_nano"]


def test_types_are_cast_once_and_nothing_else_of_the_module_changes():
    hf = NANO.reference().double()
    module = NANO.made(hf).to(torch.bfloat16).train()
    module.transformer.h[0].requires_grad_(False)
    mask = module.transformer.h[1].attn.bias.clone()
    assert archport.fill(module, hf, NANO.rows) == NANO.rows
    assert module.training
    frozen = [name for name, one in module.named_parameters() if not one.requires_grad]
    assert frozen == [name for name, _ in module.named_parameters() if ".h.0." in name]
    assert torch.equal(module.transformer.h[1].attn.bias, mask)
    assert torch.equal(module.transformer.h[1].mlp.c_fc.weight, hf.transformer.h[1].mlp.c_fc.weight.T.bfloat16())
    assert module.lm_head.weight is module.transformer.wte.weight


def test_half_a_checkpoint_in_a_whole_module_is_exact(tmp_path):
    hf = NANO.reference().to(torch.bfloat16)
    hf.save_pretrained(tmp_path)
    module = NANO.made(hf)
    archport.fill(module, tmp_path, NANO.rows)
    assert torch.equal(module.transformer.h[1].mlp.c_fc.weight, hf.transformer.h[1].mlp.c_fc.weight.T.float())


@pytest.mark.parametrize("name", ["gpt2_dropout", "llama_inline", "llama_separate"])
def test_a_module_on_meta_is_made(name):
    style = STYLES[name]
    hf = style.reference()
    with torch.device("meta"):
        module = style.made(hf)
    next(module.parameters()).requires_grad_(False)
    archport.fill(module.eval(), hf, style.rows)
    assert not any(one.is_meta for one in module.parameters())
    assert [one.requires_grad for one in module.parameters()] == [False] + [True] * (len([*module.parameters()]) - 1)
    assert apart(style, module, hf) < 1e-4


def test_what_is_tied_on_meta_stays_tied_and_an_empty_buffer_is_a_fault():
    hf = NANO.reference()
    with torch.device("meta"):
        module = NANO.made(hf)
    with pytest.raises(MappingError, match=r"transformer\.h\.0\.attn\.bias: on meta, and no row gives it values"):
        archport.fill(module, hf, NANO.rows)
    assert all(one.is_meta for one in module.parameters())
    for block in module.transformer.h:
        block.attn.bias = torch.ones(1, 1, 37, 37).tril()
    archport.fill(module.eval(), hf, NANO.rows)
    assert module.lm_head.weight is module.transformer.wte.weight
    assert apart(NANO, module, hf) < 1e-4


def test_a_head_of_its_own_is_filled_with_the_embedding_where_the_checkpoint_ties_them():
    style = STYLES["gpt2_dropout"]
    hf = reference("gpt2")
    module = style.made(hf).eval()
    archport.fill(module, hf, style.rows)
    assert torch.equal(module.logits.weight, hf.transformer.wte.weight)
    assert apart(style, module, hf) < 1e-4


def test_a_tied_module_cannot_hold_a_head_that_is_not_the_embedding():
    hf = reference("gpt2 untied")
    module = NANO.made(hf)
    with pytest.raises(MappingError, match=r"head\.weight: no rows in the key table"):
        archport.fill(module, hf, NANO.rows)
    both = {**NANO.rows, "head.weight": "lm_head.weight"}
    expected = "one tensor, which the rows fill with embed.tokens.weight and with head.weight"
    with pytest.raises(MappingError, match=expected):
        archport.fill(module, hf, both)
    archport.fill(module.eval(), reference("gpt2"), both)  # where it is the embedding, both may be named
    assert apart(NANO, module, reference("gpt2")) < 1e-4


def test_a_buffer_that_a_row_names_is_filled():
    hf = NANO.reference()
    module = NANO.made(hf)
    weight = module.transformer.ln_f._parameters.pop("weight")
    module.transformer.ln_f.register_buffer("weight", weight.detach().clone())
    archport.fill(module, hf, NANO.rows)
    assert torch.equal(module.transformer.ln_f.weight, hf.transformer.ln_f.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, as it compiles
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_what_torch_wraps_is_filled_inside(wrap):
    hf = NANO.reference()
    module = NANO.made(hf).eval()
    archport.fill(wrap(module), hf, NANO.rows)
    assert apart(NANO, module, hf) < 1e-4


def test_numbers_that_are_not_finite_are_warned_of_by_their_name():
    hf = NANO.reference()
    with torch.no_grad():
        hf.transformer.h[1].mlp.c_fc.weight[3, 5] = 1e6
    module = NANO.made(hf).half()
    with pytest.warns(NotFiniteWarning, match=r"GPT: not finite: transformer\.h\.1\.mlp\.c_fc\.weight$"):
        archport.fill(module, hf, NANO.rows)


def test_the_options_of_load_go_for_a_repository(at, folders):
    style = STYLES["neox_heads"]
    hf = reference("gpt_neox", seed=0)
    source = archport.load(folders["main"])
    module = style.build(Sizes(architecture("gpt_neox"), source.config))
    archport.fill(module, REPO, style.rows, revision="main", **at)
    assert torch.equal(module.final_linear.weight, source.head.weight)
    assert hf.config.vocab_size != source.config.vocab_size
    with pytest.raises(ArchportError, match="a folder has no revisions"):
        archport.fill(module, folders["main"], style.rows, revision="main")


WRONG = {
    "no module": (archport.fill, {"module": 3}),
    "no weights": (archport.fill, {"module": nn.Dropout()}),
    "no source": (archport.fill, {"source": 3}),
    "a module for a source": (archport.fill, {"source": nn.Linear(2, 2)}),
    "no rows": (archport.fill, {"rows": 3}),
    "no cell": (archport.fill, {"rows": {**NANO.rows, "norm.*": 3}}),
    "no pattern": (archport.fill, {"rows": {**NANO.rows, "norm.*": rearranged("a.*", "b")}}),
    "find: no module": (archport.find_rows, {"module": None}),
    "find: no source": (archport.find_rows, {"source": "./nowhere"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_what_it_should_be_is_said(case):
    function, wrong = WRONG[case]
    hf = NANO.reference()
    module = NANO.made(hf)
    before = state(module)
    right = {"module": module, "source": hf} | ({"rows": NANO.rows} if function is archport.fill else {})
    with pytest.raises(ArchportError, match=r"found|expected"):
        function(**(right | wrong))
    assert unchanged(module, before)


# --- its rows found ---


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(True, id="by likely names first"),
        pytest.param(False, id="without a look at names", marks=pytest.mark.families),
    ],
)
@pytest.mark.parametrize("name", STYLES)
def test_rows_that_are_found_fill_as_well(name, words, monkeypatch):
    """Settled by running: q, k and v in any order, norms of one shape, gate and up, transposed or not."""
    if not words:
        monkeypatch.setattr("archport.foreign.likeness.words_of", lambda _: frozenset())
    style = STYLES[name]
    hf = style.reference().double()
    module = style.made(hf).double().eval()
    before = state(module)
    rows = archport.find_rows(module, hf, forward=style.forward)
    assert rows.unsettled == ()
    assert unchanged(module, before)
    assert archport.fill(module, hf, forward=style.forward) == rows
    assert apart(style, module, hf) < ROUNDING


@pytest.mark.parametrize("name", [name for name, (architecture, _) in VARIANTS.items() if name == architecture])
def test_rows_of_transformers_own_modules_are_found(name):
    """Every architecture, as if it were a person's own code: the rows are those that fill it to the last bit."""
    hf, other = reference(name), reference(name, seed=9)
    rows = archport.fill(other, hf)
    assert rows.unsettled == ()
    assert unchanged(other, state(hf))


@pytest.mark.parametrize("name", STYLES)
def test_where_a_module_is_filled_its_values_decide_and_its_code_is_not_asked(name):
    style = STYLES[name]
    hf = style.reference()
    module = style.made(hf)
    archport.fill(module, hf, style.rows)

    def raising(*_):
        raise ValueError("not to be run")

    rows = archport.find_rows(module.to(torch.float16), hf, forward=raising)
    assert rows.unsettled == ()
    fresh = style.made(hf)
    archport.fill(fresh, hf, rows)
    assert unchanged(fresh, {name: one.float() for name, one in state(style_filled(style, hf)).items()})


def style_filled(style: Style, hf: nn.Module) -> nn.Module:
    module = style.made(hf)
    archport.fill(module, hf, style.rows)
    return module


@pytest.mark.parametrize("name", STYLES)
def test_rows_print_as_python_to_paste(name):
    for rows in (
        STYLES[name].rows,
        archport.find_rows(
            STYLES[name].made(STYLES[name].reference()), STYLES[name].reference(), forward=STYLES[name].forward
        ),
    ):
        text = str(Rows(rows))
        assert eval(text, {"rearranged": rearranged, "sections": sections}) == rows
        assert max(map(len, text.splitlines())) <= 120


def test_what_is_not_settled_is_listed_with_its_candidates_and_never_taken():
    style = STYLES["gpt2_dropout"]
    hf = style.reference()
    module = style.made(hf)
    before = state(module)
    rows = archport.find_rows(module, hf)  # whose forward wants a mask
    text = "\n".join(rows.unsettled)
    assert '"layers.{n}.before_attention.*"; or "layers.{n}.before_mlp.*"' in text
    assert "([group k v] kv dim) ..." in text
    assert "(kv [group v k] dim) ..." in text or "more" in text
    assert re.search(r"missing 1 required positional argument: 'mask'$", text)
    assert eval(str(rows), {"rearranged": rearranged, "sections": sections}) == rows  # comments and all
    with pytest.raises(MappingError, match=r"before_attention.*before_mlp") as caught:
        archport.fill(module, hf)
    assert "nothing was filled" in str(caught.value)
    assert unchanged(module, before)


@pytest.mark.parametrize(
    ("name", "old", "new", "open_"),
    [
        ("gpt2_nano", "* (1.0 / math.sqrt(k.size(-1)))", "", {"blocks.{n}.norm_attn.*", "blocks.{n}.attn.qkv.*"}),
        ("llama_fused", "F.silu(gate) * up", "gate * up", {"blocks.{n}.norm_mlp.weight", "blocks.{n}.mlp.gate.weight"}),
    ],
)
def test_of_code_that_is_wrong_the_parts_that_are_right_are_settled(name, old, new, open_):
    style = changed(STYLES[name], old, new)
    hf = style.reference()
    rows = archport.find_rows(style.made(hf), hf)
    listed = {line.partition(":")[0].partition(",")[0] for line in rows.unsettled}
    assert listed >= {one for one in open_ if "norm" not in one}
    assert "its logits are not ours by any of these rows: its code may differ" in rows.unsettled
    settled = {"blocks.{n}.mlp.up.*"} if name == "gpt2_nano" else {"blocks.{n}.attn.qkv.weight"}
    assert not listed & settled
    with pytest.raises(MappingError, match="its code may differ"):
        archport.fill(style.made(hf), hf)


def test_sizes_that_agree_by_accident_leave_the_rows_to_a_run():
    """As many tokens as positions, so that a table of one looks like one of the other, and like a head of its own."""
    for style in (NANO, STYLES["gpt2_stacked"], STYLES["gpt2_inline"]):
        hf = style.reference(vocab_size=61, n_positions=61, n_inner=60)
        module, fresh = style.made(hf), style.made(hf).eval()
        rows = archport.find_rows(module, hf, forward=style.forward)
        assert rows.unsettled == ()
        archport.fill(fresh, hf, rows)
        assert apart(style, fresh, hf) < 1e-4


def test_a_module_that_is_something_else_has_no_rows():
    hf = reference("gpt2")
    with pytest.raises(MappingError, match="no rows were found") as caught:
        archport.find_rows(STYLES["llama_separate"].made(reference("llama")), hf)
    assert any(
        "embed.positions.weight (37, 60): no tensor of the module is like it" in one for one in caught.value.faults
    )
    module = NANO.made(hf)
    module.more = nn.Linear(3, 2, bias=False)
    with pytest.raises(MappingError, match=r"more\.weight \(2, 3\): no parameter of gpt2 is like it"):
        archport.find_rows(module, hf)


class WithoutCopy(nn.Module):
    """Logits of the last token alone, unless it is told the targets; it holds what cannot be copied."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.source = inner, (line for line in "abc")

    def forward(self, ids, targets=None):
        logits = self.inner(ids)[0]
        return (logits, None) if targets is not None else (logits[:, -1], None)


def test_logits_of_the_last_token_alone_settle_too():
    hf = NANO.reference()
    rows = archport.find_rows(WithoutCopy(NANO.made(hf)), hf)
    assert rows.unsettled == ()
    assert rows["blocks.{n}.attn.qkv.*"].keys == ("inner.transformer.h.{n}.attn.c_attn.*",)
    assert archport.find_rows(WithoutCopy(NANO.made(hf)), hf, forward=lambda m, ids: m(ids)).unsettled == ()


class InFloat32(nn.Module):
    """What refuses float64."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        if next(self.parameters()).dtype == torch.float64:
            raise RuntimeError("expected float32")
        return self.inner(ids)


def test_code_that_refuses_float64_is_run_in_float32():
    hf = NANO.reference()
    assert archport.find_rows(InFloat32(NANO.made(hf)), hf).unsettled == ()


# --- the command ---


def command(*words: str):
    from archport.cli import modules, parity  # noqa: F401  # each adds its commands
    from archport.cli.app import app

    return CliRunner().invoke(app, words)


def test_the_command_prints_rows_to_paste():
    done = command("rows", f"{ROOT}/docs/examples/nano.py:GPT", "--like", "gpt2")
    assert done.exit_code == 0, done.stderr
    rows = eval(done.stdout, {"rearranged": rearranged, "sections": sections})
    assert rows["blocks.{n}.attn.qkv.*"] == rearranged(
        "h.{n}.attn.c_attn.*", "([group k v] kv dim) ... -> (kv [group k v] dim) ..."
    )
    as_json = json.loads(command("rows", f"{ROOT}/docs/examples/nano.py:GPT", "--like", "gpt2", "--json").stdout)
    assert as_json["unsettled"] == []
    assert as_json["rows"]["norm.*"] == "ln_f.*"
    assert as_json["rows"]["blocks.{n}.attn.qkv.*"]["keys"] == ["h.{n}.attn.c_attn.*"]


def test_the_command_takes_sizes_of_a_source_and_says_what_is_not_settled(tmp_path):
    reference("gpt2").save_pretrained(tmp_path / "hf")
    path = str(STYLES["gpt2_dropout"].path)
    done = command("rows", f"{path}:LanguageModel", str(tmp_path / "hf"))
    assert done.exit_code == 1
    assert '# blocks.{n}.norm_attn.*: "layers.{n}.before_attention.*"; or ' in done.stdout
    done = command("rows", f"{path}:LanguageModel", str(tmp_path / "hf"), "--forward", f"{path}:forward")
    assert done.exit_code == 0, done.stdout
    done = command("rows", f"{path}:LanguageModel", str(tmp_path / "hf"), "--like", "llama")
    assert done.exit_code == 2
    assert "is a gpt2" in done.stderr


CODE = """
import sibling
from torch import nn

VALUE = 3

def nothing():
    return 5

class Raising(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.width = config.n_embed  # misspelt

def keywords(vocab_size, block_size, n_embd, n_layer, *, n_head):
    return sibling.made(vocab_size, n_embd)
"""
FAULTS = {  # what is named, and what is said
    "mine.py": "expected a class or function of a module, as my_model.py:GPT",
    "nowhere.py:GPT": "nowhere.py: no such file",
    "mine.py:Rasing": "mine.py: has no Rasing; nearest: Raising",
    "mine.py:VALUE": "found a int, expected a class or function that makes a module",
    "mine.py:nothing": "made a int, expected a torch.nn.Module",
    "mine.py:Raising": "AttributeError: the sizes of gpt2 have no n_embed; nearest: n_embd, in mine.py, line 13",
    "mine.py:keywords": "embed.positions.weight",
    "broken.py:GPT": "broken.py: ZeroDivisionError: division by zero, in broken.py, line 2",
    "unclosed.py:GPT": "unclosed.py: SyntaxError: '(' was never closed",
    "leaving.py:GPT": "leaving.py: SystemExit: 3, in leaving.py, line 2",
    "no.such.module:GPT": "ModuleNotFoundError: No module named 'no'",
}


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "mine.py").write_text(CODE)
    (folder / "sibling.py").write_text("from torch import nn\n\ndef made(a, b):\n    return nn.Embedding(a, b)\n")
    (folder / "broken.py").write_text("\n1 / 0\n")
    (folder / "unclosed.py").write_text("\nGPT = (\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    return folder


@pytest.mark.parametrize("named", FAULTS)
def test_what_a_persons_code_does_wrong_is_one_line(named, code, monkeypatch):
    monkeypatch.chdir(code)
    path = list(sys.path)
    with pytest.raises(ArchportError) as caught:
        tiny(named, architecture("gpt2"))
    assert FAULTS[named] in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert sys.path == path


def test_a_module_that_python_finds_is_named_by_its_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "examples")
    found = tiny("nano:GPT", architecture("gpt2"))
    assert found.rows.unsettled == ()
    assert found.config.mlp_width == 4 * found.config.width  # as it has it
    assert copy.deepcopy(found.module).eval()(IDS)[1] is None


def test_of_a_filled_module_with_wrong_code_the_values_decide():
    style = changed(NANO, "* (1.0 / math.sqrt(k.size(-1)))", "")
    hf = style.reference()
    module = style.made(hf)
    archport.fill(module, hf, style.rows)
    rows = archport.find_rows(module, hf)
    assert rows == style.rows
    assert rows.unsettled == ()
    with torch.no_grad():  # and where one tensor is wrong, its code or its likeness does
        module.transformer.h[1].mlp.c_fc.weight.mul_(2)
    assert archport.find_rows(module, hf) == style.rows


def test_a_class_is_verified_by_its_name(tmp_path):
    nano = f"{ROOT}/docs/examples/nano.py:GPT"
    report = verify_by_name(nano, like="gpt2")
    assert report.ok
    assert report.never_varied == ("mlp_width", "norm_eps")  # which its code does not ask for
    hf = reference("gpt2", n_inner=None, layer_norm_epsilon=1e-5)
    hf.save_pretrained(tmp_path / "hf")
    report = verify_by_name(nano, tmp_path / "hf", like="gpt2")
    assert report.ok
    assert LOADING in report.not_run
    with pytest.raises(ArchportError, match="model_type: found 'gpt2', expected 'llama'"):
        verify_by_name(nano, tmp_path / "hf", like="llama")
    code = (ROOT / "docs/examples/nano.py").read_text()
    loading = f"""
def build(config):
    model = GPT(config)
    import archport
    archport.fill(model, {str(tmp_path / "hf")!r}, ROWS)
    return model
"""
    (tmp_path / "own.py").write_text(
        f"{code}\n\nfrom archport import rearranged\n\nROWS = {Rows(nano_rows())}\n{loading}"
    )
    report = verify_by_name(f"{tmp_path}/own.py:build", tmp_path / "hf")
    assert report.ok
    assert LOADING not in report.not_run


def nano_rows() -> Rows:
    return tiny(f"{ROOT}/docs/examples/nano.py:GPT", architecture("gpt2")).rows


WRONG_NANO = {
    "no scale": (" / math.sqrt(k.size(-1))", "", "h.0.attn", "not scaled"),
    "another activation": (', approximate="tanh"', "", "h.0.mlp", "GELU (erf)"),
    "one norm for two": ("self.mlp(self.ln_2(x))", "self.mlp(self.ln_1(x))", "h.0", "used before the MLP too"),
    "no last norm": ("self.lm_head(self.ln_f(x))", "self.lm_head(x)", "GPT", "the last norm is not applied"),
    "no residual": ("x = x + self.attn(self.ln_1(x))", "x = self.attn(self.ln_1(x))", "h.0", "not added to the stream"),
}


@pytest.mark.parametrize("bug", WRONG_NANO)
def test_the_command_names_what_is_wrong_in_a_persons_code(bug, tmp_path):
    """Although its rows are not given, and of what is wrong they cannot be proven."""
    old, new, place, words = WRONG_NANO[bug]
    code = (ROOT / "docs/examples/nano.py").read_text()
    assert code.count(old) == 1
    (tmp_path / "mine.py").write_text(code.replace(old, new))
    done = command("verify", "--module", f"{tmp_path}/mine.py:GPT", "--like", "gpt2")
    assert done.exit_code == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith(place))
    assert words in line


def test_options_of_a_module_that_do_not_go_together_are_wrong_usage():
    nano = f"{ROOT}/docs/examples/nano.py:GPT"
    for words in (["--like", "gpt2"], ["--module", nano], ["--module", nano, "--like", "gpt2", "--quick"]):
        assert command("verify", *words).exit_code == 2
    report = json.loads(command("verify", "gpt2", "--module", nano, "--json").stdout)
    assert report["ok"]


def test_a_tied_head_may_come_before_the_token_vectors():
    hf = NANO.reference()
    module = NANO.made(hf)
    archport.fill(module, hf, NANO.rows)
    head = module._modules.pop("lm_head")
    module._modules = {"lm_head": head, **module._modules}
    assert next(iter(module.state_dict())) == "lm_head.weight"
    rows = archport.find_rows(module, hf)
    assert rows["embed.tokens.weight"] == "lm_head.weight"
    assert rows.keys() == archport.find_rows(NANO.made(hf), hf).keys()
