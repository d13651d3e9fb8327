"""Caption metrics by their reference implementations, those of pycocoevalcap.

BLEU, METEOR, ROUGE-L and CIDEr are not re-implemented: this starts the two Java programs once a
run, hands strings over, and keeps the per-item numbers that intervals need. The package ships its
jars, but not Java. Without it there is no METEOR, and the other three are computed on words split
at white space; `CaptionScorer.caveats` says so: such numbers do not compare with published ones.
"""

import os
import shutil
import subprocess
import types
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from roikit.errors import RoikitError
from roikit.evaluate import normalise
from roikit.evaluate.bootstrap import Floats, Measure, mean_measure

#: Names of the caption metrics, in the order they are shown.
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider", "exact")


def java_problem() -> str | None:
    """Return why PTB's tokenizer and METEOR cannot run here, or None where they can."""
    if shutil.which("java") is None:
        return "Java is not installed"
    from pycocoevalcap.tokenizer import ptbtokenizer

    folder = Path(ptbtokenizer.__file__).parent
    if not os.access(folder, os.W_OK):  # pycocoevalcap puts a temporary file beside its jar
        return f"`{folder}` is not writable, and pycocoevalcap needs it to be"
    return None


class CaptionScorer:
    """Tokenizer and metrics, started once and used for every control of a run.

    A context manager: METEOR is a Java process that `close` ends.

    Args:
        use_java: False computes what needs none, as on a machine without it.
    """

    def __init__(self, *, use_java: bool = True) -> None:
        self.problem = java_problem() if use_java else "Java was not wanted"
        self._tokens: dict[str, str] = {}
        self._meteor: _Meteor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start METEOR now: it reads its tables for seconds, meanwhile a model can answer."""
        if self.problem is None and self._meteor is None:
            self._meteor = _Meteor()

    def close(self) -> None:
        """End the Java process, if one runs."""
        if self._meteor is not None:
            self._meteor.close()
            self._meteor = None

    @property
    def versions(self) -> dict[str, str]:
        """What the numbers were computed with."""
        package = f"pycocoevalcap {version('pycocoevalcap')}"
        has_java = self.problem is None
        return {
            "tokenizer": "PTB (stanford-corenlp 3.4.1)" if has_java else "white space",
            "bleu": package,
            "meteor": f"{package}, METEOR 1.5" if has_java else "none",
            "rouge_l": package,
            "cider": f"{package}; intervals hold its document frequencies fixed",
            "exact": "equal after lower-casing and without final stop",
        }

    @property
    def caveats(self) -> list[str]:
        """Why the numbers do not compare with published ones; empty where they do."""
        if self.problem is None:
            return []
        return [
            f"{self.problem}: METEOR is left out, and BLEU, ROUGE-L and CIDEr are computed on "
            "words split at white space instead of PTB's tokenizer"
        ]

    def measures(
        self, answers: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, Measure]:
        """Score answers against their references; all scores are times 100.

        Args:
            answers: (N,) normalised captions; an empty one scores 0.
            references: (N,) one or more normalised captions each. CIDEr weighs words by how many of
                these N items use them: the same item scores differently in another company.

        Returns:
            One measure a metric, over the N items; `meteor` is left out where Java is missing.

        Raises:
            RoikitError: a Java program failed; the message quotes it.
        """
        if not answers:
            return {}
        self._tokenize([*answers, *(text for texts in references for text in texts)])
        hypotheses = {i: [self._tokens[answer]] for i, answer in enumerate(answers)}
        gold = {i: [self._tokens[text] for text in texts] for i, texts in enumerate(references)}
        measures = _bleu(hypotheses, gold)
        if self.problem is None:
            measures["meteor"] = self._meteor_measure(hypotheses, gold)
        measures["rouge_l"] = _rouge(hypotheses, gold)
        measures["cider"] = _cider(hypotheses, gold)
        pairs = zip(answers, references, strict=True)
        measures["exact"] = mean_measure([answer in texts for answer, texts in pairs])
        return measures

    def _tokenize(self, texts: Iterable[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if not new:
            return
        if self.problem is None:
            self._tokens |= _ptb_tokens(new)
        else:
            self._tokens |= {text: " ".join(text.split()) for text in new}

    def _meteor_measure(
        self, hypotheses: dict[int, list[str]], gold: dict[int, list[str]]
    ) -> Measure:
        self.start()
        assert self._meteor is not None
        meteor = self._meteor
        stats = meteor.stats([(hypotheses[i][0], gold[i]) for i in hypotheses])
        return Measure(
            stats=stats,
            finish=lambda sums: meteor.scores(sums) * 100,
            counted=np.ones(len(stats), dtype=bool),
        )


def _ptb_tokens(texts: Sequence[str]) -> dict[str, str]:
    """Tokenize with Stanford's PTB tokenizer as pycocoevalcap calls it."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    # One line a caption goes in and one comes out; `clean` leaves nothing else that ends a line.
    captions = {i: [{"caption": normalise.clean(text)}] for i, text in enumerate(texts)}
    said: list[str] = []

    class Quiet(subprocess.Popen[bytes]):
        """Keeps Java's remarks, which the package lets through to the terminal, for our error."""

        def __init__(self, command: list[str], **kwargs: Any) -> None:
            super().__init__(command, **kwargs, stderr=subprocess.PIPE)

        def communicate(self, *_: Any, **__: Any) -> tuple[bytes, bytes]:
            output, remarks = super().communicate()
            said.append(remarks.decode(errors="replace").strip())
            return output, remarks

    module: Any = ptbtokenizer
    module.subprocess = types.SimpleNamespace(Popen=Quiet, PIPE=subprocess.PIPE)
    try:
        tokenized = ptbtokenizer.PTBTokenizer().tokenize(captions)
    finally:
        module.subprocess = subprocess
    if tokenized.keys() != captions.keys():
        raise RoikitError(
            f"PTB tokenizer: expected {len(captions)} lines, got {len(tokenized)}: {said}",
            hint="`java -version` must work; 8 or newer",
        )
    return {text: tokenized[i][0] for i, text in enumerate(texts)}


class _Meteor:
    """METEOR 1.5 as pycocoevalcap runs it; keeps the statistics of pairs it has seen."""

    def __init__(self) -> None:
        from pycocoevalcap.meteor.meteor import Meteor

        self._scorer = Meteor()
        self._seen: dict[tuple[str, tuple[str, ...]], Floats] = {}
        self._scored: dict[bytes, Floats] = {}

    def stats(self, pairs: Sequence[tuple[str, list[str]]]) -> Floats:
        """Return (N, K) counts of matches, words and chunks, which METEOR adds up over a corpus."""
        for answer, texts in pairs:
            key = (answer, tuple(texts))
            if key not in self._seen:
                line = self._ask(lambda a=answer, t=texts: self._scorer._stat(a, t))
                self._seen[key] = _summable([float(number) for number in line.split()])
        return np.stack([self._seen[answer, tuple(texts)] for answer, texts in pairs])

    def scores(self, sums: Floats) -> Floats:
        """Return (R,) scores of (R, K) summed statistics, as METEOR itself computes them."""
        key = sums.tobytes()
        if key not in self._scored:
            lines = " ||| ".join(" ".join(repr(float(x)) for x in row) for row in sums)
            self._scored[key] = np.array(self._ask(lambda: self._evaluate(lines, len(sums))))
        return self._scored[key]

    def _evaluate(self, lines: str, count: int) -> list[float]:
        process = self._scorer.meteor_p
        process.stdin.write(f"EVAL ||| {lines}\n".encode())
        process.stdin.flush()
        scores = [float(process.stdout.readline()) for _ in range(count)]
        process.stdout.readline()  # the score of all rows together
        return scores

    def _ask(self, question: Any) -> Any:
        try:
            answer = question()
        except (OSError, ValueError) as error:
            raise self._failure() from error
        if answer == "":
            raise self._failure()
        return answer

    def _failure(self) -> RoikitError:
        process = self._scorer.meteor_p
        process.kill()
        said = process.stderr.read().decode(errors="replace").strip().splitlines()
        return RoikitError(
            f"METEOR stopped: {said[0] if said else 'it said nothing'}",
            hint="it is started as `java -jar -Xmx2G`: about 2 GB of free memory are needed",
        )

    def close(self) -> None:
        process = self._scorer.meteor_p
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def _summable(stats: list[float]) -> Floats:
    """Return one pair's METEOR statistics so that their sum is the corpus's.

    The line holds the lengths of answer and reference, their function words, then for each of four
    kinds of match (answer, reference) counts of content and of function words, the chunks, and two
    more counts.

    Source: METEOR 1.5, `MeteorStats.addStats`: a pair that matches as a whole adds no chunk.
    """
    row = np.array(stats)
    if row[4:20:2].sum() == row[0] and row[5:20:2].sum() == row[1] and row[20] == 1:
        row[20] = 0
    return row


def _bleu(hypotheses: dict[int, list[str]], gold: dict[int, list[str]]) -> dict[str, Measure]:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    for i, (answer,) in hypotheses.items():
        scorer += (answer, gold[i])
    stats = np.array(
        [
            [
                float(test["testlen"]),
                float(scorer._single_reflen(test["reflen"], "closest", test["testlen"])),
                *map(float, test["guess"]),
                *map(float, test["correct"]),
            ]
            for test in scorer.ctest
        ]
    )

    finished: dict[bytes, Floats] = {}  # the four orders share their counts

    def finish(order: int) -> Callable[[Floats], Floats]:
        def scores(sums: Floats) -> Floats:
            key = sums.tobytes()
            if key not in finished:
                finished[key] = np.array([_corpus_bleu(row) for row in sums]) * 100
            return finished[key][:, order - 1]

        return scores

    return {
        f"bleu_{order}": Measure(
            stats=stats,
            finish=finish(order),
            counted=np.ones(len(stats), dtype=bool),
        )
        for order in (1, 2, 3, 4)
    }


def _corpus_bleu(row: Floats) -> list[float]:
    """Let the reference's own formula finish summed counts: a corpus is one long sentence to it."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=4)
    counts = {"testlen": row[0], "reflen": [row[1]], "guess": row[2:6], "correct": row[6:10]}
    scorer.ctest.append(counts)
    scorer.crefs.append(None)
    scores, _ = scorer.compute_score(option="closest")
    return [float(score) for score in scores]


def _rouge(hypotheses: dict[int, list[str]], gold: dict[int, list[str]]) -> Measure:
    from pycocoevalcap.rouge.rouge import Rouge

    return mean_measure([float(x) for x in Rouge().compute_score(gold, hypotheses)[1]])


def _cider(hypotheses: dict[int, list[str]], gold: dict[int, list[str]]) -> Measure:
    from pycocoevalcap.cider.cider import Cider

    if not any(text for texts in gold.values() for text in texts):
        return mean_measure([0.0] * len(gold))  # Cider takes the maximum of no document frequency
    return mean_measure([float(x) for x in Cider().compute_score(gold, hypotheses)[1]])
