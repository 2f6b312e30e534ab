# language: both
# expect: output
# limit: output.flood
# why: A question that costs nothing is asked for ever.
while True:
    budget()
