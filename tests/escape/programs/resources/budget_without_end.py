# language: both
# expect: output
# limit: limits.output_flood
# gvisor: expect output cpu ; why clock: a question costs the box more CPU time there than the host lets it ask
# why: A question that costs nothing is asked for ever.
while True:
    budget()
