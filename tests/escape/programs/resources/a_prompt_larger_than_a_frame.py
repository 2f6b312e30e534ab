# language: both
# expect: error
# says: PolicyDenied
# why: So it does for prompts.
llm_query("x" * 3_000_000)
