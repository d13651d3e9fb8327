"""What the evaluator asks of a system, and the systems there are: a model, a file, the references.

`Predictor` is all that a model must offer. Torch is imported only when `ModelPredictor` is used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from roikit.errors import RoikitError
from roikit.evaluate.choice import ChoiceAnswer, letter_turns
from roikit.evaluate.items import ChoiceStep, Question, RegionItem
from roikit.prompt import Prompt, letter, with_turns

if TYPE_CHECKING:
    from roikit.model.generate import LoadedModel


class ScoredOption(Protocol):
    """Likelihood of one option."""

    @property
    def log_prob(self) -> float:
        """Natural logarithm, summed over the option's tokens."""

    @property
    def num_tokens(self) -> int:
        """How many tokens were summed over."""


class Predictor(Protocol):
    """A model, as the evaluator sees it: deterministic, answers in the order of the prompts."""

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> Sequence[str]:
        """Answer each prompt greedily, in record text."""

    def score_options(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[ScoredOption]]:
        """Score each prompt's options (record text) as answers to it."""


class Answerer(Protocol):
    """Who answers the items of a benchmark."""

    @property
    def needs_pictures(self) -> bool:
        """False where answers are there already: then there is nothing to control."""

    def describe(
        self, items: Sequence[RegionItem], prompts: Sequence[Prompt], max_new_tokens: int
    ) -> list[str]:
        """Return what is said about each item's region, in record text."""

    def choose(
        self,
        steps: Sequence[tuple[Question, ChoiceStep]],
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> list[ChoiceAnswer]:
        """Return the answer to each step of a question."""


class ModelPredictor:
    """`Predictor` over a loaded roikit model, decoding greedily."""

    def __init__(self, loaded: "LoadedModel") -> None:
        self._loaded = loaded

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Answer each prompt greedily, in record text."""
        from roikit.model.generate import generate

        return generate(self._loaded, prompts, max_new_tokens=max_new_tokens, temperature=0.0)

    def score_options(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[ScoredOption]]:
        """Score each prompt's options as answers to it."""
        from roikit.model.generate import score_options

        return score_options(self._loaded, prompts, options)


class ModelAnswerer:
    """Asks a `Predictor`."""

    needs_pictures = True

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def describe(
        self, items: Sequence[RegionItem], prompts: Sequence[Prompt], max_new_tokens: int
    ) -> list[str]:
        """Return what the model generates for each prompt."""
        answers = list(self._predictor.generate(prompts, max_new_tokens))
        _check_count("generate", len(answers), len(prompts))
        return answers

    def choose(
        self,
        steps: Sequence[tuple[Question, ChoiceStep]],
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> list[ChoiceAnswer]:
        """Return the likelihood of every option, and the letter generated when they are listed."""
        options = [step.options for _, step in steps]
        scores = self._predictor.score_options(prompts, options)
        _check_count("score_options", len(scores), len(prompts))
        listed = [
            with_turns(prompt, letter_turns(step))
            for (_, step), prompt in zip(steps, prompts, strict=True)
        ]
        letters = list(self._predictor.generate(listed, max_new_tokens))
        _check_count("generate", len(letters), len(listed))
        answers = []
        for (question, step), scored, text in zip(steps, scores, letters, strict=True):
            if len(scored) != len(step.options):
                raise RoikitError(
                    f"{question.id}: expected {len(step.options)} option scores, got {len(scored)}"
                )
            answers.append(
                ChoiceAnswer(
                    log_probs=tuple(float(option.log_prob) for option in scored),
                    num_tokens=tuple(int(option.num_tokens) for option in scored),
                    letter=text,
                )
            )
        return answers


def _check_count(what: str, got: int, expected: int) -> None:
    if got != expected:
        raise RoikitError(f"predictor: {what}: expected {expected} answers, got {got}")


class Oracle:
    """Answers with the reference: what does not reach 100 with it is a fault of the evaluation."""

    needs_pictures = False

    def describe(
        self, items: Sequence[RegionItem], prompts: Sequence[Prompt], max_new_tokens: int
    ) -> list[str]:
        """Return each item's first reference."""
        return [item.references[0] for item in items]

    def choose(
        self,
        steps: Sequence[tuple[Question, ChoiceStep]],
        prompts: Sequence[Prompt],
        max_new_tokens: int,
    ) -> list[ChoiceAnswer]:
        """Return the right option as the only likely one, and its letter."""
        return [
            ChoiceAnswer(
                log_probs=tuple(
                    0.0 if i == step.answer else -1.0 for i in range(len(step.options))
                ),
                num_tokens=(1,) * len(step.options),
                letter=f"({letter(step.answer)})",
            )
            for _, step in steps
        ]
