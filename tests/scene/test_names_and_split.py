"""Names, the split, what may be known of held-out views, and every mistake a user can make."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from errors import UserError
from scene import SceneConfig, SceneError, load_scene, title_of
from scene.matching import FileIndex, check_name
from scene.split import scene_extent


def _names(views):
    return [view.name for view in views]


def test_images_in_subfolders_and_with_odd_endings_are_matched_by_name(make_scene):
    names = ["b/x.JPG", "a/x.JPG", "c.jpeg", "d.TIFF", "e.bmp", "ä ö.png"]
    scene = load_scene(make_scene(names), SceneConfig())
    assert _names(scene.train) == sorted(names)
    for view in scene.train:  # the third channel of the made images is their number; JPEG is off by a few
        assert abs(float(view.pixels[..., 0].float().mean()) - 20 * names.index(view.name)) < 6
    assert [view.stem for view in scene.train][:2] == ["a__x", "b__x"]


def test_a_changed_extension_or_case_is_matched_by_stem(make_scene):
    source = make_scene(["one.png", "two.png"])
    (source / "images/one.png").rename(source / "images/One.PNG")
    (source / "images/two.png").rename(source / "images/two.jpeg")
    names = make_scene(["one.JPG", "two.JPG"], images=None)
    assert names == source
    assert _names(load_scene(source, SceneConfig()).train) == ["one.JPG", "two.JPG"]


def test_an_ambiguous_stem_is_refused(make_scene):
    source = make_scene(["one.png", "two.png"])
    make_scene(["one.tif", "two.png"], images=None)
    shutil.copy(source / "images/one.png", source / "images/one.bmp")
    with pytest.raises(SceneError, match=r"one\.tif could be any of one\.bmp, one\.png"):
        load_scene(source, SceneConfig())


def test_an_exact_name_wins_over_others_of_its_stem(make_scene):
    source = make_scene(["one.png", "two.png"])
    shutil.copy(source / "images/two.png", source / "images/one.jpg")
    assert load_scene(source, SceneConfig()).train[0].pixels[..., 0].eq(0).all()


def test_two_names_for_one_file_or_one_output_are_refused(make_scene):
    source = make_scene(["a/b.png", "c.png"])
    make_scene(["a/b.png", "a__b.png"], images=None)
    shutil.copy(source / "images/c.png", source / "images/a__b.png")
    with pytest.raises(SceneError, match="two images are called 'a__b'"):
        load_scene(source, SceneConfig())


HOSTILE = [
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "C:\\x.png",
    "C:x.png",
    "..\\x.png",
    "\\\\host\\x.png",
    "a\nb",
]


@pytest.mark.parametrize("name", [*HOSTILE, "", "."])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(SceneError, match=r"images\.bin: image name"):
        check_name(name, "images.bin")


@pytest.mark.parametrize("name", ["x" * 256, "a/" * 1100 + "b.png", "\ud800" * 90 + "/b.png"])
def test_names_that_no_file_can_have_are_refused(name):
    with pytest.raises(SceneError, match=r"images\.bin: image name .* is longer than any file's"):
        check_name(name, "images.bin")


def test_a_name_whose_renders_could_not_be_named_is_refused_before_training(make_scene):
    long = "/".join(["a" * 120, "b" * 120, "c.png"])
    with pytest.raises(SceneError, match=r"image 'a+'\.\.\.: folders and name together are longer"):
        load_scene(make_scene([long, "d.png"]), SceneConfig())


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "..a/b..png", "a b.png", "a\\b.png", "./a.png"])
def test_names_that_stay_in_the_folder_are_allowed(name):
    check_name(name, "images.bin")


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png"])
def test_a_model_with_a_hostile_name_is_refused_before_any_image_is_opened(make_scene, name):
    source = make_scene([name, "b.png"], images=None)
    (source / "images").mkdir()
    with pytest.raises(SceneError, match="image name"):
        load_scene(source, SceneConfig(skip_missing=True))


def test_a_link_that_leads_back_does_not_loop(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"x")
    (tmp_path / "a/loop").symlink_to(tmp_path, target_is_directory=True)
    assert len(FileIndex(tmp_path)) == 1


@pytest.mark.parametrize("every", [2, 8])
def test_every_nth_image_by_name_is_held_out(make_scene, every):
    scene = load_scene(make_scene(17), SceneConfig(eval=True, test_every=every))
    names = [f"img_{i:02d}.png" for i in range(17)]
    assert _names(scene.test) == names[::every]
    assert _names(scene.train) == [name for i, name in enumerate(names) if i % every]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 14])
def test_n_views_are_spread_over_the_training_images(make_scene, n):
    scene = load_scene(make_scene(17), SceneConfig(eval=True, n_views=n))
    others = [f"img_{i:02d}.png" for i in range(17) if i % 8]
    assert _names(scene.train) == [others[i] for i in np.round(np.linspace(0, 13, n)).astype(int)]
    assert len(scene.test) == 3


def test_points_that_only_held_out_or_unused_views_see_do_not_leak(make_scene):
    """Images 0 and 8 are held out; n_views=3 of the others keeps 1, 5 (rounded half to even) and 9."""
    tracks = [
        (0, 8),  # test views only
        (0, 1),  # one training view
        (1, 2),  # two training views
        (1, 1),  # one view twice counts once
        (1, 5, 8),
        (2, 3),
        (5, 9),
    ]
    source = make_scene(10, tracks=tracks)

    def kept(**options):
        xyz = load_scene(source, SceneConfig(**options)).points.xyz
        return sorted(round(float(x) * 10) for x in xyz[:, 0])

    assert kept() == [0, 1, 2, 3, 4, 5, 6]
    assert kept(eval=True) == [2, 4, 5, 6]
    train = _names(load_scene(source, SceneConfig(eval=True, n_views=3)).train)
    numbers = {int(name[4:6]) for name in train}
    assert numbers == {1, 5, 9}
    assert kept(eval=True, n_views=3) == [4, 6]


def test_no_point_in_the_training_views_gives_an_empty_cloud_and_says_so(make_scene, caplog):
    scene = load_scene(make_scene(10, tracks=[(0, 8)]), SceneConfig(eval=True))
    assert scene.points.xyz.shape == (0, 3) and scene.points.rgb.shape == (0, 3)
    assert np.isfinite(scene.extent) and scene.extent > 0
    assert "starting without points" in caplog.text


def test_points_without_tracks_are_kept_for_all_views_and_dropped_for_few(make_scene, caplog):
    source = make_scene(10, tracks=[(), (), ()])
    assert len(load_scene(source, SceneConfig(eval=True)).points) == 3
    assert "keeping all 3" in caplog.text
    assert len(load_scene(source, SceneConfig(eval=True, n_views=3)).points) == 0


def test_extent_is_the_radius_of_the_cameras_and_forgives_one():
    ring = np.array([[np.cos(a), np.sin(a), 0.0] for a in np.arange(8) * np.pi / 4])
    points = np.zeros((5, 3), np.float32)
    assert scene_extent(ring, points) == pytest.approx(1.1)  # float64
    lost = np.vstack([ring, [[500.0, 0.0, 0.0]]])
    assert scene_extent(lost, points) == pytest.approx(1.1)
    two_lost = np.vstack([lost, [[-500.0, 0.0, 0.0]]])
    assert scene_extent(two_lost, points) > 100  # two far cameras are a fact, not a slip


@pytest.mark.parametrize("count", [1, 5])
def test_extent_is_positive_for_cameras_in_one_place(count):
    centers = np.ones((count, 3))
    points = (np.ones((4, 3)) + np.array([0, 0, 20])).astype(np.float32)
    assert scene_extent(centers, points) == pytest.approx(2.0)  # a tenth of the distance
    assert scene_extent(centers, np.zeros((0, 3), np.float32)) == 1.0


def _one_line(error):
    assert isinstance(error.value, UserError) and error.value.exit_code == 2
    message = str(error.value)
    assert "\n" not in message and message
    return message


def test_a_missing_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(SceneError) as error:
        load_scene(tmp_path / "nowhere", SceneConfig())
    assert "nowhere: no such folder" in _one_line(error)
    (tmp_path / "file").write_text("")
    with pytest.raises(SceneError) as error:
        load_scene(tmp_path / "file", SceneConfig())
    assert "not a folder" in _one_line(error)


def test_a_scene_made_of_photographs_is_called_as_they_are():
    assert title_of(Path("trips/garden")) == "garden"
    assert title_of(Path("trips/garden/colmap")) == "garden"
    assert title_of(Path("trips/walk_colmap")) == "walk"
    assert title_of(Path("colmap")) == "colmap" and title_of(Path("_colmap")) == "_colmap"


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path):
    with pytest.raises(SceneError) as error:
        load_scene(tmp_path, SceneConfig())
    message = _one_line(error)
    assert "sparse/0" in message and "transforms.json" in message and "COLMAP (or pycolmap)" in message


def test_missing_images_are_listed_up_to_five_with_their_number(make_scene):
    source = make_scene(10)
    for i in range(7):
        (source / f"images/img_{i:02d}.png").unlink()
    with pytest.raises(SceneError) as error:
        load_scene(source, SceneConfig())
    message = _one_line(error)
    assert "7 of 10" in message and "img_04.png and 2 more" in message and "img_05" not in message
    assert "--skip_missing" in message
    scene = load_scene(source, SceneConfig(skip_missing=True))
    assert _names(scene.train) == ["img_07.png", "img_08.png", "img_09.png"]
    # tracks of the made scene join neighbours: 6-7 and 9-0 have one image left, 7-8 and 8-9 both
    assert len(scene.points) == 2


def test_a_scene_without_any_of_its_images_is_refused_even_when_skipping(make_scene):
    source = make_scene(3, images=None)
    (source / "images").mkdir()
    with pytest.raises(SceneError, match="all 3 images"):
        load_scene(source, SceneConfig(skip_missing=True))


def test_a_missing_images_folder_names_those_that_are_there(make_scene):
    source = make_scene(3, images="images_4")
    with pytest.raises(SceneError, match=r"images: no such images folder; found images_4"):
        load_scene(source, SceneConfig())
    with pytest.raises(SceneError, match="photos: no such images folder"):
        load_scene(source, SceneConfig(images="photos"))
    with pytest.raises(SceneError, match="no such masks folder"):
        load_scene(source, SceneConfig(images="images_4", masks="m"))


def test_more_views_than_there_are_is_refused(make_scene):
    with pytest.raises(SceneError) as error:
        load_scene(make_scene(9), SceneConfig(eval=True, n_views=8))
    assert "at most 7" in _one_line(error) and "got 8" in _one_line(error)


def test_a_scene_with_no_training_view_left_is_refused(make_scene):
    with pytest.raises(SceneError, match="no training view is left"):
        load_scene(make_scene(1, tracks=[]), SceneConfig(eval=True))


def test_an_unreadable_image_names_its_file(make_scene):
    source = make_scene(5)
    path = source / "images/img_03.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SceneError) as error:
        load_scene(source, SceneConfig())
    assert "img_03.png" in _one_line(error)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": 0},
        {"resolution": 3},
        {"resolution": -2},
        {"test_every": 1},
        {"n_views": -1},
        {"alpha_mode": "x"},
    ],
)
def test_options_that_no_scene_could_satisfy_are_refused_by_name(make_scene, options):
    with pytest.raises(SceneError, match=next(iter(options))):
        load_scene(make_scene(3), SceneConfig(**options))


def test_loading_keeps_bytes_and_order_whatever_thread_is_first(make_scene):
    source = make_scene(12)
    first, second = load_scene(source, SceneConfig()), load_scene(source, SceneConfig())
    for one, other in zip(first.train, second.train, strict=True):
        assert one.pixels.dtype == torch.uint8 and torch.equal(one.pixels, other.pixels)
