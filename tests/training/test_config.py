"""What a configuration refuses, and which settings it calls without effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.draws.mixing import MixSettings
from pipelines.draws.views import ViewSettings
from pipelines.user_error import UserError
from training.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SamplerConfig,
)
from training.objectives import GlmcSettings


def make(method: str = "glmc", **sections: Any) -> Config:
    plain = {
        "data": DataConfig(train="train.beton"),
        "optim": OptimConfig(epochs=3, batch_size=8, lr=0.1),
        "run": RunConfig(folder="run"),
    }
    return Config(method=method, **{**plain, **sections})  # type: ignore[arg-type]


OPTIM = OptimConfig(epochs=3, batch_size=8, lr=0.1)
RUN = RunConfig(folder="run")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optim": replace(OPTIM, epochs=0)}, "optim.epochs is 0: it must be above 0"),
        ({"optim": replace(OPTIM, batch_size=-8)}, "optim.batch_size is -8: it must be above 0"),
        ({"optim": replace(OPTIM, lr=0.0)}, r"optim.lr is 0.0: it must be above 0"),
        ({"optim": replace(OPTIM, momentum=-0.1)}, "optim.momentum is -0.1: it must be 0 or more"),
        ({"optim": replace(OPTIM, weight_decay=-1.0)}, "optim.weight_decay is -1.0: it must be 0 or more"),
        (
            {"optim": replace(OPTIM, schedule="warmup-cosine-head")},
            "3 epochs end within the warm-up of 10 epochs",
        ),
        ({"optim": replace(OPTIM, accumulate=0)}, "optim.accumulate is 0: it must be above 0"),
        (
            {"optim": replace(OPTIM, lr_scaling="linear", lr_reference_batch=-1)},
            "optim.lr_reference_batch is -1: it must be above 0",
        ),
        (
            {"optim": replace(OPTIM, accumulate=2), "run": replace(RUN, compile="reduce-overhead")},
            r"optim\.accumulate does not go with run\.compile reduce-overhead.*use run\.compile default",
        ),
        ({"run": replace(RUN, log_steps=0)}, "run.log_steps is 0: it must be above 0"),
        ({"run": replace(RUN, eval_epochs=0)}, "run.eval_epochs is 0: it must be above 0"),
        ({"run": replace(RUN, max_bad_steps=0)}, "run.max_bad_steps is 0: it must be above 0"),
        ({"checkpoint": CheckpointConfig(minutes=0.0)}, "checkpoint.minutes is 0.0: it must be above 0"),
        ({"checkpoint": CheckpointConfig(keep=0)}, "checkpoint.keep is 0: it must be above 0"),
        ({"run": replace(RUN, seed=-1)}, "run.seed is -1: it must lie in"),
        ({"run": replace(RUN, seed=2**63)}, "run.seed is 9223372036854775808: it must lie in"),
        ({"data": DataConfig(train="t", threads=-1)}, "data.threads is -1: it must be 0 .* or more"),
        ({"data": DataConfig(train="t", prefetch=0)}, "data.prefetch is 0: it must be above 0"),
        ({"sampler": SamplerConfig(q=-0.1)}, "sampler.q is -0.1: it must be 0 or more"),
    ],
)
def test_values_that_make_no_run_are_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**sections)


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("ce", {"glmc": GlmcSettings(gamma=4.0)}, "glmc.gamma has no effect with method ce"),
        ("ce", {"sampler": SamplerConfig(q=0.3)}, "sampler.q has no effect with method ce"),
        ("ce", {"mix": MixSettings(scope="sample")}, "mix.scope has no effect with method ce"),
        (
            "ce",
            {"model": ModelConfig(joint_forward=True)},
            "model.joint_forward has no effect with method ce",
        ),
        (
            "glmc",
            {"optim": replace(OPTIM, lr_reference_batch=256)},
            r"optim\.lr_reference_batch has no effect with optim\.lr_scaling none",
        ),
        ("glmc", {"view": ViewSettings(pad=3)}, "view.pad has no effect with view.crop resized"),
        (
            "glmc",
            {"view": ViewSettings(crop="padded", scale=(0.2, 1.0))},
            "view.scale has no effect with view.crop padded",
        ),
        (
            "glmc",
            {"view": ViewSettings(crop="padded", eval_resize=300)},
            "view.eval_resize has no effect with view.crop padded",
        ),
    ],
)
def test_settings_without_effect_are_refused(method: str, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(method, **sections)


def test_the_same_settings_are_taken_where_something_reads_them() -> None:
    glmc = make(
        sampler=SamplerConfig(q=0.3),
        mix=MixSettings(scope="sample"),
        glmc=GlmcSettings(gamma=4.0),
        model=ModelConfig(joint_forward=True),
        view=ViewSettings(crop="padded", pad=3),
    )
    assert glmc.to_dict()["glmc"]["gamma"] == 4.0
    assert make("ce", view=ViewSettings(scale=(0.2, 1.0), eval_resize=300)).view.eval_resize == 300


def test_linear_scaling_of_the_learning_rate() -> None:
    """0.1 for 32 pairs is 0.025 for 8; without scaling it is what was configured."""
    assert make().base_lr == 0.1
    scaled = make(optim=replace(OPTIM, lr_scaling="linear", lr_reference_batch=32))
    assert scaled.base_lr == pytest.approx(0.025)
    assert make(optim=replace(scaled.optim, batch_size=64)).base_lr == pytest.approx(0.2)


def test_to_dict_holds_plain_values_only() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(entry) for key, entry in value.items())
        return (
            all(map(plain, value))
            if type(value) is list
            else type(value) in (str, int, float, bool, type(None))
        )

    values = make().to_dict()
    assert plain(values)
    assert values["view"]["scale"] == [0.08, 1.0]
    assert values["run"]["folder"] == "run"
