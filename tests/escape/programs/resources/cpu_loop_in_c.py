# language: both
# expect: cpu
# limit: limits.cpu
# why: No bytecode is run, so no signal handler is.
import itertools
sum(itertools.repeat(1))
