"""The one training loop. Fine-tuning, gradual pruning, distillation and training under a rate term are all this loop.

It is deterministic: what happens at a step depends on the seed and the number of the step alone, so that a training
that goes on from a checkpoint ends as if it had never been cut off.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from squeezer.data.dataset import Split
from squeezer.errors import Code, ModelError
from squeezer.graph.encoding import to_bytes
from squeezer.training.checkpoint import Checkpoint, identity
from squeezer.training.feed import Feed
from squeezer.training.losses import objective
from squeezer.training.optim import Optimiser, learning_rate
from squeezer.training.parametrisation import Parametrisation, parametrise
from squeezer.training.position import Position
from squeezer.training.reproducible import deterministic, seed_draws
from squeezer.training.runner import Runner, Teacher, on_device
from squeezer.training.snapshots import Snapshots
from squeezer.training.validation import Validator
from squeezer.training.workbench import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from squeezer.training.settings import Settings
    from squeezer.training.validation import Score
    from squeezer.training.workbench import Workbench

    Parametrisations = Mapping[str, Parametrisation]
    Hook = Callable[[int, int, Parametrisations], None]
    Penalty = Callable[[Parametrisations], torch.Tensor]
    Ready = Callable[[int, int], bool]

#: How often at least the network is validated in a run, and of how many rows: a share of those that are trained on.
_VALIDATIONS, _ROWS, _SHARE = 5, 2048, 0.1
#: How often the learning rate is halved before a training that blows up is ended.
_HALVINGS = 3
#: A validation loss so many times that of the start, or of outputs that are all zero, is one that has blown up.
_RISE = 10.0
_TELL_SECONDS = 0.25


def train(
    state: State,
    bench: Workbench,
    settings: Settings,
    *,
    parametrisations: Parametrisations | None = None,
    teacher: State | None = None,
    hook: Hook | None = None,
    penalty: Penalty | None = None,
    ready: Ready | None = None,
) -> State:
    """The network as it was when the validation split liked it best.

    Args:
        state: where to begin. Every tensor of its graph is trained as its representation allows.
        bench: data, device, seed; where to keep checkpoints, and whom to tell.
        settings: how.
        parametrisations: for tensors that are to be trained otherwise than `parametrise` would, by name. What must
            survive a checkpoint is in their parameters and buffers.
        teacher: what distillation learns from, and what outputs are compared with where there are no targets; by
            default the original.
        hook: called before each update with its number, the number of all updates, and the parametrisations.
        penalty: what is added to the loss, a scalar; called after `hook`.
        ready: whether the network after so many updates, of how many in all, may be the result; by default any, the
            start included. Where none is, the last one is the result.

    Raises:
        DataError: the data does not fit the network or the settings.
        ModelError: NON_FINITE_LOSS, where the loss is no number before anything is trained.
    """
    names = dict.fromkeys(state.graph.tensors.values())
    trained = {
        name: (parametrisations or {}).get(name)
        or parametrise(state.tensors[name], bench.device, buffer=name in state.graph.buffers)
        for name in names
    }
    with deterministic(bench.device):
        training = _Training(state, bench, settings, trained, teacher or bench.original, ready or _always)
        training.run(hook, penalty)
    frozen = {name: one.freeze() for name, one in trained.items()}
    return State(state.graph, {name: frozen.get(name, tensor) for name, tensor in state.tensors.items()})


class _Training:
    def __init__(
        self,
        state: State,
        bench: Workbench,
        settings: Settings,
        trained: dict[str, Parametrisation],
        teacher: State,
        ready: Ready,
    ) -> None:
        assert bench.data is not None  # noqa: S101 # steps that train need data; this tells mypy
        self.bench, self.settings, self.trained, self.ready = bench, settings, trained, ready
        loss, self.half = bench.spec.loss, _in_half(settings, bench.device)
        self.objective = objective(loss, settings.temperature, settings.alpha, labelled=bench.data.labelled)
        self.runner = Runner(state.graph, loss, bench.device, frozen=settings.freeze_batch_norm)
        self.teacher = Teacher(teacher, loss, bench.device) if self.objective.alpha > 0 else None
        fixed = self.runner.fixed or (self.teacher and self.teacher.fixed)
        self.feed = Feed(bench.data, settings, bench.seed, fixed or settings.batch_size)
        self.total = max(1, round(settings.epochs * self.feed.per_epoch), settings.min_updates)
        self.interval = min(self.feed.per_epoch, -(-self.total // _VALIDATIONS))
        rows = max(_ROWS, int(_SHARE * self.total * self.feed.size))
        self.validate = Validator(bench, self.runner, self.teacher, rows, self.feed.size)
        self.optimiser = Optimiser((p for one in trained.values() for p in one.parameters()), settings)
        others = bench.device, bench.spec, to_bytes(state.graph), bench.data.size(Split.TRAIN), self.total
        self.checkpoint = Checkpoint(bench.checkpoints, identity(settings, bench.seed, state.tensors, *others))
        self.at = Position()
        self.kept = Snapshots(trained, self.optimiser)
        self.told = time.monotonic()

    def run(self, hook: Hook | None, penalty: Penalty | None) -> None:
        """Train to the end, and leave the best in the parametrisations."""
        if not self._resume():
            self._begin()
        while self.at.step < self.total and not self.at.ended:
            if hook is not None:
                hook(self.at.step, self.total, self.trained)
            if trouble := self._update(penalty):
                self._go_back("loss_not_finite", trouble)
                continue
            self.at.step += 1
            validated = self.at.step % self.interval == 0 or self.at.step == self.total
            if validated:
                self._judge()
            if self.checkpoint.due(wanted=validated):
                self._save()
            self._tell(now=validated)
        self.at.ended = True
        self._save()
        self.kept.put_best()
        found = {"method": self.settings.method, "updates": self.at.step, "history": self.at.history}
        self.bench.findings.setdefault("training", []).append(found)

    def _begin(self) -> None:
        score = self.validate(self.trained)
        if not score.finite:
            raise _not_finite("the validation loss")
        self.at.limit = _RISE * max(score.loss, self.validate.blank)
        self.at.note(score, 0.0)
        self._keep(score)

    def _update(self, penalty: Penalty | None) -> str | None:
        """One update; what is wrong where there was none."""
        seed_draws(self.feed.noise(self.at.step), self.bench.device)
        inputs, targets = on_device(self.feed(self.at.step), self.bench.device)
        outputs = self.runner(self.trained, inputs, training=True, half=self.half)
        wanted = None if self.teacher is None else self.teacher(inputs, half=self.half)
        loss = self.objective(outputs, targets, wanted)
        if self.at.step == 0 and not loss.isfinite():
            raise _not_finite("the loss of the first batch")
        if penalty is not None:
            loss = loss + penalty(self.trained)
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        norm = self.optimiser.clip()
        if not loss.isfinite() or not norm.isfinite():
            self.optimiser.forget()
            return f"the loss was {loss.item():g}, the norm of its gradient {norm.item():g}"
        self.optimiser.update(self._rate())
        self.at.losses += loss.item()
        self.at.updates += 1
        return None

    def _rate(self) -> float:
        return learning_rate(self.settings, self.at.step, self.total) * 0.5**self.at.halvings

    def _judge(self) -> None:
        """Validate, and keep what is good; go back from what is not."""
        score = self.validate(self.trained)
        if not score.finite:
            return self._go_back("loss_not_finite", f"the validation loss was {score.loss:g}")
        if self.at.limit < score.loss > self.at.before:
            return self._go_back("loss_diverged", f"the validation loss rose to {score.loss:g}")
        self.at.note(score, self.at.step / self.feed.per_epoch)
        self._keep(score)
        patience = self.settings.patience
        waited = (self.at.step - self.at.improved) / self.feed.per_epoch
        if patience is not None and self.at.best is not None and waited >= patience:
            self.at.ended = True
            self._event("stopped_early", "the validation split had not improved", "ended with the best so far")
        return None

    def _keep(self, score: Score) -> None:
        self.kept.keep_good(self.at.step)
        if not self.ready(self.at.step, self.total):
            return
        if score.surpasses(self.at.best):
            self.at.improved = self.at.step
        if score.beats(self.at.best):
            self.at.best = score
            self.kept.keep_best()

    # -- blown up ------------------------------------------------------------------------------------------

    def _go_back(self, event: str, reason: str) -> None:
        """To the last good network, with half the learning rate; the fourth time, the training ends there."""
        back = self.kept.good_step
        self.at.ended = self.at.halvings == _HALVINGS
        if not self.at.ended:
            self.at.halvings += 1
        self._event(
            event,
            reason,
            "ended with the best so far"
            if self.at.ended
            else f"went back to step {back} with a learning rate {2**self.at.halvings} times smaller",
        )
        self.kept.put_good()
        self.at.rewind(back)

    def _event(self, event: str, reason: str, action: str) -> None:
        epoch, batch = divmod(self.at.step, self.feed.per_epoch)
        found = {"event": event, "method": self.settings.method, "step": self.at.step, "epoch": epoch, "batch": batch}
        self.at.events.append(found | {"reason": reason, "action": action})
        self.bench.events.append(self.at.events[-1])

    # -- cut off -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.checkpoint.save({"position": self.at.document()} | self.kept.document())

    def _resume(self) -> bool:
        try:
            found = self.checkpoint.load()
        except ValueError as error:
            self._event("checkpoint_damaged", str(error), "began again")
            return False
        if found is None:
            return False
        self.at = Position.of(found["position"])
        self.kept.restore(found)
        self.bench.events.extend(self.at.events)
        return True

    def _tell(self, *, now: bool) -> None:
        if now or time.monotonic() - self.told >= _TELL_SECONDS:
            self.told = time.monotonic()
            epochs = self.total / self.feed.per_epoch
            self.bench.tell(self.at.step / self.total, self.at.words(self.at.step / self.feed.per_epoch, epochs))


def _always(_: int, __: int) -> bool:
    return True


def _in_half(settings: Settings, device: str) -> bool:
    return settings.precision == "bfloat16" or (settings.precision == "auto" and device == "cuda")


def _not_finite(what: str) -> ModelError:
    return ModelError(
        Code.NON_FINITE_LOSS,
        f"{what} is not finite before anything is trained: look for NaN or infinite values in the data set's arrays, "
        "and in the network's weights and outputs",
    )
