"""Who may import whom: shared neither side, the two sides never each other, and no module in a circle."""

from graphlib import CycleError, TopologicalSorter

MAY_IMPORT = {
    "shared": {"shared"},
    "client": {"client", "shared"},
    "server": {"server", "shared"},
    "simulations": {"client", "server", "shared", "simulations"},
    "benchmarks": {"benchmarks", "client", "server", "shared", "simulations"},
}


def trespasses(house) -> list[str]:
    """List the imports that go where they may not."""
    places = set(MAY_IMPORT) | {"tests", "deploy"}
    return [
        f"{path} imports {name}"
        for path in house.modules()
        for name in sorted(house.libraries(path) & places - MAY_IMPORT[path.split("/")[0]])
    ]


def circle(house) -> list[str]:
    """Name the modules of one circle of imports, or none."""
    try:
        TopologicalSorter({path: house.neighbours(path) for path in house.modules()}).prepare()
    except CycleError as found:
        return found.args[1]
    return []


def relative_imports(house) -> list[str]:
    """List the imports that begin with a dot."""
    return [f"{path} {name}" for path in house.modules() for name in house.libraries(path) if name.startswith("(")]


def test_no_room_imports_another_that_it_may_not(house):
    """The code that both sides share imports neither, the sides never meet, and nobody imports simulations."""
    assert trespasses(house) == []


def test_no_modules_import_each_other_in_a_circle(house):
    """Every module can be understood from those below it."""
    assert circle(house) == []


def test_imports_are_absolute(house):
    """A module is named the same wherever it is imported."""
    assert relative_imports(house) == []


def test_a_trespass_is_caught_wherever_it_stands(build):
    """An import inside a function, of a module by name, and by importlib is still an import."""
    house = build(
        {
            "client/a.py": "def f():\n    from server.rounds import ask\n",
            "server/b.py": "import client",
            "shared/c.py": "import importlib\nimportlib.import_module('client.a')\n",
            "shared/d.py": "from simulations import cli\n",
            "simulations/e.py": "import client.a, server.b, shared.c\n",
        }
    )
    assert trespasses(house) == [
        "shared/c.py imports client",
        "shared/d.py imports simulations",
        "client/a.py imports server",
        "server/b.py imports client",
    ]


def test_a_circle_is_caught(build):
    """Three modules that need each other are found; `from room import module` counts."""
    files = {"shared/a.py": "import shared.b", "shared/b.py": "from shared import c", "shared/c.py": "import shared.a"}
    assert set(circle(build(files))) == set(files)


def test_a_relative_import_is_caught(build):
    """`from . import x` hides whose it is."""
    assert len(relative_imports(build({"shared/a.py": "from . import b\n"}))) == 1
