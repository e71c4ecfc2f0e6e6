"""Faults of mixtures of experts."""

from typing import Any

from torch import nn

from ...layers.experts import (
    ChosenSoftmaxRouter,
    Experts,
    NormalisedRouter,
    Router,
    SigmoidRouter,
    SoftmaxRouter,
    UncastNormalisedRouter,
)
from ..faults import Fault, class_fault, sets
from ..faulty import experts as faulty


def _moves_experts(part: Any) -> None:
    part.experts = nn.ModuleList([part.experts[-1], *part.experts[:-1]])


OF_EXPERTS: tuple[Fault, ...] = (
    class_fault("experts' weights not normalised", "the weights of the chosen experts do not sum to one",
                "divides them by their sum", "NormalisedRouter", NormalisedRouter, faulty.NotNormalised),
    class_fault("experts' float32 weights not normalised", "the weights of the chosen experts do not sum to one",
                "divides them by their sum", "UncastNormalisedRouter", UncastNormalisedRouter,
                faulty.NotNormalisedUncast),
    class_fault("experts weighted by sigmoids", "experts are weighted by sigmoids", "takes a softmax", "SoftmaxRouter",
                SoftmaxRouter, faulty.Sigmoids, where=lambda router: router.top > 1),
    class_fault("experts weighted first", "what experts are given is weighted", "weighs what they make", "Experts.mix",
                Experts, faulty.WeightedFirst),
    class_fault("experts' weights normalised", "the weights of the chosen experts sum to one",
                "leaves them as they are", "SoftmaxRouter", SoftmaxRouter, faulty.Normalised,
                where=lambda router: not isinstance(router, NormalisedRouter)),
    class_fault("experts weighted before they are chosen", "the softmax is over all experts", "takes the chosen ones",
                "ChosenSoftmaxRouter", ChosenSoftmaxRouter, faulty.SoftmaxBeforeChoice),
    class_fault("experts weighted by preference", "the preference counts in the weights", "lets it count in the choice",
                "SigmoidRouter", SigmoidRouter, faulty.ByPreference),
    class_fault("experts chosen without preference", "the preference does not count in the choice", "lets it count",
                "SigmoidRouter", SigmoidRouter, faulty.NoPreference),
    Fault("experts' scale missing", "the weights of experts are not scaled", "scales them", "SigmoidRouter(scale=...)",
          SigmoidRouter, sets("scale", lambda _: 1.0), where=lambda router: router.scale != 1, steps=("forward",)),
    Fault("one expert too few", "one expert less is chosen", "chooses one more", "Router(top=...)",
          Router, sets("top", lambda router: router.top - 1), where=lambda router: router.top > 1),
    Fault("one expert too many", "one expert more is chosen", "chooses one less", "Router(top=...)",
          Router, sets("top", lambda router: router.top + 1),
          where=lambda router: router.top < router.score.out_features),
    class_fault("experts not weighted", "what experts make is not weighted", "weighs it", "Experts.mix",
                Experts, faulty.Unweighted),
    class_fault("shared expert dropped", "the shared expert adds nothing", "adds to the others", "Experts(shared=...)",
                Experts, faulty.NothingShared, where=lambda part: part.shared is not None),
    Fault("experts permuted", "the experts have moved by one", "has them in order",
          "the expert numbers in the key table", Experts, _moves_experts,
          where=lambda part: len(part.experts) > 1, steps=("forward", "mix")),
)  # fmt: skip
