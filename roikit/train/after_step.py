"""What follows each optimiser step: it is written down, and some are evaluated and saved."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from roikit.batch import Batch, to_device
from roikit.config import Recipe
from roikit.model.processing import RoikitProcessor
from roikit.train.checkpoint import Checkpoints
from roikit.train.feed import StepSource
from roikit.train.held_out import HeldOut
from roikit.train.loop import Progress, autocast, batch_loss
from roikit.train.metrics import HeldOutReport, StepReport
from roikit.train.watch import Watch
from roikit.train.world import World

#: Measures the loss on the pictures held out after a step.
Measure = Callable[[int], HeldOutReport]


@dataclass(kw_only=True, slots=True)
class AfterStep:
    """Called by every process after each step."""

    recipe: Recipe
    world: World
    progress: Progress
    checkpoints: Checkpoints
    watch: Watch
    measure: Measure | None  #: None where nothing asks for it
    on_step: Callable[[StepReport], None] | None  #: called in the main process
    on_held_out: Callable[[HeldOutReport], None] | None  #: likewise
    losses: list[float] = field(default_factory=list)  #: of the steps so far

    def __call__(self, report: StepReport, keys: tuple[str, ...]) -> None:
        """Write a step down, with the samples of this process's part; evaluate and save."""
        run = self.recipe.run
        is_last = report.step == report.steps
        score = None
        if self.measure is None or not (is_last or report.step % run.eval_every == 0):
            self._note(report, keys)
        else:  # all processes evaluate, or none: who failed before would be waited for
            self.world.together(lambda: self._note(report, keys))
            score = self._evaluate(self.measure, report.step)
        is_scored = run.keep_best > 0 and score is not None
        if is_last or is_scored or report.step % run.save_every == 0:
            self.save(score=score)

    def save(self, *, score: float | None = None, wait: bool = False) -> None:
        """Save a checkpoint of the steps taken; before the first one there is nothing to save."""
        if self.progress.stream_state is not None:
            state = {"stream": self.progress.stream_state, "recipe": self.recipe.to_toml()}
            self.checkpoints.save(step=self.progress.step, state=state, score=score, wait=wait)

    def _note(self, report: StepReport, keys: tuple[str, ...]) -> None:
        self.watch.step(report, keys)
        self.losses.append(report.loss)
        if self.on_step is not None and self.world.is_main:
            self.on_step(report)
        self.checkpoints.check()

    def _evaluate(self, measure: Measure, step: int) -> float:
        found = measure(step)
        self.watch.held_out(found)
        if self.on_held_out is not None and self.world.is_main:
            self.on_held_out(found)
        return found.held_out


def held_out_measure(
    recipe: Recipe,
    world: World,
    source: StepSource,
    processor: RoikitProcessor,
    model: nn.Module,
    *,
    bf16: bool,
) -> Measure | None:
    """Return what measures the loss on the pictures held out; None where nothing asks for it."""
    if not recipe.run.eval_every:
        return None
    evaluation = HeldOut(
        source.held_out(recipe.run.eval_size),
        processor,
        recipe.run,
        seed=recipe.seed,
        rank=world.rank,
        world_size=world.world_size,
    )

    def summed_loss(batch: Batch) -> Tensor:
        with autocast(world.device, bf16=bf16):
            return batch_loss(model, processor, to_device(batch, world.device), 1)

    return lambda step: evaluation.measure(model, summed_loss, step=step, add_up=world.sum)
