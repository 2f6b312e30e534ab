# language: both
# expect: ok
# why: Slices beyond the end are empty, as for any string; the host is not asked for what is not there.
print(len(context), repr(context[len(context):10**9]), repr(context[-5:]))
if len(context[0:10**9]) != len(context):
    escaped("more text than there is")
