# language: restricted
# expect: rejected error
# why: The paged text holds a function that speaks to the host; its private names are not the program's.
escaped(context._fetch)
