"""Parameters that no pass of a module reads, and how a key table names them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archport.proposing.unread import in_any_layer, unread


class Reads(nn.Module):
    """Reads a weight in one way; its other parameters in none."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.way(x, self.one.weight)


@pytest.mark.parametrize(
    "way",
    [
        F.linear,
        lambda x, w: x @ w.T,
        lambda x, w: x + w[0],
        lambda x, w: torch.einsum("bi,oi->bo", x, w),
        lambda x, w: x * (w.detach().argmax() > 1),  # to which no gradient leads
        lambda x, w: torch.cat([x, w]),  # within a list
        lambda x, w: x + torch.add(x, other=w[0]),
        lambda x, w: x * len(w.tolist()),
    ],
)
def test_a_parameter_is_read_however_code_reads_it(way):
    module = Reads(way)
    assert unread(module, [lambda: module(torch.randn(2, 3))]) == {"one.bias", "other.weight", "other.bias"}


def test_a_parameter_is_read_where_one_of_the_passes_reads_it():
    module = Reads(lambda x, w: x @ w.T if len(x) > 5 else x)
    short, long = (lambda rows=rows: module(torch.zeros(rows, 3)) for rows in (2, 7))
    assert "one.weight" in unread(module, [short])
    assert "one.weight" not in unread(module, [short, long])


def test_parameters_are_named_as_in_a_key_table():
    names = [f"layers.{n}.{one}" for n in range(3) for one in ("cross.k.weight", "cross.k.bias", "cross.v.weight")]
    assert in_any_layer([*names, "pooler.bias"]) == ["layers.{n}.cross.k.*", "layers.{n}.cross.v.weight", "pooler.bias"]
