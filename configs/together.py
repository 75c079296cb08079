"""Options that do not go together, or have no effect beside others: said before anything is done."""

from __future__ import annotations

from collections.abc import Collection

from configs.config_error import ConfigError
from configs.schema import Config

_TERMS = ("pseudo.depth", "pseudo.warped", "pseudo.taught")
_ALL_STRATEGIES = ("densify.strategy", "densify.start", "densify.stop", "densify.every")


def check_together(config: Config, given: Collection[str]) -> None:
    """Refuses what contradicts itself, and options that the user typed in vain.

    Args:
        config: the final configuration.
        given: dotted paths of the options that the user typed.

    Raises:
        ConfigError: names the first one, and what to change.
    """
    config.pyramid.check()
    if config.loss.binocular > 0.0 and config.model.depth_mode != "ED":
        raise ConfigError(
            f"loss.binocular: expected --model.depth_mode ED, whose depth is one of surfaces, got "
            f"{config.model.depth_mode}: change one of them."
        )
    needless = {path for path in given if path.startswith("loss.depth_")} - {"loss.depth_loss"}
    needless -= {"loss.depth_patch"}  # pseudo views may have use for it, see below
    if needless and config.loss.depth_loss == "none":
        raise ConfigError(
            f"--{min(needless)}: it has no effect without a depth loss: add --depth_loss pearson."
        )
    never_full = config.pyramid.factor > 1.0 and config.pyramid.until >= config.iterations > 1
    if never_full and not config.resume:  # a resumed run may only grow, and says so itself
        raise ConfigError(
            f"pyramid.until: expected less than --iterations {config.iterations}, got "
            f"{config.pyramid.until}: images would never have their full size; lower --pyramid.until."
        )
    _check_densify(config, given)
    _check_pseudo(config, given)
    _check_alone(config, given)
    _check_sharded(config)


def _check_alone(config: Config, given: Collection[str]) -> None:
    """Options that only say how another one works need that one."""
    loss, densify, pseudo = config.loss, config.densify, config.pseudo
    patches = "pearson_patch" in (loss.depth_loss, pseudo.depth_loss if pseudo.depth > 0.0 else "")
    needs = {  # an option: whether it has an effect, and what would give it one
        "loss.depth_patch": (patches, "--depth_loss pearson_patch"),
        "loss.binocular_shift": (loss.binocular > 0.0, "--loss.binocular 0.3"),
        "loss.binocular_from": (loss.binocular > 0.0, "--loss.binocular 0.3"),
        "densify.unpool_until": (densify.unpool > 0.0, "--densify.unpool 0.05"),
        "pseudo.depth_loss": (pseudo.depth > 0.0, "--pseudo.depth 0.5"),
        "pseudo.depth_from": (pseudo.depth > 0.0, "--pseudo.depth 0.5"),
        "pseudo.depth_gradient": (pseudo.depth > 0.0, "--pseudo.depth 0.5"),
        "pseudo.teachers": (pseudo.taught > 0.0, "--pseudo.taught 1"),
        "pseudo.teacher_iterations": (pseudo.taught > 0.0, "--pseudo.taught 1"),
    }
    for path, (there, addition) in needs.items():
        if path in given and not there:
            raise ConfigError(f"--{path}: it has no effect without {addition}: add that, or leave it out.")
    if "loss.binocular" in given and loss.binocular > 0.0 and config.iterations <= loss.binocular_from:
        raise ConfigError(
            f"loss.binocular_from: expected less than --iterations {config.iterations}, got "
            f"{loss.binocular_from}: the term would never act; lower --loss.binocular_from."
        )
    if "loss.depth_loss" in given and loss.depth_loss != "none" and not loss.wants_depth:
        raise ConfigError(
            f"--depth_loss {loss.depth_loss}: it has no effect at --loss.depth_weight 0: give it a weight."
        )


def _check_sharded(config: Config) -> None:
    """What processes with Gaussians of their own cannot do."""
    if not config.sharded:
        return
    dropped, densify, pseudo = config.regularise.sh_dropout, config.densify, config.pseudo
    grows = densify.strategy == "default"
    refused = {  # what is asked for: whether it is, and why not
        "--viewer": (config.viewer, "it would show one process's Gaussians"),
        "--densify.absgrad": (grows and densify.absgrad, "gsplat has no such gradients between processes"),
        "--densify.unpool": (grows and densify.unpool > 0.0, "a process does not know all neighbours"),
        "--regularise.sh_dropout": (dropped > 0.0, "a picture's Gaussians would have different degrees"),
        "--loss.binocular": (config.loss.binocular > 0.0, "processes render photographed views only"),
        "--pseudo.depth": (pseudo.depth > 0.0, "processes render photographed views only"),
        "--pseudo.warped": (pseudo.warped > 0.0, "processes render photographed views only"),
        "--pseudo.taught": (pseudo.taught > 0.0, "processes render photographed views only"),
    }
    for option, (asked, reason) in refused.items():
        if asked:
            off = "leave it out" if option in ("--viewer", "--densify.absgrad") else f"set {option} 0"
            raise ConfigError(f"--sharded: {option} does not go together with it, {reason}: {off}.")


def _check_densify(config: Config, given: Collection[str]) -> None:
    """Each strategy has options of its own."""
    strategy = config.densify.strategy
    if strategy == "default":
        idle = [path for path in given if path.startswith("densify.mcmc.")]
    else:
        own = "densify.mcmc." if strategy == "mcmc" else "densify.strategy"
        idle = [
            path
            for path in given
            if path.startswith("densify.") and not path.startswith(own) and path not in _ALL_STRATEGIES
        ]
    if idle:
        other = "mcmc" if strategy == "default" else "default"
        raise ConfigError(
            f"--{min(idle)}: it has no effect with --densify.strategy {strategy}: leave it out, or take "
            f"--densify.strategy {other}."
        )


def _check_pseudo(config: Config, given: Collection[str]) -> None:
    """Pseudo views need a term, and an iteration in which they count."""
    idle = [path for path in given if path.startswith("pseudo.") and path not in _TERMS]
    if idle and not config.pseudo.wanted:
        raise ConfigError(
            f"--{min(idle)}: it has no effect without a term: add --pseudo.depth, --pseudo.warped or "
            "--pseudo.taught."
        )
    typed = any(path.startswith("pseudo.") for path in given)
    if typed and config.pseudo.wanted and not config.pseudo.counts_within(config.iterations):
        asked = config.pseudo
        raise ConfigError(
            f"pseudo: expected an iteration in which pseudo views count, got none of {config.iterations} "
            f"(start {asked.start}, until {asked.until}, every {asked.every}): change these, or set "
            f"{' and '.join(f'--{term} 0' for term in _TERMS if getattr(asked, term.partition('.')[2]) > 0)}."
        )
