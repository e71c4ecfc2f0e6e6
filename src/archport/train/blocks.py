"""What a step of training sees: blocks of tokens, and for each token the one that follows."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..keywords import strict_keywords

Example = dict[str, Tensor]


@strict_keywords
def blocks(ids: Tensor, context: int) -> tuple[Tensor, Tensor]:  # (count) -> (blocks, context) twice
    """Blocks of `context` tokens, one after the other, and the same shifted by one: what follows each token.

    Both are views of `ids`, in its dtype, which a file of any size can lie behind. What is left at the end is in no
    block. Raises: ValueError where there is not one block.
    """
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.is_floating_point():
        found = f"a tensor of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else f"a {type(ids).__name__}"
        raise ValueError(f"ids: found {found}, expected a tensor of ids with one axis")
    if type(context) is not int or context < 1:
        raise ValueError(f"context: found {context!r}, expected a whole number from 1")
    count = (len(ids) - 1) // context
    if count < 1:
        raise ValueError(f"found {len(ids)} tokens, expected {context + 1} for one block of {context} and what follows")
    return ids[: count * context].view(count, context), ids[1 : count * context + 1].view(count, context)


AT_ONCE = 1 << 13  # tokens of a batch of validation
VALIDATED = 1 << 18  # tokens of it in all, at most
EVEN = 8  # processes among which a batch can be divided


class InOrder(Dataset[Example]):
    """Blocks one after the other, evenly spread: for validation.

    They are whole batches of `at_once`, for one that is not would count as much as one that is.
    """

    def __init__(self, ids: Tensor, context: int, most: int = VALIDATED) -> None:
        self.inputs, self.targets = blocks(ids, context)
        count = max(1, min(most // context, len(self.inputs)))
        count = count - count % EVEN or count
        self.at_once = min(max(1, AT_ONCE // context), count)
        count -= count % self.at_once
        self.places = torch.linspace(0, len(self.inputs) - 1, count).long()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: int) -> Example:
        place = int(self.places[at])
        return {"input_ids": self.inputs[place].long(), "labels": self.targets[place].long()}


class Shuffled(Dataset[Example]):
    """All that a run sees, in order: epoch after epoch, each with its own order and its own places to cut.

    What comes as number n depends on the seed and n alone, so a run that goes on sees what an unbroken one does.
    """

    def __init__(self, ids: Tensor, context: int, length: int, seed: int) -> None:
        self.ids, self.context, self.length, self.seed = ids, context, length, seed
        self.count = max(1, len(blocks(ids, context)[0]) - 1)  # one less than there are, to have room to shift them
        self.room = min(context - 1, len(ids) - 1 - self.count * context)
        self._epoch: tuple[int, int, Tensor] | None = None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Example:
        shift, order = self._of(number // self.count)
        start = shift + self.context * int(order[number % self.count])
        ids = self.ids[start : start + self.context + 1].long()
        return {"input_ids": ids[:-1], "labels": ids[1:]}

    def _of(self, epoch: int) -> tuple[int, Tensor]:
        """Where the first block of an epoch starts, and its order."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
            shift = int(torch.randint(self.room + 1, (), generator=generator))
            self._epoch = epoch, shift, torch.randperm(self.count, generator=generator)
        return self._epoch[1:]
