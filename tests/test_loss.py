"""The loss in chunks is the loss of all logits at once: transformers' own for every architecture, and torch's."""

import copy
import re

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

import archport
from archport.errors import ConfigError
from archport.fast.linears import swap

from .peak import peak_of
from .references import A_THIRD, bound, hf_dict, reference, sequences

CHUNK = 5  # tokens, which does not divide those of a batch


def port_of(model):
    return archport.from_state_dict(hf_dict(model), copy.deepcopy(model.state_dict()), dtype=model.dtype)


def gradients(model):
    made = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return made


def assert_close(found, expected, tolerance=1e-5):
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        error = (found[name].double() - gradient.double()).abs().max().item()
        assert error <= tolerance * max(1.0, gradient.abs().max().item()), name


def whole(port, ids, following, **more):
    """What torch makes of all logits."""
    logits = port(ids).flatten(0, 1)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), following.flatten(), **more)


def after(ids):
    """The next tokens."""
    return F.pad(ids[:, 1:], (0, 1), value=-100)


def small(name):
    sizes = {"vocab_size": 61, "context": 16, "width": 24, "layers": 2, "heads": 3}
    return archport.build(name, sizes).eval()


def text(port, rows=3, length=9):
    return torch.randint(0, port.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=["gpt2", "gemma2", "cohere", "phi"])
def port(request):
    """A tied head, a soft cap, a scale, a bias."""
    return port_of(reference(request.param))


@pytest.mark.parametrize("variant", A_THIRD)
def test_loss_and_gradients_are_those_of_transformers(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    theirs = model(ids, labels=ids).loss
    found = archport.loss(port, ids, chunk=CHUNK)
    assert abs(found - theirs) <= bound(variant, theirs)
    for loss in (theirs, found):
        loss.backward()
    translated = archport.from_state_dict(hf_dict(model), gradients(model))
    assert_close(gradients(port), dict(translated.named_parameters()))


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_targets_of_one_s_own_and_each_reduction(port, reduction, observed):
    ids, following = text(port), text(port).roll(2, dims=1)
    following[0, 2:5] = following[2] = -100
    expected = whole(port, ids, following, reduction=reduction)
    weights = torch.linspace(-1, 2, expected.numel()).view(expected.shape)
    (expected * weights).sum().backward()
    theirs = gradients(port)
    with archport.observe(port, *["logits"] * observed) as values:
        found = archport.loss(port, ids, following.int(), reduction=reduction, chunk=CHUNK)
    assert not observed or values["logits"].shape == (*ids.shape, port.config.vocab_size)
    assert found.shape == (ids.shape if reduction == "none" else ())
    assert torch.allclose(found.flatten(), expected.flatten(), atol=1e-5)
    (found.flatten() * weights.flatten()).sum().backward()
    assert_close(gradients(port), theirs)
    with torch.no_grad():
        assert torch.allclose(archport.loss(port, ids, following, reduction=reduction, chunk=CHUNK), found, atol=1e-5)


NOTHING = {  # arguments by which no target counts
    "targets": lambda ids: {"ids": ids, "targets": torch.full_like(ids, -100)},
    "mask": lambda ids: {"ids": ids, "mask": torch.zeros_like(ids, dtype=torch.bool)},
    "mask and targets": lambda ids: {"ids": ids, "targets": ids, "mask": torch.zeros_like(ids)},
    "one token": lambda ids: {"ids": ids[:, :1]},
    "no rows": lambda ids: {"ids": ids[:0]},
    "no rows, targets": lambda ids: {"ids": ids[:0], "targets": ids[:0]},
    "no tokens": lambda ids: {"ids": ids[:, :0]},
    "no tokens, targets": lambda ids: {"ids": ids[:, :0], "targets": ids[:, :0]},
}


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_where_no_target_counts_gradients_are_zeros(port, reduction, kind, autocast):
    given = NOTHING[kind](text(port))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = whole(port, given["ids"], torch.full_like(given["ids"], -100), reduction=reduction)
        found = archport.loss(port, **given, reduction=reduction, chunk=CHUNK)
    assert torch.equal(found.flatten().isnan(), expected.flatten().isnan())
    assert not found.nan_to_num().any()
    for loss in (expected, found):
        loss.sum().backward()
        assert not any(gradient.any() for gradient in gradients(port).values())  # which NaN would be, too
    with torch.no_grad():
        without = archport.loss(port, **given, reduction=reduction, chunk=CHUNK)
    assert torch.equal(without.isnan(), found.isnan())


def test_padding_neither_predicts_nor_is_predicted():
    model = reference("llama")
    port = port_of(model)
    ids, mask = text(port), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[1, 6:] = 0
    labels = ids.masked_fill((mask == 0) | (mask.roll(1, dims=1) == 0), -100)
    theirs = model(ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), labels=labels).loss
    for reduced in (archport.loss(port, ids, mask=mask), archport.loss(port, ids, after(labels), mask=mask)):
        assert abs(reduced - theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_round_no_more_than_all_logits_at_once(port, dtype):
    ids, exact, port = text(port), copy.deepcopy(port).double(), port.to(dtype)
    whole(exact, ids, after(ids)).backward()
    expected, scale = gradients(exact), 4096.0  # as a scaler of gradients has
    errors = []
    for loss in (archport.loss(port, ids, chunk=CHUNK), whole(port, ids, after(ids))):
        assert loss.dtype == torch.promote_types(dtype, torch.float32)
        (loss * scale).backward()
        found = gradients(port)
        assert all(gradient.dtype == dtype for gradient in found.values())
        errors.append(sum((found[name].double() / scale - expected[name]).square().sum() for name in found).sqrt())
    assert errors[0] <= 1.2 * errors[1] + 1e-13


def test_under_autocast_it_is_the_loss_of_logits_under_autocast(port):
    ids = text(port)
    with torch.autocast("cpu", torch.bfloat16):
        expected = whole(port, ids[:, :-1], ids[:, 1:])
        found = archport.loss(port, ids, chunk=CHUNK)
    assert abs(found - expected) < 1e-2 * expected
    expected.backward()
    theirs = gradients(port)
    found.backward()
    for name, ours in gradients(port).items():
        assert ours.dtype == torch.float32
        assert F.cosine_similarity(ours.flatten(), theirs[name].flatten(), dim=0) > 0.99, name


def test_in_train_mode_it_drops_what_a_pass_drops():
    port = small("gpt2").train()
    ids = text(port)
    assert any(isinstance(module, nn.Dropout) and module.p for module in port.modules())
    losses = []
    for run in (lambda: archport.loss(port, ids), lambda: whole(port, ids, after(ids))):
        torch.manual_seed(0)
        losses.append(run())
    assert torch.allclose(*losses)
    assert not torch.allclose(losses[0], archport.loss(port.eval(), ids))


def test_what_does_not_learn_gets_no_gradient(port):
    port.requires_grad_(False)
    assert not archport.loss(port, text(port)).requires_grad
    port.blocks[0].requires_grad_(True)
    whole(port, text(port), after(text(port))).backward()
    theirs = gradients(port.blocks[0])
    archport.loss(port, text(port), chunk=CHUNK).backward()
    assert port.head.weight.grad is None
    assert_close(gradients(port.blocks[0]), theirs)


def test_a_head_that_is_more_than_one_map_or_is_watched_makes_all_logits():
    port = small("llama")
    ids, shapes = text(port), []
    expected = archport.loss(port, ids)
    with port.head.register_forward_hook(lambda _, __, logits: shapes.append(logits.shape)):
        assert torch.allclose(archport.loss(port, ids), expected)
    assert shapes == [(3, 9, 61)]
    port.head = nn.Sequential(port.head)
    assert torch.allclose(archport.loss(port, ids), expected)


def turned(x):
    """What every change makes of ids, streams and logits alike."""
    return x.flip(-1)


def after_part(part):
    return part.register_forward_hook(lambda _, __, found: turned(found)).remove


def before_part(part):
    return part.register_forward_pre_hook(lambda _, given: (turned(given[0]), *given[1:])).remove


def after_all(part):
    hook = lambda module, _, found: turned(found) if module is part else None  # noqa: E731
    return register_module_forward_hook(hook).remove


def before_all(part):
    hook = lambda module, given: (turned(given[0]), *given[1:]) if module is part else None  # noqa: E731
    return register_module_forward_pre_hook(hook).remove


class Turning(ModelHook):
    def post_forward(self, module, output):  # noqa: ARG002
        return turned(output)


def by_accelerate(part):
    add_hook_to_module(part, Turning())
    return lambda: remove_hook_from_module(part)


def another(method):
    def patched(part):
        own = getattr(part, method)
        setattr(part, method, lambda *given, **more: turned(own(*given, **more)))
        return lambda: delattr(part, method)

    return patched


CHANGES = [after_part, before_part, after_all, before_all, by_accelerate, another("forward")]
PLACES = ["", "embed", "embed.tokens", "blocks.0", "blocks.1.mlp.down", "norm", "head", "finish"]
ALL = [(change, place) for change in CHANGES for place in PLACES]
ALL += [(another(method), "") for method in ("logits", "stream")]


@pytest.mark.parametrize("learning", [True, False], ids=["", "no gradient"])
@pytest.mark.parametrize(("change", "place"), ALL)
def test_what_is_changed_in_a_model_is_changed_in_its_loss(change, place, learning):
    port = port_of(reference("gemma2"))
    ids, part = text(port), port.get_submodule(place)
    before = whole(port, ids, after(ids))
    undo = change(part)
    try:
        with torch.set_grad_enabled(learning):
            expected, found = whole(port, ids, after(ids)), archport.loss(port, ids, chunk=CHUNK)
    finally:
        undo()
    assert abs(expected - before) > 1e-3
    assert torch.allclose(found, expected)
    if learning:
        expected.backward()
        theirs = gradients(port)
        found.backward()
        assert_close(gradients(port), theirs)
    assert torch.allclose(archport.loss(port, ids, chunk=CHUNK), before)


def test_a_finish_that_learns_gets_its_gradient():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.by = nn.Parameter(torch.tensor(1.5))

        def forward(self, logits):
            return logits * self.by

    port = small("llama")
    port.finish = Scale()
    ids = text(port)
    whole(port, ids, after(ids)).backward()
    theirs = gradients(port)
    archport.loss(port, ids, chunk=CHUNK).backward()
    assert theirs["finish.by"] != 0
    assert_close(gradients(port), theirs)


def test_gradients_add_up():
    port = small("gpt2")
    ids = text(port)
    archport.loss(port, ids).backward()
    once = {name: gradient.clone() for name, gradient in gradients(port).items()}
    loss = archport.loss(port, ids)
    for _ in range(2):
        (loss / 2).backward(retain_graph=True)
    assert_close(gradients(port), once)


def test_through_torch_compile():
    port = small("gpt2")
    ids = text(port)
    expected = archport.loss(port, ids)
    assert torch.allclose(torch.compile(archport.loss, backend="eager")(port, ids), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "cohere", "phi"])
def test_on_meta_it_has_a_shape(name, reduction):
    port = port_of(reference(name))
    ids = text(port)
    expected = archport.loss(port, ids, reduction=reduction)
    found = archport.loss(port.to("meta"), ids.to("meta"), reduction=reduction)
    assert (found.device.type, found.dtype, found.shape) == ("meta", expected.dtype, expected.shape)
    found.sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in port.parameters())


def test_never_are_all_logits_held():
    """All logits, their logarithms and their gradients are 400 MB each."""
    taken = peak_of(
        "import torch, archport\n"
        "port = archport.build('gpt2', {'vocab_size': 50000, 'context': 1024, 'width': 16, 'layers': 1, 'heads': 2})\n"
        "archport.loss(port, torch.ones(1, 128, dtype=torch.long)).backward()",
        "archport.loss(port, torch.ones(2, 1000, dtype=torch.long)).backward()",
    )
    assert taken < 300e6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targets": [1, 2]}, "targets: found a list, expected a tensor (batch, seq)"),
        ({"targets": torch.ones(3, 8, dtype=torch.long)}, "targets of shape (3, 8), expected (3, 9), a token for each"),
        ({"targets": torch.ones(3, 9)}, "targets: found float32, expected int64 or int32"),
        ({"targets": torch.full((3, 9), 61)}, "target 61, expected 0 to 60, or -100 for none"),
        ({"targets": torch.full((3, 9), -1)}, "target -1, expected 0 to 60, or -100 for none"),
        ({"mask": [[True] * 9] * 3}, "mask: found a list, expected a tensor (batch, cached + seq)"),
        ({"mask": torch.ones(3, 8, dtype=torch.bool)}, "a mask of shape (3, 8), expected (3, 9)"),
        ({"ids": torch.ones(9, dtype=torch.long)}, "ids of shape (9,), expected (batch, seq)"),
        ({"reduction": "max"}, "loss: reduction: found 'max', expected mean, sum, none"),
        ({"chunk": 0}, "loss: chunk: found 0, expected a whole number from 1"),
        ({"model": nn.Linear(2, 2)}, "loss: model: found a Linear, expected a Decoder of archport"),
    ],
)
def test_what_is_wrong_is_said(change, words):
    port = small("gpt2")
    with pytest.raises((ValueError, ConfigError), match=f"^{re.escape(words)}$"):
        archport.loss(**{"model": port, "ids": text(port)} | change)


def test_packed_models_are_refused():
    port = small("gpt2")
    with pytest.raises(
        ConfigError, match=r"^loss: model: its linear maps are direct, packed or quantised, and only go forward"
    ):
        archport.loss(swap(port), text(port))
