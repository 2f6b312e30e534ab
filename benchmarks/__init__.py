"""Side by side with peers on one machine, in one run: `python -m benchmarks`.

Reading order: `programs` (what every subject is made to do), `measure` (how it is timed), `ours`, `peers` and `floors`
(the subjects), `report`. Nothing here is a test: no number fails anything.
"""
