# language: both
# expect: error
# says: QuotaExceeded
# refused: quota.run.calls
# why: Twenty calls are what the run may make.
for number in range(1000):
    llm_query(f"question {number}")
