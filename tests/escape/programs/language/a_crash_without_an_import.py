# language: both
# expect: error
# says: signal 11
# why: A long chain of iterators overflows the C stack; the process dies, and that is all.
# containers: says exit code 139 ; why signals: the daemon tells a signal as 128 more
chain = ()
for _ in range(400_000):
    chain = map(str, chain)
list(chain)
