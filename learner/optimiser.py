"""Adam over a module's trainable parameters, with state by parameter name, and the learning rate as a pure function.

Nothing here remembers the step but Adam's own counters: the rate is handed in at each step, so a resumed run needs no
scheduler state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learner.eight_bit_adam import EightBitAdam, fits
from learner.ranks import like, whole

MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # as torch.optim.Adam names them


def scheduled_rate(peak: float, schedule: str, warmup_steps: int, done: int, total: int) -> float:
    """Learning rate of the update that follows `done` completed ones, of `total`.

    Rises linearly over `warmup_steps` updates; "linear" then falls so that it would be zero after the last one.
    """
    warmup = min(1.0, (done + 1) / warmup_steps) if warmup_steps > 0 else 1.0
    if schedule == "constant":
        return peak * warmup
    if schedule == "linear":
        return peak * warmup * max(0.0, 1.0 - done / max(1, total))
    raise ValueError(f"learner.lr_schedule: got {schedule}, allowed constant, linear")


class Optimiser:
    """Adam (Kingma and Ba, arXiv 1412.6980) over the parameters of `module` that require a gradient.

    states: as learner.optimizer_states. With 8bit the moments of what fits are short, the others' are not.
    """

    def __init__(self, module: nn.Module, grad_clip: float, states: str = "float32") -> None:
        self.named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        if not self.named:
            raise ValueError("learner.freeze: got patterns that freeze every parameter, allowed: leave some to learn")
        self.grad_clip = grad_clip
        short = {name: tensor for name, tensor in self.named.items() if states == "8bit" and fits(tensor)}
        self._short = EightBitAdam(short) if short else None
        self.long = {name: parameter for name, parameter in self.named.items() if name not in short}
        self.adam = torch.optim.Adam([{"params": list(self.long.values())}], lr=0.0, fused=True)

    def clip(self) -> float:
        """Scales the gradient to a global norm of at most `grad_clip` -> the norm before. A collective where ranks hold
        parts of the parameters."""
        return whole(nn.utils.clip_grad_norm_(self.named.values(), self.grad_clip)).item()

    def step(self, rate: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        if self._short is not None:
            self._short.step(rate)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Name -> Adam's moments and step count; empty before a parameter's first update. Live tensors."""
        state = {name: dict(self.adam.state.get(parameter, {})) for name, parameter in self.long.items()}
        if self._short is not None:
            state |= {name: self._short.moments(name) for name in self._short.named}
        return state

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Inverse of `state`; tensors may be whole or this rank's part. Raises KeyError when it is of others'."""
        if state.keys() - self.named.keys():
            raise KeyError(f"optimiser: unknown parameter {sorted(state.keys() - self.named.keys())[0]}")
        if self._short is not None:
            self._short.restore(state)
        self.adam.state.clear()
        for name, moments in state.items():
            if moments and name in self.long:
                if moments.keys() != MOMENTS:
                    raise KeyError(f"optimiser: {name} has no moments of 32 bits")
                self.adam.state[self.long[name]] = {
                    key: self._restored(name, tensor) for key, tensor in moments.items()
                }

    def _restored(self, name: str, tensor: Tensor) -> Tensor:
        parameter = self.named[name]
        if not tensor.ndim:  # the count of steps
            return tensor.to(parameter.device, copy=True)
        try:
            return like(parameter.detach(), tensor)
        except ValueError:
            raise KeyError(f"optimiser: {name} has another shape") from None
