"""The plan: from a listing and the newest manifests alone."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.unit.artifacts.test_manifest import file_named, manifest_of
from understudy.artifacts.plan import earlier, grouped, natural, plan, versions_in
from understudy.objects.interface import ObjectInfo


def listed(key, written="t1", size=3):
    return ObjectInfo(key, size, written, None, datetime(2026, 11, 21, tzinfo=UTC))


def planned(keys, last=None, parent=None):
    return [plan(version, last, parent) for version in versions_in(keys)]


def test_versions_sort_as_people_count():
    labels = ["v10", "9", "v9", "10", "1.10", "1.9", "2026-11-02", "latest", "01"]
    assert ["01", "1.9", "1.10", "9", "10", "2026-11-02", "latest", "v9", "v10"] == sorted(labels, key=natural)


def test_pointers_markers_and_loose_objects_belong_to_no_model():
    keys = ["pointers/m.json", "pointers/a/b", "README", "m/notes.txt", "m/1/a", "m/1/b/c"]
    found = versions_in([*map(listed, keys), listed("m/2/", size=0)])
    assert [("m", "1", ["a", "b/c"])] == [(v.model, v.version, [f.path for f in v.files]) for v in found]


def test_equal_tokens_and_sizes_are_unchanged():
    manifest = manifest_of(file_named("a"), file_named("b"))
    [found] = planned([listed("m/1/a"), listed("m/1/b")], manifest)
    assert ("unchanged", 3, ()) == (found.action, found.revision, found.fresh)


def test_another_token_or_size_a_new_or_a_removed_file_make_a_new_revision():
    manifest = manifest_of(file_named("a"), file_named("b"))
    for keys, fresh in (
        ([listed("m/1/a", "t2"), listed("m/1/b")], ["a"]),
        ([listed("m/1/a", size=4), listed("m/1/b")], ["a"]),
        ([listed("m/1/a"), listed("m/1/b"), listed("m/1/c")], ["c"]),
        ([listed("m/1/a")], []),
    ):
        [found] = planned(keys, manifest)
        assert ("new revision", 4, fresh) == (found.action, found.revision, [f.path for f in found.fresh])
        assert manifest == found.parent


def test_a_new_version_descends_from_the_one_before_it():
    parent = manifest_of(file_named("a"), version="9")
    [found] = planned([listed("m/10/a")], parent=parent)
    assert ("new version", 1, "9") == (found.action, found.revision, found.parent.version)


def test_the_versions_before_one_come_nearest_first():
    assert ["9", "2"] == earlier("10", ["2", "11", "9", "10"])
    assert [] == earlier("1", ["1", "2"])


def test_the_first_version_has_no_parent():
    [found] = planned([listed("m/1/a")])
    assert found.parent is None


def test_a_listing_is_grouped_as_it_comes_one_version_at_a_time():
    taken = []

    def listing():
        for key in ["m/1/a", "m/1/b", "m/10/a", "m/2/a"]:
            taken.append(key)
            yield listed(key)

    found = grouped(listing())
    assert ("1", 2) == ((first := next(found)).version, len(first.files))
    assert ["m/1/a", "m/1/b", "m/10/a"] == taken
    assert ["10", "2"] == [version.version for version in found]


def test_names_that_no_site_could_hold_are_held():
    for key, words in (
        ("m/1/../x", "empty part"),
        ("m/../x/y", "version's name"),
        ("m/1/a\\b", "backslash"),
        ("m/1//a", "absolute"),
    ):
        [found] = planned([listed(key)])
        assert "held" == found.action
        assert words in found.source.complaint
    [found] = planned([listed("m/1/a"), listed("m/1/a/b")])
    assert "both a file and a directory" in found.source.complaint
