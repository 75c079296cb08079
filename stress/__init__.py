"""What is too long for the tests: faults by the dozen, damaged files by the hundred thousand, long runs.

    scripts/stress faults            # what each does: scripts/stress NAME --help
    scripts/stress fuzz --inputs 100000

Each of them ends with exit code 1 where anything was lost, crashed or hung, and leaves its figures in
output/stress/NAME.json. What is short enough of it is in tests/stress.
"""
