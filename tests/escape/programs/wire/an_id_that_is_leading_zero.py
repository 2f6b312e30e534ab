# language: python
# expect: protocol
# use: wire
# why: An id counts from one, in 32 bits, as a plain number.
say(frame(b"{\"op\":\"budget\",\"id\":01}"))
time.sleep(30)
