"""What a hospital may write in its site.toml."""

import re
from pathlib import Path

import pytest

from client.site import read_site
from shared.errors import SiteError

MINIMAL = """
[site]
name = "north"
[data]
dicom = "films"
labels = "tables/labels.csv"
join = "AccessionNumber"
[data.findings]
pneumonia = "PNA"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "site.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A site.toml moves with its folder; an absolute path stays as it is."""
    site = read_site(write(tmp_path, MINIMAL + '[compute]\ncache = "/fast/cache"'))
    assert site.data.dicom == tmp_path / "films"
    assert site.data.labels == tmp_path / "tables" / "labels.csv"
    assert site.compute.cache == Path("/fast/cache")


def test_what_is_not_said_is_strict(tmp_path: Path) -> None:
    """Without a policy, small counts are suppressed below 10 and counts of a split are not exact."""
    site = read_site(write(tmp_path, MINIMAL))
    assert site.policy.min_cell == 10
    assert site.compute.workers >= 1
    assert site.compute.cache == tmp_path / "cache"


@pytest.mark.parametrize(("extra", "column"), [("", "AccessionNumber"), ('key = "acc_no"\n', "acc_no")])
def test_the_key_column_is_called_as_the_join_unless_said(tmp_path: Path, extra: str, column: str) -> None:
    """`key` is needed only where the table calls it otherwise."""
    text = MINIMAL.replace("[data.findings]", extra + "[data.findings]")
    assert read_site(write(tmp_path, text)).data.key_column == column


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MINIMAL + "[policy]\nmin_cel = 5", "[policy] min_cel: there is no such key. Did you mean 'min_cell'?"),
        (MINIMAL + "[policy]\nmin_cell = 0", "[policy] min_cell"),
        (MINIMAL + "[policy]\nmax_epsilon = 0", "[policy] max_epsilon"),
        (MINIMAL + "[policy]\nmax_epsilon = 3\nmax_delta = 0.1", "[policy] max_delta"),
        (MINIMAL + "[policy]\nexact_counts = true", "[policy]: this version cannot enforce exact_counts"),
        (MINIMAL + "[link]\nsocket = 'a'", "[link] socket: there is no such key. Did you mean 'sockets'?"),
        (MINIMAL + "[compute]\nworkers = 0", "[compute] workers"),
        (MINIMAL.replace("AccessionNumber", "Accession"), "[data] join"),
        (MINIMAL.replace('pneumonia = "PNA"', ""), "[data] findings"),
        (MINIMAL.replace('"films"', '""'), "[data] dicom"),
        (MINIMAL.replace('name = "north"', ""), "[site] name: is required"),
        (MINIMAL.replace('"north"', '"../north"'), "[site] name"),
        (MINIMAL.replace("[data]", "[data"), "not valid TOML"),
        (
            MINIMAL + '[compute]\ncache = "tables/../films/cache"',
            "[compute] cache: it lies inside the folder [data] dicom",
        ),
    ],
)
def test_faults_are_named_with_section_and_key(tmp_path: Path, text: str, says: str) -> None:
    """Whoever wrote the file learns which line to correct."""
    with pytest.raises(SiteError) as fault:
        read_site(write(tmp_path, text))
    assert says in str(fault.value)


@pytest.mark.parametrize("cache", [".", "..", "films/..", "/"])
def test_a_cache_that_holds_anything_else_is_refused(tmp_path: Path, cache: str) -> None:
    """A purge empties it: images, keys, ledger and audit log went with it."""
    text = MINIMAL + f'[compute]\ncache = "{cache}"'
    with pytest.raises(SiteError, match=r"\[compute\] cache: .* lies inside of it, and `polyclinic site purge`"):
        read_site(write(tmp_path, text))


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ('keys = "here/keys"', "[link] keys"),
        ('state = "here"', "[link] state"),
        ('sockets = "here/run"', "[link] sockets"),
    ],
)
def test_each_folder_of_a_site_is_kept_out_of_its_cache(tmp_path: Path, section: str, named: str) -> None:
    """Named one by one; a link on the disk is followed."""
    text = MINIMAL + f'[compute]\ncache = "here"\n[link]\n{section}'
    with pytest.raises(SiteError, match=re.escape(f"{named} lies inside of it")):
        read_site(write(tmp_path, text))
    (tmp_path / "linked").symlink_to(tmp_path / "here")
    with pytest.raises(SiteError, match=re.escape(f"{named} lies inside of it")):
        read_site(write(tmp_path, text.replace('cache = "here"', 'cache = "linked"')))


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """A wrong path is no traceback."""
    with pytest.raises(SiteError, match="no such file"):
        read_site(tmp_path / "site.toml")
