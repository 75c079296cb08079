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
    needless = [path for path in given if path.startswith("loss.depth_") and path != "loss.depth_loss"]
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
