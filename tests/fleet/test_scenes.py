"""What counts as a scene, what it is called, and what tells that it has changed."""

from __future__ import annotations

import os

import pytest

from errors import UserError
from fleet.scenes import Job, find_jobs, fingerprint, share


def test_scenes_are_found_in_folders_and_lists(scenes, tmp_path):
    garden = scenes.add("garden")
    (scenes.folder / "notes").mkdir()
    photographs = scenes.folder / "holiday"
    photographs.mkdir()
    (photographs / "1.jpg").touch()
    film = scenes.folder / "walk.mp4"
    film.touch()
    assert [job.name for job in find_jobs([str(scenes.folder)])] == ["garden", "holiday", "walk"]
    assert [job.scene for job in find_jobs([str(garden), str(garden)])] == [garden], (
        "the same one twice is one"
    )
    listed = tmp_path / "list.txt"
    listed.write_text(f"# mine\n{film}\n\n{garden}\n")
    assert [job.scene for job in find_jobs([f"@{listed}"])] == [film, garden]


def test_names_that_clash_are_refused(scenes, tmp_path):
    one = scenes.add("garden")
    other = tmp_path / "other" / "garden" / "images"
    other.mkdir(parents=True)
    (other / "1.jpg").touch()
    with pytest.raises(UserError, match="different names"):
        find_jobs([str(one), str(other.parent)])
    with pytest.raises(UserError, match="cannot be called logs"):
        find_jobs([str(scenes.add("logs"))])


def test_tasks_share_all_scenes_without_overlap():
    jobs = [Job(str(k), None) for k in range(11)]  # type: ignore[arg-type]
    shares = [share(jobs, index, 4) for index in range(4)]
    assert sorted(job.name for part in shares for job in part) == sorted(job.name for job in jobs)
    assert {len(part) for part in shares} == {2, 3}


def test_a_change_of_a_file_is_noticed_and_what_training_keeps_is_not(scenes):
    scene = scenes.add("garden")
    photograph = scene / "images" / "a.jpg"
    before = fingerprint(scene)
    (scene / "colmap").mkdir()
    (scene / "colmap" / "database.db").touch()
    (scene / ".hidden").touch()
    (scene / "images" / ".thumbnail").touch()
    assert fingerprint(scene) == before
    (scene / "images" / "gone.jpg").symlink_to(scene / "nowhere")
    dangling = fingerprint(scene)  # a link that leads nowhere is a file like others
    (scene / "images" / "gone.jpg").unlink()
    assert dangling != before == fingerprint(scene)
    found = photograph.stat()
    os.utime(photograph, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    touched = fingerprint(scene)
    (scene / "images" / "b.jpg").touch()
    assert len({before, touched, fingerprint(scene)}) == 3
    linked = scenes.folder / "linked"
    linked.mkdir()
    (linked / "images").symlink_to("../garden/images")
    through = fingerprint(linked)
    photograph.write_bytes(b"another photograph")
    assert fingerprint(linked) != through, "of what a link leads to"


@pytest.mark.parametrize("through_a_link", [False, True])
def test_an_output_folder_in_the_scene_is_none_of_it(scenes, tmp_path, through_a_link):
    scene = scenes.add("garden")
    output = scene / "runs" / "fleet"
    if through_a_link:
        (tmp_path / "disk").mkdir()
        (scene / "runs").symlink_to(tmp_path / "disk")
    output.mkdir(parents=True)
    jobs = find_jobs([str(scene)], output=output)
    before = jobs[0].digest()
    (output / "fleet.json").touch()
    assert jobs[0].digest() == before
    other = find_jobs([f"{scene}"], output=tmp_path / "elsewhere")
    without = other[0].digest()
    (output / "more").touch()
    assert other[0].digest() != without, "somebody else's files count"
    if not through_a_link:
        linked = scenes.folder / "linked"
        linked.symlink_to(scene)
        assert find_jobs([str(linked)], output=output)[0].digest() == before


def test_a_digest_tells_options_apart(scenes):
    scene = scenes.add("garden")
    assert Job("a", scene, said="x").digest() == Job("b", scene, said="x").digest()
    assert Job("a", scene, said="x").digest() != Job("a", scene, said="y").digest()
    before = Job("a", scene).digest()
    moved = scene.rename(scene.with_name("elsewhere"))
    assert Job("a", moved).digest() == before, "a folder of scenes may move"
