# expect: [40, 40, 40, 40, 16]
def batches(items, n):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == n:
            yield batch
            batch = []
    if batch:
        yield batch

sizes = [len(b) for b in batches(context.splitlines(), 40)]
print(sizes)
