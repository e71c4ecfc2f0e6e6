"""Faults of what joins the stream: branches that are not added to it, norms that are missing or used twice."""

from torch import nn

from ...layers import ParallelBlock, RMSNorm, SequentialBlock, SharedNormBlock
from ..faults import Fault, class_fault
from ..faulty import streams as faulty

OF_STREAMS: tuple[Fault, ...] = (
    class_fault("stream lost at attention", "what attention makes is not added to the stream", "adds it",
                "the Block class", SequentialBlock, faulty.LostAtAttention, steps=("add_attention",)),
    class_fault("stream lost at the MLP", "what the MLP makes is not added to the stream", "adds it",
                "the Block class", SequentialBlock, faulty.LostAtMLP, steps=("add_attention",)),
    class_fault("stream lost", "what the branches make is not added to the stream", "adds it",
                "the Block class", ParallelBlock, faulty.LostParallel),
    class_fault("stream lost, one norm", "what the branches make is not added to the stream", "adds it",
                "the Block class", SharedNormBlock, faulty.LostSharedNorm),
    class_fault("one norm for both branches", "the norm before attention is used before the MLP too",
                "has another there", "the Block class", SequentialBlock, faulty.OneNormInSequence,
                steps=("add_attention",)),
    class_fault("second norm for both branches", "the norm before the MLP is used before attention too",
                "has another there", "the Block class", SequentialBlock, faulty.SecondNormInSequence,
                steps=("add_attention",)),
    class_fault("norm missing", "the norm is not applied", "applies it", "the Block class",
                (nn.LayerNorm, RMSNorm), faulty.Unnormed),
)  # fmt: skip
