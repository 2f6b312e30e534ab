# language: both
# expect: memory error
# why: A kilobyte becomes a gigabyte.
import zlib
data = zlib.compress(bytes(10_000_000), 9)
blown = [zlib.decompress(data) for _ in range(1000)]
