# language: python
# expect: timeout protocol
# use: wire
# why: The rest never comes.
# hasty
say(b"\0\0\0")
time.sleep(30)
