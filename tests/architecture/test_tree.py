"""Each module opens with one sentence, and the README's tree is made of just these sentences."""

import ast
from itertools import groupby

BEGIN, END = "<!-- tree: begin -->\n", "<!-- tree: end -->"


def purpose(house, path: str) -> str | None:
    """Read the first line of a module's docstring; None where there is no such module, or it says nothing."""
    docstring = ast.get_docstring(house.tree(path)) if (house.root / path).is_file() else None
    return docstring.splitlines()[0] if docstring else None


def unsaid(house) -> list[str]:
    """List the modules, and the rooms by their `__init__.py`, that do not open with one sentence."""
    rooms = [f"{room}/__init__.py" for room in dict.fromkeys(path.split("/")[0] for path in house.modules())]
    return [path for path in dict.fromkeys(rooms + house.modules()) if not (purpose(house, path) or "").endswith(".")]


def expected_tree(house) -> str:
    """Write the tree as the README should have it: a heading and a table for each room."""
    rooms = []
    for room, paths in groupby(house.modules(), key=lambda path: path.split("/")[0]):
        inside = [path for path in paths if path != f"{room}/__init__.py"]
        lines = [f"| `{path.removeprefix(room + '/')}` | {purpose(house, path)} |" for path in inside]
        head = [
            f"**`{room}/`** {purpose(house, f'{room}/__init__.py') or ''}".strip(),
            "",
            "| file | purpose |",
            "|---|---|",
        ]
        rooms.append("\n".join([*head, *lines]))
    return "\n" + "\n\n".join(rooms) + "\n\n"


def tree_in_readme(house) -> str:
    """Cut the tree out of the README."""
    return house.text("README.md").partition(BEGIN)[2].partition(END)[0]


def test_each_module_opens_with_one_sentence(house):
    """A reader learns from the first line what a file is for."""
    assert unsaid(house) == []


def test_the_readme_has_the_tree_as_it_is(house):
    """No file is missing, none is extra, and none says of itself something else than the README does."""
    expected = expected_tree(house)
    is_true = tree_in_readme(house) == expected
    assert is_true, f"The README's tree should be (paste it between its two marks):\n{expected}"


def test_a_module_without_a_sentence_is_caught(build):
    """Nothing, a title without a full stop and a comment are no sentence."""
    files = {
        "shared/a.py": '"""Says what it is for."""\n',
        "shared/b.py": "",
        "shared/c.py": '"""A title"""\n',
        "shared/d.py": "# A comment.\n",
    }
    assert unsaid(build(files)) == ["shared/__init__.py", "shared/b.py", "shared/c.py", "shared/d.py"]


def test_a_tree_that_is_not_true_is_caught(build):
    """A changed sentence and a file that is missing make the README differ from what is expected."""
    files = {"shared/__init__.py": '"""Room."""', "shared/a.py": '"""One."""'}
    house = build(files)
    readme = f"# P\n{BEGIN}{expected_tree(house)}{END}\n"
    (house.root / "README.md").write_text(readme)
    assert "| `a.py` | One. |" in readme
    assert tree_in_readme(house) == expected_tree(house)
    (house.root / "shared/a.py").write_text('"""Another."""')
    assert tree_in_readme(house) != expected_tree(house)
    (house.root / "shared/a.py").unlink()
    assert tree_in_readme(house) != expected_tree(house)
