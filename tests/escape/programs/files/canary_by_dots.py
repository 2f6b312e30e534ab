# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: Above the root is the root.
tries(lambda: open("/../../../../../../../../{{canary}}").read(), lambda: open("../../../../..{{state_canary}}").read())
