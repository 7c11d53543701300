"""`convatlas lint TARGET`: a network beside the seven design principles of SimpNet."""

from __future__ import annotations

from typing import Annotated

import typer

from convatlas.cli import console
from convatlas.cli.target import HELP, parse_shape, resolve
from convatlas.errors import ConvAtlasError, UsageError


def lint(
    name: Annotated[str, typer.Argument(metavar="TARGET", help=HELP)],
    image_size: Annotated[
        int | None, typer.Option(help="Side of the image in pixels; the network's own if absent.", min=1)
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the image.", min=1)] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Instead of both, without batch: 3,224,224.", metavar="SHAPE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with all numbers and layers.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave with exit code 1 if a principle is broken.")
    ] = False,
) -> None:
    """Hold a network against SimpNet's seven design principles: verdict, numbers, layers and rule for each.

    The rules are a matter of taste; the exit code is 0 whatever they say, unless --strict is given.
    """
    if as_json and markdown:
        raise UsageError("--json and --markdown exclude each other.")
    shape = None if input_shape is None else parse_shape(input_shape)
    target = resolve(name, image_size=image_size, channels=channels, input_shape=shape)

    from convatlas.measure import lint as linter

    linted = linter.lint(target.model, target.input_shape)
    if as_json:
        console.write_json({"name": target.name, **linted.to_json()})
    elif markdown:
        console.write(linter.markdown(linted))
    else:
        sides = " x ".join(map(str, target.input_shape))
        console.show(
            f"{console.printable(target.name)}, input {sides}, beside the principles of\n{linter.PAPER}"
        )
        console.show("")
        console.show(linter.rich_table(linted))
        console.show(linter.summary(linted))
    if strict and linted.broken:
        broken = ", ".join(finding.principle for finding in linted.broken)
        raise ConvAtlasError(f"{target.name} breaks {len(linted.broken)} of seven principles: {broken}.")
