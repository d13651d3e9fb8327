"""Chat templates with generation marks, so that the loss falls on the assistant's words alone.

A template marks what the assistant says, its end-of-turn token included, with `{% generation %}`.
Many published templates lack the marks; for the families known here a marked one takes its place.
"""

import re
from typing import Any

from roikit.errors import UsageError

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def ensure_marked_template(tokenizer: Any) -> None:
    """Give `tokenizer` a template with generation marks, in place.

    Raises:
        UsageError: it has no template, or one of a family not known here.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and _MARKS.search(template):
        return
    if isinstance(template, str) and "<|im_start|>" in template and "<|im_end|>" in template:
        tokenizer.chat_template = CHATML
        tokenizer.eos_token = "<|im_end|>"  # base models often keep another one
        return
    found = "no chat template" if not template else "a chat template without generation marks"
    raise UsageError(
        f"tokenizer: expected a chat template with `{{% generation %}}` marks, found {found}",
        hint="write one that marks the assistant's words and its end-of-turn token, and name the "
        "file with --set model.chat_template=FILE",
    )
