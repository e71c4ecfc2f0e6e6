"""What is said of the numbers in a tensor is what torch says of each of them."""

import pytest
import torch

from archport.files.values import is_finite

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
SHAPES = [(), (1,), (0,), (3, 0), (7,), (5, 6), (2, 3, 4)]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_tensor_is_finite_where_each_number_is(dtype, shape, turned):
    """Also where the sum of all overflows, and wherever a number lies that is not."""
    for number in (1.0, torch.finfo(dtype).max, torch.finfo(dtype).min):
        tensor = torch.full(shape, number, dtype=dtype)
        tensor = tensor.T if turned and tensor.ndim == 2 else tensor
        assert is_finite(tensor)
        for place in range(tensor.numel()):
            for wrong in (torch.nan, torch.inf, -torch.inf):
                numbers = [number] * tensor.numel()
                numbers[place] = wrong
                found = torch.tensor(numbers, dtype=torch.float64).to(dtype).reshape(tensor.shape)
                found = found.T.contiguous().T if turned and found.ndim == 2 else found
                assert is_finite(found) == bool(found.double().isfinite().all()), (number, place, wrong)


def test_infinities_that_cancel_out_are_found():
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_finite(dtype):
    assert is_finite(torch.ones(3, dtype=dtype))
