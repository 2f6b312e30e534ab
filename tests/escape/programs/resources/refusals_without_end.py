# language: both
# expect: cpu timeout
# why: Refused ten thousand times, told ten thousand times, logged a hundred times.
while True:
    try:
        rlm_query("child")
    except PolicyDenied:
        pass
