# language: both
# expect: error
# why: The parser recurses.
import json
json.loads("[" * 1_000_000)
