# expect: [Chunk(0, 10), Chunk(10, 10), Chunk(20, 10)] 3 A piece of the context.
class Chunk:
    """A piece of the context."""

    count = 0

    def __init__(self, text, start=0):
        self.text = text
        self.start = start
        Chunk.count += 1

    def __len__(self):
        return len(self.text)

    def __repr__(self):
        return f"Chunk({self.start}, {len(self)})"

chunks = [Chunk(context[i:i+10], i) for i in range(0, 30, 10)]
print(chunks, Chunk.count, Chunk.__doc__)
