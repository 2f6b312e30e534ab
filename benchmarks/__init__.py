"""Side by side with peers on one machine, in one run: `python -m benchmarks`, or one table of the five.

`session` measures whole sessions. Reading order: `programs` (what every subject is made to do), `measure` (how it is
timed), `ours`, `peers` and `floors` (the subjects), `report`.

`jail` measures boxes alone, against goals and the floor: `wiring` and `jail` (ours), `clone_floor`, `commands`,
`driver` and `peer_boxes` (the others), `rows` (goals), `box_table`.

`docker` measures boxes in containers, on the daemon that `DOCKER_HOST` names: `containers` (ours), `by_hand`,
`peer_image` and `peer_containers` (the others), `container_table`.

`context` measures the paged context at several sizes: `context_texts`, `contexts` (ours), `context_peers` and
`peer_contexts` (the floor and the others), `context_table`.

`quota` measures what quota and log add to a model call: `quotas` (ours, the others and the floors, each in processes of
their own), `quota_rows`, `quota_table`.

Nothing here is a test: no number fails anything.
"""
