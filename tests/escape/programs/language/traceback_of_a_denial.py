# language: restricted
# expect: rejected error
# why: An exception raised inside the agent carries its frames.
try:
    context[0:10**9].nothing
    rlm_query("x", model="another")
except Exception as error:
    escaped(getattr(error, "__trace" + "back__").tb_frame.f_globals)
