"""Compacter: an adapter whose weights are sums of Kronecker products with low-rank factors.

Source: Karimi Mahabadi et al. 2021, arxiv.org/abs/2106.04647, section 4 and equation 5; the layers are those of Zhang
et al. 2021, arxiv.org/abs/2102.08597 (parameterised hypercomplex multiplication, PHM).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from transfer.deltas.bottleneck import BottleneckMethod, BottleneckSite, Factors
from transfer.deltas.modules import linear_features
from transfer.deltas.site import Site
from transfer.errors import DeltaError

RULE = "compacter_rule"


@dataclass(frozen=True, kw_only=True)
class Compacter(BottleneckMethod):
    """h + up(act(down(h))), each weight (in, out) the sum over i of rule_i (x) (left_i @ right_i).

    The rule is (n, n, n) for a division n, left (n, in / n, rank), right (n, rank, out / n); (x) is Kronecker's
    product. `down` and `up` of a place use one rule, and with `shared_rule` so do all places: then it is a tensor of
    the first place.

    Starts as the bare backbone: `right` of `up` and the biases are zero. The published start, a rule of deviation 1e-4
    and the rest random, passes on next to no gradient; here the rule is drawn so that `down` is as wide as LoRA's A.

    Args:
        reduction: The bottleneck is the layer's width over this, rounded down to a multiple of `division`, and at least
            `division`.
        division: n; the width of a layer must be a multiple of it.
        rank: Of the factors, at least 1.
        shared_rule: One rule for all places, as in the paper; else one for each.
    """

    method: ClassVar[str] = "compacter"
    prefix: ClassVar[str] = "compacter_"

    reduction: int = 16
    division: int = 4
    rank: int = 1
    shared_rule: bool = True

    def check(self) -> None:
        super().check()
        self.at_least_one("reduction", "division", "rank")

    def shapes_by_place(self, model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
        found = super().shapes_by_place(model)
        if self.shared_rule:
            for place in list(found)[1:]:
                del found[place][RULE]
        return found

    def local_shapes(self, place: str, module: nn.Module) -> dict[str, tuple[int, ...]]:
        width, n = linear_features(place, module, self.method)[1], self.division
        if width % n:
            close = [d for d in range(1, min(n, width) + 1) if width % d == 0]
            raise DeltaError(
                f"compacter cannot be put on {place!r} with division {n}",
                found=f"its output is {width} wide, which is no multiple of {n}",
                hint=f"Compacter(division={close[-1]})",
            )
        narrow = max(1, width // self.reduction // n) * n
        return {
            RULE: (n, n, n),
            "compacter_down.left": (n, width // n, self.rank),
            "compacter_down.right": (n, self.rank, narrow // n),
            "compacter_down.bias": (narrow,),
            "compacter_up.left": (n, narrow // n, self.rank),
            "compacter_up.right": (n, self.rank, width // n),
            "compacter_up.bias": (width,),
        }

    def fill(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
        if name == RULE:  # n products are summed, each with one value of the rule
            tensor.normal_(std=1 / math.sqrt(tensor.shape[0]), generator=generator)
        elif name.endswith(".left"):
            bound = 1 / math.sqrt(tensor.shape[0] * tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)
        elif name == "compacter_down.right":
            tensor.normal_(std=1 / math.sqrt(tensor.shape[1]), generator=generator)

    def site(self, place: str, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Site:
        return CompacterSite(place, tensors, self.activation)

    def link(self, sites: Sequence[Site], helpers: Sequence[Site]) -> None:
        for site in sites[1:]:
            if self.shared_rule and isinstance(site, CompacterSite):
                site.borrow(sites[0].get_parameter(RULE))


class CompacterSite(BottleneckSite):
    """Two PHM layers after a linear layer."""

    compacter_rule: nn.Parameter
    compacter_down: Factors
    compacter_up: Factors
    borrowed = False

    def borrow(self, rule: nn.Parameter) -> None:
        """Use the rule of another place; copies and pickles of a whole model keep it one tensor."""
        self.register_parameter(RULE, rule)
        self.borrowed = True

    def tensors(self) -> dict[str, torch.Tensor]:
        found = super().tensors()
        if self.borrowed:
            del found[RULE]
        return found

    def down(self, x: torch.Tensor) -> torch.Tensor:
        return self._times(x, self.compacter_down)

    def up(self, narrow: torch.Tensor) -> torch.Tensor:
        return self._times(narrow, self.compacter_up)

    def _times(self, x: torch.Tensor, part: Factors) -> torch.Tensor:
        return functional.linear(x, phm_weight(self.compacter_rule, part.left, part.right).T, part.bias)


def phm_weight(rule: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The sum over i of rule_i (x) (left_i @ right_i).

    Args:
        rule: (n, n, n), one matrix for each i.
        left: (n, in / n, rank).
        right: (n, rank, out / n).
    Returns:
        (in, out).

    >>> rule = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [3.0, 0.0]]])
    >>> phm_weight(rule, torch.ones(2, 1, 1), torch.tensor([[[1.0, 5.0]], [[1.0, 7.0]]]))
    tensor([[ 1.,  5.,  0.,  0.],
            [ 3., 21.,  2., 10.]])
    """
    blocks = torch.einsum("iab,icr,ird->acbd", rule, left, right)
    return blocks.reshape(rule.shape[1] * left.shape[1], rule.shape[2] * right.shape[2])
