"""Products by oneDNN are those of torch, forward and backward, and only inside their block."""

from contextlib import nullcontext

import pytest
import torch

import archport
from archport.fast import products
from archport.fast.direct import by_onednn
from archport.fast.products import FEW, onednn_products


@pytest.fixture(params=["AVX512", "AVX2"])
def made(request, monkeypatch):
    """The products that oneDNN makes on a CPU of this kind."""
    answered = []
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: request.param)
    monkeypatch.setattr(products, "by_onednn", lambda *given: answered.append(given) or by_onednn(*given))
    return answered


def test_a_step_of_training_has_the_same_loss_and_gradients(made):
    sizes = {"vocab_size": 61, "context": 32, "width": 24, "layers": 2, "heads": 3}
    port = archport.build("gpt2", sizes).eval()
    ids = torch.randint(0, 61, (3, 17), generator=torch.Generator().manual_seed(0))
    steps = []
    for block in (nullcontext(), onednn_products()):
        assert not made
        with block:
            loss = archport.loss(port, ids)
            loss.backward()
        steps.append([loss.detach(), *(parameter.grad for parameter in port.parameters())])
        port.zero_grad()
    for theirs, ours in zip(*steps, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    count = len(made)
    assert count >= 4 * len(port.blocks) + 1  # what goes forward
    archport.loss(port, ids).backward()
    assert len(made) == count


@pytest.mark.parametrize(
    "turned", [(False, False), (False, True), (True, False), (True, True)], ids=["", "b", "a", "a and b"]
)
@pytest.mark.usefixtures("made")
def test_matrices_may_lie_in_any_way(turned):
    a, b = (torch.randn(40, 40, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    a, b = (matrix.T if turn else matrix for matrix, turn in zip((a, b), turned, strict=True))
    once = torch.ones(1, 1).expand(40, 40)  # one number in memory
    expected = [a @ b, torch.addmm(a[0], a, b), once @ b, a[:, ::2] @ b[::2]]
    with onednn_products():
        found = [a @ b, torch.addmm(a[0], a, b), once @ b, a[:, ::2] @ b[::2]]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("turned", "stay"), [((False, True), False), ((False, False), True), ((True, True), True)])
def test_matrices_that_must_be_turned_stay_with_torch_where_that_is_faster(made, turned, stay):
    """A weight comes as its transpose, so that it lies as it is wanted."""
    a, b = (torch.ones(40, 40).T if turn else torch.ones(40, 40) for turn in turned)
    with onednn_products():
        a @ b
    assert bool(made) == (not stay or torch.backends.cpu.get_cpu_capability() == "AVX512")


def test_others_stay_with_torch(made):
    with onednn_products():
        for a in (torch.ones(FEW - 1, 40), torch.ones(40, 40, dtype=torch.float64), torch.ones(40, 40, device="meta")):
            assert (a @ torch.ones(40, 40, dtype=a.dtype, device=a.device)).shape == a.shape
        torch.addmm(torch.ones(40, 40), torch.ones(40, 40), torch.ones(40, 40).T)
        torch.addmm(torch.ones(1), torch.ones(40, 40), torch.ones(40, 40).T)
        torch.addmm(torch.ones(40), torch.ones(40, 40), torch.ones(40, 40).T, beta=2)
    assert not made
