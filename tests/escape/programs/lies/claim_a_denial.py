# language: both
# expect: error
# why: Exceptions of the agent's own types are the program's words.
# says: PolicyDenied
raise PolicyDenied('no', 1, 2)
