# expect: 14
def chunk(text: str, size: int = 1000, overlap: int = 100) -> list[str]:
    step = size - overlap
    return [text[i:i + size] for i in range(0, max(len(text) - overlap, 1), step)]

pieces = chunk(context)
assert all(a[-100:] == b[:100] for a, b in zip(pieces, pieces[1:]))
print(len(pieces))
