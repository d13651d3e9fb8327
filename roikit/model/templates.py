"""Chat templates with generation marks, so that the loss falls on the assistant's words alone.

A template marks what the assistant says, its end-of-turn token included, with `{% generation %}`.
Many published templates lack the marks; for the families known here a marked one takes its place.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from roikit.errors import UsageError
from roikit.prompt import IMAGE_TOKEN, REGION_TOKEN

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

#: How GPT4RoI was trained to speak. The `###` that ends a turn opens the next one. Messages keep
#: our placeholders; here they become its words and tokens.
#: Source: GPT4RoI `gpt4roi/train/train.py`, `preprocess`; `gpt4roi/app.py` for the sentence around
#: the picture; LLaVA `llava/conversation.py`, `conv_v1_2`, for the system sentence. Deviation: the
#: loss does not fall on the words ` Assistant:`, which the prompt gives here, and the last `###`
#: has no blank behind it.
VICUNA_V0 = (
    "{{ bos_token }}"
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n\n###"
    "{% for message in messages %}"
    "{% set text = message['content']"
    " | replace('<|image|>',"
    " 'The <im_start><im_patch><im_end> provides an overview of the picture.')"
    " | replace('<|region|>', ' <bbox>') %}"
    "{% if message['role'] == 'assistant' %}{{ ' Assistant:' }}"
    "{% generation %}{{ ' ' + text + '\n###' }}{% endgeneration %}"
    "{% else %}{{ ' Human: ' + text + '\n###' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' Assistant:' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFormat:
    """A way of speaking, with the tokens that it needs."""

    template: str  #: marked
    tokens: tuple[str, ...]  #: in the order of their ids, behind the tokenizer's own
    image_token: str  #: of `tokens`: the placeholder of one image token
    region_token: str  #: of `tokens`: the placeholder of one region token
    stop: str | None = None  #: text that ends the assistant's turn, where no token does
    pad_token: str | None = None  #: of `tokens`
    strip: bool = False  #: whether the tokens swallow the white space around them


#: Formats that `model.chat_template` may name in place of a file.
FORMATS = {
    "vicuna-v0": ChatFormat(
        template=VICUNA_V0,
        # Source: GPT4RoI `llava/train/train.py`; `<point>` was never used.
        tokens=("[PAD]", "<im_patch>", "<bbox>", "<point>", "<im_start>", "<im_end>"),
        image_token="<im_patch>",
        region_token="<bbox>",
        stop="###",
        pad_token="[PAD]",
        # as transformers 4.28, which the reference was trained with, did around such tokens
        strip=True,
    )
}
_OURS = ChatFormat(
    template="",
    tokens=(IMAGE_TOKEN, REGION_TOKEN),
    image_token=IMAGE_TOKEN,
    region_token=REGION_TOKEN,
)

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def set_format(tokenizer: Any, name: str = "") -> ChatFormat:
    """Give `tokenizer` a marked template and the tokens it needs, in place.

    Args:
        tokenizer: fast; tokens it has already keep their ids.
        name: of `FORMATS`, or a file with a marked template; empty: the tokenizer's own template,
            if it is marked or of a family known here.

    Raises:
        UsageError: no such format or file, or no template that will do.
    """
    known = FORMATS.get(name, _OURS)
    if name in FORMATS:
        tokenizer.chat_template = known.template
    elif name:
        if not Path(name).is_file():
            raise UsageError(
                f"model.chat_template: `{name}`: no such file or format",
                hint=f"formats: {', '.join(FORMATS)}",
            )
        tokenizer.chat_template = Path(name).read_text(encoding="utf-8")
    ensure_marked_template(tokenizer)
    strip = {"lstrip": known.strip, "rstrip": known.strip}
    tokens = [AddedToken(text, special=True, normalized=False, **strip) for text in known.tokens]
    tokenizer.add_tokens(tokens, special_tokens=True)
    if known.pad_token is not None:
        tokenizer.pad_token = known.pad_token
    return known


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
