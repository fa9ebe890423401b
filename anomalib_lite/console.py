"""The console entry: raw values, exit codes, one clear line for an error. Nothing below knows of exit codes."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeGuard

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from anomalib_lite.cluster.launcher import register_launcher
from anomalib_lite.sweeping.folders import register_resolvers
from anomalib_lite.sweeping.sweepers import register_sweepers
from anomalib_lite.types import InputError, Terminated

RAW_KEYS = re.compile(
    r"(\+{0,2})(bundle|source|images|reviews|resume|output|outputs|data\.root|data\.reference|data\.\w+_dir|corruption\.cutouts)=(.*)",
    re.DOTALL,
)
USER_ERRORS = (InputError, HydraException, OmegaConfBaseException)
# what a disk, a quota or a permission refuses is the user's to mend; other errors of the system are ours
REFUSALS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO,
)  # fmt: skip
HIDDEN = ("schema", "base")  # endings of option files that are only there to be inherited
USAGE_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
MAX_OVERRIDES_BYTES = 2**16

# here, since the process of a job on another host imports this module too, before it composes the job's config
register_resolvers()


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
    return f"{match[1]}{match[2]}={quoted(match[3])}"


def unquote_raw(argument: str) -> str:
    """What was typed, of an argument that `quote_raw` has quoted.

    >>> unquote_raw("source='parts/a(1),b.png'")
    'source=parts/a(1),b.png'
    """
    match = RAW_KEYS.fullmatch(argument)
    if match is None or len(match[3]) < 2 or match[3][0] != "'":
        return argument
    typed = re.sub(r"(\\+)('|$)", lambda end: end[1][: len(end[1]) // 2] + end[2], match[3][1:-1])
    return f"{match[1]}{match[2]}={typed}"


def quoted(value: str) -> str:
    """A value that Hydra's parser gives back as it is.

    >>> print(quoted("o'ring"))
    'o\\'ring'
    """
    # inside quotes only a quote, and backslashes before one, mean something
    escaped = re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), value)
    return f"'{escaped}'"


def main(
    config_name: str, job: Callable[[DictConfig], object], arguments: Sequence[str] | None = None
) -> int:
    """Run `job` under Hydra and return the exit code: what the job returns if that is an `ExitCode`, else 0.

    Prints one line and returns 2 for whatever the user got wrong, 130 after Ctrl-C, 143 after a SIGTERM in
    training; other exceptions keep their traceback, since they are ours.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us instead of Hydra's own printing and exit
    code, failure = ExitCode(0), None

    def remember(cfg: DictConfig) -> object:
        nonlocal code, failure
        try:
            result = job(cfg)
        except Exception as error:
            # of several jobs, Hydra must learn which one failed
            if not is_users(error) or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            if (
                _is_refusal(error) and error.filename is None
            ):  # of a write; the system names files only in an open
                error.filename = HydraConfig.get().runtime.output_dir
            failure = error  # raised in main, past Hydra's own message about it
            return None
        if isinstance(result, ExitCode):
            code = result
        return result

    register_launcher()
    register_sweepers()
    saved = sys.argv
    try:
        sys.argv = [sys.argv[0], *map(quote_raw, resumed(arguments))]
        decorated = hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)
        decorated(remember)()
        if failure is not None:
            raise failure
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted; {str(interrupt) or 'what was finished is kept'}", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    except Exception as error:
        if not is_users(error):
            raise
        print(f"error: {explain(error, config_name, arguments)}", file=sys.stderr)
        return USAGE_ERROR
    finally:
        sys.argv = saved
    return int(code)


def _is_refusal(error: Exception) -> TypeGuard[OSError]:
    return isinstance(error, OSError) and error.errno in REFUSALS


def is_users(error: Exception) -> bool:
    """Whether an exception is about what the user gave or may not do: worth a line, not a traceback."""
    return isinstance(error, USER_ERRORS) or _is_refusal(error) or _is_no_choice(error)


def _is_no_choice(error: Exception) -> bool:
    # Hydra's own words, of an exception without a class of its own
    return isinstance(error, ValueError) and str(error).startswith("Config group override must be")


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
    own = [override for override in _overrides(saved) if not override.startswith("resume=")]
    alone = ["hydra.mode=RUN"] if any(override.startswith("sweep=") for override in own) else []
    return [*own, f"resume={folder}", f"hydra.run.dir={quoted(str(folder))}", *alone]


def _overrides(saved: Path) -> list[str]:
    """The settings that a run's folder has kept; whoever made the folder decides what they are, not what is run.

    Raises:
        InputError: for anything but a list of settings of our own options, none of Hydra's.
    """
    try:
        with saved.open("rb") as file:
            text = file.read(MAX_OVERRIDES_BYTES + 1)
        found = yaml.safe_load(text) if len(text) <= MAX_OVERRIDES_BYTES else None
    except (ValueError, yaml.YAMLError, RecursionError):
        found = None
    texts = [item for item in found if isinstance(item, str)] if isinstance(found, list) else []
    # the sum: a few aliases stand for any number of strings
    if not isinstance(found, list) or len(texts) < len(found) or sum(map(len, texts)) > MAX_OVERRIDES_BYTES:
        raise InputError(f"{saved}: expected a run's settings, found something else")
    for override in texts:
        _check_override(saved, override)
    return texts


def _check_override(saved: Path, override: str) -> None:
    # an option of the command line, a package (`group@hydra`), Hydra's own callbacks, log files, search path ...
    match = re.fullmatch(r"[~+]{0,2}([\w/.]{1,200})(?:=(.*))?", override, re.DOTALL | re.ASCII)
    if match is None or re.match(r"hydra\b", match[1]):
        raise InputError(f"{saved}: expected settings of a run, found {override!r:.80}")
    # a choice that leads out of our options
    if (config_folder() / match[1]).is_dir() and ".." in (match[2] or ""):
        raise InputError(
            f"{saved}: expected a choice among the options of {match[1]}, found {override!r:.80}"
        )


def check_targets(cfg: DictConfig) -> None:
    """Refuse a resumed run's config that would call what no option of ours, nor an optimiser of torch's, is.

    On a command line a user may name any class; what a folder names may come from somebody else.

    Raises:
        InputError: for another `_target_`.
    """
    level: list[object] = [OmegaConf.to_container(cfg, resolve=True)]
    while level:
        node = level.pop()
        if isinstance(node, dict):
            target = node.get("_target_")
            if target is not None and target not in _known_targets() and not _is_optimiser(target):
                raise InputError(f"resume: expected a run with classes of our options, found {target!r:.80}")
        level += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []


@cache
def _known_targets() -> frozenset[str]:
    pattern = re.compile(r"_target_: *([\w.]+)")
    return frozenset(
        target for file in config_folder().rglob("*.yaml") for target in pattern.findall(file.read_text())
    )


def _is_optimiser(target: object) -> bool:
    from torch import optim

    module, _, name = str(target).rpartition(".")
    found = getattr(optim, name, None)
    return module == "torch.optim" and isinstance(found, type) and issubclass(found, optim.Optimizer)


class ExitCode(int):
    """What a job returns to end the command with a code of its own."""


def explain(error: Exception, config_name: str, arguments: Sequence[str]) -> str:
    """One line: what is wrong, and the choices where it is a name."""
    cause = error
    while not isinstance(cause, InputError) and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
    text = str(cause)
    if isinstance(cause, InputError):
        return _one_line(text)
    if _is_no_choice(cause):
        return (
            "expected a name or a list of names for a group of options, got null; ~group leaves a group out"
        )
    if _is_refusal(cause):
        return f"{cause.filename}: {cause.strerror}"
    if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
        # an interpolation's own key is not the one to set
        behind = re.search(r"issing mandatory value: (\S+)", text) if "interpolation" in text else None
        key = behind[1] if behind else cause.full_key
        return f"{key} must be given, for instance {key}=..."
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return (
            f"unknown option '{cause.full_key}'{_options_beside(str(cause.full_key), config_name, arguments)}"
        )
    if isinstance(cause, OmegaConfBaseException):
        return f"{cause.full_key}: {text.splitlines()[0]}"
    if choice := re.search(r"Could not (?:find|load) '([^']+)'", text):
        listed = re.search(r"Available options in '[^']+':\n((\t.*\n)*)", text)
        # of several choices in brackets, Hydra lists nothing
        files = sorted((config_folder() / choice[1]).parent.glob("*.yaml"))
        names = listed[1].split() if listed else [file.stem for file in files]
        names = [name for name in names if not name.endswith(HIDDEN)]
        return f"unknown choice '{choice[1]}' (choices: {', '.join(names)})"
    return _one_line(text)


@contextmanager
def another_hydra() -> Iterator[None]:
    """Room for composing other configs while Hydra runs this one."""
    ours = GlobalHydra.instance()
    kept, ours.hydra = ours.hydra, None
    try:
        yield
    finally:
        ours.hydra = kept
        GlobalHydra.set_instance(ours)  # composing has put a copy in its place


def _options_beside(key: str, config_name: str, arguments: Sequence[str]) -> str:
    """The options of the same node, under the choices that the arguments make between groups."""
    parent = key.rpartition(".")[0]
    # of several values in a sweep none is chosen yet
    choices = [argument for argument in arguments if re.fullmatch(r"[\w/]+=([\w/.-]*|\[.*\])", argument)]
    with another_hydra(), hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        try:
            cfg = hydra.compose(config_name, [choice for choice in choices if not choice.startswith(key)])
        except HydraException:  # more than one mistake
            cfg = hydra.compose(config_name)
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return ""
    where = f" in {parent}" if parent else ""
    return f" (choices{where}: {', '.join(str(name) for name in node)})"


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
