"""Every option file composes and fits what it configures; every mistake is one line with the choices."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from anomalib_lite.cluster.launcher import register_launcher
from anomalib_lite.console import config_folder, main
from anomalib_lite.schema import register_schemas
from anomalib_lite.sweeping.sweepers import register_sweepers

MUST_BE_GIVEN = {
    "data=mvtec": ["data.root=x"],
    "data=folder": ["data.normal_dir=x"],
    "embedding=timm": ["embedding.backbone=resnet18"],
    "threshold=fixed": ["threshold.raw_value=0.5"],
}
VALUE_OBJECTS = (
    "grid", "roles", "scoring", "scaler", "classifier", "similarity", "postprocess", "corruption", "augmentation",
    "threshold",
)  # fmt: skip
SUPPLIED_IN_CODE = {"positions", "downsize", "weights", "params", "lr"}  # what `run.py` adds to a `_partial_`


def options() -> list[str]:
    """`group=name` for every option file; a `base` is only there to be inherited."""
    files = sorted(config_folder().glob("*/*.yaml"))
    names = [f"{file.parent.name}={file.stem}" for file in files]
    return [name for name in names if not name.endswith("=base") and not name.startswith("experiment=")]


def experiments() -> list[str]:
    return sorted(file.stem for file in (config_folder() / "experiment").glob("*.yaml"))


@cache
def composed(*overrides: str, config: str = "train") -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(config, list(overrides))


def targets(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, and where it is."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield place, node
        for key, value in node.items():
            yield from targets(value, f"{place}.{key}")


def missing(node: Any, place: str = "") -> Iterator[str]:
    """Every option without a value (`OmegaConf.missing_keys` would need a run's folder to resolve the logger's)."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from missing(value, f"{place}.{key}" if place else str(key))
    elif node == "???":
        yield place


def assert_fits(cfg: DictConfig) -> None:
    """Keys are parameters of the target, those without a default are given, and value objects accept theirs."""
    found = dict(targets(OmegaConf.to_container(cfg)))
    assert found
    for place, node in found.items():
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        keys = {key for key in node if key not in ("_target_", "_partial_")}
        assert keys <= parameters.keys(), f"{place}: {node['_target_']} takes {', '.join(parameters)}"
        ours = node["_target_"].startswith("anomalib_lite.")
        kinds = {parameter.kind for parameter in parameters.values()}
        assert not (ours and inspect.Parameter.VAR_KEYWORD in kinds), f"{place}: **kwargs hide dead settings"
        needed = {
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        supplied = SUPPLIED_IN_CODE if node.get("_partial_") else set()
        assert needed - keys <= supplied, f"{place}: {node['_target_']} needs {needed - keys - supplied}"
    for group in VALUE_OBJECTS:
        value_object = OmegaConf.to_object(cfg[group])
        assert type(value_object).__module__.startswith("anomalib_lite."), f"{group} has no schema"


@pytest.mark.parametrize("option", options())
def test_every_option_fits_what_it_configures(option: str) -> None:
    cfg = composed(option, *MUST_BE_GIVEN.get(option, []))
    assert not list(missing(OmegaConf.to_container(cfg)))
    assert_fits(cfg)


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_fits(name: str) -> None:
    cfg = composed(f"experiment={name}")
    assert set(missing(OmegaConf.to_container(cfg))) <= {"data.root", "data.normal_dir"}
    assert_fits(cfg)


@pytest.mark.parametrize(
    "option", [f"hydra/{file.parent.name}={file.stem}" for file in config_folder().glob("hydra/*/*.yaml")]
)
def test_every_option_of_hydra_fits_what_it_configures(option: str) -> None:
    register_schemas()
    register_sweepers()
    register_launcher()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = compose("train", [option], return_hydra_config=True)
    node = cfg.hydra[option.partition("=")[0].removeprefix("hydra/")]
    target = Plugins.instance().class_name_to_class[node._target_]
    parameters = inspect.signature(target).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        assert {str(key) for key in node if key not in ("_target_", "_recursive_")} <= parameters.keys()
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    assert needed <= node.keys()


def test_a_model_brings_its_score() -> None:
    methods = {model: composed(f"model={model}").scoring for model in ("cpcae", "ae_l2", "deep_feature")}
    assert {model: (scoring.method, scoring.pooling) for model, scoring in methods.items()} == {
        "cpcae": ("embedding", "cascade"),
        "ae_l2": ("map", "cascade"),
        "deep_feature": ("embedding", "max"),
    }


def test_ae_l2_is_the_cpcae_but_for_its_name() -> None:
    cpcae, ae_l2 = (OmegaConf.to_container(composed(f"model={name}").model) for name in ("cpcae", "ae_l2"))
    assert isinstance(cpcae, dict)
    assert ae_l2 == cpcae | {"name": "ae_l2"}


def test_sizes_exist_once() -> None:
    cfg = composed("grid.size=24", "model.latent_dim=7")
    assert (cfg.model.network.patch_size, cfg.model.network.latent_dim) == (24, 7)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (["data.root=parts/mvtec", "data.category=bottle"], "bottle"),
        (["data.root=parts/casting/"], "casting"),
        (["data.root=parts/casting", "data.name=wheels"], "wheels"),
    ],
)
def test_a_set_without_a_category_is_named_after_its_folder(typed: list[str], name: str) -> None:
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert compose("train", ["data=mvtec", *typed]).data.name == name


@pytest.mark.parametrize("config", ["predict", "export", "serve"])
def test_what_uses_a_bundle_needs_to_be_told_which(config: str) -> None:
    assert list(missing(OmegaConf.to_container(composed(config=config)))) == ["bundle"]


def test_recalibration_needs_a_bundle_and_good_parts() -> None:
    assert list(missing(OmegaConf.to_container(composed(config="recalibrate")))) == ["bundle", "source"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("model=cpcea", "unknown choice 'model/cpcea' (choices: ae_l2, auto, cae, cpcae, "),
        ("data=zippers", "unknown choice 'data/zippers' (choices: "),
        ("threshold=conformel", "unknown choice 'threshold/conformel' (choices: conformal, f1, fixed, "),
        ("models=cpcae", "unknown option 'models' (choices: "),
        ("model.latent=3", "unknown option 'model.latent' (choices in model: "),
        ("grid.stide=3", "unknown option 'grid.stide' (choices in grid: size, stride)"),
        ("threshold.alpa=0.1", "unknown option 'threshold.alpa' (choices in threshold: "),
        ("data=mvtec", "data.root must be given"),
        ("data=folder", "data.normal_dir must be given"),
        ("sweep=null", "expected a name or a list of names for a group of options, got null; ~group leaves"),
        ("grid.size=many", "grid.size: Value 'many' of type 'str' could not be converted to Integer"),
        (
            "model=variation model.widths=[4]",
            "(choices in model: name, trains, batch_size, steps_per_epoch, ",
        ),
        ("grid.size=32 grid.stride=999", "stride must be in (0, size=32], got 999"),
        (
            "scoring.method=maps",
            "scoring.method must be one of embedding, map, similarity, reconstruction_probability, got maps",
        ),
        ("seed", "Error parsing override 'seed'"),
    ],
)
def test_a_mistake_is_one_line_with_the_choices(
    argument: str,
    expected: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    register_schemas()

    def resolve(cfg: DictConfig) -> None:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert_fits(cfg)

    assert main("train", resolve, [*argument.split(), "hydra/job_logging=none"]) == 2
    error = capsys.readouterr().err.removesuffix("\n")
    assert error.startswith("error: ")
    assert "\n" not in error
    assert expected in error
