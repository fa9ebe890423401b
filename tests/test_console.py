"""Raw values, exit codes and one line for an error."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite.console import ExitCode, main, quote_raw, resumed
from anomalib_lite.schema import register_schemas
from anomalib_lite.types import InputError


@given(st.text(min_size=1).filter(lambda text: text[0] not in "'\"" and text != "null"))
def test_paths_survive_hydras_parser(text):
    override = OverridesParser.create().parse_override(quote_raw(f"source={text}"))
    assert override.value() == text


@pytest.mark.parametrize(
    "name", ["a(1).png", "a,b.png", "größe.png", "rtsp://camera?ch=1", "0", "[x].png", "a=b", "a'b"]
)
def test_names_from_real_life(name):
    assert OverridesParser.create().parse_override(quote_raw(f"data.root={name}")).value() == name


def run(job, *arguments, config="train"):
    register_schemas()
    return main(
        config, job, ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", *arguments]
    )


def test_exit_codes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fails(cfg):
        raise InputError("no images in x (looked for .png)")

    def interrupted(cfg):
        raise KeyboardInterrupt

    assert run(lambda cfg: 0.5) == 0
    assert run(lambda cfg: ExitCode(1)) == 1
    assert run(interrupted) == 130
    assert run(fails) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: no images in x (looked for .png)"


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("model=cpcea", ["cpcea", "ae_l2", "cpcae", "variation"]),
        ("model.latent=3", ["model.latent", "latent_dim"]),
        ("data=mvtec", ["data.root", "must be given"]),
        ("threshold.alpha=x", ["alpha", "x"]),
        ("nothing", ["nothing"]),
    ],
)
def test_mistakes_are_one_line_with_the_choices(argument, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(lambda cfg: str(cfg.data.root), argument) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert all(part in error for part in parts), error


def test_resume_stands_for_the_runs_own_command_line(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- model=ae_l2\n- seed=3\n- resume=old\n")
    assert resumed([f"resume={tmp_path}"]) == [
        "model=ae_l2",
        "seed=3",
        f"resume={tmp_path}",
        f"hydra.run.dir='{tmp_path}'",
    ]
    with pytest.raises(InputError, match="own settings, got also seed=1"):
        resumed([f"resume={tmp_path}", "seed=1"])
    with pytest.raises(InputError, match="expected a run's folder"):
        resumed([f"resume={tmp_path / 'none'}"])
