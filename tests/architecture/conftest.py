"""The project's source as the architecture tests see it: files, what they import, and a way to plant a violation."""

import ast
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOMS = ("shared", "client", "server", "simulations", "benchmarks")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A checkout; all paths are relative to its root and written with slashes."""

    root: Path

    def modules(self) -> list[str]:
        """Name the Python files of the rooms, room by room; tests are no room."""
        found = (path for room in ROOMS for path in sorted((self.root / room).rglob("*.py")))
        return [path.relative_to(self.root).as_posix() for path in found]

    def files(self) -> list[str]:
        """Name every file that is, or would be, under version control."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return sorted(path for path in listed.stdout.splitlines() if (self.root / path).is_file())

    def text(self, path: str) -> str:
        """Read a file."""
        return (self.root / path).read_text(encoding="utf-8")

    def tree(self, path: str) -> ast.Module:
        """Read a module as a syntax tree."""
        return ast.parse(self.text(path), filename=path)

    def libraries(self, path: str) -> set[str]:
        """Collect the top-level names that a module imports, wherever in it, of any origin."""
        return {name.split(".")[0] for name in self._imported(path)}

    def neighbours(self, path: str) -> set[str]:
        """Collect the rooms' files that a module imports, wherever in it."""
        found = (self._file_of(name) for name in self._imported(path))
        return {file for file in found if file} - {path}

    def _imported(self, path: str) -> Iterator[str]:
        for node in ast.walk(self.tree(path)):
            match node:
                case ast.Import(names=names):
                    yield from (alias.name for alias in names)
                case ast.ImportFrom(module=module, names=names, level=0):
                    yield from (f"{module}.{alias.name}" for alias in names)
                case ast.ImportFrom():
                    yield f"(relative import in line {node.lineno})"
                case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "import_module" in ast.unparse(node.func):
                    yield name

    def _file_of(self, name: str) -> str | None:
        """Find `shared/wire.py` for shared.wire and for shared.wire.to_frames."""
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            stem = "/".join(parts[:length])
            for file in (f"{stem}.py", f"{stem}/__init__.py"):
                if (self.root / file).is_file():
                    return file
        return None


@pytest.fixture(scope="session")
def house() -> House:
    """Give this checkout."""
    return House(root=ROOT)


@pytest.fixture
def build(tmp_path: Path) -> Callable[[Mapping[str, str]], House]:
    """Give a way to make a small house of files and their text, in which a rule can be broken."""

    def house_of(files: Mapping[str, str]) -> House:
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text, encoding="utf-8")
        return House(root=tmp_path)

    return house_of
