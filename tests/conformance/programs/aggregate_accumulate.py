# expect: 8
from itertools import accumulate, chain, zip_longest, product
print(list(accumulate([1, 2, 3, 4])), list(chain([1], [2, 3])), list(zip_longest("ab", "c", fillvalue="-")))
print(len(list(product("ab", repeat=3))))
