"""What do `hybrid calibrate` and `hybrid eval` share? Finding model and questions, a bar while answers are drawn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from hybrid.calibration.datasets import Dataset, load
from hybrid.calibration.session import Asked, Model, Samples, by_scorer, count_missing, draw, find_model
from hybrid.cli import INTERRUPTED
from hybrid.cli.local_model import local_model_file
from hybrid.cli.watching import bar, can_redraw, progress_lines, words
from hybrid.config import Config, data_dir
from hybrid.config import load as load_config
from hybrid.errors import CommandError

PLAIN_STEPS = 10
"""Lines of progress where nobody watches a bar."""
RECORDED = "recorded:"

DatasetOption: TypeAlias = Annotated[
    Path, typer.Option("--dataset", metavar="FILE", help="Labelled questions, one JSON a line.")
]
ModelOption: TypeAlias = Annotated[
    str | None, typer.Option("--model", metavar="NAME|PATH", help="The local model; default: the configured.")
]
CloudOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--cloud", metavar="NAME", help="Compare with a configured cloud, or recorded:NAME of the dataset."),
]
LimitOption: TypeAlias = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Take so many questions, drawn by --seed.")
]
SamplesOption: TypeAlias = Annotated[
    int | None, typer.Option("--samples", metavar="K", min=1, max=16, help="Answers drawn to each question.")
]
SeedOption: TypeAlias = Annotated[
    int, typer.Option("--seed", metavar="N", help="Of the drawn questions, folds, splits and intervals.")
]
ConfigOption: TypeAlias = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Instead of hybrid.toml.")
]


def configured(config_path: Path | None, model: str | None) -> tuple[Config, Path | None]:
    """Give the configuration, and the file of the model that is asked for, or else configured.

    Raises: CommandError if there is none.
    """
    config = load_config(config_path, os.environ).config
    if model is not None:
        config = msgspec.structs.replace(config, local=msgspec.structs.replace(config.local, model=model))
    path = local_model_file(config, is_offline=False)
    if path is None and config.local.backend != "fake":
        raise CommandError("no local model is configured; name one with --model")
    return config, path


def recorded_name(cloud: str | None, dataset: Dataset) -> str | None:
    """The recorded model that `--cloud recorded:NAME` means.

    Raises: CommandError for another form, or a name the dataset has no record of.
    """
    if cloud is None:
        return None
    if not cloud.startswith(RECORDED):
        return None
    name, known = cloud.removeprefix(RECORDED), dataset.recorded_models()
    if name in known:
        return name
    close = [one for one in known if one.startswith(name)] if name else []
    if len(close) == 1:
        return close[0]
    raise CommandError(f"--cloud {cloud}: {dataset.path.name} has recorded answers of: {', '.join(known) or 'nobody'}")


def answered(
    config: Config, path: Path | None, dataset_path: Path, *, limit: int | None, seed: int, samples: Samples
) -> tuple[Model, Dataset, list[Asked]]:
    """Read a dataset and draw the answers that are not kept yet.

    Args:
        samples: how many of each question of a kind.

    Raises: DatasetError, ModelFileError, LocalError. typer.Exit after Ctrl-C; what came until then is kept.
    """
    whole = load(dataset_path)
    dataset = whole.sample(limit, seed)
    model = find_model(config, path, os.environ)
    asked = by_scorer(dataset, model, data_dir() / "drafts", samples)
    count = count_missing(asked)
    try:
        with shown(f"{model.name} answers", count) as on_done:
            draw(model, asked, on_done)
    except KeyboardInterrupt:
        left = count_missing(asked)
        print(f"interrupted: {count - left} answers are kept, {left} are left for the next run", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    left = count_missing(asked)
    if left:
        print(f"{left} answers are missing: the model broke at them; run again to try once more", file=sys.stderr)
    return model, dataset, asked


@contextmanager
def shown(title: str, count: int) -> Iterator[Callable[[int], None]]:
    """Show how far something is: a bar where somebody watches, otherwise a line now and then."""
    if not can_redraw(sys.stderr, os.environ):
        done, step = 0, max(1, count // PLAIN_STEPS)

        def tell(more: int) -> None:
            nonlocal done
            before, done = done, done + more
            if done // step > before // step:
                print(f"{title}: {done} of {count}", file=sys.stderr, flush=True)

        yield tell
        return
    with question_lines() as lines:
        task = lines.add_task(title, total=count)
        yield lambda more: lines.advance(task, more)


def question_lines(console: Console | None = None) -> Progress:
    """Give the line that tells how many questions are done."""
    title, done = words("{task.description}"), MofNCompleteColumn()
    wide = (title, bar(), done, TimeElapsedColumn(), TimeRemainingColumn())
    return progress_lines(wide, (title, done, TimeRemainingColumn()), console)
