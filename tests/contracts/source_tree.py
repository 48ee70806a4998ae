"""The repository's own files, as the contract tests look at them."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("services", "modeling", "training", "datagen", "evaluation")
EVERYTHING = (*PRODUCT, "scripts", "benchmarks", "tests", "deploy")


def python_files(folders: Iterable[str]) -> list[Path]:
    """Return the Python files under `folders`, in a fixed order."""
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def shown(file: Path) -> str:
    """Return a path as one names it in the repository."""
    return file.relative_to(ROOT).as_posix()


def parse(file: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of every absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
