# language: both
# expect: cpu
# limit: cpu_ms
# why: No bytecode is run, so no signal handler is.
import itertools
sum(itertools.repeat(1))
