"""Architectures of somebody else: fields of any kind, and modules that draw, compute and keep numbers of their own."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import LayerNorm, Linear

import archport
from archport import registry
from archport.building import parameters_on_meta
from archport.config import DecoderConfig, bounded, derived
from archport.errors import ConfigError, ExportError, MappingError, UnsupportedError
from archport.fast.linears import KINDS, swap
from archport.layers import MLP, Attention, Decoder, Embed, SequentialBlock
from archport.translate.fields import read_config, write_config
from archport.translate.table import Table, config_field

from .cpu import swapping


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Fields of every kind; their annotations are text here."""

    layer_types: list[str] = ()  # type: ignore[assignment]
    sections: tuple[int, ...] = (1, 2)
    window: int | list[int] | None = None
    rope: dict[str, float] | None = None
    anything: Any = None
    mode: Literal["fast", "exact", 2] = "fast"
    pair: tuple[int, str] = (1, "a")
    padding: int = bounded(0, least=-1)
    offset: float = bounded(0.0, least=-math.inf)
    gain: float = bounded(1.0, least=0, most=2)
    gate_width: int = derived(lambda cfg: cfg.width // 2)
    order: str | list[int] = "up"


class Gate(nn.Module):
    """A parameter of its own, drawn by torch's functions, and tables of its own."""

    def __init__(self, width: int, gate_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, gate_width))
        self.skip = nn.Parameter(torch.ones(width))
        nn.init.normal_(self.weight, 3.0, 0.5)
        nn.init.orthogonal_(nn.Linear(3, 3).weight)
        self.register_buffer("steps", torch.arange(width).float(), persistent=False)
        self.register_buffer("ceiling", torch.empty(2, 2).fill_(-1.0).triu_(1))
        table = torch.empty(3)
        nn.init.constant_(table, 7.0)
        self.register_buffer("table", table)
        self.constant = torch.tensor([0.5, 0.25]).tolist()[1] + torch.ones(1).item()

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Scale by what the buffers, the parameters and the constant say."""
        return x * self.skip + self.weight.mean(-1) * self.steps * self.constant * self.ceiling[0, 1] * self.table[0]


class GatedBlock(SequentialBlock):
    """A block with a gate after it."""

    def __init__(self, gate: Gate, **parts: nn.Module) -> None:
        super().__init__(**parts)
        self.gate = gate

    def forward(self, x: Tensor, context: Any) -> Tensor:  # (batch, seq, width), same out
        """The block, then the gate."""
        return self.gate(super().forward(x, context))


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts; its norms have no weights."""
    norm = partial(LayerNorm, cfg.width, elementwise_affine=False)
    blocks = [
        GatedBlock(
            Gate(cfg.width, cfg.gate_width),
            norm_attn=norm(),
            attn=Attention(cfg.width, cfg.heads),
            norm_mlp=norm(),
            mlp=MLP(cfg.width, cfg.mlp_width, activation="relu"),
        )
        for _ in range(cfg.layers)
    ]
    head = Linear(cfg.width, cfg.vocab_size, bias=False)
    return Decoder(embed=Embed(cfg.vocab_size, cfg.width), blocks=blocks, norm=norm(), head=head, tied=cfg.tied)


ORDERS = {"ascending": "up", "descending": [3, 2, 1]}
NAMES = ("vocab_size", "context", "width", "layers", "heads", "mlp_width", "gate_width", "tied", "layer_types",
         "sections", "window", "rope", "anything", "mode", "pair", "padding", "offset", "gain")  # fmt: skip
TABLE = Table(
    classes=("Toy",),
    prefix="",
    config={name: name.upper() for name in NAMES} | {"order": config_field("ORDER", values=ORDERS)},
    requires={"KINDS": (["a"], {"b": [1]})},
    must_agree={"SECTIONS_AGAIN": "sections"},
    harmless=frozenset({"bos_token_id", "eos_token_id", "torch_dtype"}),
    weights={
        "embed.tokens.weight": "wte",
        "blocks.{n}.gate.weight": "h.{n}.gate",
        "blocks.{n}.gate.skip": "h.{n}.skip",
        "blocks.{n}.attn.qkv.*": "h.{n}.qkv.*",
        "blocks.{n}.attn.out.*": "h.{n}.out.*",
        "blocks.{n}.mlp.up.*": "h.{n}.up.*",
        "blocks.{n}.mlp.down.*": "h.{n}.down.*",
        "head.weight": "head",
    },
    tied={"head.weight": "embed.tokens.weight"},
    ignored={"h.{n}.ceiling": "computed"},
)
SIZES = {"vocab_size": 67, "context": 16, "width": 24, "layers": 2, "heads": 3}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    archport.register("toy", config_class=Config, build=lambda cfg: build(cfg), table=TABLE)


def built_by(function, monkeypatch) -> None:
    """Let another function build the toy."""
    monkeypatch.setitem(globals(), "build", function)


def test_modules_draw_what_nobody_else_draws():
    torch.manual_seed(0)
    model = archport.build("toy", SIZES)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    for block in model.blocks:
        assert block.gate.weight.mean().item() == pytest.approx(3.0, abs=0.15)
        assert block.gate.weight.std().item() == pytest.approx(0.5, rel=0.2)
        assert block.attn.qkv.weight.std().item() == pytest.approx(model.config.init_std, rel=0.1)
        assert torch.equal(block.gate.table, torch.full((3,), 7.0))
    assert model(torch.tensor([[1, 2, 3]])).isfinite().all()


def test_on_meta_nothing_is_real_and_constants_can_be_computed():
    model = archport.build("toy", SIZES, device="meta")
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert model.blocks[0].gate.constant == 1.25


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loaded_model_has_the_buffers_that_build_makes(dtype, tmp_path):
    model = archport.build("toy", SIZES, dtype=dtype)
    again = archport.load(archport.export(model, tmp_path / "toy"))
    gate = again.blocks[1].gate
    assert torch.equal(gate.steps, torch.arange(24).float())
    assert torch.equal(gate.ceiling, torch.tensor([[0.0, -1.0], [0.0, 0.0]]))
    assert torch.equal(gate.table, torch.full((3,), 7.0))
    assert {name: tensor.dtype for name, tensor in again.named_buffers()} == {
        name: tensor.dtype for name, tensor in model.named_buffers()
    }
    assert {parameter.dtype for parameter in again.parameters()} == {getattr(torch, dtype)}
    if dtype == "float32":
        ids = torch.tensor([[1, 2, 3]])
        assert torch.equal(again(ids), model.eval()(ids))


def on_meta(cfg: Config) -> Decoder:
    model = build_right(cfg)
    model.blocks[1].gate.register_buffer("ceiling", torch.empty(2, 2, device="meta"))
    return model


def too_large(cfg: Config) -> Decoder:
    model = build_right(cfg)
    model.blocks[1].gate.register_buffer("ceiling", torch.empty(1 << 25))
    return model


build_right = build


@pytest.mark.parametrize("function", [on_meta, too_large])
def test_what_has_no_values_after_loading_is_named(function, tmp_path, monkeypatch):
    folder = archport.export(archport.build("toy", SIZES), tmp_path / "toy")
    built_by(function, monkeypatch)
    with pytest.raises(MappingError) as caught:
        archport.load(folder)
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith("blocks.1.gate.ceiling: ")


def one_map(cfg: Config) -> Decoder:
    model = build_right(cfg)
    model.blocks[1].mlp.up = model.blocks[0].mlp.up
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_several_blocks_share_is_taken_over_once(kind):
    model = one_map(Config(**SIZES)).eval()
    with swapping(kind) as can:
        swap(model, kind)
    assert model.blocks[1].mlp.up is model.blocks[0].mlp.up
    assert isinstance(model.blocks[1].mlp.up, KINDS[kind]) == can


def one_weight(cfg: Config) -> Decoder:
    model = build_right(cfg)
    model.blocks[1].mlp.up.weight = model.blocks[0].mlp.up.weight
    return model


@pytest.mark.parametrize("function", [one_map, one_weight])
@pytest.mark.parametrize("linears", [None, *KINDS])
def test_what_two_blocks_share_is_refused_in_whatever_way_it_is_held(linears, function, tmp_path, monkeypatch):
    """For a file has it twice, and nothing says which of the two counts."""
    folder = archport.export(archport.build("toy", SIZES), tmp_path / "toy")
    built_by(function, monkeypatch)
    with pytest.raises(MappingError, match=r"h\.1\.up\.weight"):
        archport.load(folder, linears=linears)


def test_a_weight_that_only_a_module_gives_is_no_parameter_of_the_file(tmp_path, monkeypatch):
    folder = archport.export(archport.build("toy", SIZES), tmp_path / "toy")

    def more(cfg: Config) -> Decoder:
        model = build_right(cfg)
        model.blocks[0].gate.more = nn.Parameter(torch.ones(3))
        return model

    built_by(more, monkeypatch)
    with pytest.raises(MappingError, match=r"blocks\.0\.gate\.more: no rows in the key table"):
        archport.load(folder)


def broken(cfg: Config) -> int:
    return 1 // (cfg.layers - 2)


def no_decoder(_: Config) -> nn.Module:
    return nn.Linear(3, 3)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("function", "message"),
    [(broken, "toy: build: ZeroDivisionError: "), (no_decoder, "toy: build: returned a Linear, expected a Decoder")],
)
def test_a_build_that_fails_is_one_line_with_the_architecture_s_name(function, message, device, monkeypatch):
    built_by(function, monkeypatch)
    with pytest.raises(UnsupportedError, match=message) as caught:
        archport.build("toy", SIZES, device=device)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (function is broken)


def test_a_parameter_of_two_modules_stays_one_without_memory():
    with parameters_on_meta():
        shared = nn.Parameter(torch.ones(3))
        modules = [nn.Module(), nn.Module()]
        for module in modules:
            module.weight = shared
    assert modules[0].weight is modules[1].weight
    assert modules[0].weight.is_meta


def test_other_threads_build_real_modules_meanwhile():
    modules = []
    with parameters_on_meta():
        thread = threading.Thread(target=lambda: modules.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        assert nn.Linear(2, 2).weight.is_meta
    assert not modules[0].weight.is_meta
    assert not nn.Linear(2, 2).weight.is_meta


RIGHT: dict[str, list[Any]] = {
    "layer_types": [[], ["full", "sliding"]],
    "sections": [[], [16, 24, 24]],
    "window": [None, 4, [4, 8]],
    "rope": [None, {}, {"factor": 2, "low": 0.5}],
    "anything": [None, 0, -1.5, "x", [], [[1], {"a": [True, None]}], {"a": {"b": []}}],
    "mode": ["exact", 2],
    "pair": [[3, "b"]],
    "padding": [-1, 0, 7],
    "offset": [0, -2.5, 1e-9],
    "gain": [0, 2],
    "gate_width": [3],
    "order": ["up", [3, 2, 1]],
    "tied": [True],
}


@pytest.mark.parametrize("field", RIGHT)
def test_a_field_of_any_kind_is_kept_written_and_read(field):
    for value in RIGHT[field]:
        config = Config(**SIZES, **{field: value})
        hf = write_config(TABLE, config, "toy", None)
        written = json.loads(json.dumps(hf))
        assert hf == written
        assert read_config(TABLE, Config, written, "config")[0] == config
        assert replace(config) == config == Config(**SIZES, **{field: getattr(config, field)})
        assert written[field.upper()] == (
            value if field != "order" else {"up": "ascending"}.get(str(value), "descending")
        )
        other = Config(**SIZES)
        over = json.loads(json.dumps(write_config(TABLE, config, "toy", write_config(TABLE, other, "toy", None))))
        assert read_config(TABLE, Config, over, "config")[0] == config
        back = write_config(TABLE, other, "toy", written)
        assert read_config(TABLE, Config, back, "config")[0] == other


WRONG = {
    "layer_types": ("full", ["full", 1], {"a": "full"}),
    "sections": (3, [0], [1.0], [True]),
    "window": (0, [0], "wide", {}),
    "rope": ([], {"factor": "two"}, {"factor": 0}),
    "anything": (math.nan, {1: 2}, {3}, torch.ones(1), [object()]),
    "mode": ("slow", 2.0, True, []),
    "pair": ([1], [1, "a", 2], ["a", 1], None),
    "padding": (-2, 0.0, None),
    "offset": (math.inf, "0", None),
    "gain": (-0.1, 2.1),
    "order": (3, {}),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_value_that_a_field_cannot_have_is_found_and_expected(field):
    for value in WRONG[field]:
        with pytest.raises(ConfigError, match=rf"^config: {field}: found .*, expected ") as caught:
            Config(**SIZES, **{field: value})
        assert list(caught.value.faults) == [field]


@pytest.mark.parametrize(
    "value", [10**5000, [[]] * 10**5, "x" * 10**6, -(10**400)], ids=["digits", "list", "text", "number"]
)
def test_a_huge_value_is_a_short_message(value):
    with pytest.raises(ConfigError) as caught:
        Config(**SIZES, padding=value)
    assert len(str(caught.value)) < 200


def test_a_value_nested_too_deep_is_an_error_of_ours():
    nested: Any = []
    for _ in range(10**5):
        nested = [nested]
    with pytest.raises(ConfigError, match=r"anything: found a very large list, expected a JSON value"):
        Config(**SIZES, anything=nested)
    while nested:  # freed level by level: the interpreter's own way recurses
        nested = nested.pop()


def test_lists_are_kept_as_tuples_so_that_a_config_cannot_change():
    types, nested = ["full"], {"a": [1]}
    config = Config(**SIZES, layer_types=types, anything=nested)
    types.append("sliding")
    nested["a"].append(2)
    assert config.layer_types == ("full",)
    assert config.anything == {"a": (1,)}
    assert hash(Config(**SIZES, layer_types=["full"])) == hash(Config(**SIZES, layer_types=("full",)))


@pytest.mark.parametrize("value", [[1], {}, 3, [[]], "sideways"])
def test_a_value_that_a_row_does_not_know_is_refused_whatever_it_is(value):
    with pytest.raises(UnsupportedError, match=r"ORDER: found .*, archport builds ascending, descending"):
        read_config(TABLE, Config, hf(ORDER=value), "config")
    if isinstance(value, str):
        with pytest.raises(
            ConfigError, match=r"config of toy: order: found 'sideways', expected one of up, \[3, 2, 1\]"
        ):
            archport.build("toy", SIZES | {"order": value})


def hf(**more: Any) -> dict[str, Any]:
    return {"model_type": "toy", **{name.upper(): value for name, value in SIZES.items()}, **more}


def test_fields_of_lists_may_be_required_and_must_agree():
    assert read_config(TABLE, Config, hf(KINDS=["a"], SECTIONS=[3, 4], SECTIONS_AGAIN=[3, 4]), "config")[
        0
    ].sections == (3, 4)
    with pytest.raises(UnsupportedError, match="KINDS: found"):
        read_config(TABLE, Config, hf(KINDS=["b"]), "config")
    with pytest.raises(ConfigError, match=r"SECTIONS_AGAIN: found \[3\], but SECTIONS is"):
        read_config(TABLE, Config, hf(SECTIONS=[3, 4], SECTIONS_AGAIN=[3]), "config")


def test_what_must_agree_agrees_when_a_changed_config_is_written():
    origin = hf(SECTIONS=[3, 4], SECTIONS_AGAIN=[3, 4])
    config, _ = read_config(TABLE, Config, origin, "config")
    written = write_config(TABLE, replace(config, sections=[5]), "toy", origin)
    assert (written["SECTIONS"], written["SECTIONS_AGAIN"]) == ([5], [5])


def test_a_derived_field_follows_until_it_is_given():
    assert Config(**SIZES).gate_width == 12
    assert replace(Config(**SIZES), width=48, gate_width=None, head_width=None).gate_width == 24
    assert replace(Config(**SIZES), width=48).gate_width == 12  # kept, as every size that is not changed


@pytest.mark.parametrize(
    ("annotation", "message"),
    [("set[int]", r"x: values of set\[int\] are not JSON"), ("Nowhere", r"types: cannot be read: name 'Nowhere'")],
)
def test_a_type_that_no_file_can_hold_is_an_error_of_ours(annotation, message):
    namespace: dict[str, Any] = {"__annotations__": {"x": annotation}, "x": None, "__module__": __name__}
    config_class = dataclass(frozen=True, kw_only=True)(type("Odd", (DecoderConfig,), namespace))
    with pytest.raises(ConfigError, match=message):
        config_class(**SIZES)


def test_rows_and_fields_that_do_not_fit_are_named():
    table = replace(TABLE, config={**TABLE.config, "nothing": "NOTHING"})
    with pytest.raises(ConfigError, match="nothing: has a row in the key table, but is no field of Config"):
        read_config(table, Config, hf(), "config")
    table = replace(TABLE, config={name: cell for name, cell in TABLE.config.items() if name != "width"})
    with pytest.raises(ConfigError, match="width: has no default, and no row in the key table"):
        read_config(table, Config, hf(), "config")


def test_a_buffer_that_changed_is_not_lost_at_export(tmp_path):
    model = archport.build("toy", SIZES)
    archport.export(model, tmp_path / "as built")
    model.blocks[1].gate.ceiling += 1
    with pytest.raises(
        ExportError, match=r"blocks\.1\.gate\.ceiling is a buffer that has changed, and no key takes it"
    ):
        archport.export(model, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_two_fields_of_one_key_must_agree():
    table = replace(TABLE, config=TABLE.config | {"offset": "GAIN"})
    config = Config(**SIZES, gain=1.5, offset=1.5)
    assert read_config(table, Config, write_config(table, config, "toy", None), "config")[0] == config
    with pytest.raises(ConfigError, match="but another field has the same key"):
        write_config(table, replace(config, offset=0.5), "toy", None)
