"""Our models as other libraries take them; what is expected is what these do with transformers' own model."""

import copy
import json
import shutil
import sys
import warnings
from pathlib import Path

import accelerate
import peft
import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, Trainer, TrainingArguments
from typer.testing import CliRunner

import archport
from archport import as_transformers
from archport.cli import checkpoints
from archport.errors import ArchportError, AsideWarning, CheckpointError, ConfigError, ExportError, MappingError
from archport.fast.linears import KINDS, swap
from archport.models import llama
from archport.registry import architecture

from .cpu import swapping
from .hub_server import REPO
from .references import FAMILIES, SIZES, VARIANTS, as_written, bound, context, hf_dict, pretrained, reference

DEMO = archport.port.DEMO
TRAINED = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # or each draws its own dropout


def both(variant: str, **more):
    """A reference and our port of it as a transformers model, which share no memory."""
    hf = reference(variant, **more)
    weights = {name: tensor.clone() for name, tensor in hf.state_dict().items()}
    return hf, as_transformers(archport.from_state_dict(hf_dict(hf), weights))


def texts(vocab: int, rows: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(1, vocab - 1, (rows, length), generator=torch.Generator().manual_seed(2))


def parameters(model) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


# The interface of a transformers model


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits_and_loss_are_those_of_the_reference(variant):
    hf, ours = both(variant)
    ids = texts(hf.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[0, :4] = mask[1, 6:] = 0  # on the left, and on the right
    mask[2, 3:5] = 0  # a hole
    labels = ids.masked_fill((mask == 0) | (mask.roll(1, dims=1) == 0), -100)  # nor what follows padding
    theirs = hf(ids, attention_mask=mask, labels=labels)
    found = ours(ids, attention_mask=mask, labels=labels)
    limit = bound(variant, theirs.logits)
    assert (found.logits - theirs.logits)[mask == 1].abs().max() < limit
    assert abs(found.loss - theirs.loss) < limit
    last = ours(ids, logits_to_keep=1, return_dict=False)[0]
    assert last.shape[1] == 1
    assert (last - hf(ids).logits[:, -1:]).abs().max() < limit


WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampled": {"do_sample": True, "top_k": 12},
    "penalised": {"do_sample": False, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
    "without a cache": {"do_sample": False, "use_cache": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", SIZES)
def test_generate_gives_the_ids_of_the_reference(variant, way):
    hf, ours = both(variant)
    ids = texts(hf.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0  # on the left, as tokenizers pad for generation
    length = min(20, context(hf) - 9)
    options = {"attention_mask": mask, "max_new_tokens": length, "pad_token_id": 0, "eos_token_id": None}
    rows = []
    for model in (hf, ours):
        torch.manual_seed(0)
        rows.append(model.generate(ids, **options, **WAYS[way]))
    assert torch.equal(*rows)


@torch.no_grad()
def test_a_cache_goes_on_where_it_ends_past_a_window_too():
    name = next(name for name, (family, _) in VARIANTS.items() if family == "mistral")
    _, ours = both(name)
    ids = texts(ours.config.vocab_size, length=20)
    whole = ours(ids).logits
    cache, pieces = DynamicCache(config=ours.config), []
    for piece in ids.split((7, 1, 12), dim=1):
        pieces.append(ours(piece, use_cache=True, **{"past_key_values": cache}).logits)
    assert (torch.cat(pieces, dim=1) - whole).abs().max() < bound(name, whole)
    assert cache.get_seq_length() == 20


@pytest.mark.parametrize("variant", ["gpt2", "opt", "llama", "bloom"])
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
@torch.no_grad()
def test_positions_count_padding_after_a_cache_too(variant):
    hf, ours = both(variant)
    ids = texts(hf.config.vocab_size)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    pieces = []
    for model in (hf, ours):
        cache = DynamicCache(config=model.config)
        model(ids[:, :6], attention_mask=mask[:, :6], past_key_values=cache)
        pieces.append(model(ids[:, 6:], attention_mask=mask, past_key_values=cache).logits)
    assert (pieces[0] - pieces[1]).abs().max() < bound(variant, pieces[0])


@torch.no_grad()
def test_left_padding_changes_no_tokens_logits_where_positions_are_given():
    _, ours = both("gpt2")
    ids = texts(ours.config.vocab_size, rows=1)
    padded = torch.cat((torch.zeros_like(ids[:, :4]), ids), dim=1)
    mask = (torch.arange(13) >= 4).long()[None]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found = ours(padded, attention_mask=mask, position_ids=positions).logits
    assert torch.allclose(found[:, 4:], ours(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("found", "options"),
    [
        ("attention_mask: found a dict.*leave cache_implementation out", {"attention_mask": {"full_attention": None}}),
        ("token_type_ids", {"token_type_ids": torch.zeros(1, 4, dtype=torch.long)}),
        ("output_hidden_states", {"output_hidden_states": True}),
        ("several texts in a row", {"position_ids": torch.tensor([[0, 1, 0, 1]])}),
        ("mask of shape", {"attention_mask": torch.zeros(1, 1, 4, 4)}),
        ("StaticCache", {"past_key_values": "static"}),
    ],
)
def test_what_it_would_have_to_leave_out_is_refused(found, options):
    _, ours = both("gpt2")
    if options.get("past_key_values"):
        options = {"past_key_values": transformers.StaticCache(config=ours.config, max_cache_len=8)}
    with pytest.raises(ValueError, match=found):
        ours(torch.tensor([[1, 2, 3, 4]]), **options)


@pytest.mark.parametrize("variant", ["qwen2", "gemma2"])
def test_a_static_cache_is_refused_where_generate_makes_the_mask_too(variant):
    _, ours = both(variant)
    with pytest.raises(ValueError, match="leave cache_implementation out"):
        ours.generate(texts(90), max_new_tokens=3, pad_token_id=0, cache_implementation="static")


@pytest.mark.parametrize("variant", ["mixtral", "olmoe", "qwen3_moe", "gpt_oss"])
def test_a_loss_of_routers_is_refused(variant):
    hf, ours = both(variant, output_router_logits=True)
    ids = texts(90)
    with pytest.raises(ValueError, match="found output_router_logits in the config"):
        ours(ids, labels=ids)
    assert torch.allclose(ours(ids).logits, hf(ids).logits, atol=1e-4)
    loss = hf(ids, labels=ids, output_router_logits=False).loss
    assert torch.allclose(ours(ids, labels=ids, output_router_logits=False).loss, loss, atol=1e-5)
    ours.config.output_router_logits = False
    assert torch.allclose(ours(ids, labels=ids).loss, loss, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi", "mixtral", "gpt_oss"])
def test_numbers_are_counted_however_they_are_multiplied(name, dtype, kind, tmp_path):
    """Of tied and untied heads, experts and biases; as loaded and as swapped."""
    archport.export(archport.build(name, dict(architecture(name).sizes)), tmp_path / "here")
    plain = archport.load(tmp_path / "here", dtype=dtype)
    with swapping(kind, getattr(torch, dtype)):
        loaded = archport.load(tmp_path / "here", dtype=dtype, linears=kind)
    with swapping(kind, getattr(torch, dtype)):
        swapped = swap(archport.load(tmp_path / "here", dtype=dtype), kind)
    for port in (loaded, swapped):
        assert port.num_parameters() == plain.num_parameters()
        ours, whole = as_transformers(port), as_transformers(plain)
        for without in (False, True):
            assert ours.num_parameters(exclude_embeddings=without) == whole.num_parameters(exclude_embeddings=without)
        assert ours.num_parameters(only_trainable=True) == sum(p.numel() for p in port.parameters() if p.requires_grad)


def test_the_memory_of_weights_is_shared():
    model = archport.load(dtype="float32")
    ours = as_transformers(model)
    assert {p.data_ptr() for p in ours.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert ours.num_parameters() == model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert (ours.device, ours.dtype) == (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert not ours.training
    with pytest.raises(ConfigError, match="found a Linear, expected a Decoder"):
        as_transformers(torch.nn.Linear(2, 2))


def test_an_architecture_of_ones_own_works_as_well(monkeypatch, tmp_path):
    monkeypatch.setattr("archport.registry._registered", {})
    table = architecture("llama").table
    archport.register("myllama", config_class=llama.Config, build=llama.build, table=table, sizes=llama.SIZES)
    model = archport.build("myllama", llama.SIZES)
    ours = as_transformers(model)
    assert ours.config.model_type == "myllama"
    ours.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, pad_token_id=0)
    ours.save_pretrained(tmp_path)
    assert all(map(torch.equal, parameters(archport.load(tmp_path)), parameters(model)))


def test_a_pipeline_prints_what_that_of_transformers_prints():
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    tokenizer.pad_token = tokenizer.eos_token
    options = {"max_new_tokens": 12, "do_sample": False}
    prompts = ["def __init__(self", "import"]
    said = [
        transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)(prompts, batch_size=2, **options)
        for model in (pretrained(DEMO, torch.float32), as_transformers(archport.load(dtype="float32")))
    ]
    assert said[0] == said[1]


def test_settings_of_generation_come_along(tmp_path):
    archport.export(archport.load(), tmp_path / "base")
    settings = {"repetition_penalty": 1.7, "do_sample": False, "eos_token_id": [3, 5], "cache_implementation": "hybrid"}
    (tmp_path / "base/generation_config.json").write_text(json.dumps(settings))
    ours = as_transformers(archport.load(tmp_path / "base"))
    assert (ours.generation_config.repetition_penalty, ours.generation_config.eos_token_id) == (1.7, [3, 5])
    ours.save_pretrained(tmp_path / "same")
    assert json.loads((tmp_path / "same/generation_config.json").read_text()) == settings
    ours.generation_config.max_new_tokens = 9
    ours.save_pretrained(tmp_path / "same")
    assert json.loads((tmp_path / "same/generation_config.json").read_text())["max_new_tokens"] == 9


# Saving


def test_saving_goes_into_a_folder_that_holds_other_files(tmp_path):
    hf, ours = both("gpt2")
    hf.save_pretrained(tmp_path, max_shard_size="20KB")
    (tmp_path / "tokenizer.json").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ours.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("model*")) == ["model.safetensors"]
    assert (tmp_path / "tokenizer.json").read_text() == (tmp_path / "notes.txt").read_text() == "mine"
    again, account = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(account.values())
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), hf.state_dict().values(), strict=True))
    ours.save_pretrained(tmp_path / "no", is_main_process=False)
    assert not (tmp_path / "no").exists()
    with pytest.raises(ExportError, match="push_to_hub"):
        ours.save_pretrained(tmp_path, push_to_hub=True)


def test_a_failed_save_leaves_no_folder(tmp_path):
    _, ours = both("gpt2")
    for folder in (tmp_path / "new", tmp_path):
        with pytest.raises(ExportError):
            ours.save_pretrained(folder, max_shard_size="no size")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of what torch.compile imports
def test_a_model_of_transformers_is_exported_as_what_it_holds(tmp_path):
    hf, ours = both("gpt2")
    prepared = accelerate.Accelerator(cpu=True).prepare(ours)
    for number, model in enumerate((ours, prepared, torch.compile(ours))):
        again = pretrained(archport.export(model, tmp_path / str(number)), torch.float32)
        assert all(map(torch.equal, parameters(again), parameters(hf)))
    adapted = get_peft_model(ours, LoraConfig(task_type="CAUSAL_LM", target_modules=["qkv"]))
    with pytest.raises(ExportError, match="the model is not what its config says"):
        archport.export(adapted, tmp_path / "adapted")


def test_changed_configs_and_resized_embeddings_are_saved(tmp_path):
    _, ours = both("gpt2")
    ours.resize_token_embeddings(140, mean_resizing=False)
    ours.config.pad_token_id = 139
    ours.save_pretrained(tmp_path)
    model = archport.load(tmp_path)
    assert model.config.vocab_size == ours.decoder.config.vocab_size == 140
    assert model.head.weight is model.embed.tokens.weight
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.pad_token_id == 139
    ids = torch.tensor([[1, 139, 3]])
    assert torch.equal(model(ids), ours(ids).logits)


def test_weights_are_taken_under_our_names_or_all_under_those_of_files():
    hf, ours = both("gpt_neox")
    other = as_transformers(archport.from_state_dict(hf_dict(hf), reference("gpt_neox", seed=5).state_dict()))
    expected = parameters(other)
    ours.load_state_dict(other.state_dict())
    assert all(map(torch.equal, parameters(ours), expected))
    ours.load_state_dict(hf.state_dict(), strict=False)
    assert not any(map(torch.equal, parameters(ours), expected))
    lacking = {name: tensor for name, tensor in hf.state_dict().items() if "layers.1" not in name}
    with pytest.raises(MappingError, match="missing"):
        ours.load_state_dict(lacking, strict=False)


# Trainer


def train(model, folder: Path, resume: str | None = None, **options) -> float:
    data = [{"input_ids": row, "labels": row} for row in texts(100, rows=16, length=12)]
    settings = {
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "seed": 1,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": [],
        "disable_tqdm": True,
    }
    arguments = TrainingArguments(output_dir=str(folder), **settings | options)
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    return trainer.train(resume_from_checkpoint=resume).training_loss


@pytest.mark.parametrize("options", [{}, {"label_smoothing_factor": 0.2}], ids=["plain", "labels smoothed"])
def test_trainer_trains_as_it_trains_the_reference(tmp_path, options):
    hf, ours = both("gpt2", **TRAINED)
    before = parameters(ours)
    losses = [train(model, tmp_path, save_strategy="no", optim="sgd", **options) for model in (hf, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    again = archport.from_state_dict(hf_dict(hf), hf.state_dict())
    for trained, expected, start in zip(parameters(ours), parameters(again), before, strict=True):
        assert torch.allclose(trained, expected, atol=1e-5)
        assert not torch.equal(trained, start)


@pytest.mark.parametrize("adapted", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_are_computed_again_train_the_same(tmp_path, adapted, reentrant):
    trained, calls = [], []
    for again in (False, True):
        _, ours = both("gpt2", **TRAINED)
        decoder = ours.decoder
        decoder.blocks[1].mlp.activation.register_forward_hook(lambda *_: calls.append(again))  # noqa: B023
        if adapted:
            torch.manual_seed(0)
            ours = get_peft_model(
                ours, LoraConfig(task_type="CAUSAL_LM", target_modules=["qkv"], init_lora_weights=False)
            )
        kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}} if again else {}
        with warnings.catch_warnings(action="ignore"):  # of its new name
            train(ours, tmp_path, save_strategy="no", optim="sgd", gradient_checkpointing=again, **kwargs)
        trained.append(parameters(ours))
        assert "forward" not in vars(decoder.blocks[1])
    assert calls.count(True) == 2 * calls.count(False)
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(*trained, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore")  # of a new name
def test_blocks_that_are_computed_again_may_be_compiled(reentrant):
    hf, ours = both("gpt2", **TRAINED)
    ids = texts(hf.config.vocab_size)
    ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.compile(ours.train(), backend="eager")(input_ids=ids, labels=ids).loss.backward()
    hf(ids, labels=ids).loss.backward()
    grads = [model.get_input_embeddings().weight.grad for model in (hf, ours)]
    assert torch.allclose(*grads, atol=1e-5)


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox"])  # tied, untied
def test_training_goes_on_from_a_checkpoint(tmp_path, variant):
    options = TRAINED if variant == "gpt2" else {}
    _, whole = both(variant, **options)
    train(whole, tmp_path / "whole")
    _, first = both(variant, **options)
    train(first, tmp_path / "part", max_steps=4, save_steps=2)
    _, again = both(variant, **options)
    train(again, tmp_path / "part", resume=str(tmp_path / "part/checkpoint-2"))
    assert all(map(torch.equal, parameters(again), parameters(whole)))
    assert (again.decoder.head.weight is again.decoder.embed.tokens.weight) == (variant == "gpt2")
    saved, account = AutoModelForCausalLM.from_pretrained(tmp_path / "part/checkpoint-4", output_loading_info=True)
    assert not any(account.values())
    ids = texts(100)
    assert torch.allclose(saved(ids).logits, again(ids).logits, atol=1e-4)
    assert all(map(torch.equal, parameters(archport.load(tmp_path / "part/checkpoint-4")), parameters(whole)))


BARE = r"found a bare model of archport, expected one of transformers: pass archport\.as_transformers\(model\)"


@pytest.mark.parametrize(
    "use",
    [
        lambda model, folder: train(model, folder),
        lambda model, _: get_peft_model(model, LoraConfig(task_type="CAUSAL_LM")),
        lambda model, _: get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["qkv"])),
        lambda model, _: transformers.pipeline("text-generation", model, tokenizer=AutoTokenizer.from_pretrained(DEMO)),
    ],
    ids=["Trainer", "PEFT", "PEFT with targets", "pipeline"],
)
def test_a_bare_model_is_refused_in_one_line_that_says_what_to_pass(use, tmp_path):
    with pytest.raises(TypeError, match=f"^{BARE}$"):
        use(archport.load(dtype="float32"), tmp_path)


# PEFT


@pytest.mark.parametrize("targets", ["all-linear", ["qkv", "out"]], ids=["all", "some"])
def test_lora_is_trained_saved_loaded_and_merged(tmp_path, targets):
    hf, ours = both("gpt_neox")
    archport.export(ours.decoder, tmp_path / "base")
    base = parameters(ours.decoder)
    adapted = get_peft_model(ours, LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=targets))
    assert all("lora" in name for name, one in adapted.named_parameters() if one.requires_grad)
    train(adapted, tmp_path / "runs", learning_rate=0.1)
    adapted.eval()
    ids = texts(hf.config.vocab_size)
    expected = adapted(ids).logits
    assert (expected - hf(ids).logits).abs().max() > 0.01
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = as_transformers(archport.load(tmp_path / "base"))
    assert torch.equal(PeftModel.from_pretrained(fresh, tmp_path / "adapter")(ids).logits, expected)
    loaded = archport.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert torch.allclose(loaded(ids), expected, atol=1e-4)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert torch.allclose(pretrained(tmp_path / "merged", torch.float32)(ids).logits, expected, atol=1e-4)
    assert all(map(torch.equal, parameters(loaded), parameters(archport.load(tmp_path / "merged"))))
    assert not all(map(torch.equal, parameters(loaded), base))


@pytest.mark.parametrize("variant", ["gpt2", "gpt_neox"])  # tied, untied
@pytest.mark.parametrize("target", ["tokens", "head"])
@pytest.mark.filterwarnings("ignore:(Model with|Model has|Input and output|Setting .save_embedding):UserWarning")
def test_an_adapter_of_embedding_or_head_alone_is_merged(tmp_path, variant, target):
    _, ours = both(variant)
    archport.export(ours, tmp_path / "base")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=[target], init_lora_weights=False)
    adapted = get_peft_model(ours, config)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted.merge_and_unload()
    merged = archport.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(parameters(merged), parameters(expected), strict=True))
    assert not all(map(torch.equal, parameters(merged), parameters(archport.load(tmp_path / "base"))))


# Adapters of transformers' models, merged


def with_adapter(*given):
    """A base and an adapter whose weights all matter, and what PEFT makes of the two."""
    with warnings.catch_warnings(action="ignore"):
        return _with_adapter(*given)


def _with_adapter(folder: Path, variant: str, config, dtype: torch.dtype = torch.float32):
    hf = reference(variant).to(dtype)
    hf.save_pretrained(folder / "base")
    adapted = get_peft_model(hf, config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.data = parameter.data + 0.1 * noise if "magnitude" in name else 0.2 * noise
    adapted.save_pretrained(folder / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(folder / "base", torch_dtype=dtype, attn_implementation="eager")
    return as_written(PeftModel.from_pretrained(plain, folder / "adapter").merge_and_unload())


def lora(**options) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", **{"r": 3, "target_modules": "all-linear"} | options)


ADAPTERS = {
    "the usual": lora(target_modules=None),
    "rslora": lora(use_rslora=True, lora_alpha=5),
    "patterns": lora(
        target_modules=["attn.c_attn", "c_fc"], rank_pattern={"h.1.mlp.c_fc": 5}, alpha_pattern={"c_fc": 3}
    ),
    "dora": lora(use_dora=True),
    "biases": lora(bias="all"),
    "biases of what is adapted": lora(bias="lora_only"),
    "the embedding": lora(target_modules=["wte", "c_proj"]),
    "a head of its own": lora(target_modules=["c_attn"], modules_to_save=["lm_head"]),
    "some layers": lora(target_modules=["c_attn"], layers_to_transform=[1]),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM", target_modules=["c_attn", "c_fc"], feedforward_modules=["c_fc"]),
}


OTHERS = {"task_type": "CAUSAL_LM", "target_modules": ["query_key_value", "dense"]}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.filterwarnings("ignore:(Model has|Input and output embeddings):UserWarning")  # a head of its own
def test_a_merged_adapter_is_what_peft_merges(tmp_path, kind):
    expect_merged(tmp_path, "gpt2", copy.deepcopy(ADAPTERS[kind]))


@pytest.mark.parametrize("variant", [*SIZES, "gpt_neox tied"])
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern:RuntimeWarning")  # PEFT's own, of fused experts
def test_of_every_architecture(tmp_path, variant):
    expect_merged(tmp_path, variant, lora())


@pytest.mark.parametrize("kind", [peft.LoHaConfig, peft.LoKrConfig, peft.OFTConfig])
def test_of_other_kinds(tmp_path, kind):
    expect_merged(tmp_path, "gpt_neox", kind(**OTHERS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision(tmp_path, dtype):
    expect_merged(tmp_path, "gpt_neox", lora(), dtype)


def expect_merged(folder: Path, variant: str, config, dtype: torch.dtype = torch.float32) -> None:
    merged = with_adapter(folder, variant, config, dtype)
    expected = archport.from_state_dict(hf_dict(merged), merged.state_dict(), dtype=dtype)
    loaded = archport.load(folder / "base", adapter=folder / "adapter")
    assert all(torch.equal(*pair) for pair in zip(loaded.parameters(), expected.parameters(), strict=True))
    base = archport.load(folder / "base")
    assert any(not torch.equal(*pair) for pair in zip(loaded.parameters(), base.parameters(), strict=False))
    if dtype == torch.float32:
        ids = texts(merged.config.vocab_size)
        theirs = merged.double()(ids).logits  # for large weights, as OFT's, leave much to rounding in float32
        assert (loaded.double()(ids) - theirs).abs().max() < bound(variant, theirs)
    plan = archport.plan(folder / "base", adapter=folder / "adapter")
    assert plan.parameters == loaded.num_parameters()


@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
def test_an_adapter_is_merged_into_a_base_whose_names_have_a_prefix(tmp_path):
    with_adapter(tmp_path, "gpt2", lora())
    expected = parameters(archport.load(tmp_path / "base", adapter=tmp_path / "adapter"))
    file = tmp_path / "base" / "model.safetensors"
    save_file({f"module.{key}": tensor.clone() for key, tensor in load_file(file).items()}, file)
    plan = archport.plan(tmp_path / "base", adapter=tmp_path / "adapter")
    assert any("'module.' taken off" in note for note in plan.notes)
    assert all(map(torch.equal, parameters(archport.load(tmp_path / "base", adapter=tmp_path / "adapter")), expected))


@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
def test_an_adapter_is_said_and_only_merged_where_asked_for(tmp_path):
    with_adapter(tmp_path, "gpt2", lora())
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    plain = parameters(archport.load(base))
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": "the/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"found an adapter .*: load its base, the/base, with.*--adapter"):
        archport.load(adapter)
    for path in adapter.iterdir():
        shutil.copy(path, base / path.name)
    with pytest.warns(AsideWarning, match=r"base/adapter_config.json: the adapter beside the weights is left out"):
        assert all(map(torch.equal, parameters(archport.load(base)), plain))
    merged = parameters(archport.load(base, adapter=base))  # and nothing is left out
    assert not all(map(torch.equal, merged, plain))
    printed = CliRunner().invoke(checkpoints.app, ["load", str(base)]).stdout
    assert "note        " + str(base / "adapter_config.json") in printed
    asked = CliRunner().invoke(checkpoints.app, ["load", str(base), "--adapter", str(adapter)])
    assert asked.exit_code == 0
    assert "adapter_config" not in asked.stdout
    assert f"adapter     {adapter}, merged into the weights" in asked.stdout
    out = CliRunner().invoke(checkpoints.app, ["export", str(base), str(tmp_path / "out"), "--adapter", str(adapter)])
    assert out.exit_code == 0
    assert all(map(torch.equal, parameters(archport.load(tmp_path / "out")), merged))


def test_a_tokenizer_beside_an_adapter_that_is_not_its_base_s_is_said(tmp_path):
    tmp_path /= "deep" * 40  # no part of a line may be lost to the length of a path
    tmp_path.mkdir()
    with_adapter(tmp_path, "gpt2", lora())
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        shutil.copy(DEMO / "tokenizer.json", folder)
    assert archport.plan(base, adapter=adapter).notes == ()
    tokenizer = AutoTokenizer.from_pretrained(adapter, config=transformers.PretrainedConfig())
    tokenizer.add_tokens(["<|user|>"])
    tokenizer.save_pretrained(adapter)
    [note] = archport.plan(base, adapter=adapter).notes
    assert note.startswith(f"{adapter}: the tokenizer is that of the base, not tokenizer.json, tokenizer_config.json")
    assert f"--tokenizer {adapter}" in note
    with pytest.warns(AsideWarning, match="the tokenizer is that of the base"):
        model = archport.load(base, adapter=adapter)
    out = archport.export(model, tmp_path / "out", tokenizer=adapter)
    assert AutoTokenizer.from_pretrained(out)("x <|user|>")["input_ids"] == tokenizer("x <|user|>")["input_ids"]


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_an_adapter_that_cannot_be_merged_is_refused_in_one_line(tmp_path):
    with_adapter(tmp_path, "gpt2", lora(target_modules=["c_attn"]))
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    settings = json.loads((adapter / "adapter_config.json").read_text())
    weights = (adapter / "adapter_model.safetensors").read_bytes()

    def expect(message: str, **changes) -> None:
        (adapter / "adapter_config.json").write_text(json.dumps({**settings, **changes}))
        with pytest.raises(ArchportError, match=message) as caught:
            archport.load(base, adapter=adapter)
        assert len(str(caught.value).splitlines()) == 1

    expect("Target modules.*not found in the base model", target_modules=["q_proj"])
    expect("found peft_type PREFIX_TUNING, which is no change of weights", peft_type="PREFIX_TUNING")
    expect("found megatron_config, which names code to run", megatron_config={"a": 1}, megatron_core="os")
    expect("Found missing adapter keys", target_modules=["c_attn", "c_fc"])
    expect("which this base has no place for", layers_to_transform=[0])
    expect("size mismatch", r=5)
    (adapter / "adapter_model.safetensors").write_bytes(weights[:-5])
    expect("truncated")
    (adapter / "adapter_model.safetensors").unlink()
    expect("no weights of the adapter found")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: not found"):
        archport.load(base, adapter=base)


def test_without_peft_it_says_what_to_install(tmp_path, monkeypatch):
    with_adapter(tmp_path, "gpt2", lora())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ArchportError, match=r"needs peft: pip install archport\[peft\]"):
        archport.load(tmp_path / "base", adapter=tmp_path / "adapter")


def test_an_adapter_from_the_hub(tmp_path, hub, at):
    with_adapter(tmp_path, "gpt2", lora())
    hub.add("ns/adapter", tmp_path / "adapter")
    merged = archport.load(tmp_path / "base", adapter="ns/adapter", **at)
    expected = archport.load(tmp_path / "base", adapter=tmp_path / "adapter")
    assert all(map(torch.equal, parameters(merged), parameters(expected)))
    assert archport.load(tmp_path / "base", adapter="ns/adapter", offline=True, **at) is not None
    with pytest.raises(CheckpointError, match="ns/adapter: found an adapter"):
        archport.plan("ns/adapter", **at)
    with pytest.raises(CheckpointError, match=f"{REPO}: no adapter_config.json found"):
        archport.load(tmp_path / "base", adapter=REPO, **at)
    for path in (tmp_path / "adapter").iterdir():
        shutil.copy(path, tmp_path / "base" / path.name)
    hub.add("ns/both", tmp_path / "base")
    for headers_only in (True, False):
        [note] = archport.plan("ns/both", headers_only=headers_only, **at).notes
        assert note.startswith("ns/both/adapter_config.json: the adapter beside the weights is left out")


# accelerate


def test_accelerate_prepares_saves_and_loads(tmp_path):
    hf, ours = both("gpt2", **TRAINED)
    ids = texts(hf.config.vocab_size)
    accelerator = accelerate.Accelerator(cpu=True)
    for model in (hf, ours):
        prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.01))
        accelerator.backward(prepared(ids, labels=ids).loss)
        optimizer.step()
    assert torch.allclose(ours(ids).logits, hf(ids).logits, atol=1e-4)
    state = tmp_path / "state"
    accelerator.save_state(state)
    expected = parameters(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    accelerator.load_state(state)
    assert all(map(torch.equal, parameters(ours), expected))
    weights = {name: tensor + 1 for name, tensor in accelerator.get_state_dict(prepared).items()}
    accelerator.unwrap_model(prepared).save_pretrained(
        tmp_path / "out", save_function=accelerator.save, state_dict=weights
    )
    assert all(
        torch.equal(a, b + 1) for a, b in zip(parameters(archport.load(tmp_path / "out")), expected, strict=True)
    )
    assert all(map(torch.equal, parameters(ours), expected))
    with pytest.raises(ExportError, match=r"state_dict: .*Unexpected key"):
        ours.save_pretrained(tmp_path / "out", state_dict={**weights, "decoder.more": torch.ones(1)})


# lm-eval


@pytest.fixture
def lm_eval_models():
    """lm-eval's own model of the bundled checkpoint, and both of ours."""
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    from archport.interop.lm_eval import ArchportLM

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    ours = as_transformers(archport.load(dtype="float32"))
    theirs = HFLM(pretrained=pretrained(DEMO, torch.float32), tokenizer=tokenizer)
    return [theirs, HFLM(pretrained=ours, tokenizer=tokenizer), ArchportLM(dtype="float32")]


@pytest.mark.filterwarnings("ignore")
def test_lm_eval_measures_what_it_measures_of_the_reference(lm_eval_models, tmp_path):
    import lm_eval
    from lm_eval.api.instance import Instance

    def ask(kind: str, *arguments: tuple) -> list:
        def instances() -> list[Instance]:
            return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]

        return [getattr(model, kind)(instances(), disable_tqdm=True) for model in lm_eval_models]

    pairs = ("def f(", " self):"), ("", "import os"), ("for i in ", " range(3)")
    for found in ask("loglikelihood", *pairs):
        assert [one for _, one in found] == [one for _, one in ask("loglikelihood", *pairs)[0]]
        assert [one for one, _ in found] == pytest.approx([one for one, _ in ask("loglikelihood", *pairs)[0]], abs=1e-3)
    rolling = ask("loglikelihood_rolling", ("import os\nimport sys\n" * 90,))
    assert rolling[1][0] == pytest.approx(rolling[0][0], rel=1e-4)
    assert rolling[2][0] == pytest.approx(rolling[0][0], rel=1e-4)
    until = ask("generate_until", ("def __init__(self", {"until": ["\n"], "max_gen_toks": 12}))
    assert until[0] == until[1] == until[2]

    (tmp_path / "texts.json").write_text(json.dumps([{"text": "def f(self):\n    return self.x\n"}] * 3))
    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "texts.json")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "byte_perplexity"}],
    }
    results = [
        lm_eval.simple_evaluate(model=model, tasks=[dict(task)], bootstrap_iters=0)["results"]["texts"]
        for model in (lm_eval_models[0], lm_eval_models[2])
    ]
    assert results[0]["byte_perplexity,none"] == pytest.approx(results[1]["byte_perplexity,none"], rel=1e-5)


def test_the_families_are_among_those_tested():
    assert {"llama", "mistral"} <= FAMILIES
