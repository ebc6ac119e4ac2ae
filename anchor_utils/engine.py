"""The training step as one CUDA graph: recorded once, then replayed without the host.

It records the objective and the attack of the package and copies none of them. Learning rate, radius, batch and random
numbers change from step to step in static memory; losses are summed on the device. Without CUDA the same code runs step
by step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from anchor_utils.config import Config
from anchor_utils.data import Split
from anchor_utils.models import AnchorNet
from anchor_utils.objectives import Forward, InnerProblem, batch_loss

WARM_UP = 3  # steps before recording, in which libraries choose kernels and allocate


class Engine:
    """The steps of a training run on one device.

    Args:
        model, forward: the network in train mode, and what :func:`anchor_utils.objectives.batch_loss` calls.
        attack: its attacker.
        optimizer: SGD whose learning rate is a tensor on the device, which :meth:`step` fills.
        training: all training images, on the device.

    Augmentation and random starts draw from the attacker's generator, which is on the device too.
    """

    def __init__(
        self,
        config: Config,
        model: AnchorNet,
        forward: Forward,
        attack: InnerProblem,
        optimizer: torch.optim.Optimizer,
        training: Split,
    ) -> None:
        self.config, self.model, self.forward, self.attack = config, model, forward, attack
        self.optimizer, self.training, self.generator = optimizer, training, attack.generator
        device = training.images.device
        self.chosen = torch.zeros(config.batch_size, dtype=torch.long, device=device)
        self.rate: Tensor = optimizer.param_groups[0]["lr"]
        self.radius, self.step_size = torch.zeros((), device=device), torch.zeros((), device=device)
        attack.radius, attack.step_size = self.radius, self.step_size
        self.sums: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recording = device.type == "cuda"

    def step(self, chosen: Tensor, rate: float, radius: float, step_size: float) -> None:
        """One step on the training images `chosen` (N,), with this learning rate, and radius and step of the attack."""
        self.chosen.copy_(chosen, non_blocking=True)
        for tensor, value in ((self.rate, rate), (self.radius, radius), (self.step_size, step_size)):
            tensor.fill_(value)
        if self.recording:
            self._record()
        if self.graph is None:
            self._once()
        else:
            self.graph.replay()
            self.attack.image_steps += self.image_steps

    def totals(self) -> dict[str, float]:
        """Loss, terms and training accuracy, summed over the steps since :meth:`begin`; waits for the device."""
        return {name: value.item() for name, value in self.sums.items()}

    def begin(self, sums: dict[str, float]) -> None:
        """Begin an epoch, or go on in one with these sums."""
        for name in [*self.sums, *sums]:
            self._sum(name).fill_(sums.get(name, 0.0))

    def _sum(self, name: str) -> Tensor:
        if name not in self.sums:
            self.sums[name] = torch.zeros((), dtype=torch.float64, device=self.chosen.device)
        return self.sums[name]

    def _once(self) -> None:
        """What a step does; nothing in it waits for the device."""
        self.attack.fold()
        images, labels = self.training.images[self.chosen], self.training.labels[self.chosen]
        found = batch_loss(self.config, self.forward, self.attack, images, labels, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        found.loss.backward()
        self.optimizer.step()
        hit = found.logits.detach().argmax(1).eq(found.labels).float().mean()
        for name, value in {"loss": found.loss, **found.terms, "training_accuracy": hit}.items():
            self._sum(name).add_(value.detach().nanmean())

    def _record(self) -> None:
        """Record a step; the steps that warm up for it leave no trace in the run."""
        self.recording, attacked = False, self.attack.image_steps
        random, before = self.generator.get_state(), [(tensor, tensor.clone()) for tensor in self._state()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)  # their memory is the warm-up's, not the graph's
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(graph):
                self._once()
        except RuntimeError as error:  # generator and allocator may be left half-way: nothing to go on with
            raise RuntimeError(f"the step could not be recorded as a CUDA graph, set graph=False: {error}") from error
        self.graph = graph
        self.image_steps = (self.attack.image_steps - attacked) // (WARM_UP + 1)
        self.attack.image_steps = attacked
        known = {id(tensor) for tensor, _ in before}
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in self._state():  # momentum and sums that there were none of before
                if id(tensor) not in known:
                    tensor.zero_()
        self.generator.set_state(random)

    def _state(self) -> Iterator[Tensor]:
        yield from self.model.state_dict(keep_vars=True).values()
        yield from (
            state["momentum_buffer"]
            for state in self.optimizer.state.values()
            if state.get("momentum_buffer") is not None
        )
        yield from self.sums.values()
        yield self.attack.vanished
