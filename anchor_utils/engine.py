"""The training step as one CUDA graph: recorded once, then replayed without the host.

It records the objective and the attack of the package and copies none of them. Learning rate, radius, batch and random
numbers change from step to step in static memory; losses are summed on the device. Without CUDA the same code runs step
by step, which is also what happens where no graph can be had.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from anchor_utils.config import Config
from anchor_utils.data import Split
from anchor_utils.models import AnchorNet
from anchor_utils.objectives import Forward, InnerProblem, batch_gradient
from anchor_utils.weights import update_average

WARM_UP = 3  # steps before recording, in which libraries choose kernels and allocate


class Engine:
    """The steps of a training run on one device.

    Args:
        model, forward: the network in train mode, and what :func:`anchor_utils.objectives.batch_loss` calls.
        attack: its attacker.
        optimizer: SGD whose learning rate is a tensor on the device, which :meth:`step` fills.
        scaler: of the gradients of float16; nothing for other precisions.
        training: all training images, on the device.
        average: the averaged network, if there is one.

    Augmentation and random starts draw from the attacker's generator, which is on the device too.
    """

    def __init__(
        self,
        config: Config,
        model: AnchorNet,
        forward: Forward,
        attack: InnerProblem,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        training: Split,
        average: AnchorNet | None = None,
    ) -> None:
        self.config, self.model, self.forward, self.attack = config, model, forward, attack
        self.optimizer, self.scaler, self.training, self.average = optimizer, scaler, training, average
        device = training.images.device
        self.chosen = torch.zeros(config.batch_size, dtype=torch.long, device=device)
        self.rate: Tensor = optimizer.param_groups[0]["lr"]
        self.radius, self.step_size, self.share = (torch.zeros((), device=device) for _ in range(3))
        attack.radius, attack.step_size = self.radius, self.step_size
        for parameter in optimizer.param_groups[0]["params"]:
            # From the start: a first step that overflows in float16 would leave it uninitialised.
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        self.sums: dict[str, Tensor] = {}
        self.graph: torch.cuda.CUDAGraph | None = None
        self.recording = device.type == "cuda"

    def step(self, chosen: Tensor, rate: float, radius: float, step_size: float, share: float = 0.0) -> None:
        """One step on the training images `chosen` (N,).

        With this learning rate, radius and step of the attack, and share of the new weights in the average.
        """
        self.chosen.copy_(chosen, non_blocking=True)
        given = {self.rate: rate, self.radius: radius, self.step_size: step_size, self.share: share}
        for tensor, value in given.items():
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
        self.optimizer.zero_grad(set_to_none=True)
        given = self.forward, self.attack, images, labels, self.attack.generator
        found = batch_gradient(self.config, *given, model=self.model, scaler=self.scaler)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            update_average(self.average, self.model, self.share)
        hit = found.logits.detach().argmax(1).eq(found.labels).float().mean()
        for name, value in {"loss": found.loss, **found.terms, "training_accuracy": hit}.items():
            self._sum(name).add_(value.detach().nanmean())

    def _record(self) -> None:
        """Record a step; the steps that warm up for it leave no trace in the run."""
        self.recording, attacked, scale = False, self.attack.image_steps, self.scaler.state_dict()
        random, before = self.attack.generator.get_state(), [(tensor, tensor.clone()) for tensor in self._state()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._once()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)  # their memory is the warm-up's, not the graph's
        self.graph = self._recorded()
        self.image_steps = (self.attack.image_steps - attacked) // (WARM_UP + 1)
        self.attack.image_steps = attacked
        known = {id(tensor) for tensor, _ in before}
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in self._state():  # sums that there were none of before
                if id(tensor) not in known:
                    tensor.zero_()
        self.scaler.load_state_dict(scale)
        self.attack.generator.set_state(random)

    def _recorded(self) -> torch.cuda.CUDAGraph | None:
        """A step as a graph, or None, with a warning, where it cannot be had."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.attack.generator)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may be at work on the GPU
                self._once()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"the steps run one by one, no CUDA graph could be recorded: {error}", stacklevel=2)
            # The recording may have left its generator half-way, and what it computed was never there.
            self.attack.generator = torch.Generator(self.chosen.device)
            self.optimizer.zero_grad(set_to_none=True)
            return None
        return graph

    def _state(self) -> Iterator[Tensor]:
        yield from self.model.state_dict(keep_vars=True).values()
        yield from () if self.average is None else self.average.parameters()
        yield from (state["momentum_buffer"] for state in self.optimizer.state.values())
        yield from self.sums.values()
        yield self.attack.vanished
