# expect: b'abcabc' True
import base64, zlib
packed = base64.b64encode(zlib.compress(b"abc" * 100)).decode()
print(zlib.decompress(base64.b64decode(packed))[:6], len(packed) < 300)
