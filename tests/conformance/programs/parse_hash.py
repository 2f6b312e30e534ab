# expect: 6ea7f3b1 9dd4e461268c8034f5c8564e155c67a6
import hashlib
print(hashlib.sha256(context[:10].encode("utf-8")).hexdigest()[:8], hashlib.md5(b"x").hexdigest())
