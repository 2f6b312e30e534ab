# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: The state folder holds the log, the ledger and all contexts.
tries(lambda: open("{{state_canary}}").read())
