"""The console entry: raw values, exit codes, one clear line for an error. Nothing below knows of exit codes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anomalib_lite.types import InputError

RAW_KEYS = re.compile(
    r"(\+{0,2})(bundle|source|resume|output|outputs|data\.root|data\.reference|data\.\w+_dir)=(.*)", re.DOTALL
)
USER_ERRORS = (InputError, HydraException, OmegaConfBaseException)
USAGE_ERROR, INTERRUPTED = 2, 130


def config_folder() -> Path:
    """The folder of the Hydra groups: inside the package where it is installed, beside it in a clone."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def quote_raw(argument: str) -> str:
    """Quote the values of keys that hold paths, which Hydra's parser would otherwise interpret.

    A value with a comma outside a multirun, a bracket or an equals sign is a file name like any other.

    >>> print(quote_raw("source=parts/a(1),b.png"))
    source='parts/a(1),b.png'
    >>> quote_raw("model.latent_dim=16,32")
    'model.latent_dim=16,32'
    """
    match = RAW_KEYS.fullmatch(argument)
    if match is None or match[3] in ("null", "") or match[3][0] in "'\"":
        return argument
    # inside quotes Hydra takes everything as it is, a quote excepted
    escaped = match[3].replace("'", "\\'")
    return f"{match[1]}{match[2]}='{escaped}'"


def main(
    config_name: str, job: Callable[[DictConfig], object], arguments: Sequence[str] | None = None
) -> int:
    """Run `job` under Hydra and return the exit code: what the job returns if that is an `ExitCode`, else 0.

    Prints one line and returns 2 for whatever the user got wrong, 130 after Ctrl-C; other exceptions keep their
    traceback, since they are ours.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own printing and exit
    code, failure = ExitCode(0), None

    def remember(cfg: DictConfig) -> object:
        nonlocal code, failure
        try:
            result = job(cfg)
        except USER_ERRORS as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra must learn that this job of several failed
            failure = error  # raised in main, past Hydra's own message about it
            return None
        if isinstance(result, ExitCode):
            code = result
        return result

    saved = sys.argv
    try:
        sys.argv = [sys.argv[0], *map(quote_raw, resumed(arguments))]
        decorated = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)
        decorated(remember)()
        if failure is not None:
            raise failure
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    except USER_ERRORS as error:
        print(f"error: {explain(error, config_name)}", file=sys.stderr)
        return USAGE_ERROR
    finally:
        sys.argv = saved
    return int(code)


def resumed(arguments: Sequence[str]) -> list[str]:
    """`resume=<run folder>` stands for that run's own command line, in that folder; anything else stays as it is.

    Raises:
        InputError: for a folder that is not a run's, and for settings beside `resume`, which could not be kept.
    """
    folders = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not folders or folders[0] == "null":
        return list(arguments)
    others = [argument for argument in arguments if not argument.startswith("resume=")]
    if others:
        raise InputError(f"resume goes on with the run's own settings, got also {' '.join(others)}")
    folder = Path(folders[0])
    saved = folder / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise InputError(
            f"resume={folder}: expected a run's folder, found no {saved.relative_to(folder)} in it"
        )
    own = [str(override) for override in OmegaConf.load(saved) if not str(override).startswith("resume=")]
    return [*own, f"resume={folder}", f"hydra.run.dir='{folder}'"]


class ExitCode(int):
    """What a job returns to end the command with a code of its own."""


def explain(error: Exception, config_name: str) -> str:
    """One line: what is wrong, and the choices where it is a name."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    if isinstance(cause, InputError):
        return _one_line(str(cause))
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if (unknown and "not in struct" in text) or (unknown and "Did you mean" not in text):
        return f"unknown option {unknown[1]!r}{_choices(unknown[1], config_name)}"
    group = re.search(r"Could not find '([^']+)'", text)
    if group:
        available = re.search(r"Available options in '([^']+)':\n(.*?)(\n\S|$)", text, re.DOTALL)
        choices = " (choices: " + ", ".join(available[2].split()) + ")" if available else ""
        return f"unknown choice {group[1]!r}{choices}"
    missing = re.search(r"Missing mandatory value: (\S+)", text) or re.search(r"full_key: (\S+)", text)
    if "Missing mandatory value" in text and missing:
        return f"{missing[1]} must be given, for instance {missing[1]}=..."
    return _one_line(text)


def _choices(key: str, config_name: str) -> str:
    """The options beside an unknown one, as the default composition has them."""
    parent = key.rpartition(".")[0]
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        cfg = hydra.compose(config_name)
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return ""
    where = f" in {parent}" if parent else ""
    return f" (choices{where}: {', '.join(str(name) for name in node)})"


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
