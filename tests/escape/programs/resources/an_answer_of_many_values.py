# language: both
# expect: output
# limit: limits.answer_values
# why: Small values cost the host many times their bytes, if it makes them.
FINAL([0] * 5000)
