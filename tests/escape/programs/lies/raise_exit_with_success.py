# language: both
# expect: error
# why: The same without an import.
# says: SystemExit
raise SystemExit(0)
