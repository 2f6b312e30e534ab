# language: restricted
# expect: rejected error
# why: The chained exception may be one of the agent's.
try:
    rlm_query("x", model="another")
except Exception as error:
    chained = error.__context__ or error
    escaped(chained.with_traceback(None).__traceback__)
