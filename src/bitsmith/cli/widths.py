"""The command that trains every choice of width over a few groups of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bitsmith.cli.app import app
from bitsmith.cli.executors import Address, ExecutorName, Workers, choose_executor, pool_bars
from bitsmith.cli.options import AsJson, Download, Limit, Quiet, Seed
from bitsmith.cli.settings import override, typed_command
from bitsmith.cli.show import counted, out, say
from bitsmith.errors import RecipeError, RunError
from bitsmith.pipeline.width_grid import train_grid
from bitsmith.recipe import read_recipe
from bitsmith.search.widths import SHARES


@app.command()
def widths(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe: its model, data, bits and training.")],
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder to make; default runs/RECIPE-widths.")
    ] = None,
    groups: Annotated[int, typer.Option(help="Groups of blocks with a width each, 1 to 3.")] = 3,
    shares: Annotated[str | None, typer.Option(help="Widths of a group; default 0.25,0.5,0.75,1.")] = None,
    workers: Workers = None,
    executor: ExecutorName = None,
    address: Address = None,
    data: Annotated[str | None, typer.Option(help="Another data set than the recipe's.")] = None,
    limit: Limit = None,
    download: Download = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each network.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train every choice of widths over a few groups of layers, 4^3 = 64 by default, and draw the map.

    Run again, it goes on where it was.
    """
    chosen = override(read_recipe(recipe), data=data, limit=limit, download=download or None, epochs=epochs, seed=seed)
    folder = out_folder or Path("runs") / f"{recipe.stem}-widths"
    with choose_executor(executor or "processes", workers, address) as where, pool_bars(quiet or as_json) as show:
        mapped = train_grid(
            chosen,
            folder,
            shares=_parse_shares(shares) if shares else SHARES,
            groups=groups,
            executor=where,
            command=typed_command(),
            say=say(quiet or as_json),
            watch=show,
        )
    if mapped.failed:
        names = "; ".join(map(str, mapped.failed))
        raise RunError(f"{counted(len(mapped.failed), 'network')} failed: {names}. The same command tries them again")
    assert mapped.page is not None
    if as_json:
        print(mapped.page.with_suffix(".json").read_text(encoding="utf-8"), end="")
    elif not quiet:
        out.print(f"Page: {escape(str(mapped.page))}", soft_wrap=True)


def _parse_shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise RecipeError(f"--shares takes numbers with commas between, such as 0.5,1; got {text!r}") from error
