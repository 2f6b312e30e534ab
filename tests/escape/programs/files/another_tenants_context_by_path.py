# language: python
# expect: ok
# use: tries
# says: ENOENT
# why: The store is content-addressed; knowing the address must not help.
name = "{{rival}}"
paths = [f"/contexts/{name}", f"/contexts/{name[:2]}/{name}", "{{state_canary}}/../state/contexts/" + name, f"/tmp/{name}"]
tries(*(lambda path=path: open(path).read() for path in paths))
