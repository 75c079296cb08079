"""Defaults, then the preset, then what was typed; schedules follow the length of the run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import (
    Config,
    ConfigError,
    choose_preset,
    chosen_options,
    load_preset,
    parse_command_line,
    preset_names,
    save_config,
    scale_schedules,
)
from configs.command_line import given_options
from configs.scaling import schedule_fields
from configs.schema import CommandLine
from configs.values import walk
from errors import UserError
from losses import LossConfig

ROOT = Path(__file__).resolve().parents[2]


def parse(*words, views=100, backend="cpu"):
    return parse_command_line(["-s", "scenes/garden", *words]).resolve(views, backend)


def test_options_win_over_the_preset_and_the_preset_over_defaults(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("seed: 5\nloss: {lambda_dssim: 0.4}\ndensify: {prune_scale: 0.3}\n")
    config = parse("--config", str(preset), "--loss.lambda_dssim", "0.1")
    assert (config.seed, config.loss.lambda_dssim, config.densify.prune_scale) == (5, 0.1, 0.3)
    assert config.densify.clone_scale == Config().densify.clone_scale


@pytest.mark.parametrize("name", ["quick", "configs/quick.yaml", str(ROOT / "configs" / "quick.yaml")])
def test_a_preset_is_found_by_name_and_by_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # also from another folder
    assert parse("--config", name).iterations == load_preset("quick").iterations
    assert parse(f"--config={name}").config == name


def test_an_unknown_preset_suggests_one():
    with pytest.raises(ConfigError, match=r"no preset or file 'quik': did you mean quick\?"):
        parse("--config", "quik")
    with pytest.raises(ConfigError, match=r"presets: confidence, cpu_capture, fsgs, full_capture, g2"):
        parse("--config", "zzz")


@pytest.mark.parametrize(
    ("views", "backend", "name"),
    [
        (3, "cpu", "sparse_view"),
        (24, "gsplat", "sparse_view"),
        (25, "gsplat", "full_capture"),
        (25, "cpu", "cpu_capture"),
        (25, "reference", "cpu_capture"),
    ],
)
def test_without_a_preset_the_views_and_the_backend_choose(views, backend, name):
    assert choose_preset(views, backend) == name
    config = parse("--loss.lambda_dssim", "0.3", "-r", "4", views=views, backend=backend)
    base = load_preset(name)
    assert config.config == name and config.iterations == base.iterations and config.densify == base.densify
    assert config.loss.lambda_dssim == 0.3 and config.scene.resolution == 4


def test_a_named_preset_is_kept_whatever_the_number_of_views():
    assert parse("--config", "quick", views=3).config == "quick"


def test_a_preset_may_have_a_section_for_few_views(tmp_path):
    few, many = (parse("--config", "quick", "--optim.sh0_lr", "0.5", views=n) for n in (12, 13))
    assert (few.depth.init, many.depth.init) == ("mvs", "auto")
    assert few == dataclasses.replace(
        load_preset("quick", few_views=True),
        config="quick", source_path=few.source_path, model_path=few.model_path, optim=few.optim,
    )  # fmt: skip
    assert few.optim.sh0_lr == many.optim.sh0_lr == 0.5, "what is typed wins over both"
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "iterations: 100\nloss:\n  lambda_dssim: 0.5\nfew_views:\n  loss:\n    depth_weight: 0.3\n"
    )
    assert parse("--config", str(mine), views=25).loss == LossConfig(lambda_dssim=0.5)
    assert parse("--config", str(mine), views=3).loss == LossConfig(lambda_dssim=0.5, depth_weight=0.3)
    longer = parse("--config", "quick", "--iterations", "2000", views=3)
    assert longer.densify.stop == 1200, "schedules of that section are for its own length"


def test_a_preset_may_have_a_section_for_cameras_all_around(tmp_path):
    forward, around = (
        parse_command_line(["-s", str(tmp_path), "--config", "fsgs"]).resolve(3, "cpu", around=around).pseudo
        for around in (False, True)
    )
    assert (forward.every, forward.depth) == (1, 0.5)  # source document 003; method.md 1.7
    assert (around.every, around.depth) == (10, 0.03)
    typed = ["-s", str(tmp_path), "--config", "confidence", "--pseudo.depth", "0.2"]
    pseudo = parse_command_line(typed).resolve(3, "cpu", around=True).pseudo
    assert (pseudo.every, pseudo.depth) == (10, 0.2), "what is typed wins"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--densify.unpool_until", "50"), "densify.unpool_until: it has no effect without --densify.unpool"),
        (("--loss.binocular_shift", "0.1"), "binocular_shift: it has no effect without --loss.binocular"),
        (("--loss.binocular", "0.3", "--loss.binocular_from", "100"), "binocular_from: expected less than"),
        (("--pseudo.taught", "1", "--pseudo.depth_loss", "g2"), "no effect without --pseudo.depth"),
        (("--pseudo.depth", "1", "--pseudo.teachers", "2"), "no effect without --pseudo.taught"),
        (("--depth_loss", "pearson", "--loss.depth_patch", "32"), "no effect without --depth_loss pearson_p"),
        (("--depth_loss", "g2", "--loss.depth_weight", "0"), "no effect at --loss.depth_weight 0"),
    ],
)
def test_an_option_that_nothing_uses_is_refused(typed, message):
    with pytest.raises(ConfigError, match=message):
        parse("--config", "quick", "--iterations", "100", *typed, views=3)


def test_options_of_what_is_on_are_taken():
    typed = ("--pseudo.depth", "0.5", "--pseudo.depth_loss", "pearson_patch", "--loss.depth_patch", "32")
    assert parse("--config", "quick", *typed, views=3).loss.depth_patch == 32
    typed = ("--densify.unpool", "0.05", "--densify.unpool_until", "50", "--loss.binocular", "0.3")
    assert parse("--config", "quick", *typed, "--loss.binocular_from", "99", views=3).loss.binocular == 0.3


def test_a_preset_may_begin_with_another(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "begins_with: quick\niterations: 500\nfew_views:\n  iterations: 300\n  loss:\n    depth_weight: 0.3\n"
    )
    mine, quick = load_preset(str(path)), load_preset("quick")
    assert mine.iterations == 500 and quick.iterations == 2000
    assert mine.optim.means_lr == quick.optim.means_lr
    assert mine.densify.stop == quick.densify.stop // 4, "schedules keep their shape, as with --iterations"
    few, quick_few = load_preset(str(path), few_views=True), load_preset("quick", few_views=True)
    assert (few.iterations, few.loss.depth_weight) == (300, 0.3)
    assert few.regularise == quick_few.regularise
    assert few.pyramid.until == quick_few.pyramid.until * 300 // 1000
    path.write_text("begins_with: quick\niterations: 77\nregularise:\n  dropout: 0.55\n")
    for few_views in (False, True):
        mine = load_preset(str(path), few_views=few_views)
        assert (mine.iterations, mine.regularise.dropout) == (77, 0.55), "what a file says outweighs its base"


def test_a_preset_is_found_beside_the_one_that_begins_with_it(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "base.yaml").write_text("begins_with: fsgs\niterations: 500\n")
    (tmp_path / "own" / "more.yaml").write_text("begins_with: base.yaml\nseed: 7\n")
    monkeypatch.chdir(tmp_path)
    config = load_preset("own/more.yaml")
    assert (config.iterations, config.seed, config.pseudo.start) == (500, 7, 100)


@pytest.mark.parametrize(
    ("text", "message"),
    [("begins_with: 3\n", "the name of a preset, got 3"),
     ("begins_with: quik\n", "mine.yaml: begins_with: no preset .*: did you mean quick"),
     ("begins_with: {path}\n", r"^\S+mine.yaml: begins_with: these presets begin with each other"),
     ("begins_with: notes.txt\n", r"mine.yaml: begins_with: \S*notes.txt: expected lines"),
     ("few_views:\n  begins_with: quick\n", "few_views: begins_with counts before"),
     ("around:\n  few_views: {}\n", "around: few_views counts before"),
     ("few_views:\n  scene:\n    resolution: 4\n", "few_views: scene counts before"),
     ("? [1, 2]\n: 3\n", "a key is no name .line 1")],
)  # fmt: skip
def test_a_preset_that_begins_with_nothing_usable_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("{path}", str(path)))
    (tmp_path / "notes.txt").write_text("root:x:0:0\n")
    with pytest.raises(ConfigError, match=message):
        load_preset(str(path))


def test_presets_that_begin_with_each_other_by_other_names_are_seen(tmp_path):
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "mine.yaml"
    path.write_text("begins_with: ../own/mine.yaml\n")
    with pytest.raises(ConfigError, match="begin with each other") as error:
        load_preset(str(path))
    assert len(str(error.value)) < 4 * len(str(path)) + 100


@pytest.mark.parametrize(
    "text",
    [f"iterations: {'9' * 400}", f"iterations: 0x{'f' * 4000}", f"iterations: 1{':59' * 300}",
     f"seed: 0x{'f' * 40_000}", f"batch_size: 0x{'f' * 4000}", f"test_iterations: [{2**63}]"],
    ids=["nines", "hexadecimal", "base 60", "seed", "batch", "in a list"],
)  # fmt: skip
def test_whole_numbers_without_end_are_refused_in_a_line(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: .*expected a whole number below 2\^63") as error:
        load_preset(str(path))
    assert len(str(error.value)) < len(str(path)) + 200


@pytest.mark.parametrize("option", ["--iterations", "--batch_size", "--seed"])
def test_so_are_those_of_the_command_line(option):
    with pytest.raises(ConfigError, match=rf"{option[2:]}: expected .*(below 2\^63|got 9)"):
        parse("--config", "quick", option, "9" * 400)


@pytest.mark.parametrize("text", ["few_views: 3\n", "few_views:\n  loss:\n    typo: 1\n"])
def test_a_mistake_in_that_section_is_said_for_any_number_of_views(text, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        parse("--config", str(mine), views=100)


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_leave_the_scene_alone_since_they_are_chosen_after_reading_it(name):
    assert load_preset(name).scene == Config().scene


def test_the_habits_of_3dgs_work():
    config = parse("-m", "out", "-r", "2", "--eval", "-w", "--sh_degree", "1", "--test_iterations", "7", "9")
    assert config.source_path == Path("scenes/garden").absolute() and config.model_path == Path("out")
    assert config.scene.resolution == 2 and config.scene.eval
    assert config.model.background == "white" and config.model.sh_degree == 1
    assert config.test_iterations == (7, 9)
    assert parse("--white_background", "-r=-1", "--source_path", "b").model.background == "white"
    assert parse("--source", "b").source_path == Path("b").absolute()
    assert parse("--resolution", "-1").scene.resolution == -1


def test_the_output_folder_is_named_after_the_scene(tmp_path):
    assert parse().model_path == Path("output/garden")
    assert parse("--source_path", str(tmp_path / "a b" / "")).model_path == Path("output/a b")
    assert parse("-m", ".").model_path == Path(".")


def test_what_is_to_be_resumed_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"--resume: .*nothing holds no run"):
        parse_command_line(["-m", str(tmp_path / "nothing"), "--resume"])
    # where options are given, it is not they that are wrong: the output folder's own check says what is
    options = ["-s", str(tmp_path), "--config", "quick", "--init", "sfm"]
    assert parse_command_line(["-m", str(tmp_path / "nothing"), *options, "--resume"]).config.resume


def test_a_scene_must_be_given():
    with pytest.raises(ConfigError, match="no scene given: expected -s"):
        parse_command_line(["--config", "quick"])


def test_changing_the_length_scales_every_schedule_that_is_not_typed():
    base = load_preset("full_capture")
    config = parse("--config", "full_capture", "--iterations", str(base.iterations // 2))
    assert config.densify.stop == base.densify.stop // 2
    assert config.densify.reset_every == base.densify.reset_every // 2
    assert config.optim.sh_degree_interval == base.optim.sh_degree_interval // 2
    assert config.test_iterations == tuple(i // 2 for i in base.test_iterations)
    assert config.log_every == base.log_every and config.checkpoint_every == base.checkpoint_every


@pytest.mark.parametrize("typed", ["--densify.stop {}", "--densify.stop={}", "--densify.stop {} --eval"])
def test_a_typed_schedule_stays_even_if_it_equals_the_preset(typed):
    stop = load_preset("full_capture").densify.stop
    words = typed.format(stop).split()
    config = parse("--config", "full_capture", "--iterations", "3000", *words)
    assert config.densify.stop == stop
    assert config.densify.start == load_preset("full_capture").densify.start // 10


def test_the_same_length_typed_changes_nothing():
    base = load_preset("sparse_view")
    assert parse("--config", "sparse_view", "--iterations", str(base.iterations)).densify == base.densify


def test_scaling_reaches_every_field_that_counts_iterations():
    paths = schedule_fields(Config)
    assert {"densify.start", "densify.stop", "optim.sh_degree_interval", "test_iterations"} <= set(paths)
    config = dataclasses.replace(load_preset("full_capture"), save_iterations=(7000, 7001, 30000))
    doubled = scale_schedules(config, 2.0)
    for path in paths:
        before: Any = config
        after: Any = doubled
        for name in path.split("."):
            before, after = getattr(before, name), getattr(after, name)
        expected = tuple(2 * i for i in before) if isinstance(before, tuple) else 2 * before
        assert after == expected, path


def test_scaling_rounds_keeps_at_least_one_and_leaves_zero_as_never():
    densify = dataclasses.replace(Config().densify, start=7, every=100, reset_every=0)
    config = dataclasses.replace(Config(), densify=densify, test_iterations=(100, 150, 30_000))
    short = scale_schedules(config, 1 / 300)
    assert (short.densify.start, short.densify.every, short.densify.reset_every) == (1, 50, 0)
    assert short.test_iterations == (1, 100)  # neighbours that became equal are one


def test_what_a_preset_leaves_out_scales_from_the_defaults_to_its_length(tmp_path):
    preset = tmp_path / "a.yaml"
    preset.write_text("iterations: 3000\ndensify: {start: 500}\n")
    densify = load_preset(str(preset)).densify
    assert densify.start == 500 and densify.stop == Config().densify.stop // 10


def test_the_configuration_of_a_run_is_a_preset_without_its_paths(tmp_path):
    quick = load_preset("quick")
    half = str(quick.iterations // 2)
    config = parse("--config", "quick", "--seed", "7", "-m", "first", "--iterations", half)
    save_config(tmp_path / "config.yaml", config)
    again = parse("--config", str(tmp_path / "config.yaml"), "-m", "second")
    assert again.seed == 7 and again.model_path == Path("second") and again.densify == config.densify
    longer = parse("--config", str(tmp_path / "config.yaml"), "--iterations", str(quick.iterations)).densify
    assert (longer.start, longer.stop) == (quick.densify.start, quick.densify.stop)


def test_resuming_takes_the_configuration_of_the_run(tmp_path):
    config = dataclasses.replace(
        parse("--config", "quick", "--seed", "7", "--iterations", "500"), model_path=tmp_path
    )
    save_config(tmp_path / "config.yaml", config)
    resumed = parse_command_line(["-m", str(tmp_path), "--resume", "--quiet"]).resolve(100, "cpu")
    assert resumed == dataclasses.replace(config, resume=True, quiet=True)
    # the command of the run with --resume added means the same
    same = [
        "-s",
        "scenes/garden",
        "-m",
        str(tmp_path),
        "--config",
        "quick",
        "--seed",
        "7",
        "--iterations",
        "500",
    ]
    assert parse_command_line([*same, "--resume"]).resolve(100, "cpu") == dataclasses.replace(
        config, resume=True
    )


def test_a_resumed_run_can_be_made_longer_without_moving_its_schedule(tmp_path):
    save_config(tmp_path / "config.yaml", parse("--config", "quick"))
    longer = parse_command_line(["-m", str(tmp_path), "--resume", "--iterations", "4000"]).resolve(100, "cpu")
    assert longer.iterations == 4000 and longer.densify == load_preset("quick").densify


def test_resuming_with_another_preset_is_refused(tmp_path):
    save_config(tmp_path / "config.yaml", parse("--config", "quick"))
    with pytest.raises(ConfigError, match="was started with --config quick, got full_capture"):
        parse_command_line(["-m", str(tmp_path), "--resume", "--config", "full_capture"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--iterations", "0"], "iterations: expected at least 1, got 0"),
        (["--threads", "-1"], "threads: expected at least 0"),
        (["--test_iterations", "0"], "test_iterations: iterations count from 1"),
        (["--densify.every", "0"], r"--densify\.every: expected at least 1"),
        (["--n_views", "-3"], "n_views"),
        (["--resolution", "3"], "resolution"),
    ],
)
def test_a_value_without_meaning_is_refused_by_name(words, message):
    with pytest.raises(UserError, match=message):
        parse(*words)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["--densfy.start", "3"], "--densify.start"),
        (["--n-view", "3"], "--n_views"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_an_unknown_option_or_bad_value_exits_with_2_and_a_suggestion(words, suggestion, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*words)
    assert end.value.code == 2
    assert suggestion in capsys.readouterr().err


def test_typed_options_are_found_in_every_spelling():
    words = "-s a --densify.stop=3 --no-eval --n-views 3 -w --resolution -1 --sh_degree 2 --unknown 5".split()
    assert given_options(words) == {
        "source_path": ["a"], "densify.stop": ["3"], "scene.eval": [], "scene.n_views": ["3"],
        "model.background": [], "scene.resolution": ["-1"], "model.sh_degree": ["2"],
    }  # fmt: skip


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        parse_command_line(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--source_path",
        "-m FOLDER",
        "--config NAME|FILE",
        "--n_views",
        "--densify.stop",
        "--loss.",
        "-w,",
    ):
        assert option in text
    flat = "".join(character for character in text if character not in "│ \n")
    for path, _ in walk(CommandLine):
        name = path.removeprefix("scene.").removeprefix("depth.")
        start = flat.index("--" + name)
        assert len(flat[start : start + 400].split("(default", 1)[0]) > len(name) + 20, (
            f"--{name} has no help"
        )


def test_parsing_needs_no_gpu_kernels_and_no_tensorboard():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import configs; "
        "assert not {'tensorboard', 'gsplat'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(ROOT)], check=True)


def test_small_images_for_no_iteration_are_refused_where_the_preset_is_known():
    with pytest.raises(UserError, match=r"pyramid.until.*--pyramid.until"):
        parse("--config", "full_capture", "--pyramid.factor", "4")
    assert parse("--pyramid.factor", "2", views=3).pyramid.factor == 2.0  # the preset says until when
    assert (
        parse("--config", "full_capture", "--pyramid.factor", "4", "--pyramid.until", "9").pyramid.until == 9
    )


def test_images_that_would_stay_small_for_the_whole_run_are_refused():
    with pytest.raises(UserError, match=r"pyramid\.until: expected less than --iterations 4, got 500"):
        parse("--config", "quick", "--iterations", "4", "--pyramid.until", "500")
    assert parse("--config", "quick", "--iterations", "1").pyramid.until == 1  # nothing shorter exists


def test_depth_that_is_not_divided_by_alpha_cannot_move_pictures():
    with pytest.raises(ConfigError, match=r"loss\.binocular: expected --model\.depth_mode ED"):
        parse("--loss.binocular", "0.3", "--model.depth_mode", "D")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config", "mcmc", "--densify.unpool", "0.1"), r"--densify\.unpool: .*strategy mcmc: .*default"),
        (("--densify.strategy", "none", "--densify.absgrad"), r"--densify\.absgrad: .*no effect"),
        (("--densify.mcmc.cap_max", "9"), r"--densify\.mcmc\.cap_max: .*--densify\.strategy mcmc"),
        (("--pseudo.reach", "2"), r"--pseudo\.reach: it has no effect without a term"),
        (
            ("--pseudo.taught", "1", "--iterations", "9", "--pseudo.start", "9"),
            r"pseudo: expected an iteration in which.*start 9, until 0, every 1.*--pseudo\.taught 0\.$",
        ),
    ],
)
def test_options_that_would_have_no_effect_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        parse(*words)


def test_options_of_every_strategy_and_short_runs_of_a_preset_are_fine():
    assert parse("--config", "mcmc", "--densify.start", "5", "--densify.mcmc.cap_max", "9").densify.start == 5
    assert parse("--config", "fsgs", "--iterations", "3", views=3).iterations == 3
    assert parse("--config", "sparse_view", "--iterations", "1", views=3).pseudo.teachers_of(1) == 0


def test_what_was_chosen_is_what_differs_from_the_scaled_preset():
    plain = parse("--config", "quick", "--iterations", "500", views=3)
    usual = chosen_options(plain, 3)
    assert (usual["preset"], usual["train_views"], usual["iterations"]) == ("quick", 3, 500)
    assert not any(name.startswith(("optim.", "loss.", "pyramid.")) for name in usual)
    other = parse("--config", "quick", "--loss.lambda_dssim", "0.3", "--test_iterations", "3", "5", views=3)
    chosen = chosen_options(other, 3)
    assert chosen["loss.lambda_dssim"] == 0.3 and chosen["test_iterations"] == "[3, 5]"
    gone = chosen_options(dataclasses.replace(other, config="gone.yaml"), 3)
    assert gone["preset"] == "gone.yaml" and gone["loss.lambda_dssim"] == 0.3


def test_the_depth_loss_has_a_short_name():
    assert parse("--depth_loss", "g2").loss.depth_loss == "g2"
    assert parse("--loss.depth_loss", "g2") == parse("--depth_loss", "g2")


def test_a_number_that_is_none_is_refused_under_the_name_that_was_typed():
    with pytest.raises(ConfigError, match=r"^init_spacing: expected a finite number.*--init_spacing"):
        parse("--init_spacing", "nan")


def test_folders_of_maps_are_kept_as_whole_paths(tmp_path, monkeypatch):
    (tmp_path / "maps").mkdir()
    monkeypatch.chdir(tmp_path)
    depth = parse("--depth_dir", "maps", "--depth_cache", "kept").depth
    assert depth.depth_dir == str(tmp_path / "maps") and depth.depth_cache == str(tmp_path / "kept")
    assert parse("--depth_prior", "onnx:a.onnx").depth.depth_prior == f"onnx:{tmp_path / 'a.onnx'}"
    plain = parse("--depth_cache", "none").depth
    assert plain.depth_cache == "none" and plain.depth_dir == "" and plain.init == "auto"
