# language: both
# expect: cpu timeout error quota
# why: A question that costs nothing is asked for ever.
while True:
    budget()
