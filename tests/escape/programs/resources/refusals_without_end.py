# language: both
# expect: output
# limit: output.flood
# why: Refused two thousand times, told two thousand times, logged a hundred times.
while True:
    try:
        rlm_query("child")
    except PolicyDenied:
        pass
