"""The demo's task, generated on the spot: no download, no key, no network.

`oolong` makes the long context and knows the gold answers, `oracle` is a sub-model that labels by question template,
`script` holds the turns of a scripted root model. Their numbers show that the machinery works (chunking, quotas, log).
They say nothing about the skill of any model, because no model is asked.
"""

__all__: list[str] = []
