"""Stages on a toy world: what learns, what is saved, and what a stop costs (nothing)."""

import copy
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from roikit.batch import collate, encode_example
from roikit.config import PARTS, Recipe, StageRecipe
from roikit.errors import RoikitError, UsageError
from roikit.model.generate import load_model
from roikit.model.vision import VitTower
from roikit.sample import Example
from roikit.train.idle import idle_batch
from roikit.train.loop import Interrupted, gradients
from roikit.train.metrics import read_metrics
from roikit.train.muon import Muon, orthogonalise
from roikit.train.optim import build_optimizers, schedule
from roikit.train.run import train_stage
from roikit.train.world import World
from tests.roikit.conftest import TEXTS, TINY, ToySource, make_example

T = TypeVar("T")

ALIGN = StageRecipe(
    train=("vision_tower", "projector", "region_encoder", "language_model"),
    steps=8,
    batch_size=2,
    lr=1e-2,
    warmup=2,
    dtype="fp32",
    save_every=3,
    max_tokens=200,
)


def make_recipe(**changes: Any) -> Recipe:
    stage, model = changes.pop("stage", "align"), changes.pop("model", TINY)
    return Recipe(name="toy", stage=stage, model=model, run=replace(ALIGN, **changes))


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(out / "metrics.jsonl")]


def run(out: Path, recipe: Recipe | None = None, **arguments: Any) -> Any:
    torch.set_num_threads(1)
    recipe = recipe or make_recipe()
    sizes = {"batch_size": recipe.run.batch_size, "micro_batch": recipe.run.micro_batch}
    return train_stage(
        recipe,
        source=arguments.pop("source", None) or ToySource(**sizes),
        out=out,
        texts=lambda: TEXTS,
        device="cpu",
        **arguments,
    )


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "align"
    run(out)
    return out


def test_a_run_leaves_what_it_promises(aligned: Path) -> None:
    assert [step for step, _ in losses(aligned)] == list(range(1, 9))
    assert losses(aligned)[-1][1] < losses(aligned)[0][1]
    for name in ("recipe.toml", "run.json", "excluded.txt", "loss.png", "model/config.json"):
        assert (aligned / name).is_file(), name
    assert (aligned / "checkpoints" / "latest").resolve().name == "step-00000008"
    load_model(aligned, device="cpu")


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("stage1", ("region_encoder",)),
        ("stage2", ("projector", "region_encoder", "language_model")),
    ],
)
def test_only_the_named_parts_move(
    aligned: Path, tmp_path: Path, stage: str, parts: tuple[str, ...]
) -> None:
    before = load_model(aligned, device="cpu").model
    run(tmp_path / stage, make_recipe(stage=stage, train=parts, steps=3), start=aligned)
    after = load_model(tmp_path / stage, device="cpu").model
    for part in PARTS:
        old, new = getattr(before, part).state_dict(), getattr(after, part).state_dict()
        moved = [name for name in old if not torch.equal(old[name], new[name])]
        assert bool(moved) == (part in parts), (part, moved)


class Stopping(ToySource):
    """Raises, as a crash would, when asked for one example too many."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def read(self, place: int, use: Callable[[Example], T]) -> T:
        if place >= self.after:
            raise RuntimeError("the power went")
        return super().read(place, use)


@pytest.mark.parametrize("steps_done", [1, 4, 7])
def test_a_resumed_run_repeats_no_step_and_changes_no_bit(
    aligned: Path, tmp_path: Path, steps_done: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="the power went"):
        run(out, source=Stopping(after=2 * steps_done))
    result = run(out)
    assert result.resumed_from == steps_done // 3 * 3
    assert losses(out) == losses(aligned)
    once, twice = (load_model(x, device="cpu").model.state_dict() for x in (aligned, out))
    assert all(torch.equal(once[name], twice[name]) for name in once)


class PackedSource(ToySource):
    """Two conversations share a row."""

    def micro_batches(self, step: int, *, rank: int, world_size: int) -> list[list[list[int]]]:
        (rows,) = super().micro_batches(step, rank=rank, world_size=world_size)
        return [[[*one, *two] for one, two in zip(rows[::2], rows[1::2], strict=True)]]


def test_packed_rows_readers_and_dropout_go_on_to_the_same_bits(
    aligned: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    parts = ("projector", "region_encoder", "language_model")
    recipe = make_recipe(
        stage="stage2", train=parts, layout="packed", batch_size=4, steps=5, lora_rank=2,
        lora_dropout=0.3, optimizer="muon", gradient_checkpointing=True,
    )  # fmt: skip
    how: dict[str, Any] = {"start": aligned, "source": PackedSource(batch_size=4)}

    def stop(report: Any) -> None:
        if report.step == 2:
            signal.raise_signal(signal.SIGTERM)

    run(tmp_path / "whole", recipe, **how)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", recipe, workers=2, on_step=stop, **how)
    torch.manual_seed(99)  # another process's generator
    assert run(tmp_path / "cut", recipe, workers=1, **how).resumed_from == 2
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for name in ("model", "adapter"):
        (whole,) = (tmp_path / "whole" / name).glob("*.safetensors")
        assert (tmp_path / "cut" / name / whole.name).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("parts", [("region_encoder",), ("region_encoder", "language_model")])
def test_bfloat16_learns_much_the_same_and_saves_float32(
    aligned: Path, tmp_path: Path, parts: tuple[str, ...]
) -> None:
    for dtype in ("fp32", "bf16"):
        recipe = make_recipe(stage="stage2", train=parts, steps=3, dtype=dtype)
        run(tmp_path / dtype, recipe, start=aligned)
    exact, rounded = ([loss for _, loss in losses(tmp_path / dtype)] for dtype in ("fp32", "bf16"))
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.1)
    model = load_model(tmp_path / "bf16", device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_signal_saves_and_ends(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def stop(report: Any) -> None:
        if report.step == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        run(out, on_step=stop)
    assert caught.value.signum == signal.SIGTERM
    assert run(out).resumed_from == 2
    assert losses(out) == losses(aligned)


def test_a_finished_run_is_left_alone_and_another_recipe_refused(aligned: Path) -> None:
    before = (aligned / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(aligned).last_loss is None
    assert (aligned / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"recipe: align\.lr: it has 0\.01, asked for was 0\.02"):
        run(aligned, make_recipe(lr=2e-2))
    with pytest.raises(UsageError, match="another data"):
        run(aligned, data={"splits": {"coco/train": "other"}})


def test_overwrite_removes_runs_only(tmp_path: Path) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(UsageError):
            run(out, overwrite=overwrite)
    assert (out / "thesis.txt").is_file()


def test_random_parts_that_would_not_learn_are_refused(tmp_path: Path) -> None:
    recipe = make_recipe(stage="stage1", train=("region_encoder",))
    with pytest.raises(RoikitError, match="would stay at random weights"):
        run(tmp_path / "x", recipe)


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    run(tmp_path / "one", make_recipe(batch_size=4, steps=2))
    run(tmp_path / "two", make_recipe(batch_size=4, micro_batch=2, steps=2))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [loss for _, loss in one] == pytest.approx([loss for _, loss in two], rel=1e-4)


def test_pieces_of_a_step_give_the_gradient_of_the_whole(built: Any) -> None:
    """Uneven pieces, one that nothing is learned from, and one that this process has no part in."""
    model, processor = copy.deepcopy(built.model), built.processor
    rows = [
        encode_example(make_example(i), processor, max_tokens=200, max_exchanges=i % 2, seed=0)
        for i in range(4)
    ]
    without_labels = replace(rows[0], labels=[-100] * len(rows[0].labels))

    def gradient(*pieces: Any) -> dict[str, torch.Tensor]:
        batches = [
            collate([[row] for row in piece], pad_token_id=processor.pad_token_id)
            if piece
            else None
            for piece in pieces
        ]
        labels = sum(batch.num_labels for batch in batches if batch is not None)
        world = World(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
        model.zero_grad()
        idle = idle_batch(processor)
        found = gradients(model, processor, batches, idle, labels, world, bf16=False)
        assert sum(found) > 0
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole = gradient(rows)
    assert len({sum(label != -100 for label in row.labels) for row in rows}) > 1
    pieces = gradient(rows[:1], [], [without_labels], rows[1:])
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-6, rtol=1e-4, msg=name)


def test_a_loss_that_is_no_number_names_the_samples(tmp_path: Path) -> None:
    with pytest.raises(RoikitError, match=r"the loss is (nan|inf).*toy-train-"):
        run(tmp_path / "x", make_recipe(lr=1e30, warmup=0, grad_clip=0))


def test_what_a_vit_adds_to_its_tokens_does_not_decay() -> None:
    config = {
        "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 8, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    tower = VitTower(config, layers=(-1,))
    recipe = replace(ALIGN, optimizer="muon", weight_decay=0.1)
    muon = next(o for o in build_optimizers(tower, recipe) if type(o).__name__ == "Muon")
    names = {id(p): name for name, p in tower.named_parameters()}
    by_muon = [names[id(p)] for g in muon.param_groups for p in g["params"]]
    assert by_muon
    assert all(name.endswith("weight") for name in by_muon)
    assert not any("position" in name or "token" in name for name in by_muon)


def test_muon_takes_matrices_and_adamw_the_rest(built: Any) -> None:
    model = built.model
    muon, adamw = replace(ALIGN, optimizer="muon"), replace(ALIGN, weight_decay=0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    by_kind = {
        type(o).__name__: [names[id(p)] for g in o.param_groups for p in g["params"]]
        for o in build_optimizers(model, muon)
    }
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in by_kind["Muon"]
    assert "vision_tower.stem.3.weight" in by_kind["Muon"]
    assert "language_model.model.embed_tokens.weight" in by_kind["AdamW"]
    assert "vision_tower.position_embedding" in by_kind["AdamW"]
    assert sum(map(len, by_kind.values())) == len(names)
    (optimizer,) = build_optimizers(model, adamw)
    undecayed = [
        names[id(p)] for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]
    ]
    assert any("norm" in name for name in undecayed)
    assert all(
        p.ndim < 2 or "embed" in names[id(p)]
        for g in optimizer.param_groups
        if not g["weight_decay"]
        for p in g["params"]
    )


def test_the_schedule_warms_up_and_ends_near_zero() -> None:
    shares = [schedule(step, steps=100, warmup=10) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1.0)
    assert shares.index(max(shares)) in (9, 10)
    assert 0 < shares[-1] < 0.001
    assert [schedule(s, steps=100, warmup=0.1) for s in range(100)] == shares


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo', encoding="utf-8")
    assert [line["step"] for line in read_metrics(path)] == [1]


def test_muon_steps_are_nearly_orthogonal() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalise(matrix, 5))
        assert values.min() > 0.6
        assert values.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator))
    before = weight.detach().clone()
    weight.grad = torch.randn(8, 4, 3, 3, generator=generator)
    Muon([weight], lr=0.1).step()
    moved = torch.linalg.svdvals((weight.detach() - before).flatten(1))
    assert moved.max() < 0.13
    assert moved.min() > 0.06


def test_a_start_that_fails_takes_no_folder_and_destroys_none(
    aligned: Path, tmp_path: Path
) -> None:
    stage1 = make_recipe(stage="stage1", train=("region_encoder",), steps=1)
    out = tmp_path / "stage1"
    with pytest.raises(RoikitError):
        run(out, stage1)  # nothing to start from
    assert not out.exists()
    run(out, stage1, start=aligned)
    for start in (tmp_path / "typo", out):
        with pytest.raises(UsageError):
            run(out, stage1, start=start, overwrite=True)
        assert (out / "model" / "config.json").is_file()


@pytest.mark.parametrize(
    ("parts", "changes", "found"),
    [
        (("projector",), {"region_grid": 3}, r"model\.region_grid: .* was built with `2`"),
        (("region_encoder",), {"image_size": 64}, r"model\.image_size: .* was built with `32`"),
        (("region_encoder",), {"region_grid": 3, "language_width": 64}, r"model\.language_width"),
    ],
)
def test_a_stage_refuses_a_start_of_another_model(
    aligned: Path, tmp_path: Path, parts: tuple[str, ...], changes: dict[str, Any], found: str
) -> None:
    recipe = make_recipe(stage="stage1", train=parts)
    other = replace(recipe, model=replace(TINY, **changes))
    with pytest.raises(UsageError, match=found):
        run(tmp_path / "x", other, start=aligned)
    assert not (tmp_path / "x").exists()


def test_a_stage_that_trains_the_region_encoder_may_begin_with_a_new_one(
    aligned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(stage="stage1", train=("region_encoder",), steps=4)
    recipe = replace(recipe, model=replace(TINY, region_grid=3, box_embedding=False))
    out = tmp_path / "new"
    with pytest.raises(RuntimeError):
        run(out, recipe, start=aligned, source=Stopping(after=6))
    run(out, recipe, start=aligned)  # goes on: the same new encoder is drawn again
    run(tmp_path / "whole", recipe, start=aligned)
    assert "stage1: the region encoder is new, all else is from" in caplog.text
    assert losses(out) == losses(tmp_path / "whole")
    assert json.loads((out / "run.json").read_text())["new_parts"] == ["region_encoder"]
    loaded = load_model(out, device="cpu")
    assert loaded.processor.num_region_tokens == loaded.model.config.num_region_tokens == 9
    encoder = loaded.model.region_encoder.state_dict()
    assert encoder and not any("box_embedding" in name for name in encoder)
    before = load_model(aligned, device="cpu").model.state_dict()
    for name, value in loaded.model.state_dict().items():
        if not name.startswith("region_encoder."):
            assert torch.equal(value, before[name]), name


def test_a_new_encoder_starts_as_the_reference_starts_it(aligned: Path, tmp_path: Path) -> None:
    recipe = make_recipe(stage="stage1", train=("region_encoder",), steps=1)
    recipe = replace(
        recipe,
        model=replace(TINY, region_encoder="gpt4roi", region_width=16),
        run=replace(recipe.run, lr=0.0, weight_decay=0.0),  # as it starts, it ends
    )
    run(tmp_path / "new", recipe, start=aligned)
    encoder = load_model(tmp_path / "new", device="cpu").model.region_encoder
    for conv in (*encoder.mlvl_fuse.input_conv, *encoder.roi_align.pconvs):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.15)
        assert not conv.bias.any()


def test_a_learned_tokenizer_survives_what_is_converted_meanwhile(
    aligned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(RuntimeError):
        run(out, source=Stopping(after=8))
    train_stage(
        make_recipe(),
        source=ToySource(),
        out=out,
        texts=lambda: ["entirely other words"] * 50,
        device="cpu",
    )
    assert losses(out) == losses(aligned)


def test_boxes_as_text_train_in_every_layout_and_say_what_cannot_learn(tmp_path: Path) -> None:
    model = replace(TINY, region_encoder="text")
    parts = ("vision_tower", "projector", "language_model")
    for layout, source in (("plain", ToySource()), ("packed", PackedSource(batch_size=4))):
        recipe = make_recipe(train=parts, steps=2, layout=layout, batch_size=source.batch_size)
        recipe = replace(recipe, model=model)
        result = run(tmp_path / layout, recipe, source=source)
        assert [step for step, _ in losses(tmp_path / layout)] == [1, 2]
        assert load_model(result.out, device="cpu").processor.boxes_as_text
    alone = make_recipe(stage="stage1", train=("region_encoder",), steps=2)
    with pytest.raises(UsageError, match="`text` has nothing that could learn"):
        run(tmp_path / "stage1", replace(alone, model=model), start=tmp_path / "plain")
    assert not (tmp_path / "stage1").exists()


def test_an_idle_process_has_a_loss_of_0_where_boxes_are_text() -> None:
    from roikit.model.build import build_model

    built = build_model(replace(TINY, region_encoder="text"), texts=TEXTS)
    batch = idle_batch(built.processor)
    output = built.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        **batch.views.model_inputs(built.processor.normalise),
        labels=batch.labels,
        num_items_in_batch=1,
    )
    output.loss.backward()
    assert output.loss.item() == 0
    assert all(p.grad is not None for p in built.model.projector.parameters() if p.requires_grad)
