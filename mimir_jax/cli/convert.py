"""`mimir-jax convert IN OUT`: write a .gguf file or a folder with .bin as safetensors."""

from pathlib import Path

from rich.console import Console

from mimir_jax.cli.shared import say
from mimir_jax.config import ConfigError
from mimir_jax.models.convert import convert


def main(arguments: list[str], console: Console, errors: Console) -> None:
    if len(arguments) != 2 or any(argument.startswith("-") for argument in arguments):
        raise ConfigError("convert takes two paths, IN and OUT: a .gguf file or a folder with .bin, and a new folder")
    convert(Path(arguments[0]), Path(arguments[1]))
    say(console, f"written to {arguments[1]}")
