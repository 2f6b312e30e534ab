# language: both
# expect: error
# says: QuotaExceeded
# why: A batch that cannot be finished is refused before its first call.
llm_query_batched(["question"] * 1000)
