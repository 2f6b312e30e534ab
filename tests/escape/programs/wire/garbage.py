# language: python
# expect: protocol
# use: wire
# why: Random bytes.
say(os.urandom(4096))
time.sleep(30)
