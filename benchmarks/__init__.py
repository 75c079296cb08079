"""What training costs on this machine: run by scripts/benchmark, imported by nothing else.

Every figure is a median with minimum and maximum over repetitions, measured after warming up, and says
how many Gaussians, pixels and threads it is for. Nothing here is a test: speed depends on the machine.
"""
