# language: both
# expect: ok
# why: Text is carried, not interpreted.
FINAL('\x1b[2J\x00\u202e\ud800')
