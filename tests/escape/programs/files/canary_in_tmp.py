# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: The host's /tmp is not the box's.
tries(lambda: open("{{canary}}").read())
