"""What every file must be: small, named after its subject, free of asserts, and free of paths of one machine."""

import ast
import io
import re
import tokenize

MOST_CODE_LINES = 250
"""Lines that hold code; blank lines, comments and docstrings cost nothing, so that nobody saves on them."""

LONGER: dict[str, str] = {}
"""Files that may be longer, each with its reason."""

NO_SUBJECT = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}

ONE_MACHINE = re.compile(r"(?<![\w.~}$)-])/(?:work|tmp|home|root|Users)/\w")
"""A path that only one machine has."""

MARKDOWN_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> int:
    """Count the lines that hold code."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for one in tokens if one.type not in _NOT_CODE for line in range(one.start[0], one.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


def too_long(house) -> list[str]:
    """List the modules with more code than one subject needs."""
    return [p for p in house.modules() if p not in LONGER and code_lines(house.text(p)) > MOST_CODE_LINES]


def without_subject(house) -> list[str]:
    """List the files and folders whose name says that they have no subject."""
    return [path for path in house.files() if NO_SUBJECT & set(re.split(r"[/._]", path.lower()))]


def asserts(house) -> list[str]:
    """List the assert statements outside of the tests."""
    return [
        f"{path}:{node.lineno}"
        for path in house.modules()
        for node in ast.walk(house.tree(path))
        if isinstance(node, ast.Assert)
    ]


def one_machines_paths(house) -> list[str]:
    """List the lines that name a path of one machine."""
    return [
        f"{path}:{number}"
        for path in house.files()
        for number, line in enumerate((house.root / path).read_bytes().decode("utf-8", "ignore").splitlines(), start=1)
        if ONE_MACHINE.search(line)
    ]


def dead_links(house) -> list[str]:
    """List the links of Markdown pages to files that are not there."""
    return [
        f"{page}: {target}"
        for page in house.files()
        if page.endswith(".md")
        for target in MARKDOWN_LINK.findall(house.text(page))
        if "://" not in target and not (house.root / page).parent.joinpath(target).exists()
    ]


def test_files_are_short_enough_to_have_one_subject(house):
    """No module has more than 250 lines of code."""
    assert too_long(house) == []


def test_files_are_named_after_their_subject(house):
    """There is no file for what has no owner."""
    assert without_subject(house) == []


def test_assert_is_for_tests_only(house):
    """Validation raises: `python -O` drops an assert."""
    assert asserts(house) == []


def test_no_file_names_a_path_of_one_machine(house):
    """The project works wherever it is cloned to."""
    assert one_machines_paths(house) == []


def test_links_between_pages_lead_somewhere(house):
    """Every file that a Markdown page links to exists."""
    assert dead_links(house) == []


def test_tests_are_no_package(house):
    """A test is found by its path, so that two may have the same name."""
    assert [path for path in house.files() if path.startswith("tests/") and path.endswith("__init__.py")] == []


def test_only_code_is_counted():
    """Blank lines, comments and docstrings are free; a statement over three lines counts three."""
    text = '"""Doc.\n\nMore.\n"""\n\n# why\nx = [\n    1,\n]  # here\n"""What x is."""\n\ndef f():\n    return x\n'
    assert code_lines(text) == 5


def test_a_long_file_is_caught(build):
    """251 lines of code are one too many."""
    files = {"shared/a.py": "x = 1\n" * 250 + "# more\n" * 50, "shared/b.py": "x = 1\n" * 251}
    assert too_long(build(files)) == ["shared/b.py"]


def test_a_name_without_subject_is_caught(build):
    """A word of the list is caught as a file, as a folder and as a part of a name."""
    files = {"client/io_utils.py": "", "tests/helpers/a.py": "", "shared/common.py": "", "shared/commonness.py": ""}
    assert without_subject(build(files)) == ["client/io_utils.py", "shared/common.py", "tests/helpers/a.py"]


def test_an_assert_is_caught(build):
    """In a room an assert is found, in a test it is at home."""
    assert asserts(build({"server/a.py": "x = 1\nassert x\n", "tests/test_a.py": "assert 1\n"})) == ["server/a.py:2"]


def test_a_path_of_one_machine_is_caught(build):
    """An absolute path is caught; a relative one, a web address and a pattern are not."""
    text = "\n".join(["open('/" + "tmp/x')", "see ../tmp/x and runs/tmp/x", "https://x.org/home/y", "/" + "home/me/a"])
    assert one_machines_paths(build({"docs/a.md": text})) == ["docs/a.md:1", "docs/a.md:4"]


def test_a_dead_link_is_caught(build):
    """A link is read from the page's own folder; a web address and a place on the page are not checked."""
    text = "[a](b.md) [c](../README.md#top) [d](https://x.org/e.md) [f](#here) [g](gone.md)"
    assert dead_links(build({"docs/a.md": text, "docs/b.md": "", "README.md": ""})) == ["docs/a.md: gone.md"]
