# language: both
# expect: output
# limit: limits.output_flood
# gvisor: expect output cpu ; why clock: a question costs the box more CPU time there than the host lets it ask
# why: Refused two thousand times, told two thousand times, logged a hundred times.
while True:
    try:
        rlm_query("child", model="another")
    except PolicyDenied:
        pass
