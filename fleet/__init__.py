"""Many trainings: of a folder of scenes (scripts/train_many), or of one large scene in blocks (train_blocks).

Every training is a process of its own, of train.py, with a folder and a log of its own. Nothing here knows
how Gaussians are trained; what is done is written down scene by scene, so that the same command goes on
where it was stopped, on this machine or on another that sees the same disk. See docs/scale.md.
"""
