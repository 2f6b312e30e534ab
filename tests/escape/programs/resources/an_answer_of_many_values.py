# language: both
# expect: output
# limit: answer.too_many_values
# why: Small values cost the host many times their bytes, if it makes them.
FINAL([0] * 5000)
