import numpy as np
import pytest

from roikit.chat.parsing import answer_to_record_text
from roikit.chat.session import Session


class FakeModel:
    """Answers from a list, and keeps the prompts it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.prompts = []
        self.decodings = []
        self.num_closed = 0

    def next_answer(self, prompt, decoding):
        self.prompts.append(prompt)
        self.decodings.append(decoding)
        answer = self.answers.pop(0) if self.answers else "a cat"
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, prompt, **decoding):
        return answer_to_record_text(self.next_answer(prompt, decoding), len(prompt.regions))

    def stream(self, prompt, **decoding):
        answer = self.next_answer(prompt, decoding)
        try:
            for word in answer.split(" "):
                if word == "CTRL-C":
                    raise KeyboardInterrupt
                if word == "FAIL":
                    raise RuntimeError("no memory")
                yield word + " "
        except GeneratorExit:
            self.num_closed += 1
            raise


@pytest.fixture
def make_session():
    def make(*answers, boxes=(), **options):
        model = FakeModel(*answers)
        pixels = np.full((100, 200, 3), 90, dtype=np.uint8)
        session = Session(model, pixels, boxes=boxes, **options)
        return session, model

    return make
