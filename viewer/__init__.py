"""The Gaussians in a browser: a training as it goes, or a finished model. viser draws; this room says what.

    with open_viewer(config.viewer, scene, ...) as viewer:      # in train.py, from viewer.training
        viewer.step(iteration, gaussians)
    python -m viewer output/garden                              # or scripts/view output/garden

Nothing here changes a Gaussian. viser is imported only where a viewer is wanted, and nothing from this file,
so that `python -m viewer` can say what it is before torch has loaded.
"""
