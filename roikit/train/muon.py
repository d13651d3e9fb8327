"""Muon for matrices and convolution kernels.

`torch.optim.Muon` takes matrices alone and orthogonalises in bfloat16, which CPUs without such
arithmetic emulate slowly; a vision tower that starts from scratch gains most where its kernels
take part.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

# Coefficients of the quintic iteration. Source: Keller Jordan et al., "Muon", 2024.
_A, _B, _C = 3.4445, -4.7750, 2.0315


class Muon(Optimizer):
    """Momentum whose every step is made (nearly) orthogonal.

    Source: Keller Jordan et al., "Muon: an optimizer for hidden layers", 2024; kernels are read as
    matrices of output channels by everything else, as the authors do.

    Args:
        params: parameters of two or more dimensions.
        lr: learning rate; a step has about unit spectral norm, scaled by the root of the shape's
            ratio.
        momentum: share of the old direction, Nesterov form.
        weight_decay: decoupled.
        steps: of the orthogonalising iteration.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                buffer = state["momentum_buffer"]
                buffer.mul_(group["momentum"]).add_(parameter.grad)
                direction = parameter.grad.add(buffer, alpha=group["momentum"])
                whole = _whole(direction)
                matrix = orthogonalise(whole.flatten(1), group["steps"])
                rows, columns = matrix.shape
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                scale = max(1.0, rows / columns) ** 0.5
                step = _piece(matrix.view_as(whole), parameter)
                parameter.add_(step, alpha=-group["lr"] * scale)
        return loss


def _whole(tensor: Tensor) -> Tensor:
    """Gather what FSDP keeps in pieces: a matrix is orthogonal only as a whole."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _piece(whole: Tensor, like: Tensor) -> Tensor:
    """Cut this process's piece out of what every process has computed alike."""
    if not isinstance(like, DTensor):
        return whole
    everywhere = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim)
    return everywhere.redistribute(placements=like.placements)


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """Bring a matrix's singular values near 1 by a Newton-Schulz iteration.

    Args:
        matrix: (M, N).
        steps: of the iteration; 5 bring them to between about 0.7 and 1.2.

    Returns:
        (M, N) in the matrix's type; computed in bfloat16 on CUDA, else in float32.
    """
    x: Tensor = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
