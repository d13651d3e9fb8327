"""Answers from a model: batched, streamed, and the likelihood of given options.

Answers come back in the record's region numbers: a model may call `<region7>` region1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from roikit.errors import UsageError
from roikit.mentions import plain
from roikit.model.configuration import RoikitConfig
from roikit.model.device import choose_device, choose_dtype
from roikit.model.modeling import RoikitForConditionalGeneration
from roikit.model.processing import RoikitProcessor, pad
from roikit.model.saved_weights import load_saved_model
from roikit.prompt import Prompt, map_back


@dataclass(kw_only=True, slots=True)
class LoadedModel:
    """A model in evaluation mode with its processor."""

    model: RoikitForConditionalGeneration
    processor: RoikitProcessor
    path: Path | None = None  #: None for a model that was never saved


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionScore:
    """How likely a model finds one option."""

    log_prob: float  #: sum over its tokens, those of the turn's end included; natural logarithm
    num_tokens: int


def load_model(path: str | Path, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """Load a saved model.

    Args:
        path: a `from_pretrained` folder, or a training run that holds one as `model/`.
        device: `auto` (CUDA, then MPS, then CPU) or a torch device.
        dtype: `fp32`, `bf16`, `fp16`, or `auto` (bf16 on CUDA, else fp32).

    Raises:
        UsageError: the folder holds no model of ours, not all of its weights and no others, or a
            processor that was made for another.
    """
    folder = Path(path)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{path}: expected a model (`config.json`) or a finished training run (`model/`)",
            hint="train one with `roikit train`, or name another folder",
        )
    device = choose_device(device)
    numbers = choose_dtype(dtype, auto="bf16" if device.startswith("cuda") else "fp32")
    model = load_saved_model(folder, numbers)
    try:
        processor = RoikitProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder}: the processor cannot be read: {reason}") from error
    _check_fit(model.config, processor, folder)
    return LoadedModel(model=model.to(device).eval(), processor=processor, path=folder)


def _check_fit(config: RoikitConfig, processor: RoikitProcessor, folder: Path) -> None:
    """Refuse a processor that writes other prompts than the model reads."""
    for what, writes, reads in (
        ("pictures' side, pixels", processor.image_size, config.image_size),
        ("tokens a picture", processor.num_image_tokens, config.num_image_tokens),
        ("tokens a region", processor.num_region_tokens, config.num_region_tokens),
        ("boxes as text", processor.boxes_as_text, config.region_encoder == "text"),
        ("image token", processor.image_token_id, config.image_token_id),
        ("region token", processor.region_token_id, config.region_token_id),
    ):
        if writes != reads:
            raise UsageError(
                f"{folder}: {what}: expected {reads}, as `config.json` says, "
                f"got a processor with {writes}",
                hint="`processor_config.json` and the tokenizer come from another model: take "
                "those that were saved with this one",
            )


def _on_device(loaded: LoadedModel, inputs: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.to(loaded.model.device) for name, value in inputs.items()}


def _room(loaded: LoadedModel, max_new_tokens: int) -> int | None:
    """Tokens that a prompt may have, so that the answer still fits the context; None: no limit."""
    context = getattr(loaded.model.config.text_config, "max_position_embeddings", None)
    return None if context is None else max(1, context - max_new_tokens)


def _sampling(temperature: float, seed: int) -> dict[str, Any]:
    if temperature <= 0:
        return {"do_sample": False}
    torch.manual_seed(seed)
    return {"do_sample": True, "temperature": temperature}


def _stop_strings(loaded: LoadedModel) -> list[str]:
    """Texts that end the assistant's turn beside its end-of-turn token."""
    return list(loaded.model.generation_config.stop_strings or ())


def _before_stop(text: str, stops: Sequence[str]) -> str:
    places = [text.find(stop) for stop in stops]
    return text[: min((place for place in places if place >= 0), default=len(text))]


@torch.inference_mode()
def generate(
    loaded: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Answer each prompt, in one batch.

    Args:
        loaded: the model.
        prompts: each ends with the user's turn.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of the sampling.

    Returns:
        Record text: mentions as `<regionN>` in the prompt's own numbers, literal text escaped.
    """
    if not prompts:
        return []
    processor = loaded.processor
    room = _room(loaded, max_new_tokens)
    encoded = [processor.encode_prompt(prompt, max_tokens=room) for prompt in prompts]
    inputs = _on_device(loaded, processor.batch(prompts, encoded))
    output = loaded.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        tokenizer=processor.tokenizer,
        **_sampling(temperature, seed),
    )
    new = cast(Tensor, output)[:, inputs["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    stops = _stop_strings(loaded)
    return [
        map_back(_before_stop(text, stops).strip(), encoding.region_order)
        for text, encoding in zip(texts, encoded, strict=True)
    ]


def stream_answer(
    loaded: LoadedModel,
    prompt: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """Answer one prompt piece by piece, as a person reads it (`region2`).

    The generation runs in a thread of its own; leaving the iterator early ends it at the next
    token.
    """
    from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

    processor = loaded.processor
    encoding = processor.encode_prompt(prompt, max_tokens=_room(loaded, max_new_tokens))
    inputs = _on_device(loaded, processor.batch([prompt], [encoding]))
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=600
    )
    left = False
    failures: list[BaseException] = []

    class Stop(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
            return torch.full((input_ids.shape[0],), left, device=input_ids.device)

    def run() -> None:
        try:
            with torch.inference_mode():
                loaded.model.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    streamer=streamer,
                    tokenizer=processor.tokenizer,
                    stopping_criteria=StoppingCriteriaList([Stop()]),
                    **_sampling(temperature, seed),
                )
        except BaseException as error:  # handed to the caller's thread below
            failures.append(error)
            streamer.end()

    thread = Thread(target=run, daemon=True)
    thread.start()
    stops = _stop_strings(loaded)
    try:
        held = ""
        for piece in streamer:
            held += piece
            if _before_stop(held, stops) != held:
                held = _before_stop(held, stops)
                break
            # a name may still be growing (`regio`, `region 1` to `region 12`), or the stop string:
            # hold the last word
            cut = _safe_length(held)
            if cut:
                yield plain(map_back(held[:cut], encoding.region_order))
                held = held[cut:]
        held = held.rstrip() if stops else held
        if held:
            yield plain(map_back(held, encoding.region_order))
    finally:
        left = True
        thread.join()
    if failures:
        raise failures[0]


def _safe_length(text: str) -> int:
    """How much of `text` cannot be part of a region's name that is still growing."""
    start = text.lower().rfind("region")
    if start >= 0 and text[start + 6 :].strip().isdigit() | (not text[start + 6 :].strip()):
        return start
    return text.rfind(" ") + 1


@torch.inference_mode()
def score_options(
    loaded: LoadedModel, prompts: Sequence[Prompt], options: Sequence[Sequence[str]]
) -> list[list[OptionScore]]:
    """Likelihood of each option as the assistant's answer, in one batch.

    Args:
        loaded: the model.
        prompts: each ends with the user's turn.
        options: record text, for each prompt its own; the regions they mention are introduced in
            the prompt, the same for all options of a prompt.
    """
    processor = loaded.processor
    rows: list[list[int]] = []
    starts: list[int] = []
    repeated: list[Prompt] = []
    encodings = []
    for prompt, texts in zip(prompts, options, strict=True):
        encoded = processor.encode_prompt(prompt, options=texts)
        for text in texts:
            rows.append([*encoded.input_ids, *processor.encode_answer(encoded, text)])
            starts.append(len(encoded.input_ids))
            repeated.append(prompt)
            encodings.append(encoded)
    inputs = processor.batch(repeated, encodings)
    inputs["input_ids"], inputs["attention_mask"] = pad(
        rows, value=processor.pad_token_id, left=False
    )
    inputs = _on_device(loaded, inputs)
    first = min(starts) - 1
    length = inputs["input_ids"].shape[1]
    keep = torch.arange(first, length - 1, device=loaded.model.device)
    logits = loaded.model(**inputs, logits_to_keep=keep, use_cache=False).logits.float()
    targets = inputs["input_ids"][:, first + 1 :]
    log_probs = -F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    scores = []
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        spoken = log_probs[i, start - first - 1 : len(row) - first - 1]
        scores.append(OptionScore(log_prob=float(spoken.sum()), num_tokens=len(spoken)))
    grouped, position = [], 0
    for texts in options:
        grouped.append(scores[position : position + len(texts)])
        position += len(texts)
    return grouped
