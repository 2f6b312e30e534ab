# expect: chunks: 8
from itertools import islice
it = iter(context.splitlines())
count = 0
while chunk := list(islice(it, 25)):
    count += 1
print("chunks:", count)
